"""A change while another one, or another program, works on the same Postfix: python -m tests.functional.together

prints a table of scenarios: rounds, how many changes were done and refused, violations. `--rounds N` for each of them.
"""

import argparse
import contextlib
import copy
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from _ispmail_errors import plural
from lab import wait_until
from lab.smtp import Load

from .killed import ADDRESSES, CONVERGED, FIRST, MAPS, NONE, PASSWORD, SECOND, Site, site

# What another program writes into main.cf: each edit has a name of its own, so that a lost one is missed.
OTHERS = re.compile(rb"^(zz_\w+|readme_directory|mailbox_size_limit|recipient_delimiter|inet_protocols) *=")
ENDED = "ended"
# Each loops, or works once, on the configuration directory $1 until the file $2 is there.
LOOP = 'n=0; while [ ! -e "$2" ]; do n=$((n+1)); {act}; done'
PROGRAMS = {
    "postconf -e, with a pause": LOOP.format(act='postconf -c "$1" -e "zz_$n=1" && echo "zz_$n"; sleep 2.5'),
    "postconf -e, again and again": LOOP.format(act='postconf -c "$1" -e "zz_$n=1" && echo "zz_$n"'),
    "touch main.cf, again and again": LOOP.format(act='touch "$1/main.cf"; sleep 0.1'),
    # What Debian's postinst does to main.cf, see /var/lib/dpkg/info/postfix.postinst.
    "dpkg-reconfigure": """
        postconf -c "$1" -e zz_myorigin=/etc/mailname && echo zz_myorigin
        postconf -c "$1" -e zz_destinations=localhost && echo zz_destinations
        if grep -q '^zz_mynetworks[[:space:]]*=' "$1/main.cf" || [ ! -e "$2" ]; then
            postconf -c "$1" -e 'zz_mynetworks=127.0.0.0/8'
            sed -i -e '/^zz_mynetworks\\s*=/d' "$1/main.cf"
        fi
        postconf -c "$1" -e mailbox_size_limit=0 && echo mailbox_size_limit
        postconf -c "$1" -e recipient_delimiter=+ && echo recipient_delimiter
        [ "$(postconf -c "$1" -hx default_transport)" != error ] || exit 1
        postconf -c "$1" -e inet_protocols=ipv4 && echo inet_protocols
        """,
    "postfix stop and start, once": 'postfix -c "$1" stop; postfix -c "$1" start',
    "postfix stop and start, again and again": LOOP.format(act='postfix -c "$1" stop; postfix -c "$1" start; sleep 1'),
}
# These stop mail themselves for a moment, or for as long as they run: Postfix's programs wait, or are not there.
OUTAGES = ("postfix stop and start", "again and again")
# Why a change may be refused, in words for an admin.
REASONS = {
    "main.cf is changed again and again": "is changed again and again",
    "changed meanwhile": "by somebody else meanwhile",
    "rewritten by another program": "another program has rewritten",
    "another change": "another apply has been at work",
    "postconf's lock": "another postconf has held",
    "Postfix was restarted": "was stopped or restarted by another program",
}


@dataclass(frozen=True)
class Scenario:
    """What runs at the same time: changes, and a program of PROGRAMS."""

    start: str
    acts: tuple[str, ...]
    caches: int = 1  # how many minions' cache directories there are
    program: str = ""
    late: bool = False  # the program begins in the middle of the change

    @property
    def name(self) -> str:
        """For people."""
        minions = f", {plural(self.caches, 'minion')}" if len(self.acts) > 1 else ""
        begun = ", begun in its middle" if self.late else ""
        return " and ".join((*self.acts, *filter(None, [self.program]))) + minions + begun

    @property
    def has_outage(self) -> bool:
        """Whether the other program stops mail."""
        return any(each in self.program for each in OUTAGES)


SCENARIOS = (
    Scenario("first", ("apply second", "apply second")),
    Scenario("first", ("apply second", "apply second"), 2),
    Scenario("nothing", ("apply first", "apply first"), 2),
    Scenario("nothing", ("apply first", "apply second"), 2),
    Scenario("first", ("apply second", "remove second"), 2),
    Scenario("first", ("apply other", "apply first", "apply other", "apply first"), 2),
    *(Scenario("first", ("apply second",), program=program) for program in PROGRAMS),
    *(Scenario("first", ("apply second",), program=program, late=True) for program in PROGRAMS),
    Scenario("nothing", ("apply first",), program="dpkg-reconfigure"),
    Scenario("first", ("remove first",), program="dpkg-reconfigure", late=True),
    Scenario("first", ("remove first",), program="postfix stop and start, again and again"),
)
WANTED = {"apply first": FIRST, "apply other": FIRST, "apply second": SECOND}
WANTED |= {"remove first": NONE, "remove second": NONE}
STARTS = {"first": FIRST, "nothing": NONE}


@dataclass
class Result:
    """What the rounds of one scenario gave."""

    rounds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    unanswered: int = 0
    longest: float = 0.0
    violations: list[str] = field(default_factory=list)


@contextlib.contextmanager
def program(found: Site, name: str, delay: float) -> Iterator[list[str]]:
    """Run another program, after so many seconds; at the end the list has what it has set in main.cf."""
    said: list[str] = []
    if not name:
        yield said
        return
    stop = found.directory / ENDED
    stop.unlink(missing_ok=True)
    command = ["sh", "-c", f"sleep {delay}; {PROGRAMS[name]}", "sh", str(found.postfix.config_directory), str(stop)]
    with open(found.directory / "said", "w+", encoding="ascii") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield said
        finally:
            stop.touch()
            process.wait(60)
            output.seek(0)
            said += output.read().split()


@contextlib.contextmanager
def sites() -> Iterator[Site]:
    """A site, and one pillar more: as the first, with another query."""
    with site() as found:
        maps = {"virtual_alias_maps": MAPS["virtual_alias_maps"]}
        # Where no postlogd runs, postsuper writes into the log itself, as the user postfix.
        found.postfix.log_file.chmod(0o666)
        found._sections["other"] = {**found._sections["first"], "maps": maps}
        yield found


def run_round(found: Site, scenario: Scenario, result: Result, delay: float) -> None:
    """Run one round: the changes begin so many seconds after the other program, or after each other."""
    wanted = {act: _wanted(found, act) for act in scenario.acts}
    found.restore(scenario.start)
    second = found.directory / "cache-of-another-minion"
    subprocess.run(["rm", "-rf", str(second)], check=True)
    sites = [copy.copy(found) for _ in scenario.acts]
    for each in sites[1 :: scenario.caches] if scenario.caches > 1 else ():
        each.cache = second
    said: dict[int, str] = {}
    start = _ours(found)

    def act(number: int) -> None:
        time.sleep(0 if scenario.late else delay * (number or bool(scenario.program)))
        began = time.monotonic()
        said[number] = sites[number].run(scenario.acts[number])
        result.longest = max(result.longest, time.monotonic() - began)

    load = Load(found.postfix.port, dict.fromkeys(ADDRESSES, 0), sessions=2, rate=40, timeout=10)
    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(scenario.acts))]
    with load, program(found, scenario.program, delay * scenario.late) as edits:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wrong = _replies(load, scenario, result)
    if scenario.program.startswith("postfix") and not wait_until(lambda: found.postfix.running, 30):
        wrong.append("Postfix does not run: " + found.postfix.log[-1500:])
        found.postfix.start()
    wrong += _said(said, result)
    done = [scenario.acts[number] for number, text in said.items() if text == CONVERGED]
    now = _ours(found)
    # A change that could not be put back to the end says which new files are left. main.cf does not name them.
    named = re.findall(
        r"/([^/\s,]+\.cf)[,\s]", " ".join(re.findall("as before except (.*?), which were", str(said))) + " "
    )
    now = {name: file for name, file in now.items() if name not in named}
    if not any(now == wanted[act] for act in done or scenario.acts) and (done or now != start):
        wrong.append("the change is not whole, or another one than was said")
    if len(done) < len(scenario.acts) and now == start and "All files are as before" not in str(said):
        wrong += [f"{name} is left" for name in _leftovers(found, sites)]
    held = found.postfix.main_cf.read_text()
    wrong += [f"{edit} of the other program is lost" for edit in edits if not re.search(f"(?m)^{edit} *=", held)]
    wrong += _after(found, sites[-1], scenario.acts[-1], wanted[scenario.acts[-1]])
    result.rounds += 1
    result.violations += [f"{scenario.name}, after {delay:.2f} s: {each} (it said: {said})" for each in wrong]


def _wanted(found: Site, act: str) -> dict[str, object]:
    """What is there after a change that nothing disturbs."""
    known: dict[str, dict[str, object]] = found.__dict__.setdefault("wanted_by_act", {})
    if act not in known:
        found.restore("first" if act.startswith("remove") else "nothing")
        assert found.run(act) == CONVERGED and found.replies() == WANTED[act]
        known[act] = _ours(found)
    return known[act]


def _ours(found: Site) -> dict[str, object]:
    """What a change may touch, without what the other program sets."""
    files: dict[str, object] = dict(found.contents())
    lines = found.postfix.main_cf.read_bytes().splitlines()
    files["main.cf"] = sorted(line for line in lines if not OTHERS.match(line))
    return files


def _leftovers(found: Site, sites: list[Site]) -> list[str]:
    left = {name for each in sites for name in each.leftovers()}
    # sed's own, and postconf's.
    return [name for name in sorted(left) if not re.fullmatch(r"sed\w+|main\.cf\.tmp", Path(name).name)]


def _replies(load: Load, scenario: Scenario, result: Result) -> list[str]:
    """What smtpd said while all this went on: as before, or as after one of the changes."""
    allowed = [STARTS[scenario.start], *(WANTED[act] for act in scenario.acts)]
    wrong: Counter[str] = Counter()
    for record in load.stop().records:
        if record.code in (0, 421):
            result.unanswered += 1
            wrong["no answer"] += not scenario.has_outage
        else:
            result.answered += 1
            if record.code not in {codes[record.address] for codes in allowed}:
                wrong[f"{record.address} gets {record.code} {record.text}"] += 1
    return [f"{number} times {each}" for each, number in wrong.items() if number]


def _said(said: dict[int, str], result: Result) -> list[str]:
    """What the changes said: done, or why not, in words for an admin."""
    wrong = []
    for text in said.values():
        known = [name for name, words in REASONS.items() if words in text]
        result.outcomes[CONVERGED if text == CONVERGED else (known or ["another reason"])[0]] += 1
        if text != CONVERGED and not known:
            wrong.append(f"another reason: {text}")
        if text.startswith("unforeseen") or PASSWORD in text or re.search("no end within", text):
            wrong.append(f"no reason for an admin: {text}")
    return wrong


def _after(found: Site, one: Site, act: str, wanted: dict[str, object]) -> list[str]:
    """Do it once more, when the other program has ended: what is wrong then."""
    wrong = []
    subprocess.run(["touch", "-d", "1 minute ago", str(found.postfix.main_cf)], check=True)
    again = one.run(act)
    if again != CONVERGED or _ours(found) != wanted or found.replies() != WANTED[act]:
        wrong.append(f"the next one did not converge: {again}, {found.replies()}")
    return wrong + [f"{name} is left after the next one" for name in _leftovers(found, [one])]


def main() -> int:
    """Run all scenarios, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.functional.together", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each scenario")
    parser.add_argument("--only", help="scenarios with this in their name")
    options = parser.parse_args()
    failed = False
    with sites() as found:
        for scenario in SCENARIOS:
            if options.only and options.only not in scenario.name:
                continue
            result, began = Result(), time.monotonic()
            for number in range(options.rounds):
                # Spread over the second or two that a change takes.
                run_round(found, scenario, result, delay=1.5 * number / options.rounds)
            done = result.outcomes.pop(CONVERGED, 0)
            refused = ", ".join(f"{number} {reason}" for reason, number in result.outcomes.items())
            print(
                f"| {scenario.name} | {result.rounds} | {done} | {refused or 0} | {result.answered} | "
                f"{result.unanswered} | {len(result.violations)} | longest {result.longest:.1f} s, "
                f"all {time.monotonic() - began:.0f} s",
                flush=True,
            )
            for line in result.violations:
                print(f"    {line}", flush=True)
            failed |= bool(result.violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
