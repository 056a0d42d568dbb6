"""Give the maps' accounts password after password, and look at what is said of each.

`python -m tests.functional.passwords` prints how many passwords were right where they are right, refused where they
are wrong, and refused as such, and the violations. `--count N` takes N passwords.

A Postfix has a map with an account of its own for each of twelve passwords, and a program with an option file has
another one. Thirteen passwords at a time are

- wrong in pillar: the dry run and the apply refuse each by the same words, and change nothing;
- wrong in the live files, as the accounts have changed: lookup, probe, `refused`, the beacon and the doctor see each;
- right: the apply makes them live, nothing is left to change, each map answers, and smtpd takes each recipient.

A short password cannot be searched for in a text that has it by nature, such as `a`. So whatever is said must be to the
letter what is said of other passwords: then nothing in it tells which one it is.
"""

import argparse
import contextlib
import logging
import random
import re
import smtplib
import string
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import salt.beacons
import salt.client
import salt.config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_logins
import _ispmail_search
from lab import HOST, scratch
from lab.mariadb import MariaDB, native_hash, schema
from lab.minion import REPOSITORY, Minion
from lab.postfix import Postfix

MAPS = 12
BLANKS = " \t\n\v\f\r"
# What the guides and man pages warn of, each a class of its own.
CLASSES = {
    "plain": string.ascii_letters + string.digits,
    "punctuation": string.punctuation,
    "hash and semicolon": "#;a",
    "equals and percent": "=%sud1",
    "dollar": "${}()ax",
    "braces": "{}",
    "quotes and backslash": "'\"\\`n",
    "inner blanks": " \ta",
    "utf-8": "äß€漢\U0001f512\xa0\x85\u2028",
    "latin-1": "ÄÖÜß¡ÿ",
    "control characters": "\x01\x02\x07\x1b\x7f\x0b\x0c\x1c",
    "newline": "a\n",
    "carriage return": "a\r",
    "nul": "a\0",
    "outer blanks": BLANKS.replace("\n", "") + "a",
}
# Pieces of what Postfix, MariaDB, Salt and we say, and of what stands beside a password.
WORDS = (
    *("fatal", "fatal:", ":", ": ", "postmap", "postmap: ", "a", "1", "p", "t", "s", "0", "warning", "error", "panic"),
    *("mailserver", "reader", "reader00", HOST, "127", "localhost", "mysql", "mysql:", "virtual_alias_maps", "test"),
    *("password", "password =", "***", "**", "*", "None", "none", "null", "True", "False", "YES", "NO", "yes", "no"),
    *("using password", "(using password: YES)", "using password: NO", "Access denied", "Access denied for user"),
    *("access is denied", "Nothing was changed", "Postfix answers as before", "could not ask", "no answer", "answer"),
    *("connect to", "query failed", "check user and password", "error 1045", "1045", "is", "in", "the", "of", "map"),
    *("hosts = evil.example", "query", "user", "dbname", "hosts", "-", "--", "-e", "=", "#", ";", "'", '"', "\\", "%"),
    *("%s", "%u%d", "{}", "{{ 7 }}", "{% raw %}", "$x", "${x}", "$$", "`id`", "$(id)", "\\n", "\\0", "'; DROP", "<x>"),
    *("[client]", "!include /etc/shadow", "ispmail", "database", "ispmail:database:password", "john@example.org"),
    *(
        "SELECT",
        "/",
        "/etc/postfix",
        "main.cf",
        "mariadb-reader00.cf",
        "x" * 200,
        "é" * 100,
        "\x7f",
        "\x1b[2J",
        "\u202e",
    ),
)


def of_classes(number: int, seed: int = 20) -> Iterator[str]:
    """As many from each class, always the same ones."""
    chance = random.Random(seed)
    names = list(CLASSES)
    for at in range(number):
        yield "".join(chance.choices(CLASSES[names[at % len(names)]], k=chance.randint(1, 24)))


def generated(number: int) -> list[str]:
    """Passwords made of all this, always the same ones."""
    found: list[str] = []
    pieces = st.one_of(
        st.sampled_from(WORDS),
        st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12),
        *[st.text(alphabet, min_size=1, max_size=12) for alphabet in CLASSES.values()],
    )

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(pieces, min_size=1, max_size=4).map("".join))
    def one(password: str) -> None:
        found.append(password)

    one()
    return found


def as_far_as_they_differ(passwords: Sequence[str]) -> list[str]:
    """The passwords, each once, and none that means something else in pillar."""
    return list(dict.fromkeys(each for each in passwords if not each.startswith(("sdb://", "-----BEGIN"))))


def cannot_be_written(password: str) -> bool:
    """Whether no table file can hold it."""
    return "\n" in password or "\0" in password or password != password.strip(BLANKS)


@dataclass
class Seen:
    """What the passwords so far gave."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)

    def hear(self, what: str, text: str, passwords: Sequence[str]) -> None:
        """Compare a text with the one that other passwords gave at the same point."""
        self.said[what] += 1
        if self.texts.setdefault(what, text) != text:
            self.violations.append(f"{what} tells passwords apart, {passwords!r:.900}:\n  {text}\n  {self.texts[what]}")

    def expect(self, what: str, is_so: object, passwords: Sequence[str], text: object = "") -> None:
        """Take down what is not as it must be."""
        if not is_so:
            self.violations.append(f"{what}: {passwords!r:.900}: {text!s:.900}")


class Site:
    """A Postfix with a map for each of twelve accounts, and an option file; all begin with PLAIN passwords."""

    def __init__(self, postfix: Postfix, mariadb: MariaDB, directory: Path) -> None:
        self.postfix, self.mariadb = postfix, mariadb
        self.users = ["mailserver", *[f"reader{number:02}" for number in range(MAPS)]]
        self.live = [f"plain-{user}-Zk4q" for user in self.users]
        self.option_file = directory / "program.cnf"
        schema(mariadb, self.live[0])
        for user in self.users[1:]:
            mariadb.sql("CREATE USER %s@%s", user, HOST)
            mariadb.sql("GRANT SELECT ON mailserver.* TO %s@%s", user, HOST)
            mariadb.sql("INSERT INTO mailserver.virtual_aliases (domain_id, source, destination)"
                        " VALUES (1, %s, 'john@example.org')", f"{user}@example.org")  # fmt: skip
        maps = {
            user: {
                "parameter": "virtual_alias_maps",
                "user": user,
                "query": f"SELECT destination FROM virtual_aliases WHERE source='%s' AND source='{user}@example.org'",
            }
            for user in self.users[1:]
        }
        section = {
            "packages": False,
            "database": {"hosts": f"{HOST}:{mariadb.port}"},
            "postfix": {"config_directory": str(postfix.config_directory)},
            "maps": maps,
            "consumers": {"program": {"option_file": str(self.option_file)}},
        }
        minion = Minion(directory / "minion", {"ispmail": section})
        opts = salt.config.minion_config(str(minion.directory / "minion"))
        for key, room in (("module_dirs", "_modules"), ("utils_dirs", "_utils"), ("beacons_dirs", "_beacons")):
            opts[key] = [str(REPOSITORY / room)]
        self._opts = opts
        functions = salt.client.Caller(mopts=opts).sminion.functions
        self._functions = functions
        # Salt's loader takes a second, and reads pillar once: this is the pillar that it gives to all functions.
        opts["pillar"] = functions.pack["__pillar__"]
        self._section = functions.pack["__pillar__"]["ispmail"]
        self.change_accounts(self.live)
        self.write_pillar(self.live)
        self.call("postfix_map.apply")

    def write_pillar(self, passwords: Sequence[str]) -> None:
        """Have pillar hold these passwords."""
        for user, password in zip(self.users, passwords):
            (self._section["database"] if user == "mailserver" else self._section["maps"][user])["password"] = password

    def change_accounts(self, passwords: Sequence[str]) -> None:
        """Have the accounts accept these passwords, and no other ones."""
        via = "IDENTIFIED VIA mysql_native_password USING"
        each = [f"{user}@'{HOST}' {via} '{native_hash(word)}'" for user, word in zip(self.users, passwords)]
        self.mariadb.sql(f"ALTER USER {', '.join(each)}")

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """What a public function returned; a text where it refused."""
        try:
            return self._functions[function](*arguments, **options)
        except (SaltInvocationError, CommandExecutionError) as err:
            return str(err)

    def beacon(self) -> list[dict[str, Any]]:
        """The events of a beacon's two intervals."""
        beacons = salt.beacons.Beacon(self._opts, self._functions)
        config = {"postfix_credential": [{"disable_during_state_run": True}]}
        first = beacons.process(config, self._opts["grains"])
        threads = [thread for thread in threading.enumerate() if thread.name == _ispmail_logins.Watch.THREAD]
        for thread in threads:
            thread.join(10)
        return first + beacons.process(config, self._opts["grains"])

    def files(self) -> dict[str, Any]:
        """All that an apply could change."""
        found = {}
        for path in (self.option_file, *sorted(self.postfix.config_directory.rglob("*"))):
            status = path.lstat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_mode, path.read_bytes())
        return found

    def replies(self) -> dict[str, int]:
        """What smtpd says to each map's own address."""
        found = {}
        with smtplib.SMTP(HOST, self.postfix.port, timeout=20) as client:
            client.ehlo("lab")
            for name in (*self.users[1:], "nobody"):
                client.mail("test@sender.test")
                found[name] = client.rcpt(f"{name}@example.org")[0]
                client.rset()
        return found


def shown(value: Any) -> str:
    """What a function returned, without the times of files."""
    return re.sub(r"'changed': \d+", "'changed': 0", repr(value))


def look(site: Site, passwords: Sequence[str], seen: Seen, with_doctor: bool = True) -> None:
    """Give the site these passwords, one for each account: wrong in pillar, wrong in its files, then right."""
    before, old = site.files(), site.live
    # Of the account that `database` names, what is too short to be searched for in files is told.
    short = "short" if len(old[0]) < _ispmail_search.SHORTEST else "long"
    for kind, pillar in (("maps", [old[0], *passwords[1:]]), ("a program", passwords)):
        site.write_pillar(pillar)
        for test in (True, False):
            text = site.call("postfix_map.apply", test=test)
            what = f"{'dry run' if test else 'apply'}, {kind}"
            seen.hear(what, str(text), passwords)
            named = site.users[1:] if kind == "maps" else ["the login of the consumers"]
            denied = re.search("(?i)access (is )?denied", str(text)) and all(user in str(text) for user in named)
            seen.expect(f"wrong passwords, {what}", denied, passwords, text)
    seen.expect("wrong passwords in pillar: something was changed", site.files() == before, passwords)
    seen.outcomes["refused where wrong"] += len(passwords)

    site.change_accounts(passwords)
    probed = site.call("postfix_map.probe")
    seen.hear("probe", shown(probed), old)
    names = " ".join(probed)
    seen.expect("probe does not name each map", all(user in names for user in site.users[1:]), old, probed)
    name = site.users[1 + seen.said["lookup"] % MAPS]
    found = site.call("postfix_map.lookup", name, f"{name}@example.org")
    seen.hear("lookup", shown(found).replace(name, "reader"), old)
    seen.expect("lookup with a wrong password", found["result"] == "could not ask", old, found)
    for what, logins in (("refused", site.call("postfix_database.refused")), ("beacon", site.beacon())):
        seen.hear(what, shown(logins), old)
        users = [login["user"] if what == "refused" else login["data"]["user"] for login in logins]
        seen.expect(f"{what} with wrong passwords", sorted(set(users)) == sorted(site.users), old, users)
    if with_doctor:
        checked = site.call("postfix_doctor.check")
        seen.hear(f"doctor, {short}", shown(checked), old)
        faults = [each for each in checked if each["result"] == "fault"]
        seen.expect("doctor with wrong passwords", len(faults) >= 2, old, faults)

    done = site.call("postfix_map.apply")
    seen.hear("right", shown(done), passwords)
    seen.expect("right passwords are not applied", isinstance(done, dict) and done["reloaded"], passwords, done)
    again = site.call("postfix_map.apply", test=True)
    seen.expect("not converged", isinstance(again, dict) and not again["changes"], passwords, again)
    seen.expect("probe of right ones", site.call("postfix_map.probe") == [], passwords)
    seen.expect("refused though right", site.call("postfix_database.refused") == [], passwords)
    seen.expect("consumers", site.call("postfix_map.consumers") == [], passwords)
    for user in site.users[1:]:
        asked = site.call("postfix_map.lookup", user, f"{user}@example.org")
        seen.expect("lookup", asked["result"] == "answer" and asked["answer"] == "john@example.org", passwords, asked)
    replies = site.replies()
    expected = {**dict.fromkeys(site.users[1:], 250), "nobody": 550}
    seen.expect("smtpd", replies == expected, passwords, replies)
    seen.hear("read", shown(site.call("postfix_map.read")), passwords)
    seen.outcomes["right where right"] += len(passwords)
    site.live = list(passwords)


def look_at_unwritable(site: Site, password: str, seen: Seen) -> None:
    """Give the site a password that no table file can hold."""
    before = site.files()
    kind = [name for name, is_so in (("newline", "\n" in password), ("nul", "\0" in password)) if is_so]
    kind += ["blank"] if password != password.strip(BLANKS.replace("\n", "")) else []
    for place in (0, 1):
        site.write_pillar([password if number == place else word for number, word in enumerate(site.live)])
        for test in (True, False):
            text = site.call("postfix_map.apply", test=test)
            seen.hear(f"unwritable, place {place}, {' '.join(kind)}", str(text), [password])
            key = "ispmail:database:password" if place == 0 else f"ispmail:maps:{site.users[1]}:password"
            seen.expect("not refused", isinstance(text, str) and f"{key} " in text, [password], text)
    site.write_pillar(site.live)
    seen.expect("something was changed", site.files() == before, [password])
    seen.outcomes["refused as such"] += 1


def run(site: Site, passwords: Sequence[str], seen: Seen, with_doctor: bool = True) -> None:
    """Give a site these passwords; some at the end are left out where they are no thirteen."""
    passwords = as_far_as_they_differ(passwords)
    for password in filter(cannot_be_written, passwords):
        look_at_unwritable(site, password, seen)
    usable = [each for each in passwords if not cannot_be_written(each)]
    size = len(site.users)
    for start in range(0, len(usable) - size + 1, size):
        look(site, usable[start : start + size], seen, with_doctor)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A site at its start; no file of this machine is searched for passwords."""
    trees, _ispmail_search.TREES = _ispmail_search.TREES, ()
    # It is the time of a busy machine that is not to end thirteen logins.
    within, _ispmail_logins._ALL = _ispmail_logins._ALL, 60
    try:
        with (
            scratch() as directory,
            MariaDB(directory / "db", options=["--max-connections=2000"]) as mariadb,
            Postfix(directory / "mail") as postfix,
        ):
            yield Site(postfix, mariadb, directory)
    finally:
        _ispmail_search.TREES = trees
        _ispmail_logins._ALL = within


def main() -> int:
    """Run many, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.passwords", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    seen = Seen()
    every = [*of_classes(len(CLASSES) * 4), *WORDS, *generated(options.count)]
    with site() as found:
        run(found, every[: options.count], seen)
    for each in seen.violations:
        print(each)
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.outcomes.items()))
    texts = f"{sum(seen.said.values())} messages of {len(seen.said)} kinds"
    print(f"{outcomes}; {texts}; {len(seen.violations)} violations")
    return 1 if seen.violations else 0


if __name__ == "__main__":
    sys.exit(main())
