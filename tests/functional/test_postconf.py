"""postconf on real main.cf files, with the traps of postconf(1)."""

import json
import os
import re
import subprocess
import time

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_postconf
from _ispmail_command import lines, output, run, safe
from _ispmail_maincf import BLANKS, values_of
from lab import scratch
from lab.minion import Minion
from lab.postfix import write_cold

from ..conftest import release


@pytest.fixture
def directory():
    """A configuration directory that no Postfix runs on."""
    with scratch() as path:
        (path / "main.cf").write_text("# ours\ncompatibility_level = 3.6\nmyhostname = a.test\n")
        os.utime(path / "main.cf", (time.time() - 60,) * 2)
        (path / "master.cf").write_text("")
        yield path


def facts(path):
    """What an edit would change: not the time of the last reading."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid


@pytest.fixture
def call(directory):
    """Calls a function on a minion whose pillar names that directory, and one that is not there."""
    pillar = {
        "ispmail": {"postfix": {"config_directory": str(directory)}, "instances": ["gone"]},
        "gone": {"postfix": {"config_directory": "/nowhere"}},
    }
    with scratch() as path:
        yield Minion(path, pillar).call


def test_get(call, directory):
    assert call("postconf.get", config_directory=str(directory))["myhostname"] == "a.test"
    assert call("postconf.get", "myhostname", str(directory)) == {"myhostname": "a.test"}
    assert call("postconf.get", ["relay_domains", "myhostname"], str(directory)) == {"myhostname": "a.test"}
    both = call("postconf.get", ["relay_domains", "myhostname"], str(directory), defaults=True)
    assert list(both) == ["relay_domains", "myhostname"]
    assert call("postconf.get", [], str(directory)) == {}


def test_get_reads_an_unused_parameter_of_the_admins_own(call, directory):
    """postconf -n is silent on it, so each apply would have set it again."""
    call("postconf.set", {"my_class": "check_x\n  y".replace("\n", "")}, str(directory))
    assert call("postconf.get", "my_class", str(directory)) == {"my_class": "check_x y"}
    assert call("postconf.set", {"my_class": "check_x y"}, str(directory)) == {}


def test_an_equals_sign_in_the_name_of_a_service(directory):
    """It is allowed there, and ended each read of master.cf."""
    (directory / "master.cf").write_text("a=b unix - - n - - smtpd -o x=y\nc unix - - y - - lmtp\n")
    os.utime(directory / "master.cf", (1, 1))
    first, second = _ispmail_postconf.services(str(directory))
    assert first == ("a=b", "unix", "n", "smtpd -o x=y") and second == ("c", "unix", "y", "lmtp")


@pytest.mark.parametrize(
    "line",
    [
        "trigger_timeout = SECRET",
        "myorigin = ${SECRET",
        "myorigin = ${{SECRET} == {b}?{x}",
        "inet_interfaces = SECRET",
        "inet_protocols = SECRET",
        "compatibility_level = SECRET",
        "mail_owner = SECRET",
        "setgid_group = SECRET",
        "line_length_limit = SECRET",
        "mynetworks_style = SECRET",
        "myhostname = SECRET!",
        "smtputf8_enable = SECRET",
        "syslog_facility = SECRET",
        "maillog_file = SECRET",
        "virtual_alias_maps = inline:{SECRET",
        "virtual_alias_maps = static:{SECRET",
        "virtual_alias_maps = unionmap:{SECRET",
        "virtual_alias_maps = cidr:{{SECRET x}}",
        "SECRET",
        "= SECRET",
    ],
)
def test_no_value_that_postfix_cannot_use_is_shown(directory, line):
    """A password in the wrong line was in comment and log."""
    write_cold(directory / "main.cf", f"{line}\n")
    table = line.partition("maps = ")[2] or "static:any"
    done = [run("postconf", ["-c", str(directory), flag]) for flag in ("-n", "-x")]
    done.append(run("postmap", ["-c", str(directory), "-q", "any", table]))
    said = [each for one in done for each in lines(one.stderr) if "undefined parameter" not in each]
    assert said and "SECRET" in "".join(said)
    assert not [each for each in map(safe, said) if "SECRET" in each]


@pytest.mark.skipif(release() < (3, 11), reason="postconf -j is there from Postfix 3.11 on")
def test_what_postconf_prints_as_json_is_what_is_read(directory):
    """But for blanks, of which the text has one for several. So it is not asked for: without -j that takes a second."""
    hostile = (
        b'smtpd_banner = A\351B \303\251 T\tT back\\slash "quoted" \001x \r y\177 = {\n  next\nempty =\nown = $empty\n'
    )
    with (directory / "main.cf").open("ab") as file:
        file.write(hostile + b"relay_domains = $own, ${x?{a}:{b}}\n")
    services = 'a=b unix - - n - - smtpd\n  -o { x = "y" \\ }\n127.0.0.1:25 inet n - - - 7 smtpd\n'
    (directory / "master.cf").write_text(services)
    for name in ("main.cf", "master.cf"):
        os.utime(directory / name, (1, 1))
    for flags in (["-n"], [], ["-F"]):
        text = output("postconf", ["-c", str(directory), *flags])
        objects = lines(output("postconf", ["-c", str(directory), "-j", *flags]))
        named = {key: value for each in objects for key, value in json.loads(each).items()}
        one_blank = {key: re.sub(f"[{BLANKS}]+", " ", value).strip(" ") for key, value in named.items()}
        # The process is postconf itself: another one each time.
        assert {**values_of(text), "process_id": ""} == {**one_blank, "process_id": ""}


def test_set_is_one_truthful_edit(call, directory, audit):
    main_cf = directory / "main.cf"
    wanted = {"myhostname": "b.test", "biff": False, "message_size_limit": 5, "relay_domains": ["a.test", "b.test"]}
    before = facts(main_cf)
    would = call("postconf.set", wanted, str(directory), test=True)
    assert facts(main_cf) == before
    with audit() as seen:
        assert call("postconf.set", wanted, str(directory)) == would
    assert would == {
        "myhostname": {"old": "a.test", "new": "b.test"},
        "biff": {"old": None, "new": "no"},
        "message_size_limit": {"old": None, "new": "5"},
        "relay_domains": {"old": None, "new": "a.test, b.test"},
    }
    assert len([command for command in seen.commands if "-e" in command]) == 1
    after = facts(main_cf)
    with audit() as seen:
        assert call("postconf.set", wanted, str(directory)) == {}
    assert facts(main_cf) == after
    assert len([command for command in seen.commands if command[0] == "postconf"]) == 1
    assert main_cf.read_text().startswith("# ours\ncompatibility_level = 3.6\nmyhostname = b.test\n")


def test_unset(call, directory):
    assert call("postconf.set", {"myhostname": None, "biff": None}, str(directory)) == {
        "myhostname": {"old": "a.test", "new": None}
    }
    assert call("postconf.get", "myhostname", str(directory)) == {}
    assert call("postconf.set", {"myhostname": None}, str(directory)) == {}


def test_main_cf_is_never_hot(call, directory):
    """Each Postfix program waits on a main.cf younger than two seconds: RCPTs stood still for 1.6 s."""
    call("postconf.set", {"biff": "no"}, str(directory))
    assert time.time() - (directory / "main.cf").stat().st_mtime > 2


def test_no_final_newline(call, directory):
    """postconf 3.7 glues the new parameter to the last line, and says all is well."""
    (directory / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = a.test")
    call("postconf.set", {"biff": "no"}, str(directory))
    assert call("postconf.get", ["myhostname", "biff"], str(directory)) == {"myhostname": "a.test", "biff": "no"}


def test_mode_owner_and_link_are_kept(call, directory):
    """postconf -e makes it 0644 root:root, and a file of its own where there was a link."""
    real = directory / "real.cf"
    (directory / "main.cf").rename(real)
    (directory / "main.cf").symlink_to("real.cf")
    real.chmod(0o640)
    os.chown(real, 1, 1)
    call("postconf.set", {"biff": "no"}, str(directory))
    assert (directory / "main.cf").is_symlink()
    status = real.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 1, 1)
    assert "biff = no" in real.read_text()


def test_faults_are_listed_at_once_and_change_nothing(call, directory):
    before = facts(directory / "main.cf")
    with pytest.raises(SaltInvocationError, match=r"biff: has a newline.*myhostname: must be a text"):
        call("postconf.set", {"biff": "a\nb", "myhostname": {"a": 1}, "relay_domains": "x"}, str(directory))
    with pytest.raises(SaltInvocationError, match="not the name of a parameter: '-e', 'a b'"):
        call("postconf.set", {"-e": "1", "a b": "2"}, str(directory))
    with pytest.raises(CommandExecutionError, match=r"there is no /nowhere/main\.cf"):
        call("postconf.set", {"biff": "no"}, "/nowhere")
    assert facts(directory / "main.cf") == before


def test_an_edit_waits_for_postconfs_lock_and_loses_nothing(call, directory):
    """Twenty edits by postconf -e and twenty by us, at once: none is lost."""
    script = 'for n in $(seq 20); do postconf -c "$0" -e "theirs_$n=1"; touch -d "1 minute ago" "$0/main.cf"; done'
    other = subprocess.Popen(["sh", "-c", script, str(directory)])
    done = 0
    until = time.monotonic() + 60
    while done < 20 and time.monotonic() < until:
        try:
            call("postconf.set", {f"ours_{done}": "1"}, str(directory))
            done += 1
        except CommandExecutionError as err:
            # Reported, not overwritten.
            assert "changed by somebody else" in str(err)
    assert other.wait(60) == 0
    text = (directory / "main.cf").read_text()
    missing = [
        name
        for number in range(20)
        for name in (f"theirs_{number + 1} = 1\n", f"ours_{number} = 1\n")
        if name not in text
    ]
    assert not missing


@pytest.mark.parametrize("test", [True, False])
def test_states(call, directory, test):
    arguments = {"name": "x", "config_directory": str(directory)}
    result = call("state.single", "postconf.managed", parameters={"biff": False}, test=test, **arguments)
    (state,) = result.values()
    assert state["changes"] == {"biff": {"old": None, "new": "no"}}
    assert state["result"] is (None if test else True)
    assert state["comment"] == f"biff {'would be' if test else 'has been'} set"
    (state,) = call("state.single", "postconf.absent", parameters=["myhostname"], test=test, **arguments).values()
    assert state["changes"] == {"myhostname": {"old": "a.test", "new": None}}
    assert ("myhostname" in (directory / "main.cf").read_text()) is test
    (state,) = call("state.single", "postconf.absent", parameters=["no such"], test=test, **arguments).values()
    assert (state["result"], state["changes"]) == (False, {})
