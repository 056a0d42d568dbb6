"""What reactor and beacon call on a mail server: apply once for many, notice a refused login, tell once."""

import contextlib
import copy
import fcntl
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import salt.beacons
import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError

import _ispmail_logins
from _ispmail_config import Instance, Map
from _ispmail_logins import Watch
from lab import HOST, scratch, wait_until
from lab.mariadb import set_password
from lab.minion import REPOSITORY
from lab.postfix import Postfix, write_cold

from ..conftest import PASSWORD
from .database import OK, OddServer, error, greet
from .test_apply import managed


@pytest.fixture
def other_password(mariadb):
    """The account has another password than pillar and the table files."""
    set_password(mariadb, "behind-our-back")
    yield "behind-our-back"
    set_password(mariadb, PASSWORD)


def modules(minion):
    """The functions of a minion, as it gives them to its beacons."""
    opts = salt.config.minion_config(str(minion.directory / "minion"))
    opts.update(beacons_dirs=[str(REPOSITORY / "_beacons")], module_dirs=[str(REPOSITORY / "_modules")])
    opts["pillar"] = minion.pillar
    return opts, salt.loader.minion_mods(opts)


def beacon(minion, config=(), functions=None):
    """A minion's beacon as Salt runs it: a function that runs it at one interval and gives its events."""
    opts, all_functions = modules(minion)
    functions = all_functions if functions is None else functions
    config = {"postfix_credential": [{"disable_during_state_run": True}, *config]}
    return lambda: salt.beacons.Beacon(opts, functions).process(config, opts["grains"])


def finished():
    """The attempt that is under way comes to its end."""
    assert wait_until(lambda: Watch.THREAD not in [thread.name for thread in threading.enumerate()], 5)


def reported(interval):
    """The events of a beacon until it has reported an attempt that began now."""
    # One that began before may still be under way: it was made with what was there then.
    finished()
    events = interval()
    finished()
    return events + interval()


def refused(minion, pillar="ispmail"):
    return modules(minion)[1]["postfix_database.refused"](pillar)


def table_file(minion, name="virtual_alias_maps", pillar="ispmail"):
    return Path(minion.call("postfix_map.read", pillar)[name]["table"].partition(":")[2])


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_beacon_tells_once_until_it_is_well_again(minion, mariadb, pillar):
    managed(minion)
    assert reported(beacon(minion)) == []
    set_password(mariadb, "behind-our-back")
    try:
        (event,) = reported(beacon(minion))
        assert event["tag"].endswith("/postfix_credential/refused")
        assert sorted(event["data"]["maps"]) == [
            "virtual_alias_maps",
            "virtual_mailbox_domains",
            "virtual_mailbox_maps",
        ]
        assert PASSWORD not in repr(event)
        # A beacon forgets its own memory at each refresh of pillar, which a re-apply causes.
        assert reported(beacon(minion)) == []
    finally:
        set_password(mariadb, PASSWORD)
    assert reported(beacon(minion)) == []
    set_password(mariadb, "behind-our-back")
    try:
        assert len(reported(beacon(minion))) == 1
    finally:
        set_password(mariadb, PASSWORD)


def test_a_database_that_is_down_is_no_refusal(minion, pillar, silent_port):
    managed(minion)
    hosts = minion.pillar["ispmail"]["database"]["hosts"]
    rewrite(table_file(minion), hosts, f"127.0.0.1:9, 127.0.0.1:{silent_port}")
    assert reported(beacon(minion)) == []


def test_a_dozen_silent_hosts_take_three_seconds(minion, other_password):
    """The runner that rotates waits for it; and the one host that refuses is reported all the same."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(12)]
        ports = [9, *[listener.getsockname()[1] for listener in silent]]
        write_cold(table_file_before(minion), text_for(minion, ports), 0o640)
        ask = modules(minion)[1]["postfix_database.refused"]
        began = time.monotonic()
        (login,) = ask()
        assert time.monotonic() - began < 3
    assert login["host"] == minion.pillar["ispmail"]["database"]["hosts"]


def test_the_beacon_waits_for_nobody(minion, other_password, monkeypatch):
    """It runs in the minion's main loop, which a silent database or name server held up at each interval."""
    resolve, end = socket.getaddrinfo, threading.Event()

    def hang(host, *arguments, **options):
        if host == "hangs.invalid":
            end.wait(30)
            raise OSError("no such name")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    interval = beacon(minion)
    assert reported(interval) == []
    with contextlib.ExitStack() as stack:
        stack.callback(end.set)
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(12)]
        file = text_for(minion, [listener.getsockname()[1] for listener in silent])
        write_cold(table_file_before(minion), file.replace("hosts = ", "hosts = hangs.invalid, "), 0o640)
        events, took, began = [], [], time.monotonic()
        while not events and time.monotonic() - began < 10:
            called = time.monotonic()
            events = interval()
            took.append(time.monotonic() - called)
            assert [thread.name for thread in threading.enumerate()].count(Watch.THREAD) <= 1
            time.sleep(0.1)
        # Not each of them: a busy machine may hold up any process for a second.
        assert statistics.median(took) < 0.5
        assert len(took) > 2, "the silent hosts did not take their time"
        (event,) = events
        assert event["data"]["host"] == minion.pillar["ispmail"]["database"]["hosts"]


def test_what_was_fixed_meanwhile_is_not_reported(minion, other_password):
    """An apply has put the new password into the table file while the attempt with the old one was under way."""
    interval = beacon(minion)
    reported(interval)
    write_cold(table_file_before(minion), text_for(minion, []), 0o640)
    assert interval() == []
    finished()
    rewrite(table_file_before(minion), PASSWORD, other_password)
    assert interval() == []
    assert reported(interval) == []


def test_a_host_that_speaks_slowly_takes_three_seconds(minion, other_password):
    """Each byte of it begins the time of a socket anew; and no thread is left behind at each interval."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(b"\x60\0\0\0\x0a")
                while True:
                    time.sleep(0.3)
                    peer.sendall(b"5")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        write_cold(table_file_before(minion), text_for(minion, [listener.getsockname()[1]]), 0o640)
        ask = modules(minion)[1]["postfix_database.refused"]
        began = time.monotonic()
        assert len(ask()) == 1
        assert time.monotonic() - began < 3
        thread.join(5)
        assert not thread.is_alive()


def table_file_before(minion):
    """Where a table file belongs that an apply would not make like this."""
    directory = Path(minion.pillar["ispmail"]["postfix"]["config_directory"])
    return directory / "mariadb-virtual-alias-maps.cf"


def text_for(minion, ports):
    """A table file with these ports before the one of the database."""
    hosts = ", ".join([*[f"127.0.0.1:{port}" for port in ports], minion.pillar["ispmail"]["database"]["hosts"]])
    return f"user = mailserver\npassword = {PASSWORD}\nhosts = {hosts}\ndbname = mailserver\n"


@pytest.mark.parametrize("by", ["refused", "beacon"])
def test_a_server_that_asks_for_the_password_itself_gets_nothing(minion, asking_server, by):
    """The beacon once handed it to whoever answers at that address, every ten seconds."""
    text = f"user = mailserver\npassword = {PASSWORD}\nhosts = 127.0.0.1:{asking_server.port}\ndbname = mailserver\n"
    if asking_server.certificate and by == "refused":
        # A good certificate, but its host name is not verified. Without this nothing of it is.
        text += f"tls_CAfile = {asking_server.certificate}\n"
    for name in ("alias-maps", "mailbox-maps", "mailbox-domains"):
        # Three maps, one login: it is tried once each time.
        write_cold(table_file_before(minion).with_name(f"mariadb-virtual-{name}.cf"), text, 0o640)
    interval = beacon(minion) if by == "beacon" else modules(minion)[1]["postfix_database.refused"]
    for number, _ in enumerate(asking_server.plugins, 1):
        assert interval() == []
        assert wait_until(lambda: len(asking_server.got) == number, 10)  # noqa: B023
        finished()
    asking_server.check("mailserver", PASSWORD)


def test_postfix_itself_gives_a_probe_s_password_to_nobody(minion, asking_server):
    """It asks with the plugins of smtpd's chroot, which has none. Without a chroot its client would give it away."""
    changed = minion.pillar
    changed["ispmail"]["database"]["hosts"] = f"127.0.0.1:{asking_server.port}"
    minion.pillar = changed
    for _ in range(len(asking_server.plugins)):
        with pytest.raises(CommandExecutionError, match="Nothing was changed, Postfix answers as before"):
            minion.call("postfix_map.apply", test=True)
        if len(asking_server.got) >= len(asking_server.plugins):
            break
    assert wait_until(lambda: {plugin for plugin, _ in asking_server.got} == set(asking_server.plugins), 10)
    assert any(b"mailserver" in packet for _, packets in asking_server.got for packet in packets)
    assert not [text for text in asking_server.heard() if PASSWORD.encode() in text]


def test_all_instances_are_watched(minion, mariadb, pillar):
    """Each with its own login: mx1.oslo in docs/pillar has two."""
    with scratch() as directory, Postfix(directory / "mail") as second:
        both = minion.pillar
        both["ispmail"]["instances"] = ["ispmail_submission"]
        both["ispmail_submission"] = copy.deepcopy(pillar()["ispmail"])
        both["ispmail_submission"]["postfix"]["config_directory"] = str(second.config_directory)
        both["ispmail_submission"]["maps"] = {"virtual_alias_maps": None, "virtual_mailbox_domains": None}
        minion.pillar = both
        managed(minion)
        minion.call("postfix_map.apply", "ispmail_submission")
        assert refused(minion) == [] == reported(beacon(minion))
        file = table_file(minion, "virtual_mailbox_maps", "ispmail_submission")
        rewrite(file, f"password = {PASSWORD}", "password = another")
        host = both["ispmail"]["database"]["hosts"]
        login = {"host": host, "user": "mailserver", "maps": ["ispmail_submission:virtual_mailbox_maps"]}
        assert refused(minion) == [{**login, "changed": file.stat().st_ctime_ns}]
        (event,) = reported(beacon(minion))
        assert {key: event["data"][key] for key in login} == login
        assert refused(minion, "ispmail_submission")[0]["maps"] == ["virtual_mailbox_maps"]
        assert len(reported(beacon(minion, [{"pillar": "ispmail_submission"}]))) == 1


def test_each_of_many_logins_is_tried(mariadb):
    """Those behind the 64th were not, and nothing said so: a rotation went on."""
    with scratch() as directory:
        maps = [Map(f"m{number}", "relay_domains", "mysql", False, f"{directory}/{number}.cf") for number in range(70)]
        for each in maps:
            login = f"user = mailserver\npassword = wrong{each.name}\nhosts = {HOST}:{mariadb.port}\n"
            write_cold(Path(each.path), login, 0o640)
        instances = {"ispmail": Instance("ispmail", "/etc/postfix", tuple(maps))}
        assert [login["maps"] for login in _ispmail_logins.refused(instances, "ispmail")] == [
            [f"m{n}"] for n in range(70)
        ]


def test_an_account_without_a_password_is_a_refusal(minion, mariadb):
    """The server has a number of its own for it, 1698."""
    managed(minion)
    mariadb.sql("ALTER USER mailserver@'127.0.0.1' IDENTIFIED VIA unix_socket")
    try:
        assert len(refused(minion)) == 1
    finally:
        set_password(mariadb, PASSWORD)


@pytest.mark.parametrize("line", ["option_file = /nowhere", "password = x", "user =\npassword = x"])
def test_a_login_that_the_file_does_not_tell_is_not_tried(minion, other_password, line):
    """In an option file, or by the name of a process's own user. By any other name it is refused: the beacon said so
    for ever, where mail works."""
    path = table_file_before(minion)
    write_cold(path, f"{line}\nhosts = {minion.pillar['ispmail']['database']['hosts']}\n", 0o640)
    assert refused(minion) == []
    assert reported(beacon(minion)) == []


@pytest.mark.parametrize("line", ["", "user =\n"])
def test_without_a_user_postfixs_client_takes_that_of_its_process(minion, line):
    """Here of postmap. The server tells whom it has refused."""
    path = table_file_before(minion)
    hosts = minion.pillar["ispmail"]["database"]["hosts"]
    write_cold(path, f"{line}password = x\nhosts = {hosts}\ndbname = x\nquery = SELECT 1\n", 0o644)
    for user in ("root", "nobody"):
        command = ["postmap", "-c", path.parent, "-q", "x", f"mysql:{path}"]
        said = subprocess.run(command, check=False, user=user, capture_output=True, text=True).stderr
        assert f"Access denied for user '{user}'@" in said


def test_the_beacon_is_quiet_where_nobody_can_be_asked(minion, other_password, monkeypatch):
    well = minion.pillar
    faults = (
        {},
        {"ispmail": None},
        {"ispmail": "x"},
        {"ispmail": {**well["ispmail"], "instances": ["nowhere"]}},
        {"ispmail": {**well["ispmail"], "instances": "nowhere"}},
        {"ispmail": {**well["ispmail"], "maps": {"a": 1}}},
    )
    for fault in faults:
        minion.pillar = fault
        assert reported(beacon(minion)) == [], fault
    minion.pillar = well
    assert reported(beacon(minion, functions={})) == [], "it needs no other function"
    assert reported(beacon(minion, [{"pillar": ["ispmail"]}])) == [], "that is no pillar key"
    write_cold(table_file_before(minion), text_for(minion, []), 0o640)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pymysql", None)
        assert reported(beacon(minion)) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", vanishing(os.stat, minion.pillar["ispmail"]["postfix"]["config_directory"]))
        assert reported(beacon(minion)) == []
    assert len(reported(beacon(minion))) == 1


def vanishing(stat, directory):
    """os.stat() for which the table files are gone."""

    def asked(path, *arguments, **options):
        if str(path).startswith(f"{directory}/mariadb-"):
            raise FileNotFoundError(path)
        return stat(path, *arguments, **options)

    return asked


def test_a_memory_that_cannot_be_kept_does_not_stop_the_beacon(minion, other_password):
    """On a full disk it tells each time; and what is no memory is none."""
    write_cold(table_file_before(minion), text_for(minion, []), 0o640)
    memory = minion.cache / "ispmail" / "refused.json"
    memory.mkdir(parents=True)
    assert beacon(minion)() == []
    for _ in range(2):
        finished()
        (event,) = beacon(minion)()
        assert event["data"]["maps"] == ["virtual_alias_maps"]
    memory.rmdir()
    memory.write_text("[1]")
    finished()
    assert beacon(minion)()[0]["data"]["maps"] == ["virtual_alias_maps"]
    assert reported(beacon(minion)) == []


def test_a_stale_pillar_is_told_of(minion, other_password):
    """Nothing differs between pillar and the table files: an apply alone would say that all is well."""
    result = minion.call("ispmail.reapply")
    assert result["applied"] is True and result["result"] is False
    assert "Access denied" in result["comment"]


def test_a_stale_pillar_is_told_of_where_it_is_applied_already(minion, mariadb):
    managed(minion)
    set_password(mariadb, "behind-our-back")
    try:
        result = minion.call("ispmail.reapply")
    finally:
        set_password(mariadb, PASSWORD)
    assert result["result"] is False
    assert "Pillar and the table files agree, but " in result["comment"] and "Access denied" in result["comment"]
    assert minion.call("ispmail.reapply") == {"applied": True, "result": True, "comment": ""}
    assert minion.call("postfix_map.probe") == []


def test_one_waits_and_the_others_return(minion):
    """However many ask: one is under way, one waits, and that one reads pillar after the others have asked."""
    folder = minion.cache / "ispmail"
    folder.mkdir(parents=True)
    results = []

    def ask():
        done = minion.command("--out=json", "ispmail.reapply")
        results.append(json.loads(done.stdout)["local"])

    minion.command("saltutil.sync_all")
    with open(folder / "apply.running", "a") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(results) == 3, 60)
    for thread in threads:
        thread.join()
    assert [result["applied"] for result in results] == [False, False, False, True]
    assert results[3]["result"] is True, results[3]


def test_a_server_that_changes_its_mind_is_reported_once(minion, pillar):
    """Once at its limits, once refusing, it was an event at every second interval, and an apply of the fleet each."""
    answers = iter([1045, 1040, 1045, 2003, 1045, 0, 1045, 1040])

    def serve(talk):
        number = next(answers)
        greet(talk)
        talk.say(error(number) if number else OK)
        while not number and talk.hear():
            talk.say(OK)

    with OddServer(serve) as server:
        text = f"user = mailserver\npassword = {PASSWORD}\nhosts = {server.host}\ndbname = mailserver\n"
        write_cold(table_file_before(minion), text, 0o640)
        interval = beacon(minion)
        assert interval() == []
        events = []
        for _ in range(8):
            finished()
            events.append(len(interval()))
    assert events == [1, 0, 0, 0, 0, 0, 1, 0]


def test_a_table_file_that_changed_is_reported_again(minion, pillar):
    def serve(talk):
        greet(talk)
        talk.say(error(1045))

    with OddServer(serve) as server:
        text = f"user = mailserver\npassword = {PASSWORD}\nhosts = {server.host}\ndbname = mailserver\n"
        interval = beacon(minion)
        for expected in (1, 1):
            write_cold(table_file_before(minion), text, 0o640)
            interval()
            finished()
            # The attempt before may have been with the file as it was.
            assert len(reported(interval)) + len(interval()) == expected
            finished()
