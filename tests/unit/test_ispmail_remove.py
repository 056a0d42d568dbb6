"""What a removal takes out of a main.cf, by a real postconf; and what it refuses. Mail is asked in tests/functional."""

import os
import pwd

import pytest

import _ispmail_instances
import _ispmail_postconf
import _ispmail_remove
import _ispmail_transaction
from _ispmail_errors import CannotAsk, Failed, PillarFault
from _ispmail_files import File, Replacement
from _ispmail_journal import Journal
from _ispmail_plan import OPEN_DOMAINS, Outcome
from _ispmail_smtpd import Reply

from .configured import POSTFIX, SERVICES, TEXT, Configured

A = {"a": {"parameter": "virtual_alias_maps"}}


@pytest.fixture
def server(tmp_path):
    return Configured(tmp_path)


@pytest.fixture
def changes(monkeypatch):
    """The changes that are made, or rehearsed, in place of making them."""
    found = []
    monkeypatch.setattr(_ispmail_transaction, "make", lambda change, *_: found.append(("make", change)) or [])
    monkeypatch.setattr(_ispmail_transaction, "rehearse", lambda change: found.append(("rehearse", change)))
    return found


def remove(server, maps, names=None, **options):
    return _ispmail_remove.remove(server.instance(**maps), names, server.cache, **options)


def test_what_is_changed_and_told(server, changes):
    """Nothing but what it has seen is deleted, or edited."""
    server.main_cf("virtual_alias_maps = hash:DIR/x, mysql:DIR/a.cf").table("a")
    for test in (True, False):
        found = remove(server, A, test=test)
        assert list(found.changes) == ["a", "main.cf"] and found.maps == 1
        assert found.changes["a"] == {"file": {"old": server.path("a"), "new": None}}
        new, old = "hash:DIR/x", "hash:DIR/x, mysql:DIR/a.cf"
        assert server.short(found.changes["main.cf"]) == {"virtual_alias_maps": {"old": old, "new": new}}
    (rehearsed, change), (made, same) = changes
    assert (rehearsed, made) == ("rehearse", "make") and change == same
    assert (change.config_directory, change.cache_directory) == (str(server.directory), server.cache)
    assert change.files == (Replacement(File(server.path("a"), None, 0, POSTFIX, 0o640), still=(TEXT.encode(),)),)
    assert (server.short(change.parameters), server.short(change.expected)) == (
        {"virtual_alias_maps": new},
        {"virtual_alias_maps": old, "queue_directory": str(server.queue)},
    )


def test_a_map_is_removed(server, caplog):
    """The file is deleted, main.cf is edited; a second removal has nothing to do."""
    server.main_cf("virtual_alias_maps = hash:DIR/x, mysql:DIR/a.cf").table("a")
    for test in (True, False):
        assert list(remove(server, A, test=test).changes) == ["a", "main.cf"]
        assert os.path.exists(server.path("a")) == test
    assert f"removed in {server.directory}: a, main.cf, in " in caplog.messages[-1]
    (value,) = _ispmail_postconf.get(["virtual_alias_maps"], str(server.directory)).values()
    assert server.short(value) == "hash:DIR/x"
    assert remove(server, A) == Outcome(maps=1)


@pytest.mark.parametrize("test", [True, False])
def test_nothing_is_done_where_there_is_nothing(server, changes, test):
    assert remove(server, A, test=test) == Outcome(maps=1)
    assert changes == []


def test_some_maps(server, changes):
    """The others, and what has no file, are not named."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf mysql:DIR/b.cf mysql:DIR/c.cf").table("a").table("b")
    maps = {name: {"parameter": "virtual_alias_maps"} for name in "abc"}
    found = remove(server, maps, ["c", "a"])
    assert (list(found.changes), found.maps) == (["a", "main.cf"], 2)
    ((_, change),) = changes
    assert [each.path for each in change.files] == [server.path("a")]
    assert server.short(change.parameters) == {"virtual_alias_maps": "mysql:DIR/b.cf"}


OWN = "virtual_alias_maps = $own hash:DIR/x\nown = mysql:DIR/a.cf"


@pytest.mark.parametrize(
    ("main_cf", "parameters"),
    [
        ("virtual_alias_maps = mysql:DIR/a.cf", {"virtual_alias_maps": None}),
        ("virtual_alias_maps = hash:DIR/x", {}),
        # What is left is set, though it is what Postfix takes without it too.
        ("virtual_alias_maps = $virtual_maps, mysql:DIR/a.cf", {"virtual_alias_maps": "$virtual_maps"}),
        # A parameter of the admin's own goes where nothing else refers to it.
        (OWN, {"own": None, "virtual_alias_maps": "hash:DIR/x"}),
        (
            "virtual_alias_maps = $own\nown = ${deeper}\ndeeper = mysql:DIR/a.cf",
            {"own": None, "deeper": None, "virtual_alias_maps": None},
        ),
        (
            "virtual_alias_maps = $own $second\nown = mysql:DIR/a.cf\nsecond = mysql:DIR/a.cf hash:DIR/x",
            {"own": None, "second": "hash:DIR/x", "virtual_alias_maps": "$second"},
        ),
        # What has its name in words, or permits it, does not need it.
        (f"{OWN}\nmail_name = own", {"own": None, "virtual_alias_maps": "hash:DIR/x"}),
        (
            f"{OWN}\nproxy_read_maps = $own $x",
            {"own": None, "virtual_alias_maps": "hash:DIR/x", "proxy_read_maps": "$x"},
        ),
        ("virtual_alias_maps = unionmap:{mysql:DIR/a.cf}\nx = hash:/x unionmap:{}", {"virtual_alias_maps": None}),
        (
            "virtual_alias_maps = mysql:DIR/a.cf\ncanonical_maps = unionmap:{$virtual_alias_maps, hash:/x}",
            {"virtual_alias_maps": None},
        ),
        ("virtual_alias_maps = $nobody_sets_it mysql:DIR/a.cf", {"virtual_alias_maps": "$nobody_sets_it"}),
        ("virtual_alias_maps = mysql:DIR/a.cf\ncanonical_maps = $virtual_alias_maps", {"virtual_alias_maps": None}),
        (
            "virtual_alias_maps = mysql:DIR/a.cf\nproxy_read_maps = $x, proxy:mysql:DIR/a.cf",
            {"virtual_alias_maps": None, "proxy_read_maps": "$x"},
        ),
        (
            "virtual_alias_maps = mysql:DIR/a.cf\nproxy_read_maps = proxy:mysql:DIR/a.cf",
            {"virtual_alias_maps": None, "proxy_read_maps": None},
        ),
    ],
)
def test_what_main_cf_becomes(server, changes, main_cf, parameters):
    server.main_cf(main_cf)
    remove(server, A)
    assert [server.short(change.parameters) for _, change in changes] == ([parameters] if parameters else [])


def test_a_map_that_another_map_refers_to(server, changes):
    """Nothing refers to a parameter that is gone: postconf would warn of it from then on."""
    server.main_cf("virtual_alias_maps = $own, mysql:DIR/b.cf\nown = mysql:DIR/a.cf")
    maps = {"a": {"parameter": "own"}, "b": {"parameter": "virtual_alias_maps"}}
    remove(server, maps)
    assert changes[0][1].parameters == {"own": None, "virtual_alias_maps": None}
    with pytest.raises(Failed, match=r"are asked by virtual_alias_maps \(\$own\) too"):
        remove(server, maps, ["a"])
    remove(server, maps, ["b"])
    assert changes[1][1].parameters == {"virtual_alias_maps": "$own"}


def test_a_map_in_the_braces_of_another_map(server, changes):
    """Without the first, unionmap:{$own} held nothing, and was taken for something else than ours."""
    server.main_cf("virtual_alias_maps = hash:DIR/x, unionmap:{$own}, mysql:DIR/b.cf\nown = mysql:DIR/a.cf")
    maps = {"a": {"parameter": "own"}, "b": {"parameter": "virtual_alias_maps"}}
    remove(server, maps)
    assert server.short(changes[0][1].parameters) == {"own": None, "virtual_alias_maps": "hash:DIR/x"}
    with pytest.raises(Failed, match=r"are asked by virtual_alias_maps \(unionmap:\{\$own\}\)"):
        remove(server, maps, ["a"])


def test_proxymap_may_open_what_it_may_by_default_again(server, changes):
    default = _ispmail_postconf.defaults(["proxy_read_maps"], str(server.directory))["proxy_read_maps"]
    server.main_cf(f"proxy_read_maps = {default} proxy:mysql:DIR/a.cf")
    remove(server, A)
    ((_, change),) = changes
    assert change.parameters == {"proxy_read_maps": None}


@pytest.mark.parametrize(
    ("main_cf", "services", "parameter", "users"),
    [
        # By Postfix's own parameter, or in another spelling.
        (
            "virtual_maps = mysql:DIR/a.cf\nvirtual_alias_maps = $virtual_maps",
            "",
            "virtual_alias_maps",
            "virtual_maps (mysql:DIR/a.cf), virtual_alias_maps ($virtual_maps), "
            "virtual_alias_domains ($virtual_alias_maps)",
        ),
        (
            "canonical_maps = pipemap:{mysql:DIR/./a.cf, mysql:DIR/a.cf, inline:{x=SECRET}}",
            "",
            "virtual_alias_maps",
            "canonical_maps (pipemap:{mysql:DIR/./a.cf, mysql:DIR/a.cf, inline:***})",
        ),
        ("", "-o relocated_maps=mysql:DIR/a.cf", "virtual_alias_maps", "smtp/inet/relocated_maps (mysql:DIR/a.cf)"),
        # The admin's own parameter that something else needs too.
        (
            f"{OWN}\nrelocated_maps = $own",
            "",
            "virtual_alias_maps",
            "virtual_alias_maps ($own), own (mysql:DIR/a.cf), relocated_maps ($own), "
            "virtual_alias_domains ($virtual_alias_maps)",
        ),
        (
            OWN,
            "-o relocated_maps=$own",
            "virtual_alias_maps",
            "virtual_alias_maps ($own), own (mysql:DIR/a.cf), virtual_alias_domains ($virtual_alias_maps), "
            "smtp/inet/relocated_maps ($own)",
        ),
        # What is inline is not shown; that the parameter stands behind it is.
        (
            "own = mysql:DIR/a.cf\nrelocated_maps = pipemap:{inline:{x=SECRET}, $own}",
            "",
            "own",
            "relocated_maps (pipemap:{inline:***, $own})",
        ),
        # A restriction that would stand alone: 451 for each recipient.
        (
            "own = mysql:DIR/a.cf\nsmtpd_sender_restrictions = permit_mynetworks, check_sender_access $own, reject",
            "",
            "own",
            "smtpd_sender_restrictions (check_sender_access $own)",
        ),
        (
            "own = mysql:DIR/a.cf",
            "-o smtpd_sender_restrictions=check_sender_access,$own",
            "own",
            "smtp/inet/smtpd_sender_restrictions (check_sender_access $own)",
        ),
        ("own = mysql:DIR/a.cf\nrelocated_maps = ${own}", "", "own", "relocated_maps (${own})"),
        (
            "relocated_maps = mysql:DIR/a.cf\nsmtpd_sender_restrictions = check_sender_access $relocated_maps",
            "",
            "relocated_maps",
            "smtpd_sender_restrictions (check_sender_access $relocated_maps)",
        ),
        # Postfix ignores the case of a restriction's name.
        (
            "relocated_maps = mysql:DIR/a.cf\nsmtpd_sender_restrictions = Check_Sender_Access $relocated_maps, reject",
            "",
            "relocated_maps",
            "smtpd_sender_restrictions (Check_Sender_Access $relocated_maps)",
        ),
        # By another parameter, which is not changed.
        (
            "relocated_maps = mysql:DIR/a.cf\nx = $relocated_maps\nsmtpd_sender_restrictions = check_sender_access $x",
            "",
            "relocated_maps",
            "smtpd_sender_restrictions (check_sender_access $x)",
        ),
        (
            "relocated_maps = mysql:DIR/a.cf\ncanonical_maps = ${relocated_maps?{hash:/x}}",
            "-o smtpd_sender_restrictions=${more?{check_sender_access,$relocated_maps}} -o more=yes",
            "relocated_maps",
            "smtp/inet/smtpd_sender_restrictions (${more?{check_sender_access,$relocated_maps}})",
        ),
        # Braces with nothing in them: 451 after DATA.
        ("own = mysql:DIR/a.cf\ncanonical_maps = unionmap:{$own}", "", "own", "canonical_maps (unionmap:{$own})"),
        ("own = mysql:DIR/a.cf\ncanonical_maps = ${own:$own} x", "", "own", "canonical_maps (${own:$own})"),
        (
            "relocated_maps = mysql:DIR/a.cf\ncanonical_maps = hash:/x, pipemap:{hash:/y, unionmap:{ $relocated_maps}}",
            "",
            "relocated_maps",
            "canonical_maps (pipemap:{hash:/y, unionmap:{ $relocated_maps}})",
        ),
    ],
)
def test_a_table_that_something_else_asks_stays(server, changes, caplog, main_cf, services, parameter, users):
    """Each is named with where it is asked, once, and without what main.cf itself holds of a table."""
    server.main_cf(main_cf).master_cf(SERVICES.replace("- smtpd", f"- smtpd {services}")).table("a")
    with pytest.raises(Failed) as caught:
        remove(server, {"a": {"parameter": parameter}})
    told = server.short(str(caught.value))
    assert told == f"Nothing was changed: the table files are asked by {users} too: take them out there first"
    assert server.short(caplog.messages) == [f"refused to remove table files that are still asked by {users}"]
    assert changes == []


def test_what_stands_beside_the_parameter_is_not_shown_where_it_is_a_password(server, changes, caplog):
    server.main_cf("smtp_sasl_password_maps = unionmap:{inline:{mx=user:SECRET},$own}\nown = mysql:DIR/a.cf").table("a")
    with pytest.raises(Failed, match="smtp_sasl_password_maps") as caught:
        remove(server, {"a": {"parameter": "own"}})
    assert "SECRET" not in str(caught.value) + caplog.text and changes == []


def test_a_directory_with_the_name_of_a_list_names_no_table(server, changes):
    """A parameter of the admin's own, such as the beginning of a path."""
    server.main_cf("my_list = DIR\nvirtual_alias_maps = mysql:DIR/a.cf").table("a")
    assert list(remove(server, A).changes) == ["a", "main.cf"]


def test_a_table_that_a_file_names_stays(server, changes):
    """A pattern file or a memcache table led to it: it was deleted, and each RCPT was answered by 451."""
    server.main_cf("relay_domains = DIR/domains\nvirtual_alias_maps = mysql:DIR/a.cf memcache:DIR/mc.cf").table("a")
    server.write("domains", "example.org\nmysql:DIR/a.cf\n")
    server.write("mc.cf", "backup = mysql:DIR/a.cf\n")
    with pytest.raises(Failed) as caught:
        remove(server, A)
    users = ("virtual_alias_maps (memcache:DIR/mc.cf)", "relay_domains (DIR/domains)")
    assert all(each in server.short(str(caught.value)) for each in users)
    os.unlink(server.directory / "domains")
    os.mkfifo(server.directory / "domains")
    with pytest.raises(CannotAsk, match=r"^whether relay_domains leads to SQL tables cannot be told: "):
        remove(server, A)
    assert changes == []


@pytest.fixture
def other(tmp_path):
    """Another Postfix of this server, whose main.cf names the file of the map `a` of the first."""
    (tmp_path / "other").mkdir()
    other = Configured(tmp_path / "other")
    table = f"mysql:{tmp_path}/etc/./a.cf, inline:{{a=SECRET}}"
    main_cf = f"own = {table}\nrelocated_maps = mysql:/elsewhere.cf\nmulti_instance_directories = DIR"
    return other.main_cf(main_cf).master_cf(SERVICES.replace("- smtpd", f"- smtpd -o relay_domains={table}"))


@pytest.mark.parametrize("name", ["multi_instance_directories", "alternate_config_directories"])
def test_a_table_that_another_instance_asks_stays(server, changes, other, name):
    """It was deleted, and the other one answered 451 to each RCPT after its next reload."""
    server.main_cf(f"virtual_alias_maps = mysql:DIR/a.cf\nx = {other.directory}\n{name} = DIR, /nowhere, $x").table("a")
    table = f"mysql:{server.path('a')}".replace("/a.cf", "/./a.cf,")
    places = ["own", "smtp/inet/relay_domains"]
    for test in (True, False):
        with pytest.raises(Failed) as caught:
            remove(server, A, test=test)
        for place in places:
            assert f"{place} ({table[:-1]}) of the Postfix in {other.directory}" in str(caught.value)
        assert not any(each in str(caught.value) for each in ("SECRET", "elsewhere"))
    assert changes == []
    # Without the file nothing is taken from it.
    os.unlink(server.path("a"))
    remove(server, A)
    assert len(changes) == 1


def test_a_table_that_another_instance_of_pillar_asks_stays(server, changes, other):
    """No main.cf names that one."""
    server.table("a")
    with pytest.raises(Failed, match=rf"own \(.*\) of the Postfix in {other.directory}, "):
        remove(server, A, directories=[str(server.directory), str(other.directory)])
    remove(server, A, directories=[str(server.directory)])
    assert len(changes) == 1


def test_a_table_that_an_instance_of_the_default_one_asks_stays(server, changes, other, tmp_path, monkeypatch):
    (tmp_path / "default").mkdir()
    default = Configured(tmp_path / "default").main_cf(
        f"multi_instance_directories = {server.directory} {other.directory}"
    )
    monkeypatch.setattr(_ispmail_instances, "DEFAULT_DIRECTORY", str(default.directory))
    server.table("a")
    with pytest.raises(Failed, match=rf"own \(.*\) of the Postfix in {other.directory}, "):
        remove(server, A)
    default.main_cf(f"relocated_maps = mysql:{server.path('a')}")
    with pytest.raises(Failed, match=rf"relocated_maps \(.*\) of the Postfix in {default.directory} too: take"):
        remove(server, A)
    default.main_cf("")
    remove(server, A)
    assert len(changes) == 1


def test_an_instance_that_cannot_be_read_may_ask_the_tables(server, changes, other):
    os.unlink(other.directory / "master.cf")
    server.main_cf(f"multi_instance_directories = {other.directory}").table("a")
    with pytest.raises(CannotAsk, match=rf"^Nothing was changed: whether the Postfix in {other.directory} asks"):
        remove(server, A)
    assert changes == []
    # Where no file is deleted, it does not matter.
    os.unlink(server.path("a"))
    assert remove(server, A) == Outcome(maps=1)


def test_a_restriction_that_keeps_another_table_may_stay(server, changes):
    restrictions = "smtpd_sender_restrictions = check_sender_access $own"
    server.main_cf(f"own = hash:DIR/x, mysql:DIR/a.cf\n{restrictions}")
    remove(server, {"a": {"parameter": "own"}})
    ((_, change),) = changes
    assert server.short(change.parameters) == {"own": "hash:DIR/x"}


def test_nothing_of_somebody_elses_is_removed(server, changes):
    server.main_cf("own = check_sender_access mysql:DIR/b.cf").table("a", "a note\n").table("b")
    maps = {"a": {"parameter": "relocated_maps"}, "b": {"parameter": "own"}, "c": {"parameter": "transport_maps"}}
    with pytest.raises(PillarFault) as caught:
        remove(server, maps)
    assert [fault.key for fault in caught.value.faults] == ["maps:a:file", "maps:b:parameter"]
    assert str(caught.value).count("ispmail:maps:") == 2
    assert changes == []


def test_what_an_admin_should_know(server, changes):
    server.main_cf("virtual_mailbox_domains = hash:DIR/x\nvirtual_mailbox_maps = mysql:DIR/a.cf").table("b")
    os.symlink("b.cf", server.path("a"))
    found = remove(server, {"a": {"parameter": "virtual_mailbox_maps"}})
    link = f"{server.path('a')} is a link: the file that it leads to is removed, the link is left"
    assert found.warnings == (link, OPEN_DOMAINS)
    assert [each.path for each in changes[0][1].files] == [server.path("b")]


@pytest.mark.parametrize(
    "main_cf",
    [
        "virtual_mailbox_domains = hash:DIR/x\nvirtual_mailbox_maps = mysql:DIR/a.cf hash:DIR/y",
        "virtual_mailbox_maps = mysql:DIR/a.cf",
        "",
    ],
)
def test_no_doubt(server, changes, main_cf):
    assert remove(server.main_cf(main_cf), {"a": {"parameter": "virtual_mailbox_maps"}}).warnings == ()


@pytest.mark.parametrize("test", [True, False])
def test_a_postfix_that_cannot_be_reloaded_keeps_its_maps(server, changes, monkeypatch, test):
    """Of main.cf as it will be. One that does not run needs no reload."""

    def refuse(expanded):
        raise Failed(f"no reload with {expanded('virtual_alias_maps')!r}")

    server.main_cf("virtual_alias_maps = hash:DIR/x, mysql:DIR/a.cf").table("a")
    monkeypatch.setattr("_ispmail_postfix.refuse_reload", refuse)
    remove(server, A, test=test)
    assert len(changes) == 1
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: True)
    with pytest.raises(Failed) as caught:
        remove(server, A, test=test)
    assert server.short(str(caught.value)) == "no reload with 'hash:DIR/x'" and len(changes) == 1


def test_only_root_removes(server, changes):
    """Who cannot read a table file would take it for one that is not there."""
    server.main_cf("virtual_alias_maps = mysql:DIR/a.cf").table("a")
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(CannotAsk, match=r"^only root can read and replace table files"):
            remove(server, A)
    finally:
        os.seteuid(0)
    assert changes == []


@pytest.mark.parametrize("maps", [A, {}])
@pytest.mark.parametrize("running", [True, False])
def test_a_change_that_was_cut_off_is_finished(server, changes, monkeypatch, running, maps):
    """Whether or not a map is left to remove."""
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: running)
    monkeypatch.setattr("_ispmail_smtpd.ask", lambda _: Reply(None, None, "no smtpd listens without TLS"))
    journal = Journal(str(server.directory), server.cache)
    with journal.locked():
        journal.write([])
    found = remove(server, maps)
    finished = {"old": "a change was interrupted", "new": "reloaded" if running else "checked"}
    assert found == Outcome({"postfix": finished}, maps=len(maps), reloaded=running)
    assert [(name, change.files, change.parameters) for name, change in changes] == [("make", (), {})]


def test_a_file_that_nothing_asks_needs_no_reload(server, changes, monkeypatch):
    monkeypatch.setattr("_ispmail_postfix.running", lambda _: pytest.fail("it is asked whether it runs"))
    assert remove(server.table("a"), A).reloaded is False


OK, NOT = Reply("127.0.0.1:25", 250, "Ok"), Reply("127.0.0.1:25", 451, "4.3.0 Temporary lookup failure")


@pytest.fixture
def ask(server, monkeypatch):
    """A function that removes a map, with what smtpd replies; gives the outcome, and the replies that are left."""

    def removes(runs, runs_after, *replies):
        left = list(replies)
        monkeypatch.setattr("_ispmail_postfix.running", lambda _: runs)
        monkeypatch.setattr("_ispmail_smtpd.ask", lambda _: left.pop(0))
        monkeypatch.setattr(
            _ispmail_transaction, "make", lambda change, check, answers: check(runs_after) or ["smtpd 1 is busy"]
        )
        return remove(server.main_cf("virtual_alias_maps = mysql:DIR/a.cf"), A), left

    return removes


@pytest.mark.parametrize(
    ("runs", "runs_after", "replies"),
    [
        (True, True, [OK, OK]),
        # It is stopped meanwhile, or started: nothing to compare with.
        (True, False, [OK]),
        (False, True, []),
        (False, False, []),
    ],
)
def test_smtpd_is_asked_before_and_after(ask, runs, runs_after, replies):
    found, left = ask(runs, runs_after, *replies)
    assert (found.warnings, found.reloaded, left) == (("smtpd 1 is busy",), runs, [])


def test_smtpd_that_cannot_ask_any_more_ends_a_removal(ask):
    with pytest.raises(Failed, match=r"^smtpd on 127\.0\.0\.1:25 can no longer ask its maps"):
        ask(True, True, OK, NOT)


def test_smtpd_that_could_not_ask_before_does_not(ask):
    warning, _ = ask(True, True, NOT, NOT)[0].warnings
    assert warning.startswith("smtpd on 127.0.0.1:25 could not ask its maps before this change")


@pytest.mark.parametrize("maps", [A, {}])
def test_without_postfix_only_maps_are_missed(tmp_path, monkeypatch, maps):
    """A server that has only other programs with the maps' account needs none."""
    monkeypatch.setattr("_ispmail_postfix.installed", lambda: False)
    found = Configured(tmp_path).instance(**maps)._replace(config_directory=str(tmp_path / "none"))
    if maps:
        with pytest.raises(CannotAsk, match=r"there is no .*/none/main\.cf"):
            _ispmail_remove.remove(found, None, str(tmp_path))
    else:
        assert _ispmail_remove.remove(found, None, str(tmp_path)) == Outcome()
