"""Values for the tests of consumers."""

from _ispmail_config_consumers import Consumer


def consumer(name, option_file=None, **values):
    """A consumer, with or without an option file of ours."""
    given = {"option_group": "client", "user": "root", "group": "root", "mode": 0o640, "sls": None, "holds": ()}
    return Consumer(name, option_file, **{**given, "programs": (), "ignore": False, **values})
