"""What main.cf and master.cf reach, without a Postfix that runs: nothing is missed, and nothing is read again."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import _ispmail_files
import _ispmail_inventory
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Reader, Settings, Table
from _ispmail_postconf import Service
from _ispmail_reach import places

from .configured import Configured
from .postfix_files import postfix

PIECES = (
    *("mysql:", "/etc/postfix/a.cf", "mysql:/b.cf", "proxy:pgsql:/c.cf", "unionmap:{sqlite:/d.cf, hash:/e}"),
    *("$type", "${table}", "$(path)", "${type?{mysql:/f.cf}:{$table}}", "${none:mysql:/g.cf}", "$none"),
    *("$$", "$", "{", "}", "(", ")", ",", " ", "x", "my", "sql:", "!", "$(", "${"),
)
FIXED = {"type": "mysql:", "table": "$type$path, x", "path": "/h.cf", "queue_directory": "/var/spool/postfix"}
VALUES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(st.fixed_dictionaries(dict.fromkeys(("own_maps", "virtual_alias_maps", "proxy_read_maps"), VALUES)))
@example({"own_maps": "", "virtual_alias_maps": "$(,${table}", "proxy_read_maps": ""})
def test_no_table_is_missed(values):
    """Values are passed over that cannot name a table: the words of each of them agree."""
    known = Settings("/etc/postfix", {**FIXED, **values}, frozenset())
    found = [place for name in known.values for place in places(name, known.words(name))]
    assert list(_ispmail_inventory.in_main_cf(known)) == [each for each in found if each.name != "proxy_read_maps"]


@pytest.mark.parametrize("readable", [None, "$own_maps"])
def test_what_a_change_that_was_cut_off_has_set_for_a_while_does_not_count(tmp_path, readable):
    """proxymap will not allow it any longer, so what is asked through it has to be allowed anew."""
    server = Configured(tmp_path)
    before = f"own_maps = hash:/x\n{f'proxy_read_maps = {readable}' if readable else ''}"
    known = _ispmail_inventory.settings(str(server.main_cf(before).directory))
    left = f"{readable}, $ispmail_meanwhile" if readable else "$ispmail_meanwhile"
    server.main_cf(f"own_maps = hash:/x\nproxy_read_maps = {left}\nispmail_meanwhile = proxy:mysql:/a")
    found = _ispmail_inventory.settings(str(server.directory))
    assert (found.explicit, found.values) == (known.explicit, known.values)


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
    names_in = _ispmail_inventory.names_in
    monkeypatch.setattr(_ispmail_inventory, "names_in", lambda value: read.append(value) or names_in(value))
    inventory = _ispmail_inventory.of(Settings("/etc/postfix", values, frozenset(own)), [])
    for name in own:
        inventory.readers(name)
    assert len(read) == len(set(read)) == 3
    assert inventory.users["own_1"] == ["ours", "virtual_alias_maps"]
    assert inventory.users["own_39"] == ["virtual_alias_maps"]
    # A permission is no question, and nobody is his own user.
    assert not inventory.users.keys() & {"own_40", "own_41"}


QUEUE = "/var/spool/postfix"
SERVICES = (
    Service("smtp", "inet", "y", "smtpd"),
    Service("submission", "inet", "n", "smtpd -o virtual_alias_maps=$ours -o ours=mysql:/own.cf -o biff=no"),
    Service("cleanup", "unix", "-", "cleanup"),
    Service("rewrite", "unix", "y", "trivial-rewrite"),
    Service("virtual", "unix", "n", "virtual"),
    Service("proxymap", "unix", "n", "proxymap"),
)


def settings(**values):
    """What main.cf has beside what every Postfix has."""
    known = {"mail_owner": "post$suffix", "suffix": "fix", "queue_directory": QUEUE, "compatibility_level": "3.6"}
    return Settings("/etc/postfix", {**known, "virtual_transport": "virtual", **values}, frozenset(values))


def inventory(*services, **values):
    return _ispmail_inventory.of(settings(**values), services or SERVICES)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"virtual_alias_maps": "mysql:/a.cf"}, set()),
        # What is not in main.cf yet.
        ({"smtp_generic_maps": "mysql:/b.cf"}, set()),
        ({"smtp_generic_maps": "proxy:mysql:/a.cf"}, {"smtp"}),
        ({"smtp_generic_maps": "$ours", "ours": "hash:/x, mysql:/a.cf"}, {"smtp"}),
        ({"virtual_mailbox_maps": "mysql:/a.cf", "virtual_transport": "lmtp:x"}, {"virtual"}),
        ({"local_recipient_maps": "$alias_maps", "alias_maps": "unionmap:{mysql:/a.cf}"}, {"local"}),
        ({"fast_flush_domains": "$relay_domains", "relay_domains": "mysql:/a.cf"}, {"flush"}),
        ({"postscreen_access_list": "mysql:/a.cf"}, {"postscreen"}),
        ({"tlsproxy_client_policy_maps": "mysql:/a.cf"}, {"tlsproxy"}),
        ({"lmtp_generic_maps": "mysql:/a.cf"}, {"lmtp"}),
        ({"qmqpd_authorized_clients": "mysql:/a.cf"}, {"qmqpd"}),
        # By options in master.cf.
        ({"slow": "mysql:/a.cf"}, {"smtp"}),
        ({"ours": "mysql:/a.cf"}, {"pipe"}),
    ],
)
def test_which_processes_may_hold_what_was_in_a_table_file(tmp_path, values, more):
    """Those that are asked for each mail, and those that read a parameter which reaches the file."""
    (tmp_path / "a.cf").touch()
    (tmp_path / "link.cf").symlink_to("a.cf")
    services = (
        *SERVICES,
        Service("slow", "unix", "n", "smtp -o smtp_generic_maps=$slow"),
        Service("own", "unix", "n", "pipe -o own_maps=$ours"),
    )
    if "ours" in values and len(values) > 1:
        services = SERVICES
    values = {name: value.replace("/a.cf", f"{tmp_path}/a.cf") for name, value in values.items()}
    found = inventory(*services, **values).programs([f"{tmp_path}/link.cf", "/none.cf"])
    assert {each for each in found if "/" not in each} == {"smtpd", "cleanup", "trivial-rewrite", "proxymap", *more}


def test_settings():
    known = settings(biff="no", queue_directory="/var/$spool", spool="x", mail_version="3.10.3")
    assert (known.version, known.queue_directory) == ("3.10.3", "/var/x")
    assert known.set_value("biff") == "no" and known.set_value("mail_owner") is None
    assert "3.10.3" not in repr(known) and "/etc/postfix" in repr(known), "main.cf may hold passwords"


def test_no_secret_of_main_cf_or_master_cf_is_in_a_repr():
    """Passwords may stand there, as a table's own answers."""
    secret = "static:bob:canary-Zq8"
    service = Service("smtp", "unix", "n", f"smtp -o smtp_sasl_password_maps=mysql:/b.cf,{secret}")
    known = settings(smtp_sasl_password_maps=f"{secret}, mysql:/a.cf")._replace(split={})
    found = _ispmail_inventory.of(known, [service])
    assert len(found.places) == 2 and known.split
    assert "canary" not in repr(found) and "canary" not in repr(known) and "canary" not in repr(service)


def test_where_the_path_of_a_table_leads(tmp_path):
    """Links are followed; a name without a slash is none, even where there is such a file."""
    (tmp_path / "link.cf").symlink_to("real.cf")
    known = settings(queue_directory=str(tmp_path))
    assert known.real_path(f"{tmp_path}/link.cf") == known.real_path("./link.cf") == f"{tmp_path}/real.cf"
    assert known.real_path("link.cf") == "link.cf"


def test_a_path_is_looked_up_once_where_that_is_wanted(tmp_path):
    """An apply of many maps asks for each several times; one of its own instances looks at each once."""
    link = tmp_path / "link.cf"
    link.symlink_to("old.cf")
    anew = settings(queue_directory=str(tmp_path))
    once = anew._replace(resolve=_ispmail_files.resolver())
    assert anew.real_path("./link.cf") == once.real_path("./link.cf") == f"{tmp_path}/old.cf"
    link.unlink()
    link.symlink_to("new.cf")
    assert anew.real_path("./link.cf") == f"{tmp_path}/new.cf"
    assert once.real_path("./link.cf") == f"{tmp_path}/old.cf"
    # Another queue directory is another path.
    moved = once.having({"queue_directory": "/elsewhere"})
    assert moved.real_path("./link.cf") == "/elsewhere/link.cf"


def test_a_parameter_is_split_once_where_that_is_wanted():
    """As an apply does it, which asks for the words of each of its parameters three times."""
    anew = settings(virtual_alias_maps="$more", more="mysql:/a.cf")
    once = anew._replace(split={})
    first = once.words("virtual_alias_maps")
    assert once.words("virtual_alias_maps") is first == anew.words("virtual_alias_maps")
    assert anew.words("virtual_alias_maps") is not anew.words("virtual_alias_maps")
    # Other values have other words.
    changed = once.having({"more": "mysql:/b.cf"})
    assert [each.path for word in changed.words("virtual_alias_maps") for each in word.references] == ["/b.cf"]
    assert once.words("virtual_alias_maps") is first and anew.having({}).split is None


def test_the_readers_of_parameters_that_the_same_programs_read_are_looked_up_once():
    found = inventory(*SERVICES, virtual_alias_maps="x", virtual_alias_domains="y")
    first = found.readers("virtual_alias_domains")
    assert found.readers("virtual_alias_domains") is first
    anew = found._replace(by_programs=None)
    assert anew.readers("virtual_alias_domains") == first and anew.readers("virtual_alias_domains") is not first
    assert found.readers("virtual_alias_domains", proxied=True) != first


@pytest.mark.parametrize(("proxied", "table"), [(True, "proxy:mysql:/a.cf"), (False, "mysql:/a.cf")])
def test_how_main_cf_writes_a_table(proxied, table):
    assert Table("mysql", "/a.cf", proxied, (), ()).table == table


@pytest.mark.parametrize(
    ("parameter", "values", "services"),
    [
        ("virtual_alias_maps", {}, ["smtp/inet", "submission/inet", "cleanup/unix"]),
        ("virtual_mailbox_domains", {}, ["smtp/inet", "submission/inet", "rewrite/unix"]),
        ("virtual_uid_maps", {}, ["virtual/unix"]),
        # One of the admin's own is read by what reads those that refer to it, whatever else may read it.
        ("ours", {"virtual_uid_maps": "$ours", "smtpd_restriction_classes": "ours"}, ["smtp", "submission", "virtual"]),
        ("ours", {"smtpd_restriction_classes": "theirs $more", "more": "ours"}, ["smtp/inet", "submission/inet"]),
        ("ours", {}, ["submission/inet"]),
        ("own", {}, ["smtp/inet", "submission/inet", "cleanup/unix", "rewrite/unix"]),
        # Not by what asks most tables: virtual(8) has no chroot, and may read by a socket.
        ("own", {"virtual_uid_maps": "$own"}, ["virtual/unix"]),
        ("own", {"virtual_uid_maps": "$more", "more": "${own}"}, ["virtual/unix"]),
        ("own", {"more": "$own"}, ["smtp/inet", "submission/inet", "cleanup/unix", "rewrite/unix"]),
        ("own", {"own": "$more", "more": "$own"}, ["smtp/inet", "submission/inet", "cleanup/unix", "rewrite/unix"]),
        ("own", {"own": "$more", "more": "$own", "virtual_uid_maps": "$more"}, ["virtual/unix"]),
        ("own", {"smtpd_restriction_classes": "more", "more": "x $own"}, ["smtp/inet", "submission/inet"]),
        # By an option of a service, by that one; and by what reads a parameter of Postfix's beside those.
        ("own", {"virtual_uid_maps": "$own", "ours": "$own"}, ["submission/inet", "virtual/unix"]),
        ("virtual_uid_maps", {"relocated_maps": "$virtual_uid_maps"}, ["smtp", "submission", "rewrite", "virtual"]),
    ],
)
def test_which_services_read_a_parameter(parameter, values, services):
    found = inventory(**values).readers(parameter)
    assert [each.service.split("/")[0] for each in found] == [each.split("/")[0] for each in services]


@pytest.mark.parametrize(
    ("values", "used"),
    [
        ({"virtual_transport": "virtual"}, True),
        ({"virtual_transport": "virtual:nexthop"}, True),
        ({"virtual_transport": "$ours", "ours": "virtual"}, True),
        ({"virtual_transport": "lmtp:unix:virtual"}, False),
        ({"virtual_transport": "lmtp:unix:private/dovecot", "default_transport": "virtual"}, True),
        *(
            ({"virtual_transport": "lmtp:unix:private/dovecot", name: "virtual:x"}, True)
            for name in (
                "local_transport",
                "relay_transport",
                "mailbox_transport",
                "fallback_transport",
                "own_transport",
            )
        ),
        ({"virtual_transport": "lmtp:x", "content_filter": "virtual:"}, True),
        ({"virtual_transport": "lmtp:x", "local_transport": "local:virtual", "virtual_transports": "virtual"}, False),
        ({"virtual_transport": "lmtp:x", "mailbox_transport_maps": "hash:/x"}, True),
        ({"virtual_transport": "lmtp:x", "mailbox_transport_maps": "$none", "transport_maps": ""}, False),
        # Which mail goes where is up to that table then.
        ({"virtual_transport": "lmtp:unix:private/dovecot", "transport_maps": "hash:/etc/postfix/transport"}, True),
    ],
)
def test_a_virtual_that_gets_no_mail_asks_nothing(values, used):
    assert bool(inventory(**values).readers("virtual_uid_maps")) is used
    assert inventory(**values).readers("virtual_alias_maps")


@pytest.mark.parametrize(
    ("option", "used"),
    [
        ("content_filter=virtual", True),
        ("content_filter=$ours", True),
        ("biff=virtual", False),
        ("ours=virtual", False),
    ],
)
def test_a_service_may_send_its_mail_to_virtual(option, used):
    services = (*SERVICES, Service("other", "inet", "n", f"smtpd -o {option}"))
    values = {"virtual_transport": "lmtp:x", "ours": "virtual"}
    assert bool(inventory(*services, **values).readers("virtual_uid_maps")) is used


@pytest.mark.parametrize(
    ("parameter", "programs"),
    [
        ("local_login_sender_maps", ("postdrop",)),
        ("own", ("postdrop",)),
        ("virtual_alias_maps", ("smtpd", "cleanup", "postqueue")),
    ],
)
def test_no_service_reads_what_commands_read(parameter, programs):
    """The doctor named smtpd, cleanup and trivial-rewrite as readers."""
    found = inventory(local_login_sender_maps="$own", authorized_mailq_users="!x, $virtual_alias_maps")
    assert set(found.openers(parameter)) == set(programs)
    services = [each.service for each in found.readers(parameter)]
    assert services == (["smtp/inet", "submission/inet", "cleanup/unix"] if "smtpd" in programs else [])


@pytest.mark.parametrize(
    ("level", "chroots"),
    [
        ("3.6", [QUEUE, None, None]),
        ("0", [QUEUE, None, QUEUE]),
        ("$l", [QUEUE, None, None]),
        ("0.1", [QUEUE, None, QUEUE]),
    ],
)
def test_as_whom_and_from_where_a_service_reads(level, chroots):
    """Before compatibility level 1, a service that master.cf says nothing of runs in the chroot."""
    found = inventory(compatibility_level=level, l="2").readers("virtual_alias_maps")
    assert [each.chroot for each in found] == chroots
    assert found[0] == Reader("smtp/inet", "smtpd", "postfix", QUEUE)


def test_a_proxied_table_is_read_by_proxymap_alone():
    assert inventory().readers("virtual_alias_maps", proxied=True) == (
        Reader("proxymap/unix", "proxymap", "postfix", None),
    )


def test_what_is_asked_through_proxymap_as_it_is_spelt():
    """Of options too, with the values of their service; a permission asks nothing."""
    options = " -o relay_domains=proxy:mysql:$x/b.cf -o x=/y -o proxy_write_maps=proxy:mysql:/no.cf"
    found = inventory(
        Service("smtp", "inet", "n", f"smtpd{options}"),
        virtual_alias_maps="proxy:pgsql:$x//a.cf, mysql:/direct.cf",
        recipient_bcc_maps="proxy:unionmap:{mysql:/c.cf}",
        x="/z",
        proxy_read_maps="proxy:mysql:/no.cf",
    )
    assert found.proxied() == {"proxy:pgsql:/z//a.cf", "proxy:mysql:/y/b.cf", "proxy:unionmap:{mysql:/c.cf}"}


@pytest.mark.parametrize("value", ["proxy:unionmap:{mysql:/c.cf}", "unionmap:{proxy:pipemap:{proxy:mysql:/c.cf}}"])
def test_a_table_inside_of_what_proxymap_opens_is_read_by_it(value):
    (found,) = [each for each in inventory(recipient_bcc_maps=value).tables if each.path == "/c.cf"]
    assert (found.table, [each.program for each in found.readers]) == ("mysql:/c.cf", ["proxymap"])


def test_each_table_with_its_places_and_readers():
    """Of master.cf too: an option counts for its service alone, but for a proxied table."""
    options = (
        "smtpd -o virtual_alias_maps=$ours -o ours=mysql:/own.cf -o relay_domains=proxy:mysql:/both.cf -o x=hash:/y"
    )
    permits = " -o proxy_read_maps=mysql:/no.cf -o proxy_write_maps=mysql:/no.cf"
    services = [Service("smtp", "inet", "n", options + permits), *SERVICES]
    found = inventory(*services, virtual_mailbox_domains="mysql:/own.cf", relay_domains="proxy:mysql:/both.cf")
    assert [place.name for place in found.places] == [
        *("virtual_mailbox_domains", "relay_domains"),
        *("smtp/inet/virtual_alias_maps", "smtp/inet/ours", "smtp/inet/relay_domains"),
        *("submission/inet/virtual_alias_maps", "submission/inet/ours"),
    ]
    own, both = found.tables
    assert (own.path, own.proxied, both.path, both.proxied) == ("/own.cf", False, "/both.cf", True)
    assert [place.name for place in both.places] == ["relay_domains", "smtp/inet/relay_domains"]
    # Each once, though several parameters name it.
    assert [each.service for each in both.readers] == ["proxymap/unix"]
    assert [each.service for each in own.readers] == ["smtp/inet", "smtp/inet", "submission/inet", "rewrite/unix"]
    assert own.readers[0] != own.readers[1], "one is in the chroot"


def test_an_option_may_give_a_parameter_of_main_cf_another_table():
    """Directly, or by way of another parameter. What main.cf has in any case is no table of the service."""
    services = [Service("out", "inet", "n", "smtpd -o site=b -o proxy_read_maps=$virtual_alias_maps"), *SERVICES]
    values = {
        "virtual_alias_maps": "mysql:/all.cf mysql:/$site.cf",
        "virtual_alias_domains": "$virtual_alias_maps",
        "relay_domains": "$relay_domains $site",
        "site": "a",
    }
    found = inventory(*services, **values)
    assert [(each.path, [place.name for place in each.places]) for each in found.tables if each.path != "/own.cf"] == [
        *((path, ["virtual_alias_maps", "virtual_alias_domains"]) for path in ("/all.cf", "/a.cf")),
        ("/b.cf", ["out/inet/virtual_alias_maps", "out/inet/virtual_alias_domains"]),
    ]
    assert {each.service for each in found.tables[-2].readers} == {"out/inet"}


def test_an_option_of_a_service_is_read_by_it_alone():
    found = inventory()
    assert [(each.path, [one.service for one in each.readers]) for each in found.tables] == [
        ("/own.cf", ["submission/inet"])
    ]
    assert found.overrides() == {
        "submission/inet/virtual_alias_maps": "$ours",
        "submission/inet/ours": "mysql:/own.cf",
        "submission/inet/biff": "no",
    }


# Which tables these have, each process of Postfix knows alone.
DOUBTFUL = {
    "${{$process_name} == {smtpd} ? {sqlite:/a.cf}}": "$process_name",
    "${{$process_name} != {smtpd} ? {sqlite:/a.cf}}": "$process_name",
    "${{x} != {$own} ? {hash:/x} : {mysql:/a.cf}}": "$process_name",
    "hash:/x, mysql:/etc/postfix/${service_name}.cf": "$service_name",
    "${stress?{mysql:/a.cf}}": "$stress",
    "${stress:mysql:/a.cf}": "$stress",
    "$reached": "$stress",
    "mysql:/$process_id$process_name$process_id.cf": "$process_id and $process_name",
    "memcache:/$service_name.cf": "$service_name",
}


@pytest.mark.parametrize("value, names", DOUBTFUL.items())
def test_tables_that_depend_on_the_process_cannot_be_told(value, names):
    """What postconf said of itself was taken: a removal deleted a table that smtpd asked."""
    values = {"own": "$process_name", "reached": "${none:{${stress:{pgsql:/x.cf}}}}"}
    known = settings(**values, virtual_mailbox_maps=value)
    with pytest.raises(CannotAsk) as caught:
        known.words("virtual_mailbox_maps")
    assert str(caught.value) == (
        f"whether virtual_mailbox_maps leads to SQL tables cannot be told: that depends on {names}, which each process "
        f"of Postfix sets for itself: write the tables there without {names}"
    )
    with pytest.raises(CannotAsk, match=r"\$"):
        _ispmail_inventory.of(known, ())


def test_a_list_in_a_file_that_depends_on_the_process_cannot_be_told():
    with pytest.raises(CannotAsk, match="whether mynetworks leads to SQL tables cannot be told"):
        _ispmail_inventory.of(settings(mynetworks="/etc/$service_name"), ())


def test_what_else_depends_on_the_process_is_no_doubt():
    """Such values name no table, or stand beside one."""
    values = {
        "smtpd_banner": "$process_name $process_id",
        "syslog_name": "postfix/$service_name",
        "smtpd_recipient_restrictions": "check_recipient_access mysql:/a.cf, ${stress?reject_rbl_client x}, $$stress",
    }
    found = _ispmail_inventory.of(settings(**values), ())
    assert [(each.path, each.places[0].word.text) for each in found.tables] == [("/a.cf", "mysql:/a.cf")]


def test_an_option_knows_the_names_of_its_service():
    """As master(8) gives them: the whole name of the service, and what an option sets as the name of the process."""
    option = "-o smtpd_sender_login_maps=mysql:/$service_name/${process_name}.cf"
    services = [
        Service("127.0.0.1:25", "inet", "n", f"smtpd {option} -o service_name=x"),
        Service("smtp", "inet", "n", f"smtpd {option} -o process_name=y -o stress="),
    ]
    found = inventory(*services)
    assert [each.path for each in found.tables] == ["/127.0.0.1:25/smtpd.cf", "/smtp/y.cf"]
    with pytest.raises(CannotAsk, match=r"depends on \$process_id, which"):
        inventory(Service("smtp", "inet", "n", "smtpd -o smtpd_sender_login_maps=mysql:/$process_id.cf"))


def test_what_a_process_sets_is_no_setting(tmp_path):
    """postconf says how it itself is called, and main.cf's own value counts for nobody."""
    main_cf = "stress = yes\nservice_name = x\nsmtpd_banner = $process_name $stress"
    known = _ispmail_inventory.settings(str(Configured(tmp_path).main_cf(main_cf).directory))
    assert not known.values.keys() & {"process_id", "process_name", "service_name", "stress"}
    assert not known.explicit - known.values.keys() and "smtpd_banner" in known.explicit


def test_the_inventory_after_a_change():
    before = inventory(virtual_alias_maps="mysql:/a.cf", relay_domains="mysql:/b.cf")
    after = _ispmail_inventory.changed(before, {"virtual_alias_maps": "mysql:/c.cf", "relay_domains": None})
    assert [each.path for each in after.tables] == ["/c.cf", "/own.cf"]
    assert after.settings.values["relay_domains"] == "" and after.settings.expanded("mail_owner") == "postfix"
    assert after.services == before.services


def test_a_proxied_table_is_asked_as_its_parameter_spells_it(tmp_path):
    (tmp_path / "link.cf").symlink_to("real.cf")
    value = f"mysql:{tmp_path}/real.cf, proxy:mysql:{tmp_path}/other.cf, proxy:mysql:$folder/link.cf"
    found = inventory(virtual_alias_maps=value, folder=str(tmp_path))
    assert found.spelling("virtual_alias_maps", f"{tmp_path}/real.cf", "x") == f"proxy:mysql:{tmp_path}/link.cf"
    assert found.spelling("virtual_alias_maps", f"{tmp_path}/none.cf", "x") == "x"
    assert found.spelling("relay_domains", f"{tmp_path}/real.cf", "x") == "x"


def reached(**values):
    """The paths of the tables that parameters of main.cf reach, with the parameter and the word that lead there."""
    found = _ispmail_inventory.in_main_cf(settings(**values))
    return [(each.name, each.word.text, each.reference.table) for each in found]


def test_tables_in_pattern_files(tmp_path):
    """They were not seen: a removal deleted them, and an apply added them a second time."""
    domains, more, link = (tmp_path / name for name in ("domains", "more", "link.cf"))
    more.write_text(f"proxy:pgsql:{tmp_path}/b.cf\n{domains}\n")
    domains.write_text(f"# mysql:/comment.cf\nexample.org !mysql:{link},\n  10.0.0.0/8, {more}\n{tmp_path}/none x/y\n")
    with domains.open("ab") as stream:
        stream.write(b"\xff.example.org\n")  # no UTF-8
    link.symlink_to("a.cf")
    tables = (f"mysql:{tmp_path}/a.cf", f"proxy:pgsql:{tmp_path}/b.cf")
    assert reached(mynetworks=f"127.0.0.0/8 !{domains}, hash:{domains}") == [
        ("mynetworks", f"!{domains}", each) for each in tables
    ]
    assert reached(relay_domains="$own", own=str(domains)) == [("relay_domains", "$own", each) for each in tables]
    # Any other parameter means the file, not what is in it.
    assert reached(virtual_alias_maps=str(domains), proxy_read_maps=str(domains), mail_name=f"x{domains}") == []
    services = (Service("smtp", "inet", "y", f"smtpd -o relay_domains=$own -o own={domains}"),)
    (a, _) = inventory(*services).tables
    assert [(each.name, a.table) for each in a.places] == [("smtp/inet/relay_domains", tables[0])]
    (word,) = settings(relay_domains=str(domains)).words("relay_domains")
    assert (word.is_table, word.only_tables, len(word.references)) == (False, False, 2)


@pytest.mark.parametrize(("release", "is_seen"), [("3.10.4", False), ("3.11.0", True)])
def test_a_pattern_file_is_read_as_its_release_does(tmp_path, release, is_seen):
    """And nothing in it is expanded."""
    (tmp_path / "domains").write_text("debug:mysql:/a.cf mysql:$dir/b.cf\n")
    found = reached(relay_domains=str(tmp_path / "domains"), mail_version=release, dir="/x")
    as_it_stands = ["mysql:$dir/b.cf"]
    assert [table for _, _, table in found] == (["mysql:/a.cf", *as_it_stands] if is_seen else as_it_stands)


def test_the_backup_of_a_memcache_table(tmp_path):
    file, domains = tmp_path / "mc.cf", tmp_path / "domains"
    file.write_text(f"memcache = inet:127.0.0.1:1\nbackup = proxy:mysql:{tmp_path}/a.cf\n# backup = mysql:/b.cf\n")
    domains.write_text(f"memcache:{file}\n")
    table = f"proxy:mysql:{tmp_path}/a.cf"
    for word in (f"memcache:{file}", f"unionmap:{{hash:/x, memcache:$dir/{file.name}}}"):
        assert reached(virtual_alias_maps=f"hash:/x {word}", dir=str(tmp_path)) == [("virtual_alias_maps", word, table)]
    # Proxymap asks itself through no other one.
    for word in (
        f"proxy:memcache:{file}",
        f"unionmap:{{proxy:memcache:{file}}}",
        f"proxy:unionmap:{{memcache:{file}}}",
    ):
        (found,) = [each for each in inventory(virtual_alias_maps=word).tables if each.path == f"{tmp_path}/a.cf"]
        assert (found.table, [each.program for each in found.readers]) == (f"mysql:{tmp_path}/a.cf", ["proxymap"])
    assert reached(relay_domains=str(domains)) == [("relay_domains", str(domains), table)]
    assert reached(relay_domains="memcache:./mc.cf", queue_directory=str(tmp_path))[0][2] == table
    # Its keys may stand in main.cf itself.
    assert reached(virtual_alias_maps="memcache:mc", mc_backup=table) == [
        ("virtual_alias_maps", "memcache:mc", table),
        ("mc_backup", table, table),
    ]
    file.write_text("memcache = inet:127.0.0.1:1\n")
    assert reached(virtual_alias_maps=f"memcache:{file} memcache:/none xmemcache:/x") == []
    # One that leads to itself has an end.
    file.write_text(f"backup = memcache:{file}\n")
    assert reached(virtual_alias_maps=f"memcache:{file}") == []


def test_a_file_that_cannot_be_read_may_name_tables(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for values in ({"relay_domains": f"{tmp_path}/fifo"}, {"virtual_alias_maps": f"memcache:{tmp_path}/fifo"}):
        with pytest.raises(
            CannotAsk, match=rf"^whether {next(iter(values))} leads to SQL tables .* {tmp_path}/fifo is"
        ):
            reached(**values)
    # To a parameter that is no match list a path is no file of patterns.
    found = [("virtual_alias_maps", "mysql:/a.cf", "mysql:/a.cf")]
    assert reached(virtual_alias_maps=f"mysql:/a.cf {tmp_path}/fifo") == found


@pytest.mark.parametrize("files", [50, 51])
def test_files_in_files_have_an_end(tmp_path, files):
    for number in range(files):
        (tmp_path / str(number)).write_text(f"{tmp_path}/{number + 1}\n")
    (tmp_path / str(files - 1)).write_text("mysql:/a.cf\n")
    if files > 50:
        with pytest.raises(CannotAsk, match=r"^whether relay_domains leads .* more than 50 files"):
            reached(relay_domains=f"{tmp_path}/0")
    else:
        assert len(reached(relay_domains=f"{tmp_path}/0")) == 1


MAIN_CF = """\
config_directory = /elsewhere
asked = x
asked_by_a_service = x
unasked = x
alone = mysql:/a.cf,
    mysql:/b.cf
virtual_alias_maps = $asked
"""
# A permission asks nothing.
COMMAND = "smtpd -o relay_domains=$asked_by_a_service -o proxy_read_maps=$unasked"


@pytest.fixture
def directory(tmp_path):
    return postfix(tmp_path, MAIN_CF, f"smtp inet n - y - - {COMMAND}\n")


def test_what_a_real_postfix_has(directory):
    """With the defaults, and with parameters that nothing refers to, which postconf does not print."""
    known = _ispmail_inventory.settings(directory)
    names = {"asked", "asked_by_a_service", "unasked", "alone"}
    assert known.config_directory == known.values["config_directory"] == directory
    assert known.explicit == names | {"virtual_alias_maps", "config_directory", "compatibility_level"}
    assert known.values["alone"] == "mysql:/a.cf, mysql:/b.cf" and known.values["relay_domains"]
    found = _ispmail_inventory.read(directory)
    assert found.settings.explicit == known.explicit
    assert found.services == (Service("smtp", "inet", "y", COMMAND),)
    changed = known._replace(values={**known.values, "asked": "mysql:/c.cf"})
    assert _ispmail_inventory.read(directory, changed).settings is changed


def test_parameters_that_nothing_asks(directory):
    """Postfix's own ones are asked by some program."""
    found = _ispmail_inventory.read(directory)
    names = ["asked", "asked_by_a_service", "unasked", "virtual_alias_maps", "relay_domains"]
    assert found.unasked(names) == {"unasked"}
    assert _ispmail_inventory.own_parameters(names, found.settings) == set(names[:3])


def test_what_a_change_relies_on():
    """Where the queue is decides whether Postfix runs, and it may be told by parameters of the admin's own."""
    own = {"base": "/var", "spool": "$base/spool", "queue_directory": "$spool/postfix", "relayhost": "x"}
    known = Settings("/etc/postfix", {**own, "biff": "yes", "mail_owner": "postfix"}, frozenset(own))
    expected = {name: own[name] for name in ("relayhost", "base", "queue_directory", "spool")}
    assert known.relied_on(["relayhost", "biff"]) == {"biff": None, **expected}
