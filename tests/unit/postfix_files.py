"""A configuration directory of Postfix for the tests that ask the real postconf(1); no Postfix runs."""

from lab.postfix import write_cold

MASTER_CF = """\
smtp       inet n - y - - smtpd
submission inet n - n - - smtpd -o virtual_alias_maps=$ours -o biff=no
proxymap   unix - - n - - proxymap
"""


def postfix(folder, main_cf, master_cf=MASTER_CF):
    """Make a folder the configuration directory of a Postfix; return its path."""
    write_cold(folder / "main.cf", f"compatibility_level = 3.6\n{main_cf}")
    write_cold(folder / "master.cf", master_cf)
    return str(folder)
