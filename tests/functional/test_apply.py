"""postfix_map.managed on a real Postfix and a real MariaDB: what an apply does, and what it refuses."""

import json
import os
import re
import smtplib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from lab import wait_until
from lab.postfix import write_cold
from lab.smtp import Load, rcpt

from ..conftest import PASSWORD, release

OTHER_QUERY = "SELECT destination FROM virtual_aliases WHERE '%s' = source"
GUIDES = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
ANSWERED = {"jack@example.org": 250, "john@example.org": 250, "nobody@example.org": 550, "joe@elsewhere.test": 554}


def managed(minion, **options):
    """What the state postfix_map.managed returned."""
    return minion.apply(**options)["postfix_map.managed"]


def everything(postfix):
    """All that an apply could change: path to inode, modification time, mode, owner and bytes."""
    found = {}
    for path in sorted(postfix.config_directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (
            status.st_ino,
            status.st_mtime_ns,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            path.read_bytes() if path.is_file() else None,
        )
    return found


def contents(postfix):
    return {path: facts[2:] for path, facts in everything(postfix).items()}


def replies(postfix):
    return {address: rcpt(postfix.port, address)[0] for address in ANSWERED}


def single_host(postfix, host):
    """How a single host stands in a table file: twice before Postfix 3.10, which does not ask a host again at once."""
    return host if release() >= (3, 10) else f"{host} {host}"


def test_a_password_is_enough(minion, postfix, mariadb):
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    hosts = single_host(postfix, f"127.0.0.1:{mariadb.port}")
    head = f"user = mailserver\npassword = {PASSWORD}\nhosts = {hosts}\ndbname = mailserver\nquery = "
    for name, query in {
        "virtual-mailbox-domains": "SELECT 1 FROM virtual_domains WHERE name='%s'",
        "virtual-alias-maps": "SELECT destination FROM virtual_aliases WHERE source='%s'",
        "virtual-mailbox-maps": "SELECT 1 FROM virtual_users WHERE email='%s'",
    }.items():
        file = postfix.config_directory / f"mariadb-{name}.cf"
        assert file.read_text() == f"{head}{query}\n"
        assert (file.owner(), file.group(), file.stat().st_mode & 0o7777) == ("root", "postfix", 0o640)
        assert postfix.postconf(name.replace("-", "_")) == {name.replace("-", "_"): f"mysql:{file}"}
    assert replies(postfix) == ANSWERED


def test_second_apply_changes_nothing(minion, postfix, audit):
    managed(minion)
    before = everything(postfix)
    with audit() as seen:
        result = managed(minion)
    assert (result["result"], result["changes"]) == (True, {})
    assert "correct state" in result["comment"]
    assert everything(postfix) == before
    ours = [command for command in seen.commands if command[0].startswith("post")]
    assert len(ours) == 1, ours
    assert not [path for path in seen.written if str(postfix.directory) in path]


def test_compare_tells_what_is_due(minion, postfix, pillar, audit):
    """By one postconf; no table is asked."""
    with audit() as seen:
        new = minion.call("postfix_map.compare")
    assert [command[0] for command in seen.commands if command[0].startswith("post")] == ["postconf"]
    assert (new["due"], new["reloaded"], new["faults"]) == (True, False, [])
    assert set(new["changes"]) == {*GUIDES, "main.cf"} and PASSWORD not in str(new)
    managed(minion)
    same = minion.call("postfix_map.compare")
    assert (same["due"], same["reloaded"], same["changes"], same["maps"]) == (False, False, {}, 3)
    journal = minion.cache / "postfix_change" / quote(str(postfix.config_directory), safe="")
    journal.write_text("work is due\n")
    cut_off = minion.call("postfix_map.compare")
    assert cut_off["due"] is cut_off["reloaded"] is True and cut_off["changes"]["postfix"]["new"] == "reloaded"
    journal.unlink()
    (postfix.config_directory / "link.cf").symlink_to("mariadb-virtual-alias-maps.cf")
    minion.pillar = pillar(maps={"more": {"parameter": "more_maps", "query": "SELECT '%s'", "file": "link.cf"}})
    wrong = minion.call("postfix_map.compare")
    assert wrong["due"] is True
    assert "ispmail:maps:more:file is the file of virtual_alias_maps too" in wrong["faults"][0]


@pytest.mark.parametrize("key, suffix", [("ispmail", ""), ("second", " in second")])
@pytest.mark.parametrize(
    "sections, state",
    [
        ({}, None),
        ({"answers": [{"map": "virtual_alias_maps", "question": "a@b.c"}]}, "The maps answer as pillar expects"),
        ({"consumers": {"backup": {"ignore": True}}}, "The other programs use the password of the maps"),
    ],
    ids=["neither", "answers", "consumers"],
)
def test_states_are_there_where_pillar_has_something_for_them(minion, pillar, key, suffix, sections, state):
    """Files of states that have nothing to do are not rendered: that of an instance has to be looked at too."""
    both = pillar(instances=["second"])
    both["second"] = {"database": both["ispmail"]["database"]}
    both[key].update(sections)
    minion.pillar = both if key == "second" else {"ispmail": {**both["ispmail"], "instances": []}}
    shown = set(minion.call("state.show_sls", "ispmail"))
    assert "Postfix asks the maps that pillar names" in shown
    found = {name for name in shown if name.startswith(("The maps answer", "The other programs"))}
    assert found == ({f"{state}{suffix}"} if state else set())


def test_dry_run_tells_all_and_writes_nothing(minion, postfix, audit):
    before = everything(postfix)
    with audit() as seen:
        would = managed(minion, test=True)
    assert would["result"] is None
    assert "would be applied" in would["comment"] and "would be reloaded" in would["comment"]
    assert everything(postfix) == before
    assert not [path for path in seen.written if str(postfix.directory) in path]
    assert any(command[0] == "postmap" for command in seen.commands), "the dry run did not probe"
    assert would["changes"] == managed(minion)["changes"]


def test_dry_run_refuses_what_an_apply_would(minion, postfix, pillar):
    minion.pillar = pillar(database={"password": "wrong"})
    result = managed(minion, test=True)
    assert result["result"] is False
    assert "Access denied" in result["comment"]


@pytest.fixture(params=["first set-up", "change"])
def moment(request, minion, postfix):
    """A failure must leave no trace on the first set-up, and on a server that has been in use."""
    if request.param == "change":
        assert managed(minion)["result"] is True
        return ANSWERED
    return dict.fromkeys(ANSWERED, 554)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"password": "wrong"}, "Access denied"),
        ({"user": "nobody"}, "Access denied"),
        ({"dbname": "nowhere"}, "nowhere"),
        ({"hosts": "127.0.0.1:{closed}"}, "127.0.0.1:{closed}"),
        ({"hosts": "127.0.0.1:{silent}"}, "127.0.0.1:{silent} does not speak"),
        ({"query": "SELECT 1 FROM no_such_table WHERE a='%s'"}, "no_such_table"),
        ({"query": "SELECT no_such_column FROM virtual_users WHERE email='%s'"}, "no_such_column"),
    ],
    ids=["password", "user", "database", "down", "silent", "table", "column"],
)
def test_what_cannot_be_asked_never_goes_live(minion, postfix, pillar, silent_port, moment, fault, said):
    """A wrong value that reaches a live server answers 451 until somebody finds it."""
    ports = {"closed": 9, "silent": silent_port}
    fault = {key: value.format(**ports) if key == "hosts" else value for key, value in fault.items()}
    maps = {"virtual_alias_maps": {"query": fault.pop("query")}} if "query" in fault else {}
    minion.pillar = pillar(database=fault, maps=maps)
    before = everything(postfix)
    with Load(postfix.port, moment, rate=50) as load:
        result = managed(minion)
    report = load.stop()
    assert result["result"] is False
    assert result["changes"] == {}
    assert said.format(**ports) in result["comment"]
    assert "Nothing was changed" in result["comment"]
    assert result["duration"] < 30_000
    assert everything(postfix) == before
    assert report.count > 20 and report.failed == 0, str(report)


def test_a_wrong_answer_never_goes_live(minion, postfix, pillar):
    managed(minion)
    before = everything(postfix)
    question = {"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "john@example.org"}
    other = {"virtual_alias_maps": {"query": "SELECT 'else@example.org' FROM virtual_aliases WHERE source='%s'"}}
    minion.pillar = pillar(maps=other, answers=[question])
    result = managed(minion)
    assert result["result"] is False
    assert (
        "virtual_alias_maps: jack@example.org should give 'john@example.org', but gives 'else@example.org'"
        in (result["comment"])
    )
    assert everything(postfix) == before
    assert replies(postfix) == ANSWERED


def test_what_fails_live_is_undone(minion, postfix, pillar):
    """Asked from memory the new table answers; a proxymap in a chroot cannot open its file."""
    services = postfix.master_cf.read_text()
    write_cold(postfix.master_cf, re.sub(r"(?m)^(proxymap\s+unix\s+\S+\s+\S+\s+)n", r"\1y", services))
    managed(minion)
    before = contents(postfix)
    parameters = postfix.postconf()
    minion.pillar = pillar(
        maps={
            "virtual_mailbox_maps": {"query": "SELECT email FROM virtual_users WHERE email='%s'"},
            "virtual_alias_maps": {"proxy": True},
        }
    )
    with Load(postfix.port, ANSWERED, rate=50) as load:
        result = managed(minion)
    load.stop()
    assert result["result"] is False
    assert result["changes"] == {}
    assert "The live maps do not answer as they should" in result["comment"]
    assert "Everything was put back as it was, and Postfix reloaded" in result["comment"]
    assert contents(postfix) == before
    assert postfix.postconf() == parameters
    assert replies(postfix) == ANSWERED
    minion.pillar = pillar()
    assert managed(minion)["changes"] == {}


def test_faults_of_pillar_are_listed_at_once(minion, postfix, pillar):
    before = everything(postfix)
    minion.pillar = pillar(
        database={"password": "x\nhosts = evil:1", "hosts": "localhost", "pasword": "TopSecretTypo"},
        maps={"virtual_alias_maps": {"query": "SELECT 1 FROM a WHERE b=%s", "charset": "utf8mb4", "proxy": "maybe"}},
    )
    result = managed(minion)
    assert result["result"] is False
    for key in (
        "ispmail:database:password has a newline",
        "ispmail:database:pasword is not a key",
        "ispmail:maps:virtual_alias_maps:query has an expansion outside quotes",
        "ispmail:maps:virtual_alias_maps:proxy must be true or false",
    ):
        assert key in result["comment"]
    assert "evil" not in result["comment"] and "TopSecretTypo" not in result["comment"]
    assert everything(postfix) == before


def test_a_socket_in_the_chroot_is_refused(minion, postfix, pillar, mariadb):
    """postmap reaches the socket, smtpd in its chroot does not: every RCPT would be 451."""
    minion.pillar = pillar(database={"hosts": f"unix:{mariadb.socket}"})
    result = managed(minion)
    assert result["result"] is False
    inside = f"{postfix.queue_directory}{mariadb.socket} is not there"
    assert (
        f"ispmail:database:hosts is a socket, which is looked for inside the chroot {postfix.queue_directory}"
        in (result["comment"])
    )
    assert inside in result["comment"]


def test_owner_and_mode_are_enforced(minion, postfix):
    managed(minion)
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    file.chmod(0o644)
    result = managed(minion)
    assert result["changes"] == {"virtual_alias_maps": {"mode": {"old": "0644", "new": "0640"}}}
    assert file.stat().st_mode & 0o7777 == 0o640


def test_a_new_password_is_taken_and_hidden(minion, postfix, pillar, mariadb):
    managed(minion)
    mariadb.sql("CREATE USER IF NOT EXISTS other@127.0.0.1 IDENTIFIED BY 'other-secret-1'")
    mariadb.sql("GRANT SELECT ON mailserver.* TO other@127.0.0.1")
    minion.pillar = pillar(database={"user": "other", "password": "other-secret-1"})
    result = managed(minion)
    assert result["changes"]["virtual_alias_maps"] == {
        "user": {"old": "mailserver", "new": "other"},
        "password": {"old": "***", "new": "***"},
    }
    assert "Postfix has been reloaded" in result["comment"]
    assert replies(postfix) == ANSWERED


def test_a_map_of_many_hosts_works_with_one_down(minion, postfix, pillar, mariadb):
    minion.pillar = pillar(database={"hosts": ["127.0.0.1:9", f"127.0.0.1:{mariadb.port}"]})
    assert managed(minion)["result"] is True
    text = (postfix.config_directory / "mariadb-virtual-alias-maps.cf").read_text()
    assert f"hosts = 127.0.0.1:9 127.0.0.1:{mariadb.port}\n" in text


def test_what_else_a_parameter_holds_is_kept_in_order(minion, postfix, pillar):
    """Two of our maps for one parameter, between an admin's own; a leftover SQL table is reported, not removed."""
    other = f"mysql:{postfix.config_directory}/left-over.cf"
    managed(minion)
    written = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    write_cold(postfix.config_directory / "left-over.cf", written.read_text(), 0o640, "postfix")
    postfix.write_main_cf(virtual_alias_maps=f"inline:{{{{a@x.test = b@x.test}}}}, {other}")
    maps = {
        "virtual_alias_maps": {},
        "catch_all": {
            "parameter": "virtual_alias_maps",
            "query": "SELECT destination FROM virtual_aliases WHERE source='@%d'",
        },
    }
    minion.pillar = pillar(maps=maps)
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert f"virtual_alias_maps also asks {other}, which pillar does not name" in result["comment"]
    ours = [f"mysql:{postfix.config_directory}/mariadb-{name}.cf" for name in ("virtual-alias-maps", "catch-all")]
    held = f"inline:{{{{a@x.test = b@x.test}}}}, {other}, {ours[0]}, {ours[1]}"
    assert postfix.postconf("virtual_alias_maps") == {"virtual_alias_maps": held}
    assert managed(minion)["changes"] == {}
    minion.pillar = pillar(maps=dict(reversed(maps.items())))
    assert managed(minion)["result"] is True
    held = f"inline:{{{{a@x.test = b@x.test}}}}, {other}, {ours[1]}, {ours[0]}"
    assert postfix.postconf("virtual_alias_maps") == {"virtual_alias_maps": held}


def test_postfix_that_does_not_run_is_set_up_too(minion, postfix):
    postfix.stop()
    result = managed(minion)
    assert result["result"] is True
    assert "Postfix is not running" in result["comment"]
    assert not postfix.running
    postfix.start()
    assert replies(postfix) == ANSWERED


def test_pillar_without_ispmail_says_so(minion):
    minion.pillar = {}
    result = managed(minion)
    assert result["result"] is False
    assert result["comment"] == (
        "pillar is empty (salt-ssh gives it to states only): "
        "at least ispmail:database:password is needed, see pillar.example"
    )


HIDE_POSTFIX = """
for file in /usr/sbin/post* $HIDDEN; do mount --bind /dev/null "$file" || exit 9; done
grep -v ^postfix: /etc/group > "$0" && mount --bind "$0" /etc/group && exec "$@"
"""


def without_postfix(minion, *arguments, hidden=""):
    """What salt-call prints where neither Postfix's programs nor its group are: in a mount namespace of its own."""
    salt_call = [str(Path(sys.executable).parent / "salt-call"), "--local", "--out=json", "-c", str(minion.directory)]
    group = str(minion.directory / "group")
    command = ["unshare", "--mount", "sh", "-c", HIDE_POSTFIX, group, *salt_call, *arguments]
    environment = {**os.environ, "HIDDEN": hidden}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    return {
        key.split("_|-")[0] + key.split("_|-")[-1]: value for key, value in json.loads(done.stdout)["local"].items()
    }


def test_a_dry_run_before_postfix_is_installed(minion, postfix, pillar):
    """It failed, "there is no group postfix", on each fresh server; faults of pillar are told all the same."""
    minion.pillar = pillar(answers=[{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": True}])
    before = everything(postfix)
    minion.command("saltutil.sync_all")
    found = without_postfix(minion, "state.apply", "ispmail", "test=True")
    assert [found[state]["result"] for state in ("postfix_mapmanaged", "postfix_mapanswers")] == [None, None]
    assert found["postfix_mapmanaged"]["comment"] == (
        "3 maps would be applied\nwarning: Postfix is not installed: maps can be applied once it is"
    )
    assert set(found["postfix_mapmanaged"]["changes"]) == set(GUIDES)
    minion.pillar = pillar(maps={"virtual_alias_maps": {"qeury": "x"}})
    found = without_postfix(minion, "state.apply", "ispmail.maps", "test=True")["postfix_mapmanaged"]
    assert found["result"] is False and "ispmail:maps:virtual_alias_maps:qeury is not a key" in found["comment"]
    minion.pillar = pillar()
    found = without_postfix(minion, "state.apply", "ispmail.maps")["postfix_mapmanaged"]
    assert found["result"] is False and found["comment"] == "Postfix is not installed: install the package postfix"
    assert everything(postfix) == before


def test_answers_of_a_dry_run_are_those_of_the_live_maps(minion, pillar):
    """Before the first apply they cannot be right yet; in the correct state they are wrong."""
    answers = [{"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "john@example.org"}]
    minion.pillar = pillar(answers=answers)

    def answered(test):
        return minion.apply("ispmail", test=test)["postfix_map.answers"]["result"]

    assert answered(True) is None
    assert answered(False) is True and answered(True) is True
    minion.pillar = pillar(answers=[{**answers[0], "answer": "other@example.org"}])
    assert answered(True) is False


@pytest.mark.parametrize("proxy", [False, True])
def test_a_wrong_answer_of_a_map_that_stays_is_told_before_anything_goes_live(minion, postfix, pillar, mariadb, proxy):
    """A dry run said that the other map would be applied; the apply went live, failed, and was put back."""
    answers = [
        {"map": "virtual_mailbox_maps", "question": "new@example.org", "answer": True},
        {"map": "virtual_alias_maps", "question": "jack@example.org", "answer": True},
    ]
    maps = {"virtual_mailbox_maps": {"proxy": proxy}}
    minion.pillar = pillar(maps=maps)
    assert managed(minion)["result"] is True
    other = {**maps, "virtual_alias_maps": {"query": OTHER_QUERY}}
    minion.pillar = pillar(answers=answers, maps=other)
    before, reloads = everything(postfix), postfix.log.count(": reload --")
    wrong = "virtual_mailbox_maps: new@example.org should give any answer, but gives no answer"
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False and result["changes"] == {}
        assert result["comment"] == f"Nothing was changed, Postfix answers as before:\n- {wrong}"
    assert everything(postfix) == before and postfix.log.count(": reload --") == reloads

    def answered():
        (state,) = minion.call("state.single", "postfix_map.answers", "they answer", test=True).values()
        return state["result"], state["comment"].split("\n- ")[1:]

    # That one is known to be wrong, whatever an apply does to the other.
    assert answered() == (False, [wrong])
    broken = {"virtual_alias_maps": {"query": "SELECT 1 FROM virtual_users WHERE email='no%s'"}}
    minion.pillar = pillar(answers=answers[1:], maps={**maps, **broken}, history=0)
    write_cold(
        postfix.config_directory / "mariadb-virtual-alias-maps.cf",
        (postfix.config_directory / "mariadb-virtual-alias-maps.cf").read_text().replace("source=", "'no'="),
        0o640,
        "postfix",
    )
    result, (said,) = answered()
    assert result is None and said.startswith("virtual_alias_maps: jack@example.org should give any answer")


def test_packages_can_be_applied_alone(minion, pillar):
    """It was: Cannot extend ID … It is not part of the high state."""
    mine = pillar()
    mine["ispmail"]["packages"] = True
    minion.pillar = mine
    alone = minion.apply("ispmail.packages", test=True)
    assert "pkg.installed" in alone and "postfix_map.managed" not in alone
    minion.command("saltutil.sync_all")
    found = without_postfix(minion, "state.apply", "ispmail.maps", hidden="/usr/bin/apt-get /usr/bin/dpkg-query")
    assert found["pkginstalled"]["result"] is found["postfix_mapmanaged"]["result"] is False
    assert "requisite failed: ispmail.packages.Postfix and its" in found["postfix_mapmanaged"]["comment"]


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_session_counts_also_where_the_clock_is_set_after_the_change(minion, postfix, pillar, monkeypatch, step):
    """A machine that was paused, then NTP: the session still asked with the old password, and nobody counted it."""
    minion.pillar = pillar()
    assert managed(minion)["result"] is True
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.ehlo()
        client.mail("x@example.test")
        assert client.rcpt("john@example.org")[0] == 250
        minion.pillar = pillar(maps={"virtual_alias_maps": {"query": f"{OTHER_QUERY} AND 1"}})
        done = managed(minion)
        assert done["result"] is True
        (busy,) = [each for each in minion.call("postfix_map.old_processes") if each.startswith("smtpd ")]
        assert f"busy processes end their sessions with the old maps: {busy}" in done["comment"]
        real = time.time
        monkeypatch.setattr("_ispmail_postfix.time", SimpleNamespace(**{**vars(time), "time": lambda: real() + step}))
        assert busy in minion.call("postfix_map.old_processes")
        client.quit()
        assert wait_until(lambda: minion.call("postfix_map.old_processes") == [], 10)


@pytest.mark.parametrize("reads", [True, False], ids=["its own map", "no map"])
def test_a_client_with_a_slow_server_counts_where_it_reads_a_map(minion, postfix, pillar, silent_port, reads):
    """It holds the old password, and would log in with it once that is dropped. Without a map nobody waits for it."""
    generic = {"parameter": "smtp_generic_maps", "query": "SELECT destination FROM virtual_aliases WHERE source='%s'"}
    maps = {"generic": generic} if reads else {}
    postfix.write_main_cf(virtual_transport=f"smtp:[127.0.0.1]:{silent_port}")
    minion.pillar = pillar(maps=maps)
    assert managed(minion)["result"] is True
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.sendmail("x@example.test", ["john@example.org"], "Subject: x\r\n\r\nx")

    def clients():
        return [f"smtp {pid}" for pid in postfix.processes() if Path(f"/proc/{pid}/comm").read_text() == "smtp\n"]

    assert wait_until(clients, 10)
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    minion.pillar = pillar(maps={**maps, "virtual_alias_maps": {"query": f"{OTHER_QUERY} AND 1"}})
    done = managed(minion)
    assert done["result"] is True and OTHER_QUERY in file.read_text()
    (busy,) = clients()
    assert (f"busy processes end their sessions with the old maps: {busy}" in done["comment"]) is reads
    assert minion.call("postfix_map.old_processes") == [busy] * reads
    (drained,) = minion.call("state.single", "postfix_map.drained", "drained", timeout=0.5).values()
    assert drained["result"] is not reads and (busy in drained["comment"]) is reads
