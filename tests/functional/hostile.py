"""Give a server one hostile pillar after the other, and look at what it does: python -m tests.functional.hostile

prints how many pillars were refused and how many applied, and the violations. `--count N` takes N pillars.

A pillar that works is changed in one to three places: a value becomes one of another type, a huge, deep or odd one, or
an injection; a key is added or renamed; a map gets a file that is not a table file, or is not there; a path stands for
something else. Then `apply` and `remove`, as dry runs and real, and the SLS, through Salt's loader. Each gives one
clear error and changes nothing, or does what it is for.
"""

import argparse
import contextlib
import copy
import json
import logging
import os
import re
import shutil
import stat
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import Minion
from lab.postfix import Postfix

PASSWORD = "pw-Zq8#x7%;=$'\"\\w{}-Kv3"
# In everything that no message may show: other people's files, and values of keys that may hold a secret.
CANARY = "canary-Tq8Zk3"
MAPS = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
# What a message says in a line at most. It may have several lines: one for each fault.
LONGEST_LINE = 700

_TEXTS = (
    "",
    " ",
    "\n",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    "\u202e",
    "ü",
    "\U0001f4ec" * 3,
    "\ud800",
    "x" * 70_000,
    "%",
    "%s%n%n",
    "%%",
    "0x10",
    "yes",
    "-e",
    "--help",
    "=x",
    "#",
    "a, b",
    "{a}",
    "$config_directory/x",
    "${x?y}",
    "a: b",
    "&a *a",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "!!python/object/apply:os.system [id]",
    "$(touch /tmp/pwned)",
    "`id`",
    "|id",
    "'; DROP TABLE virtual_users; -- ",
    "\npassword = x",
    "x\nquery = SELECT 1",
    "SELECT 1 UNION SELECT password FROM virtual_users WHERE email = '%s'",
    "SELECT destination FROM virtual_aliases WHERE source = %s",
    "../../etc/passwd",
    "~/x",
    "unix:/nowhere",
    "sdb://nowhere/x",
    "-----BEGIN PGP MESSAGE-----",
    CANARY,
)
_SCALARS = (None, True, False, 0, 1, -1, 3.7, 10**30)
_STRUCTURES: tuple[Any, ...] = ([], {}, [[]], [None], [1, "a", None], {"": ""}, {"a b": 1}, {f"password:{CANARY}": 1})
_PARAMETERS = (
    "virtual_alias_domains",
    "relay_domains",
    "mydestination",
    "command_directory",
    "smtpd_recipient_restrictions",
    "smtp_sasl_password_maps",
    "mail_version",
    "smtpd_client_restrictions",
    "own_maps",
    "mynetworks",
    "maillog_file",
    "queue_directory",
    "alias_database",
)
# What a server has beside our files, see Site.
_FILES = (
    "victim.cf",
    "link.cf",
    "linked-table.cf",
    "dangling.cf",
    "fifo.cf",
    "directory.cf",
    "foreign.cf",
    "credentials.cf",
    "settings.cf",
    "comments.cf",
    "empty.cf",
    "immutable.cf",
    "sealed/x.cf",
    "nowhere/x.cf",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "main.cf",
    "master.cf",
    "main.cf.tmp",
    "dynamicmaps.cf",
    ".main.cf.new",
    ".mariadb-virtual-alias-maps.cf.new",
    "mariadb-virtual-alias-maps.cf",
    "./mariadb-virtual-alias-maps.cf",
    "a/../b.cf",
    "b.cf/.",
    "..",
    "x" * 250 + ".cf",
    "ü.cf",
    "a b.cf",
    "a:b.cf",
    "a\nb.cf",
)
_KEYS = ("database", "server", "maps", "answers", "postfix", "instances", "consumers", "rotation", "packages", "sites")
_SHARED = ("password", "user", "hosts", "dbname", "option_file", "charset", "tls_verify_cert", "port", "idle_interval")
_OF_A_MAP = ("parameter", "file", "type", "proxy", "query", "result_format", "expansion_limit", "domain", "table")


def _nested(depth: int) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = {"a": [found]}
    return found


values = st.one_of(
    st.sampled_from(_TEXTS),
    st.sampled_from(_SCALARS),
    st.sampled_from(_STRUCTURES),
    st.integers(1, 300).map(_nested),
    st.text(max_size=20),
)
keys = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=8), st.sampled_from((*_KEYS, *_SHARED, *_OF_A_MAP)))
map_names = st.sampled_from((*MAPS, "email2email", "own_maps", "new", "a b", "x" * 300, ".a", "ü", "1", ""))


@st.composite
def changes(draw: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """One to three places of a pillar, and what stands there."""
    of_map = st.tuples(st.just("maps"), map_names)
    places = st.one_of(
        st.tuples(st.sampled_from(_KEYS)),
        st.tuples(keys),
        st.tuples(st.just("database"), st.sampled_from(_SHARED)),
        st.tuples(st.just("database"), keys),
        of_map,
        st.tuples(of_map, st.sampled_from(_OF_A_MAP)).map(lambda both: (*both[0], both[1])),
        st.tuples(of_map, keys).map(lambda both: (*both[0], both[1])),
        st.tuples(st.just("postfix"), keys),
        st.tuples(st.just("rotation"), keys),
        st.tuples(st.just("consumers"), keys),
        st.tuples(st.just("consumers"), st.just("dovecot"), keys),
    )
    special = st.one_of(
        st.tuples(of_map.map(lambda place: (*place, "file")), st.sampled_from(_FILES)),
        st.tuples(of_map.map(lambda place: (*place, "parameter")), st.sampled_from(_PARAMETERS)),
        st.tuples(st.just(("answers",)), st.lists(_answers, max_size=3)),
        st.tuples(of_map, st.just(None)),
    )
    return draw(st.lists(st.one_of(special, special, st.tuples(places, values)), min_size=1, max_size=3))


_answers = st.one_of(
    values,
    st.fixed_dictionaries(
        {},
        optional={
            "map": st.one_of(map_names, values),
            "question": st.one_of(st.sampled_from(("jack@example.org", "example.org", "-")), values),
            "answer": st.one_of(st.sampled_from(("john@example.org", ["john@example.org"], True, False)), values),
            "other": values,
        },
    ),
    st.just({"map": "virtual_alias_maps", "question": "jack@example.org", "answer": "john@example.org"}),
)


def changed(section: dict[str, Any], made: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """The section with these changes; a place whose parent is no mapping makes it one."""
    section = copy.deepcopy(section)
    for place, value in made:
        parent = section
        for name in place[:-1]:
            if not isinstance(parent.get(name), dict):
                parent[name] = {}
            parent = parent[name]
        parent[place[-1]] = copy.deepcopy(value)
    return section


@dataclass
class Seen:
    """What the pillars so far gave."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What one call gave: done, refused, or another exception."""

    kind: str
    text: str
    returned: Any = None

    @property
    def shows_a_secret(self) -> bool:
        """Whether its text has what no message may show."""
        return CANARY in self.text or PASSWORD in self.text


class Site:
    """A Postfix with other people's files beside ours, whose state is kept and restored."""

    def __init__(self, postfix: Postfix, mariadb: MariaDB, directory: Path) -> None:
        self.postfix, self.directory = postfix, directory
        self.config = postfix.config_directory
        self.base = {
            "packages": False,
            "database": {"password": PASSWORD, "hosts": f"127.0.0.1:{mariadb.port}"},
            "postfix": {"config_directory": str(self.config)},
        }
        self.victim, self.elsewhere = directory / "victim", directory / "elsewhere.cf"
        self.minion = Minion(directory / "minion", {"ispmail": self.base})
        self._fill()
        self._kept = directory / "kept"
        shutil.copytree(self.config, self._kept, symlinks=True, copy_function=_copied, ignore=self._special)
        self.start = self.seen()

    def _fill(self) -> None:
        config = self.config
        self._fill_elsewhere()
        (config / "victim.cf").write_text(f"{CANARY}\n")
        (config / "link.cf").symlink_to(self.victim)
        (config / "linked-table.cf").symlink_to(self.elsewhere)
        (config / "dangling.cf").symlink_to(self.directory / "nobody")
        (config / "directory.cf").mkdir()
        (config / "foreign.cf").write_bytes(b"\xff\xfe\0" + CANARY.encode())
        (config / "credentials.cf").write_text(f"[client]\npassword = {CANARY}\n")
        (config / "settings.cf").write_text(f"SMTP_HOST=mail\nSMTP_PASSWORD={CANARY}\nhosts = x\n")
        (config / "comments.cf").write_text(f"# {CANARY}\n")
        (config / "empty.cf").touch()
        (config / "dynamicmaps.cf").touch()
        (config / "sealed").mkdir()
        self._specials(make=True)

    def _fill_elsewhere(self) -> None:
        for path, text in (
            (self.victim, f"{CANARY}\n"),
            (self.elsewhere, f"hosts = 127.0.0.1\npassword = {CANARY}\nquery = SELECT 1\n"),
        ):
            path.unlink(missing_ok=True)
            path.write_text(text)
            path.chmod(0o600)
        (self.directory / "nobody").unlink(missing_ok=True)

    def _specials(self, make: bool) -> None:
        """What cannot be copied: a FIFO, and an immutable file and folder."""
        fifo = self.config / "fifo.cf"
        if make and not fifo.exists():
            os.mkfifo(fifo)
        immutable = self.config / "immutable.cf"
        if make and not immutable.exists():
            immutable.write_text("user = mailserver\nhosts = 127.0.0.1\ndbname = x\nquery = SELECT 1\n")
        for path in (immutable, self.config / "sealed"):
            os.system(f"chattr {'+' if make else '-'}i {path}")

    @staticmethod
    def _special(_folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in ("fifo.cf", "immutable.cf", "sealed")]

    def seen(self) -> dict[str, Any]:
        """Each file that may not change, and what is in it."""
        found: dict[str, Any] = {}
        for path in (self.victim, self.elsewhere, self.directory / "nobody", *self.config.rglob("*")):
            if not os.path.lexists(path):
                continue
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            # postconf's lock file is used again.
            if path.name != "main.cf.tmp" or content:
                link = os.readlink(path) if path.is_symlink() else ""
                found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, link, content)
        found["devices"] = [stat.S_ISCHR(os.stat(path).st_mode) for path in ("/dev/null", "/dev/full")]
        return found

    def restore(self) -> None:
        """Bring back what is there at the start."""
        if self.seen() == self.start:
            return
        self._specials(make=False)
        for path in self.config.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(self._kept, self.config, symlinks=True, copy_function=_copied, dirs_exist_ok=True)
        (self.config / "sealed").mkdir()
        self._specials(make=True)
        self._fill_elsewhere()
        shutil.rmtree(self.minion.cache, ignore_errors=True)
        assert self.seen() == self.start
        self.postfix.reload()

    def close(self) -> None:
        """So that the folder can be deleted."""
        self._specials(make=False)


def _copied(source: str, target: str) -> str:
    shutil.copy2(source, target, follow_symlinks=False)
    status = os.lstat(source)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    return target


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A site at its start."""
    with scratch() as directory, MariaDB(directory / "db") as mariadb, Postfix(directory / "mail") as postfix:
        schema(mariadb, PASSWORD)
        found = Site(postfix, mariadb, directory)
        try:
            yield found
        finally:
            found.close()


def called(call: Any, function: str, **arguments: Any) -> Outcome:
    """What a public function gave."""
    try:
        returned = call(function, **arguments)
    except (SaltInvocationError, CommandExecutionError) as err:
        return Outcome("refused", str(err))
    except Exception as err:  # whatever it is: it is a violation
        return Outcome("unforeseen", f"{type(err).__name__}: {err}")
    return Outcome("done", repr(returned), returned)


def look(site: Site, made: list[tuple[tuple[Any, ...], Any]], with_sls: bool = False) -> tuple[str, list[str]]:
    """Give one pillar to the server: what came of it, and what was wrong with that."""
    site.restore()
    site.minion.pillar = {"ispmail": changed(site.base, made)}
    call = site.minion.caller()
    wrong: list[str] = []
    outcomes: dict[str, Outcome] = {}

    def run(function: str, test: bool) -> Outcome:
        before = site.seen()
        found = called(call, function, test=test)
        name = f"{function}{' as a dry run' if test else ''}"
        outcomes[name] = found
        wrong.extend(f"{name}: {each}" for each in _wrong_words(found))
        if (test or found.kind != "done") and site.seen() != before:
            wrong.append(f"{name}: it changed {_differing(before, site.seen())}, and said: {found.text[:300]}")
        return found

    for function in ("postfix_map.apply", "postfix_map.remove"):
        dry, real = run(function, True), run(function, False)
        if dry.kind != real.kind:
            wrong.append(
                f"{function}: the dry run is {dry.kind} ({dry.text[:300]}), the real one {real.kind}: {real.text[:600]}"
            )
        if real.kind == "done" and function.endswith("apply"):
            wrong += _not_converged(call)
    if outcomes["postfix_map.remove"].kind == "done":
        now = site.seen()
        # A table file that an admin made, and pillar names, is removed: that is what pillar says.
        may_differ = ("main.cf", "linked-table.cf", "elsewhere.cf", "mariadb-virtual-alias-maps.cf")
        changed_for_good = [
            name for name, file in site.start.items() if Path(name).name not in may_differ and now.get(name) != file
        ]
        if changed_for_good:
            wrong.append(f"after all, these are not as before: {changed_for_good}")
    if with_sls:
        wrong += _wrong_states(call)
    return outcomes["postfix_map.apply"].kind, wrong


def _not_converged(call: Any) -> list[str]:
    again = called(call, "postfix_map.apply", test=True)
    if again.kind != "done" or again.returned["changes"]:
        return [f"the next apply would change something: {again.text[:600]}"]
    unasked = called(call, "postfix_map.probe")
    return [f"what went live cannot be asked: {unasked.text[:600]}"] if unasked.returned != [] else []


def _wrong_words(found: Outcome) -> list[str]:
    """What is wrong with the words of an outcome."""
    wrong = []
    if found.kind == "unforeseen":
        wrong.append(f"a traceback: {found.text[:600]}")
    if found.shows_a_secret:
        wrong.append(f"it shows a value: {found.text[:600]}")
    if found.kind == "refused":
        if not found.text.isprintable() and re.search(r"[^\n -~\u00a0-\uffff]", found.text):
            wrong.append(f"it is not printable: {found.text[:300]!r}")
        if any(len(line) > LONGEST_LINE for line in found.text.splitlines()):
            wrong.append(f"it is very long: {found.text[:300]}")
        if "Traceback" in found.text or "object at 0x" in found.text:
            wrong.append(f"it is for programmers: {found.text[:600]}")
    return wrong


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


def _wrong_states(call: Any) -> list[str]:
    """What is wrong with the states of the SLS, in a dry run."""
    wrong = []
    for sls in ("ispmail", "ispmail.clean"):
        found = called(call, "state.apply", mods=sls, test=True)
        if found.kind != "done" or not isinstance(found.returned, dict):
            wrong.append(f"{sls} does not render: {found.text[:600]}")
        elif found.shows_a_secret:
            wrong.append(f"{sls} shows a value: {found.text[:600]}")
        elif "Traceback" in found.text or "An exception occurred" in found.text:
            wrong.append(f"{sls} has a traceback: {found.text[:900]}")
    return wrong


def run_some(site: Site, count: int, seen: Seen, sls_every: int = 10) -> None:
    """Give a server so many pillars, always the same ones."""
    number = 0

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes())
    def one(made: list[tuple[tuple[Any, ...], Any]]) -> None:
        nonlocal number
        number += 1
        outcome, wrong = look(site, made, with_sls=number % sls_every == 0)
        seen.outcomes[outcome] += 1
        if wrong:
            what = json.dumps([[list(map(str, place)), repr(value)[:200]] for place, value in made])
            seen.violations.append(f"pillar {number}: {what}\n      " + "\n      ".join(wrong))

    one()


def main() -> int:
    """Run many, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    seen = Seen()
    with site() as found:
        run_some(found, options.count, seen)
    for each in seen.violations:
        print(each)
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.outcomes.items()))
    print(f"{sum(seen.outcomes.values())} pillars: {outcomes}; {len(seen.violations)} violations")
    return 1 if seen.violations else 0


if __name__ == "__main__":
    sys.exit(main())
