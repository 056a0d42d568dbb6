"""The system calls of a change, in their order, and what is on the disk at each of them.

A power cut loses what was not synced. No test that only looks at the result can see that, nor for how long a file was
readable by others.
"""

import contextlib
import grp
import os
import re
import stat
import time
from types import SimpleNamespace

import pytest

from .killed import CONVERGED, SCENARIOS, site
from .tracer import traced

RELOAD = r"^execve .*/postfix$"


@pytest.fixture(scope="module")
def found():
    with site() as one:
        yield one


@pytest.fixture(scope="module")
def traces(found):
    """A function that gives the calls of a scenario, and what was wrong on the disk at any of them; run once each."""
    kept = {}

    def trace(scenario):
        if scenario.name not in kept:
            kept[scenario.name] = run(found, scenario)
        return kept[scenario.name]

    return trace


@pytest.fixture(params=SCENARIOS, ids=lambda each: each.name)
def scenario(request):
    return request.param


def named(name):
    return next(each for each in SCENARIOS if each.name == name)


def run(found, scenario):
    """Run one change, with any umask: modes must not depend on it."""
    wanted = found.wanted(scenario)
    found.restore(scenario.start)
    start = found.contents()
    result = SimpleNamespace(calls=[], wrong=[], secrets=0, created=set())

    def look(call):
        _look_at_contents(found, call, start, wanted, result)
        _look_at_modes(found, call, result)
        if re.search(r"^fchown .*/\.mariadb-[^/]*\.new$", call):
            status = os.stat(call.split(" ", 1)[1])
            result.created.add((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_size))

    act = found.run_undone if scenario.undone else found.run
    before = os.umask(0)
    try:
        done = traced(lambda: act(scenario.act), look=look)
    finally:
        os.umask(before)
    assert done.returned and (done.returned == CONVERGED) != scenario.undone, done.returned
    result.calls = done.calls
    return result


def _look_at_contents(found, call, start, wanted, result):
    for name, file in found.contents().items():
        # main.cf may be replaced in two steps.
        if name != "main.cf" and file not in (start.get(name), wanted.get(name)):
            result.wrong.append(f"{name} is neither old nor new before {call}")
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - (found.postfix.config_directory / name).stat().st_mtime
            if file != start.get(name) and age < 2:
                result.wrong.append(f"{name} is so young that Postfix pauses, before {call}")


def _look_at_modes(found, call, result):
    config, groups = found.postfix.config_directory, (0, grp.getgrnam("postfix").gr_gid)
    for path in [*config.iterdir(), *(path for path in found.cache.rglob("*") if path.is_file())]:
        status = path.lstat()
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        if b"password = " in path.read_bytes():
            result.secrets += 1
            if status.st_uid or mode & 0o137 or status.st_gid not in groups:
                result.wrong.append(f"{path.name} is {mode:o} {owner} before {call}")
        elif path in (config / "main.cf", config / ".main.cf.old") and (mode, *owner) != (0o644, 0, 0):
            result.wrong.append(f"{path.name} is {mode:o} {owner} before {call}")


def at(calls, pattern):
    """The numbers of the calls that a pattern is found in."""
    return [number for number, call in enumerate(calls) if re.search(pattern, call)]


def names(found):
    """Patterns: the directory of main.cf, the journal's directory, and the journal."""
    config = re.escape(str(found.postfix.config_directory))
    journals = rf"{re.escape(str(found.cache))}\S*/postfix_change"
    return config, journals, rf"{journals}/[^/ ]+"


def test_what_is_renamed_is_on_the_disk(found, traces, scenario):
    """Renamed without fsync, a file may be empty after a power cut: 451 for each address."""
    calls = traces(scenario).calls
    config, _, journal = names(found)
    renames = at(calls, rf"^rename\w* ({config}/\.[^/]+\.new|{journal}\.new)$")
    assert renames
    for number in renames:
        path = calls[number].split(" ", 1)[1]
        about = [call.split(" ", 1)[0] for call in calls[:number] if call.endswith(f" {path}")]
        assert about[-2:] == ["write", "fsync"] or about[-3:] == ["write", "utimensat", "fsync"], (path, about)
        if path.startswith(str(found.postfix.config_directory)):
            # Owner and mode before the content, and fsync after all.
            wanted = ["openat", "fchown", "fchmod", "write", "utimensat", "fsync"]
            assert about[-len(wanted) :] == wanted, (path, about)


def test_renames_are_on_the_disk_before_postfix_reads_them(found, traces, scenario):
    """After a power cut Postfix would start with other files than those that it was asked about."""
    calls = traces(scenario).calls
    config, _, _ = names(found)
    renames, synced = at(calls, rf"^rename\w* {config}/\.[^/]+\.new$"), at(calls, rf"^fsync {config}$")
    reloads = [number for number in at(calls, RELOAD) if number > renames[0]]
    assert reloads
    for reload in reloads:
        last = max(number for number in renames if number < reload)
        assert any(last < number < reload for number in synced), calls[last]


def test_all_is_on_the_disk_before_the_journal_goes(found, traces, scenario):
    """After a power cut old names may be back, with the password, and no journal that says so."""
    calls = traces(scenario).calls
    config, _, journal = names(found)
    changes = at(calls, rf"^(rename|unlink)\w* {config}/(\.[^/]+\.(new|old)|[^./]+\.cf)$")
    synced, gone = at(calls, rf"^fsync {config}$"), at(calls, rf"^unlink {journal}$")
    assert max(changes) < max(synced) < gone[-1]


def test_the_journal_is_on_the_disk_before_anything_is_replaced(found, traces, scenario):
    """A power cut between the two would leave a changed server that nothing tells the next change of."""
    calls = traces(scenario).calls
    config, journals, journal = names(found)
    first = at(calls, rf"^(rename|link)\w* {config}/")[0]
    written, synced = at(calls, rf"^rename {journal}\.new$"), at(calls, rf"^fsync {journals}$")
    assert any(one < two < first for one in written for two in synced)
    assert not any(number < first for number in at(calls, rf"^unlink {journal}(?<!\.new)$"))


def test_at_each_call_nobody_else_can_read_a_password_and_no_file_is_half_written(traces, scenario):
    """A password that is protected only after it was written is readable meanwhile, which no mode in the end shows."""
    trace = traces(scenario)
    assert trace.secrets and trace.wrong[:20] == []


def test_a_temporary_file_is_empty_and_roots_alone_until_it_has_its_owner(traces):
    """Between open(2) and fchmod(2) the umask must not decide who may read it."""
    assert traces(named("first set-up")).created == {(0o600, 0, 0, 0)}


def test_tables_are_there_before_main_cf_names_them(found, traces):
    """The other order: 451 for each address, for as long as it takes, or for good where it is cut off there."""
    calls = traces(named("first set-up")).calls
    config, _, _ = names(found)
    main, tables = at(calls, rf"^rename {config}/\.main\.cf\.new$"), at(calls, rf"^rename {config}/\.mariadb-.*\.new$")
    assert tables and main and max(tables) < min(main)


def test_tables_go_when_no_process_asks_them_any_more(found, traces):
    """They are deleted after main.cf was replaced and Postfix was reloaded."""
    calls = traces(named("remove")).calls
    config, _, _ = names(found)
    main, tables = at(calls, rf"^rename {config}/\.main\.cf\.new$"), at(calls, rf"^unlink {config}/mariadb-.*\.cf$")
    reloads = [number for number in at(calls, RELOAD) if number > max(main)]
    assert tables and main and reloads and min(reloads) < min(tables)


def test_an_undo_takes_the_tables_from_main_cf_first(found, traces):
    """In the order of the change main.cf would name tables that are gone."""
    calls = traces(named("undo of a first set-up")).calls
    config, _, _ = names(found)
    main = at(calls, rf"^rename {config}/\.main\.cf\.(old|new)$")
    tables = at(calls, rf"^unlink {config}/mariadb-.*\.cf$")
    assert tables and main and max(main) < min(tables)
