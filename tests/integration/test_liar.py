"""A minion that lies: m2, with modules of its own in place of ours, in a site with m1. Nothing is dropped on a lie."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import salt.config
import salt.runner
import yaml

import _ispmail_fleet
from lab import HOST, wait_until
from lab.mariadb import native_hash
from lab.processes import end

from .conftest import CORE, SECRET

NEW = f"{CORE}-four"
# What m2 has in place of our modules. Each function does what the file of lies says.
LIAR = """
import json, time
import salt.channel.client, salt.crypt

def _forge(forged, jid):
    data = {{**forged, "jid": jid, "retcode": 0, "success": True}}
    event = {{"tag": f"salt/job/{{jid}}/ret/{{forged['id']}}", "data": data}}
    token = salt.crypt.SAuth(__opts__).gen_token(b"salt")
    with salt.channel.client.ReqChannel.factory(__opts__) as channel:
        channel.send({{"id": __opts__["id"], "cmd": "_minion_event", "tok": token, "events": [event]}})

def _lie(name, options=None):
    with open({path!r}) as file:
        lie = json.load(file).get(name, [])
    if isinstance(lie, dict) and "huge" in lie:
        return "x" * lie["huge"]
    if isinstance(lie, dict) and "many" in lie:
        return {{"unnamed": [{{"text": "x" * 50}}] * lie["many"], "notes": []}}
    if isinstance(lie, dict) and "raise" in lie:
        raise RuntimeError(lie["raise"])
    if isinstance(lie, dict) and "forge" in lie:
        _forge(lie["forge"], options["__pub_jid"])
    until = time.monotonic() + (lie.get("sleep", 0) if isinstance(lie, dict) else 0)
    while time.monotonic() < until:
        time.sleep(0.2)
        with open({path!r}) as file:
            if json.load(file).get(name) != lie:
                break
    return lie
"""
FILES = {
    "postfix_database": "def holders(*a, **k): return _lie('holders')\ndef refused(*a, **k): return _lie('refused')\n",
    "postfix_map_ask": "__virtualname__ = 'postfix_map'\ndef __virtual__(): return 'postfix_map'\n"
    "def fingerprints(*a, **k): return _lie('fingerprints', k)\n",
    "state": "def sls(*a, **k): return _lie('state')\n",
}
HONEST = {"holders": {"unnamed": [], "notes": []}}


def call(fleet, target, function, *arguments):
    """Call a function, on a machine that may be very busy."""
    done = fleet.master.salt_cli(timeout=240).run(function, *arguments, minion_tgt=target)
    assert done.data is not None, done


@pytest.fixture(scope="module")
def site(untouched):
    """The fleet with modules synced and without maps, before anybody lies."""
    call(untouched, "*", "saltutil.sync_all")
    for _, server in untouched:
        server.wipe()
    return untouched


@pytest.fixture(scope="module")
def liar(site, salt_root):
    """A function that has m2 tell lies."""
    server, path = site["m2"], salt_root / "lies.json"
    modules = server.synced / "modules"
    kept = {name: (modules / f"{name}.py").read_text() for name in FILES if (modules / f"{name}.py").exists()}
    for name, functions in FILES.items():
        (modules / f"{name}.py").write_text(LIAR.format(path=str(path)) + functions)
    path.write_text(json.dumps(HONEST))
    call(site, "m2", "saltutil.refresh_modules", "async=False")
    yield lambda **lies: path.write_text(json.dumps({**HONEST, **lies}))
    path.write_text("{}")
    for name in FILES:
        (modules / f"{name}.py").unlink()
    for name, text in kept.items():
        (modules / f"{name}.py").write_text(text)
    call(site, "m2", "saltutil.refresh_modules", "async=False")


@pytest.fixture(scope="module")
def directory(site, salt_root):
    """A directory with the master's configuration, in which m1 and m2 are one site."""
    found = salt_root / "lied"
    found.mkdir()
    configured = yaml.safe_load(Path(site.master.config_file).read_text())
    configured["ispmail"] = {"sites": {"lied": {"database": "m1", "mail": "m1,m2", "canary": "m2", "tgt_type": "list"}}}
    (found / "master").write_text(yaml.safe_dump(configured))
    return found


@pytest.fixture(scope="module")
def run(directory, databases, site):
    """A function that runs one of the runner's functions; m1 has a new password in pillar."""
    client = salt.runner.RunnerClient(salt.config.master_config(str(directory / "master")))
    site["m1"].write_pillar(database={"password": NEW}, server={"unix_socket": databases.socket})
    yield lambda name, **options: client.cmd(f"ispmail.{name}", kwarg=options, print_event=False)
    site["m1"].write_pillar()
    databases.sql("ALTER USER first@%s IDENTIFIED VIA mysql_native_password USING %s", HOST, native_hash(SECRET))


def of_m2(lines):
    return [line for line in lines if line.startswith("m2: ")]


# What m2 says, and what the proof says of it then.
LIES = [
    ({"fingerprints": {"pillar": {}, "live": {}}}, "none of its maps logs in with the account"),
    ({"fingerprints": {"pillar": {"a": "y"}, "live": {"a": "y"}}}, "pillar has another user or password for a"),
    ({"fingerprints": {"raise": "no\n\x1b[2Jm1: ok"}, "holders": {"unnamed": 1}}, "no"),
    ({"holders": {"many": 10**5}}, "answered more than the master takes"),
]


def test_a_lie_is_no_proof(liar, run):
    for lies, line in LIES:
        liar(**lies)
        said = run("prove", site="lied", timeout=20)
        assert isinstance(said, list) and any(line in each for each in of_m2(said)), (lies, said)
        assert all(each.isprintable() for each in said) and len(said) < 600
        assert CORE not in str(said)


def test_a_return_of_100_megabytes_costs_the_runner_nothing(liar, run, directory):
    """The master itself has it in memory for a moment, and cuts it off at max_event_size."""
    command = [str(Path(sys.executable).parent / "salt-run"), "-c", str(directory), "--out=json"]
    liar(fingerprints={"huge": 10**8})
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen([*command, "ispmail.prove", "lied", "timeout=60"], stdout=printed)
        peaks = [0]

        def ended():
            # Not by wait4(2): its ru_maxrss is not less than what this process here had when it forked.
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks.extend(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
            return process.poll() is not None

        done = wait_until(ended, 180)
        end(process)
        assert done, "the runner has not ended"
        printed.seek(0)
        output = printed.read()
    assert b"m2: answered more than the master takes" in output and len(output) < 10**4
    # It was 172 MiB on Salt 3008.4, with 100 MB and with nothing.
    assert 2**16 < max(peaks) < 250 * 1024


def test_a_minion_that_never_answers(liar, run, monkeypatch):
    """Salt waits for as long as a minion says that it is at work; what the others have said is kept."""
    monkeypatch.setattr(_ispmail_fleet, "_LONGEST_SECONDS", 4)
    liar(fingerprints={"sleep": 120})
    began = time.monotonic()
    said = run("prove", site="lied", timeout=1)
    assert time.monotonic() - began < 60
    assert "m2: does not answer" in said


def test_a_minion_that_hangs_in_a_rotation(liar, run, site, databases):
    """The rotation is stopped in time, and the old password is still valid."""
    liar(state={"sleep": 120})
    began = time.monotonic()
    done = run("rotate", timeout=8, watch=0)
    assert time.monotonic() - began < 60
    assert done["retcode"] == 1 and done["reasons"][0].startswith("the rotation has not ended within 8 s")
    print(f"\n{done}")
    ((priv,),) = databases.sql("SELECT Priv FROM mysql.global_priv WHERE User = 'first'")
    assert native_hash(SECRET) in priv


def test_an_answer_in_anothers_name_is_no_proof(liar, run):
    """Salt takes it for the other's; but without the password nobody knows the right fingerprint."""
    prints = {"pillar": {"forged": "y"}, "live": {"forged": "y"}}
    liar(fingerprints={"forge": {"id": "m1", "return": prints, "fun": "postfix_map.fingerprints"}, **prints})
    said = run("prove", site="lied", timeout=20)
    print(f"\n{said}")
    assert "The old password is still accepted" in said[0]
    assert [line for line in said if line.startswith("m1: ") and "another user or password for" in line]
