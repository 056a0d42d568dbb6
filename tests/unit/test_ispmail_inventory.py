"""What main.cf reaches, without a Postfix: nothing is missed by what is left out, and nothing is read again."""

from hypothesis import given
from hypothesis import strategies as st

import ispmail_inventory
from ispmail_inventory import Settings
from ispmail_reach import places

PIECES = (
    *("mysql:", "/etc/postfix/a.cf", "mysql:/b.cf", "proxy:pgsql:/c.cf", "unionmap:{sqlite:/d.cf, hash:/e}"),
    *("$type", "${table}", "$(path)", "${type?{mysql:/f.cf}:{$table}}", "${none:mysql:/g.cf}", "$none"),
    *("$$", "$", "{", "}", "(", ")", ",", " ", "x", "my", "sql:", "!", "$(", "${"),
)
FIXED = {"type": "mysql:", "table": "$type$path, x", "path": "/h.cf", "queue_directory": "/var/spool/postfix"}
VALUES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(st.fixed_dictionaries(dict.fromkeys(("own_maps", "virtual_alias_maps", "proxy_read_maps"), VALUES)))
def test_no_table_is_missed(values):
    """Values are passed over that cannot name a table: the words of each of them agree."""
    known = Settings("/etc/postfix", {**FIXED, **values}, frozenset())
    found = [place for name in known.values for place in places(name, known.words(name))]
    assert list(ispmail_inventory.in_main_cf(known)) == [each for each in found if each.name != "proxy_read_maps"]


def test_who_refers_to_a_parameter_is_read_once(monkeypatch):
    """It was read of all values for each map: with 300 maps that took five seconds."""
    own = {f"own_{number}": "mysql:/etc/postfix/x.cf" for number in range(50)}
    values = {
        **own,
        "smtpd_restriction_classes": "ours",
        "ours": "check_sender_access $own_1",
        "virtual_alias_maps": " ".join(f"$own_{number}" for number in range(1, 40)),
        "proxy_read_maps": "$own_41",
        "own_40": "$own_40",
        "mail_owner": "postfix",
    }
    read = []
    names_in = ispmail_inventory.names_in
    monkeypatch.setattr(ispmail_inventory, "names_in", lambda value: read.append(value) or names_in(value))
    inventory = ispmail_inventory.of(Settings("/etc/postfix", values, frozenset(own)), [])
    for name in own:
        inventory.readers(name)
    assert len(read) == len(set(read)) == 3
    assert inventory.users["own_1"] == ["ours", "virtual_alias_maps"]
    assert inventory.users["own_39"] == ["virtual_alias_maps"]
    # A permission is no question, and nobody is his own user.
    assert not inventory.users.keys() & {"own_40", "own_41"}
