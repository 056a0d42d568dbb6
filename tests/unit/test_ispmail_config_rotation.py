"""What pillar may say of rotations, and which two accounts are a pair."""

import pytest

import _ispmail_config
from _ispmail_config_database import database
from _ispmail_config_rotation import pair
from _ispmail_errors import PillarFault

TWO = {"method": "two_accounts"}


def section(user="mail_a", **rotation):
    return {"database": {"user": user, "password": "x"}, "rotation": rotation}


@pytest.mark.parametrize(
    ("user", "rotation", "accounts"),
    [
        ("mail_a", {}, ("mail_a",)),
        ("mail_a", {"method": "two_passwords"}, ("mail_a",)),
        ("mail_a", TWO, ("mail_a", "mail_b")),
        ("mail_b", TWO, ("mail_b", "mail_a")),
        # Names of one's own, in any order; an account that is in use already may be one of them.
        ("mailserver", {**TWO, "accounts": ["other", "mailserver"]}, ("mailserver", "other")),
        ("x_a", {**TWO, "accounts": ["x_a", "x_z"]}, ("x_a", "x_z")),
    ],
)
def test_the_accounts_that_stand_for_one(user, rotation, accounts):
    found = database("ispmail", section(user, **rotation))
    assert found.accounts == accounts and found.user == user
    assert found.other == (accounts[1] if len(accounts) == 2 else None)


@pytest.mark.parametrize("user", ["mailserver", "_a", "mail_c", ""])
def test_without_an_ending_of_a_pair_there_is_no_default(user):
    found, (fault,) = pair(TWO, user, "mysql")
    assert found == ()
    assert str(fault) == (
        "rotation:accounts is missing, and has a default only where database:user ends in _a or _b: write the user in "
        "use and another one, such as [mailserver_a, mailserver_b]"
    )


ACCOUNTS = "rotation:accounts"
MAX_AGE = "must be a number with s, m, h, d or w: write for example max_age: 90d"
KEEP = "must be 0, or a number with s, m, h, d or w: write for example keep: 7d"
NO_TIMES = (
    "",
    "7",
    7,
    "d",
    "-1d",
    "1.5h",
    "7 d",
    "7D",
    "07d",
    "7d\n",
    "7y",
    "123456d",
    "٧d",
    True,
    False,
    ["7d"],
    0.0,
    1 << 20000,
)
SHAPE = "must be a list of two different users, such as [mailserver_a, mailserver_b]"


@pytest.mark.parametrize(
    ("rotation", "key", "said"),
    [
        ({"method": "blue_green"}, "rotation:method", "must be one of two_passwords, two_accounts"),
        ({"method": None}, "rotation:method", "must be one of"),
        *(
            ({**TWO, "accounts": names}, ACCOUNTS, SHAPE)
            for names in ("mail_a", [], ["mail_a"], ["mail_a", "mail_a"], ["mail_a", "b", "c"], ["mail_a", 1])
        ),
        *(({**TWO, "accounts": ["mail_a", name]}, ACCOUNTS, SHAPE) for name in ("", " b", "b\n", None)),
        ({"accounts": ["mail_a", "b"]}, ACCOUNTS, "is only for the method two_accounts: add method: two_accounts"),
        ({**TWO, "accounts": ["b", "c"]}, "database:user", "is none of rotation:accounts: write b or c, or the user"),
        ({"acounts": ["mail_a", "b"]}, "rotation:acounts", "is accounts meant?"),
        *(({**TWO, "keep": value}, "rotation:keep", KEEP) for value in NO_TIMES),
        *(({"max_age": value}, "rotation:max_age", MAX_AGE) for value in (*NO_TIMES, 0, "0", "0d")),
        ({"keep": "7d"}, "rotation:keep", "is only for the method two_accounts: add method: two_accounts"),
        ({"keep": "x"}, "rotation:keep", "is only for the method two_accounts: add method: two_accounts"),
    ],
)
def test_faults(rotation, key, said):
    """An apply tells them too, and so does what only reads which maps there are, but for that of the user."""
    readers = [_ispmail_config.complete]
    readers += [] if "acounts" in rotation else [database]
    readers += [] if key == "database:user" else [_ispmail_config.instance]
    for read in readers:
        with pytest.raises(PillarFault) as caught:
            read("ispmail", section(**rotation))
        (fault,) = caught.value.faults
        assert fault.key == key and said in str(fault)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, None),
        ({"keep": None}, None),
        ({"keep": 0}, 0),
        ({"keep": "0"}, 0),
        ({"keep": "0d"}, 0),
        ({"keep": "1s"}, 1),
        ({"keep": "90s"}, 90),
        ({"keep": "2m"}, 120),
        ({"keep": "12h"}, 43200),
        ({"keep": "7d"}, 604800),
        ({"keep": "2w"}, 1209600),
        ({"keep": "99999w"}, 99999 * 604800),
    ],
)
def test_how_long_the_other_account_stays(given, seconds):
    assert database("ispmail", section(**TWO, **given)).keep == seconds


@pytest.mark.parametrize(("given", "seconds"), [({}, None), ({"max_age": None}, None), ({"max_age": "90d"}, 7776000)])
def test_how_old_the_password_may_become(given, seconds):
    """Whatever the method is."""
    assert (
        database("ispmail", section(**given)).max_age == database("ispmail", section(**TWO, **given)).max_age == seconds
    )
    _ispmail_config.complete("ispmail", section(**TWO, **given))


@pytest.mark.parametrize("accounts", ["mail_a", ["mail_a"], ["mail_b", "x", "y"], 5])
def test_what_is_no_list_of_two_is_no_pair(accounts):
    """Its fault is told once."""
    assert pair({**TWO, "accounts": accounts}, "mail_a", "mysql") == ((), [])


def test_a_user_that_is_in_sdb_is_no_fault_where_it_was_not_looked_up():
    found = database("ispmail", section("sdb://vault/user", **TWO), account_checked=False)
    assert found.accounts == ("sdb://vault/user",)


PGSQL = {name: {"type": "pgsql"} for name in _ispmail_config.MAPS}


@pytest.mark.parametrize(
    ("user", "rotation", "accounts"),
    [
        ("mail_a", {}, ("mail_a", "mail_b")),
        ("mail_b", TWO, ("mail_b", "mail_a")),
        ("mailserver", {"accounts": ["other", "mailserver"]}, ("mailserver", "other")),
        # It was not asked for: a rotation tells what is missing.
        ("mailserver", {}, ("mailserver",)),
        ("mailserver", {"drain": 5}, ("mailserver",)),
    ],
)
def test_on_a_postgresql_two_accounts_are_the_default(user, rotation, accounts):
    found = {**section(user, **rotation), "maps": PGSQL}
    assert database("ispmail", found).accounts == accounts
    _ispmail_config.complete("ispmail", found)


@pytest.mark.parametrize(
    ("user", "rotation", "said"),
    [
        ("mail_a", {"method": "two_passwords"}, "rotation:method must be two_accounts: a role of PostgreSQL has one"),
        (
            "mailserver",
            TWO,
            "rotation:accounts is missing, and has a default only where database:user ends in _a or _b",
        ),
        ("mailserver", {"accounts": ["b", "c"]}, "database:user is none of rotation:accounts"),
    ],
)
def test_what_a_postgresql_cannot_do(user, rotation, said):
    for read in (database, _ispmail_config.complete):
        with pytest.raises(PillarFault, match=said):
            read("ispmail", {**section(user, **rotation), "maps": PGSQL})
