"""The password is in the table files and pillar, and nowhere else; one that a change replaced, in the history too."""

import concurrent.futures
import shutil
import threading
from pathlib import Path

import pytest

import _ispmail_lookup
from lab import contents
from lab.postfix import Postfix, write_cold

from ..conftest import PASSWORD
from .test_apply import managed

# The password as Python, JSON or YAML would print it too.
FORMS = {PASSWORD, repr(PASSWORD)[1:-1], PASSWORD.replace("\\", "\\\\").replace('"', '\\"'), PASSWORD[:12]}


def holds(data: bytes) -> bool:
    return any(form.encode() in data for form in FORMS)


class Watch:
    """Looks at the command line and environment of every process, as long as it is on."""

    def __init__(self):
        self.seen, self.looks = set(), 0
        self._on = True
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._on = False
        self._thread.join()

    def _look(self):
        while self._on:
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        if holds((process / name).read_bytes()):
                            self.seen.add((process / name).as_posix())
                    except OSError:
                        pass
            self.looks += 1


@pytest.mark.parametrize("case", ["first set-up", "refused", "fault in pillar", "changed", "dry run"])
def test_the_password_is_nowhere_else(minion, postfix, pillar, case):
    """As an admin runs it, with all that -l debug tells."""
    if case == "refused":
        minion.pillar = pillar(database={"dbname": "nowhere"})
    elif case == "fault in pillar":
        minion.pillar = pillar(database={"hosts": "localhost:1", "pasword": PASSWORD, "tls_verify_cert": PASSWORD})
    elif case == "changed":
        managed(minion)
        minion.pillar = pillar(maps={"virtual_alias_maps": {"expansion_limit": 100}})
    arguments = ["-l", "debug", "state.apply", "ispmail", *["test=True"] * (case == "dry run")]
    minion.command("saltutil.sync_all")
    with Watch() as watch:
        done = minion.command(*arguments)
    output = done.stdout + done.stderr
    assert "Completed state [Postfix asks the maps that pillar names]" in output
    assert watch.looks > 3 and not watch.seen
    assert not holds(output.encode())
    tables = set(postfix.config_directory.glob("mariadb-*.cf"))
    # What a change replaced is kept: docs/security.md. Here other keys changed, and the password stayed.
    replaced = set(minion.cache.glob("postfix_change/*.history/2")) if case == "changed" else set()
    assert len(replaced) == (1 if case == "changed" else 0)
    for root in (minion.directory, postfix.directory):
        for path, content in contents(root):
            assert path in {minion.pillar_file} | tables | replaced or not holds(content), path
    for path in tables:
        assert holds(path.read_bytes()) and path.stat().st_mode & 0o7777 == 0o640
    for path in replaced:
        assert holds(path.read_bytes()) and path.stat().st_mode & 0o7777 == 0o600
        assert path.parent.stat().st_mode & 0o7777 == 0o700


def test_the_history_has_the_old_password_and_never_the_new_one(minion, postfix, pillar, other_account):
    """Both are accepted, as in a rotation. What was cut off keeps no more."""
    minion.pillar = pillar(database=other_account)
    assert managed(minion)["result"] is True
    (entry,) = minion.cache.glob("postfix_change/*.history/1")
    assert other_account["password"].encode() not in entry.read_bytes()
    minion.pillar = pillar()
    assert managed(minion)["result"] is True
    kept = {path.name: path.read_bytes() for path in entry.parent.iterdir()}
    assert kept.keys() == {"1", "2"} and not any(map(holds, kept.values()))
    assert other_account["password"].encode() in kept["2"] and other_account["password"].encode() not in kept["1"]
    shutil.rmtree(entry.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("_ispmail_history.History.commit", cut_off)
        minion.pillar = pillar(database=other_account)
        with pytest.raises(KeyboardInterrupt):
            minion.call("postfix_map.apply")
    (pending,) = entry.parent.iterdir()
    assert pending.name == "pending" and holds(pending.read_bytes())
    assert other_account["password"].encode() not in pending.read_bytes()


def cut_off(*_):
    raise KeyboardInterrupt


def test_this_search_finds_what_is_there(minion, postfix):
    """A search that cannot fail proves nothing."""
    managed(minion)
    assert holds(minion.pillar_file.read_bytes())
    assert all(holds(path.read_bytes()) for path in postfix.config_directory.glob("mariadb-*.cf"))
    with Watch() as watch:
        done = minion.command("test.arg", PASSWORD, "-l", "debug")
    assert holds((done.stdout + done.stderr).encode()) and watch.seen


INTERNALS = (
    "postfix_files.read",
    "_ispmail_files.read",
    "ispmail.config",
    "postfix_database.ask",
    "postfix_change.make",
)


@pytest.mark.parametrize("function", INTERNALS)
def test_what_returns_secrets_is_no_job(minion, postfix, function):
    """What a job returns goes to the master's job cache: what is internal is in the library, which no job reaches."""
    managed(minion)
    minion.command("saltutil.sync_all")
    done = minion.command(function, str(postfix.config_directory / "mariadb-virtual-alias-maps.cf"))
    assert f"'{function}' is not available" in done.stdout + done.stderr
    assert done.returncode and not holds((done.stdout + done.stderr).encode())


# What somebody may have made of a table file: Postfix quotes much of it in its messages.
DAMAGED = {
    "no equals sign": "password {}",
    "no equals sign, a line separator": "password\u2028{}",
    "no equals sign, a next line": "junk\x85{}",
    "no equals sign, control characters": "junk\x0b\x1c\r{}",
    "no name": "= {}",
    "a blank in front": " password = {}",
    "two of them": "password = {0}\npassword = {0}2",
    "two of them, a line separator": "password = a\u2028{0}\npassword = {0}2",
    "two of them, a quote": "password = a'b{0}\npassword = {0}2",
    "a misspelt key": "passwort = a\u2028{}",
    "a number": "expansion_limit = a\u2029{}",
    "yes or no": "require_result_set = {}",
    "a query": "query = SELECT '%z\u2028{}'",
}


def test_what_postmap_quotes_of_a_damaged_table_file(scratch_directory):
    """Python takes U+2028 and others for the end of a line: behind it the rest of a value was shown."""
    secret = "secretQz7Hw4Kd9Rx2"
    directory = str(Postfix(scratch_directory / "damaged").config_directory)

    def ask(name):
        path = scratch_directory / f"{name}.cf"
        query = "" if "query" in DAMAGED[name] else "query = SELECT '%s'\n"
        text = f"{DAMAGED[name].format(secret)}\nuser = x\nhosts = 127.0.0.1:1\ndbname = x\n{query}"
        write_cold(path, text, 0o640)
        return _ispmail_lookup.ask("jack@example.org", [f"mysql:{path}"], directory)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = dict(zip(DAMAGED, pool.map(ask, DAMAGED)))
    assert {each.result for each in asked.values()} == {_ispmail_lookup.COULD_NOT_ASK}
    assert not {name: each for name, each in asked.items() if secret in repr(each)}


# What pillar's source holds, and the options of salt-call.
SHOWN_BY_SALT = {
    "pillar is right, level garbage": ("ispmail:\n  database:\n    password: {}\n", ("-l", "garbage")),
    "no YAML, a password that begins with !": ("ispmail:\n  database:\n    password: !{}\n", ()),
    "no Jinja": ("ispmail:\n  database:\n    password: {} {{% if %}}\n", ()),
}


@pytest.mark.parametrize("case", SHOWN_BY_SALT)
def test_what_salt_itself_shows_of_pillar(minion, case):
    """As docs/security.md says: whoever renders pillar logs a line that it cannot read; and all of it at one level."""
    text, options = SHOWN_BY_SALT[case]
    minion.pillar_file.write_text(text.format("secretQz7Hw4Kd9Rx2"))
    done = minion.command(*options, "postfix_map.compare")
    assert "secretQz7Hw4Kd9Rx2" in done.stdout + done.stderr
