"""What differs between pillar and a main.cf with its table files: real ones, as postconf(1) prints them."""

import grp
import os
import pwd
import re

import pytest

import _ispmail_plan
from _ispmail_config import Map
from _ispmail_errors import CannotAsk, Fault
from _ispmail_files import File, Replacement
from _ispmail_inventory import Settings
from _ispmail_plan import OPEN_DOMAINS, Outcome, named_by, ownership, restriction_faults, table_file
from lab.minion import REPOSITORY

from .configured import POSTFIX, QUERY, TEXT, Configured

KEYS = ("user", "password", "hosts", "dbname", "query")
NEW = {"user": "mailserver", "password": "***", "hosts": "127.0.0.1", "dbname": "mailserver", "query": QUERY}


@pytest.fixture
def server(tmp_path):
    return Configured(tmp_path)


def compare(server, **maps):
    return _ispmail_plan.compare(server.complete(**maps))


def map_of(path, name="virtual_alias_maps"):
    return Map(name, name, "mysql", False, str(path))


def test_all_that_a_new_map_needs(server):
    found = compare(server, virtual_alias_maps={})
    path = server.path("virtual_alias_maps")
    assert found.files == (Replacement(File(path, TEXT.encode(), 0, POSTFIX, 0o640), still=(None,)),)
    assert server.short(found.parameters) == {"virtual_alias_maps": "mysql:DIR/virtual_alias_maps.cf"}
    assert found.changes == {
        "virtual_alias_maps": {
            "file": {"old": None, "new": path},
            **{key: {"old": None, "new": NEW[key]} for key in KEYS},
        },
        "main.cf": {"virtual_alias_maps": {"old": None, "new": f"mysql:{path}"}},
    }
    assert found.changed == {"virtual_alias_maps"}
    assert (found.faults, found.unknown, found.warnings) == ((), (), ())
    assert found.settings.config_directory == str(server.directory)


@pytest.mark.parametrize(
    ("release", "hosts"), [("3.7.11", "127.0.0.1 127.0.0.1"), ("3.9.1", "127.0.0.1 127.0.0.1"), ("3.10.1", "127.0.0.1")]
)
def test_what_was_applied_does_not_differ(server, release, hosts):
    """Nor does it after another apply, whatever the release of Postfix needs."""
    server.main_cf("virtual_alias_maps = hash:DIR/x, mysql:DIR/virtual_alias_maps.cf", release)
    server.table("virtual_alias_maps", TEXT.replace("127.0.0.1", hosts))
    found = compare(server, virtual_alias_maps={})
    assert (found.files, found.changes, found.parameters, found.changed) == ((), {}, {}, frozenset())
    assert (found.faults, found.warnings) == ((), ())


def test_several_maps(server):
    """Those of one parameter are asked in pillar's order, and a map is named as changed where only main.cf is."""
    server.main_cf("virtual_alias_maps = hash:DIR/x").table("a").table("c", TEXT.replace("t W", "u W"))
    found = compare(
        server,
        a={"parameter": "virtual_alias_maps"},
        b={"parameter": "virtual_alias_maps"},
        c={"parameter": "relocated_maps"},
    )
    assert [each.path for each in found.files] == [server.path("b"), server.path("c")]
    assert server.short(found.parameters) == {
        "virtual_alias_maps": "hash:DIR/x, mysql:DIR/a.cf, mysql:DIR/b.cf",
        "relocated_maps": "mysql:DIR/c.cf",
    }
    assert list(found.changes) == ["b", "c", "main.cf"] and list(found.changes["c"]) == ["query"]
    assert found.changed == {"a", "b", "c"}
    assert server.short(found.changes["main.cf"]["virtual_alias_maps"]["old"]) == "hash:DIR/x"


# The file of a map that is there.


@pytest.mark.parametrize(
    ("mode", "gid", "changes"),
    [
        (0o640, POSTFIX, {}),
        (0o644, POSTFIX, {"mode": {"old": "0644", "new": "0640"}}),
        (0o640, 0, {"group": {"old": "root", "new": "postfix"}}),
        (0o600, 54321, {"mode": {"old": "0600", "new": "0640"}, "group": {"old": "54321", "new": "postfix"}}),
    ],
)
def test_whose_a_table_file_is(server, mode, gid, changes):
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", mode=mode, gid=gid)
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    replaced = [(server.path("a"), (TEXT.encode(),))]
    assert found.changes == ({"a": changes} if changes else {})
    assert [(each.path, each.still) for each in found.files] == (replaced if changes else [])


def test_who_owns_a_table_file_and_who_logs_in_by_it_are_two_things(server):
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", TEXT.replace("= mailserver\n", "= other\n", 1))
    os.chown(server.path("a"), 54321, POSTFIX)
    assert compare(server, a={"parameter": "virtual_alias_maps"}).changes["a"] == {
        "owner": {"old": "54321", "new": "root"},
        "user": {"old": "other", "new": "mailserver"},
    }


def test_owners_as_an_admin_reads_them():
    assert ownership(File("/x", b"", 0, POSTFIX, 0o640)) == {"mode": "0640", "owner": "root", "group": "postfix"}
    assert ownership(File("/x", b"", 0, 0, 0o7)) == {"mode": "0007", "owner": "root", "group": "root"}
    assert ownership(File("/x", b"", 54321, 54322, 0)) == {"mode": "0000", "owner": "54321", "group": "54322"}
    page = (REPOSITORY / "docs/adoption.md").read_text()
    assert f"\n| {', '.join(f'`{name}`' for name in ownership(File('/x', b'')))} | " in page


REORDERED = "".join(reversed(TEXT.splitlines(keepends=True)))
LAYOUT = {"layout": {"old": "another", "new": "canonical"}}


@pytest.mark.parametrize(
    ("text", "changes", "is_kept"),
    [
        (TEXT.replace("= x", "= y"), {"password": {"old": "***", "new": "***"}}, False),
        (TEXT.replace("user = mailserver\n", ""), {"user": {"old": None, "new": "mailserver"}}, False),
        (f"# one\n{TEXT}#two\n", {**LAYOUT, "comments": {"old": "2 lines", "new": None}}, True),
        (REORDERED, LAYOUT, True),
        (
            f"# one\n{TEXT}".replace("= x", "= y"),
            {"password": {"old": "***", "new": "***"}, **LAYOUT, "comments": {"old": "1 line", "new": None}},
            True,
        ),
    ],
)
def test_a_file_with_other_content(server, text, changes, is_kept):
    """Of one that somebody else wrote a copy is kept, which only root may read, and has no password."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", text)
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    copy = f"{server.path('a')}.before-ispmail"
    assert found.changes == {"a": {**changes, **({"copy": {"old": None, "new": copy}} if is_kept else {})}}
    new, *kept = found.files
    assert new == Replacement(File(server.path("a"), TEXT.encode(), 0, POSTFIX, 0o640), still=(text.encode(),))
    without = re.sub("password = .\n", "# password was left out of this copy\n", text)
    assert kept == ([Replacement(File(copy, without.encode(), 0, 0, 0o600), still=(None,))] if is_kept else [])


def test_after_an_upgrade_of_postfix_there_is_no_copy_of_what_an_apply_wrote(server):
    """Before 3.10 a single host is written twice."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", TEXT.replace("127.0.0.1", "127.0.0.1 127.0.0.1"))
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    assert found.changes == {"a": LAYOUT}
    assert [each.new.content for each in found.files] == [TEXT.encode()]


def test_a_copy_is_made_once(server):
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", f"# one\n{TEXT}").table("a.cf.before-ispmail")
    os.rename(server.path("a.cf.before-ispmail"), f"{server.path('a')}.before-ispmail")
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    assert list(found.changes["a"]) == ["layout", "comments"]
    assert [each.path for each in found.files] == [server.path("a")]


def test_a_copy_is_not_written_through_a_link(server):
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a", f"# one\n{TEXT}")
    os.symlink("/nowhere", f"{server.path('a')}.before-ispmail")
    with pytest.raises(CannotAsk, match=r"a\.cf\.before-ispmail is a link: remove it"):
        compare(server, a={"parameter": "virtual_alias_maps"})


def test_the_group_of_a_table_file_is_that_of_mail_owner(server):
    """It was postfix: proxymap, as another user, could not read it, and each apply set that group again."""
    server.main_cf("mail_owner = $own\nown = games\nvirtual_alias_maps = mysql:DIR/a.cf").table("a")
    entry = pwd.getpwnam("games")
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    assert [each.new.gid for each in found.files] == [entry.pw_gid]
    assert found.changes == {"a": {"group": {"old": "postfix", "new": grp.getgrgid(entry.pw_gid).gr_name}}}
    files = [File("/x", b"", 0, gid, mode) for gid in (entry.pw_gid, POSTFIX) for mode in (0o640, 0o600)]
    assert [_ispmail_plan.is_as_written(each, found.settings) for each in files] == [True, False, False, False]
    assert not _ispmail_plan.is_as_written(File("/x", b"", 1, entry.pw_gid, 0o640), found.settings)


def test_without_postfix_there_is_no_owner_of_a_table_file(server):
    server.main_cf("mail_owner = no-such")
    said = r"there is no user no-such: install the package postfix, or check mail_owner in main\.cf"
    with pytest.raises(CannotAsk, match=said):
        compare(server, virtual_alias_maps={})


@pytest.mark.parametrize(
    ("content", "named", "text", "reason"),
    [
        (None, (), TEXT, None),
        (TEXT, (), TEXT, None),
        (f"{TEXT}#\n", (), TEXT, None),
        (f"{TEXT}#\n", (), None, None),
        # What main.cf leads to is a table, whatever is in it.
        ("a note\n", ("virtual_alias_maps",), TEXT, None),
        ("a note\n", (), TEXT, "names {path}, which is there and is no table file"),
        ("a note\n", (), None, "names {path}, which is there and is no table file"),
        ("a note\n", (), "a note\n", None),
        (
            f"{TEXT}#\n",
            ("relay_domains", "smtp/inet/x", "relay_domains"),
            TEXT,
            "names {path}, which is asked by relay_domains, smtp/inet/x and not by virtual_alias_maps",
        ),
        (f"{TEXT}#\n", ("relay_domains", "virtual_alias_maps"), TEXT, None),
        # To remove a map: who else asks its file is told there.
        (f"{TEXT}#\n", ("relay_domains",), None, None),
        # It is what it will be, so nothing is lost.
        (TEXT, ("relay_domains",), TEXT, None),
    ],
)
def test_a_file_that_is_something_elses(tmp_path, content, named, text, reason):
    """It may be a file of another program, or another map's: neither is replaced, nor deleted."""
    path = tmp_path / "a.cf"
    if content is not None:
        path.write_text(content)
    found, fault = table_file(map_of(path), lambda: {str(path): named}, text)
    assert (found.path, found.content) == (str(path), None if content is None else content.encode())
    fix = "choose another name, or move it away"
    assert fault == (Fault("maps:virtual_alias_maps:file", reason.format(path=path), fix) if reason else None)


def test_a_file_that_cannot_be_read_or_is_not_there(tmp_path):
    link = tmp_path / "link.cf"
    link.symlink_to("gone.cf")
    assert table_file(map_of(link), dict) == (
        File(str(tmp_path / "gone.cf"), None),
        Fault(
            "maps:virtual_alias_maps:file",
            f"names {link}, a link to {tmp_path}/gone.cf, which is not there",
            "remove the link",
        ),
    )
    found, fault = table_file(map_of(tmp_path), dict)
    assert found == File(str(tmp_path), None)
    assert fault.reason.startswith(f"cannot be used: {tmp_path} is no regular file")


def test_a_link_to_a_table_file_is_followed(tmp_path):
    (tmp_path / "a.cf").write_text(TEXT)
    (tmp_path / "link.cf").symlink_to("a.cf")
    found, fault = table_file(map_of(tmp_path / "link.cf"), dict)
    assert (found.path, found.content, fault) == (str(tmp_path / "a.cf"), TEXT.encode(), None)


def test_a_foreign_file_is_left_alone(server):
    """It is a fault, and the other maps are compared all the same."""
    server.table("virtual_alias_maps", "a note\n")
    found = compare(server, virtual_alias_maps={}, relocated_maps={})
    assert [fault.key for fault in found.faults] == ["maps:virtual_alias_maps:file"]
    assert [each.path for each in found.files] == [server.path("relocated_maps")]
    assert set(found.changes) == {"relocated_maps", "main.cf"}


def test_two_maps_with_one_file(server):
    """By a link. What is another map's is not said twice."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a")
    os.symlink("a.cf", server.path("b"))
    found = compare(
        server,
        a={"parameter": "virtual_alias_maps"},
        b={"parameter": "relocated_maps", "query": QUERY.replace("1", "2")},
    )
    assert found.faults == (Fault("maps:b:file", "is the file of a too", "each map needs its own"),)


# The parameters of main.cf.


@pytest.mark.parametrize(
    ("main_cf", "parameter", "new"),
    [
        ("", "virtual_alias_maps", "mysql:DIR/a.cf"),
        # Its default is $virtual_maps, from Postfix 1: kept where it leads somewhere, else mail for it is lost.
        ("virtual_maps = hash:DIR/x", "virtual_alias_maps", "$virtual_maps, mysql:DIR/a.cf"),
        ("virtual_maps = mysql:DIR/a.cf hash:DIR/x", "virtual_alias_maps", None),
        ("virtual_maps = mysql:DIR/other.cf", "virtual_alias_maps", "$virtual_maps, mysql:DIR/a.cf"),
        ("virtual_alias_maps = $virtual_maps", "virtual_alias_maps", "$virtual_maps, mysql:DIR/a.cf"),
        ("virtual_alias_maps =", "virtual_alias_maps", "mysql:DIR/a.cf"),
        ("", "local_recipient_maps", "proxy:unix:passwd.byname $alias_maps mysql:DIR/a.cf"),
    ],
)
def test_how_a_parameter_names_a_map(server, main_cf, parameter, new):
    """What its default leads to is kept."""
    found = compare(server.main_cf(main_cf).table("a"), a={"parameter": parameter})
    assert server.short(found.parameters).get(parameter) == new


@pytest.mark.parametrize(
    ("virtual_maps", "new"),
    [
        ("mysql:DIR/a.cf", "mysql:DIR/a.cf, mysql:DIR/b.cf"),
        ("mysql:DIR/a.cf hash:DIR/x", "$virtual_maps, mysql:DIR/b.cf"),
        ("unionmap:{mysql:DIR/a.cf, mysql:DIR/c.cf}", "$virtual_maps, mysql:DIR/b.cf"),
    ],
)
def test_a_default_that_leads_to_nothing_but_maps_of_pillar_is_not_kept(server, virtual_maps, new):
    server.main_cf(f"virtual_maps = {virtual_maps}").table("a").table("b")
    found = compare(server, a={"parameter": "virtual_alias_maps"}, b={"parameter": "virtual_alias_maps"})
    assert server.short(found.parameters) == {"virtual_alias_maps": new}


def test_a_table_that_is_asked_in_another_way_is_a_fault(server):
    server.main_cf("virtual_maps = proxy:mysql:DIR/a.cf\nvirtual_alias_maps = $virtual_maps").table("a")
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    assert [fault.key for fault in found.faults] == ["maps:a"]
    assert "proxy:mysql:" in found.faults[0].reason and found.faults[0].fix == "give the map parameter: virtual_maps"


@pytest.mark.parametrize(
    ("main_cf", "unknown"),
    [
        ("", ("first_maps", "second_maps")),
        ("transport_maps = ${first_maps}", ("second_maps",)),
        ("first_maps =\ntransport_maps = $second_maps", ()),
        ("transport_maps = first_maps", ("first_maps", "second_maps")),
    ],
)
def test_a_parameter_that_nothing_refers_to_may_be_misspelt(server, main_cf, unknown):
    found = compare(server.main_cf(main_cf), first_maps={}, second_maps={}, relocated_maps={})
    assert found.unknown == unknown


@pytest.mark.parametrize(
    ("main_cf", "names", "warns"),
    [
        ("", ("virtual_mailbox_domains",), True),
        ("", ("virtual_mailbox_domains", "virtual_mailbox_maps"), False),
        ("virtual_mailbox_maps = hash:DIR/x", ("virtual_mailbox_domains",), False),
        ("virtual_mailbox_maps = $x\nx =", ("virtual_mailbox_domains",), True),
        ("", ("virtual_alias_maps",), False),
        ("", ("virtual_mailbox_maps",), False),
    ],
)
def test_domains_without_mailboxes(server, main_cf, names, warns):
    found = compare(server.main_cf(main_cf), **{name: {} for name in names})
    assert found.warnings == ((OPEN_DOMAINS,) if warns else ())


def test_a_table_that_pillar_does_not_name_is_kept_and_told(server):
    tables = "mysql:DIR/old.cf, mysql:DIR/a.cf, hash:DIR/x, pipemap:{mysql:DIR/a.cf, inline:{x=SECRET}, pgsql:DIR/b.cf}"
    server.main_cf(f"virtual_alias_maps = {tables}\nrelocated_maps = mysql:DIR/c.cf").table("a")
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    kept = "which pillar does not name: it is kept, take it out if it is a leftover"
    assert server.short(found.warnings) == [
        f"virtual_alias_maps also asks mysql:DIR/old.cf, {kept}",
        f"virtual_alias_maps also asks pipemap:{{mysql:DIR/a.cf, inline:***, pgsql:DIR/b.cf}}, {kept}",
    ]


def settings(**values):
    return Settings("/etc/postfix", {"queue_directory": "/var/spool/postfix", **values}, frozenset(values))


@pytest.mark.parametrize(
    ("values", "is_fault"),
    [
        ({}, False),
        ({"own": "mysql:/etc/postfix/a.cf"}, False),
        ({"own": "mysql:/etc/postfix/a.cf", "smtpd_restriction_classes": "first, own"}, True),
        ({"own": "mysql:/etc/postfix/a.cf", "smtpd_restriction_classes": "$first", "first": "own"}, True),
        ({"own": "mysql:/etc/postfix/a.cf", "other_classes": "own"}, False),
        ({"own": "check_sender_access mysql:/etc/postfix/a.cf"}, True),
        ({"own": "Check_Sender_Access mysql:/etc/postfix/a.cf"}, True),
        ({"own": "check_sender_access mysql:/etc/postfix/b.cf, mysql:/etc/postfix/a.cf"}, False),
        ({"own": "mysql:/etc/postfix/a.cf, check_sender_access hash:/x"}, False),
    ],
)
def test_a_parameter_that_holds_restrictions(values, is_fault):
    """Without the table its check_…_access would stand alone: 451 for each recipient."""
    found = restriction_faults([Map("a", "own", "mysql", False, "/etc/postfix/a.cf")], settings(**values))
    assert [fault.key for fault in found] == (["maps:a:parameter"] if is_fault else [])


def test_restrictions_are_told_with_all_other_faults(server):
    server.main_cf("own = check_sender_access mysql:DIR/a.cf\nsmtpd_sender_restrictions = $own").table("a")
    assert [each.key for each in compare(server, a={"parameter": "own"}).faults] == ["maps:a:parameter"]


ALONE = "smtpd looks up what the check is about in the first one only"


@pytest.mark.parametrize(
    ("main_cf", "option", "fault"),
    [
        ("smtpd_sender_restrictions = $own", "", None),
        # What follows the first table is asked as the list says: that may be the same.
        ("smtpd_sender_restrictions = check_sender_access $own", "", None),
        ("smtpd_recipient_restrictions = CHECK_recipient_access ${own}, permit", "", None),
        (
            "smtpd_recipient_restrictions = permit_mynetworks, check_sender_access $own, permit",
            "",
            "own stands behind check_sender_access in smtpd_recipient_restrictions",
        ),
        (
            "smtpd_data_restrictions = Check_Recipient_Access $(own)",
            "",
            "own stands behind Check_Recipient_Access in smtpd_data_restrictions",
        ),
        # By another parameter, in a class, in master.cf.
        (
            "smtpd_helo_restrictions = $ours\nours = check_sender_access $more\nmore = $own",
            "",
            "own stands behind check_sender_access in smtpd_helo_restrictions",
        ),
        (
            "smtpd_restriction_classes = x, ours\nours = check_sender_access $own\nx = permit, ours\n"
            "smtpd_data_restrictions = check_client_access hash:/x x",
            "",
            "own stands behind check_sender_access in ours",
        ),
        # A class is judged by the lists that lead to it, and one that none leads to is not asked.
        (
            "smtpd_restriction_classes = x, ours\nours = check_sender_access $own\nx = ours\n"
            "smtpd_sender_restrictions = x",
            "",
            None,
        ),
        ("smtpd_restriction_classes = x, ours\nours = x, check_sender_access $own\nx = ours", "", None),
        (
            "",
            " -o smtpd_relay_restrictions=check_sender_access,$own",
            "own stands behind check_sender_access in smtpd_relay_restrictions",
        ),
        (
            "smtpd_relay_restrictions = $ours",
            " -o ours=check_sender_access,$own",
            "own stands behind check_sender_access in smtpd_relay_restrictions",
        ),
        ("", " -o own=hash:/x -o smtpd_relay_restrictions=check_sender_access,$own", None),
        ("smtpd_recipient_restrictions = check_sender_access $other", "", None),
    ],
)
def test_a_second_table_behind_a_check(server, main_cf, option, fault):
    """In a list about recipients, senders in the second table were taken, and recipients in it rejected."""
    server.main_cf(f"{main_cf}\nown = mysql:DIR/a.cf\nother = hash:/x hash:/y").table("a")
    server.master_cf(f"smtp inet n - y - - smtpd{option}\n")
    one, two = {"parameter": "own"}, {"parameter": "own"}
    assert compare(server, a=one).faults == ()
    faults = compare(server, a=one, b=two).faults
    reason = f"{fault}, and would hold more than one table: {ALONE}"
    assert [(each.key, each.reason) for each in faults] == ([("maps:b:parameter", reason)] if fault else [])
    # It need not be pillar's.
    server.main_cf(f"{main_cf}\nown = static:DUNNO")
    assert [each.key for each in compare(server, b=two).faults] == (["maps:b:parameter"] if fault else [])


def test_master_cf_is_not_read_where_nothing_changes(server):
    """Nor where each parameter has one table: an apply with nothing to do runs no further command."""
    main_cf = "own = mysql:DIR/a.cf, mysql:DIR/b.cf\nsmtpd_recipient_restrictions = check_sender_access $own"
    server.main_cf(main_cf).table("a").table("b")
    os.unlink(server.directory / "master.cf")
    found = compare(server, a={"parameter": "own"}, b={"parameter": "own"})
    assert [each.key for each in found.faults] == ["maps:b:parameter"] and found.changes == {}
    compare(server, c={"parameter": "relay_domains"})


def test_who_leads_to_a_table_file():
    values = {"relay_domains": "mysql:/a.cf, $own", "own": "proxy:pgsql:/b.cf", "proxy_read_maps": "mysql:/a.cf"}
    assert named_by(settings(**values)) == {"/a.cf": ["relay_domains"], "/b.cf": ["relay_domains", "own"]}


# What proxymap may open.


@pytest.mark.parametrize(
    ("main_cf", "parameter", "added"),
    [
        # Its default refers to this parameter.
        ("", "virtual_alias_maps", None),
        ("", "own_maps", "proxy:mysql:DIR/a.cf"),
        ("proxy_read_maps = $own_maps", "own_maps", None),
        # It compares texts: the spelling of the reader counts.
        ("own_maps = proxy:mysql:DIR/./a.cf", "own_maps", "proxy:mysql:DIR/./a.cf"),
        ("proxy_read_maps = proxy:mysql:DIR/a.cf", "own_maps", None),
        ("proxy_read_maps = hash:DIR/x", "own_maps", "hash:DIR/x, proxy:mysql:DIR/a.cf"),
        # Another spelling of the same file stays: something else may use it, a script too.
        (
            "proxy_read_maps = proxy:mysql:DIR/./a.cf, $x, proxy:mysql:DIR/y.cf",
            "own_maps",
            "proxy:mysql:DIR/./a.cf, $x, proxy:mysql:DIR/y.cf, proxy:mysql:DIR/a.cf",
        ),
        (
            "proxy_read_maps = unionmap:{proxy:mysql:DIR/./a.cf} $x",
            "own_maps",
            "unionmap:{proxy:mysql:DIR/./a.cf} $x proxy:mysql:DIR/a.cf",
        ),
    ],
)
def test_what_proxymap_may_open(server, main_cf, parameter, added):
    """Without that each question gets "permission denied"."""
    found = compare(server.main_cf(main_cf).table("a"), a={"parameter": parameter, "proxy": True})
    allowed = server.short(found.parameters).get("proxy_read_maps")
    if added and not main_cf.startswith("proxy_read_maps"):
        default = found.settings.values["proxy_read_maps"]
        assert allowed.startswith(default) and allowed.removeprefix(default).strip(", ") == added
    else:
        assert allowed == added
    assert ("proxy_read_maps" in found.changes.get("main.cf", {})) == (added is not None)


def test_proxymap_need_not_open_what_is_asked_directly(server):
    """What it may open already stays: something else may ask it."""
    permitted = "proxy_read_maps = hash:DIR/x, proxy:mysql:DIR/b.cf"
    server.main_cf(f"{permitted}\nown_maps = proxy:mysql:DIR/other.cf, mysql:DIR/b.cf").table("b")
    found = compare(server, b={"parameter": "own_maps"})
    assert server.short(found.parameters) == {}
    found = compare(server, b={"parameter": "own_maps"}, a={"parameter": "own_maps", "proxy": True})
    allowed = "hash:DIR/x, proxy:mysql:DIR/b.cf, proxy:mysql:DIR/a.cf"
    assert server.short(found.parameters)["proxy_read_maps"] == allowed


@pytest.mark.parametrize(
    ("main_cf", "option", "added"),
    [
        # Nothing else asks it through proxymap.
        ("", "", None),
        ("recipient_bcc_maps = mysql:DIR/./a.cf", "", None),
        ("proxy_write_maps = proxy:mysql:DIR/./a.cf", "", None),
        ("recipient_bcc_maps = proxy:mysql:DIR/a.cf", "", None),
        ("recipient_bcc_maps = proxy:mysql:DIR/./a.cf", "", "$virtual_alias_maps, proxy:mysql:DIR/./a.cf"),
        ("", " -o sender_bcc_maps=proxy:mysql:DIR/./a.cf", "$virtual_alias_maps, proxy:mysql:DIR/./a.cf"),
        ("", " -o x=proxy:mysql:DIR/. -o sender_bcc_maps=$x/a.cf", "$virtual_alias_maps, proxy:mysql:DIR/./a.cf"),
        # It is allowed beside that parameter.
        ("recipient_bcc_maps = proxy:mysql:DIR/./a.cf\nx = proxy:mysql:DIR/./a.cf", "", None),
    ],
)
def test_what_others_ask_through_proxymap_stays_allowed(server, main_cf, option, added):
    """proxy_read_maps allowed it by the parameter that is changed; without it cleanup dies at each message."""
    permitted = "proxy_read_maps = $virtual_alias_maps" + (", $x" if "x =" in main_cf else "")
    server.main_cf(f"virtual_alias_maps = proxy:mysql:DIR/./a.cf\n{permitted}\n{main_cf}").table("a")
    server.master_cf(f"smtp inet n - y - - smtpd{option}\n")
    found = compare(server, a={"parameter": "virtual_alias_maps"})
    assert server.short(found.parameters).pop("virtual_alias_maps") == "mysql:DIR/a.cf"
    assert server.short(found.parameters).get("proxy_read_maps") == added


# What an apply tells.


def test_what_is_told_to_people():
    assert Outcome().describe() == {"changes": {}, "maps": 0, "warnings": [], "reloaded": False, "consumers": 0}
    found = Outcome({"a": {}}, 2, ("first",), True, 1).describe(["second"])
    assert found == {"changes": {"a": {}}, "maps": 2, "warnings": ["first", "second"], "reloaded": True, "consumers": 1}


@pytest.mark.parametrize(("reloaded", "new"), [(True, "reloaded"), (False, "checked")])
def test_a_change_that_was_cut_off_is_told(reloaded, new):
    assert _ispmail_plan.finished(reloaded) == {"old": "a change was interrupted", "new": new}
