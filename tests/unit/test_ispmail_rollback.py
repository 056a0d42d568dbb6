"""What a rollback would bring back, whom it would overwrite, and what people are told of it; the rest needs servers."""

import os
from types import SimpleNamespace

import pytest

import _ispmail_rollback
from _ispmail_config import Instance, Map
from _ispmail_config_consumers import NONE, Consumers
from _ispmail_errors import Failed, InvalidInput
from _ispmail_files import File
from _ispmail_history import History
from _ispmail_journal import Journal
from _ispmail_replaced import Entry, Keys, Values, kept

TABLE = b"user = mailserver\npassword = canary-%d\nquery = SELECT 1 FROM a WHERE b='%%s'\n"
OPTIONS = b'[client]\nuser="mailserver"\npassword="canary-%d"\n'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A directory that only root may write, and what main.cf there sets."""
    monkeypatch.setattr("_ispmail_files.unsafe_directory", lambda directory: None)
    found = SimpleNamespace(directory=tmp_path, values={})
    monkeypatch.setattr("_ispmail_postconf.explicit", lambda directory: found.values)
    return found


def file(server, content, mode=0o640, name="a.cf"):
    return File(str(server.directory / name), content, os.getuid(), os.getgid(), mode)


def there(server, content, mode=0o640):
    path = server.directory / "a.cf"
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)
        path.chmod(mode)


def entry(number, *files, parameters=None, act="apply", interrupted=False):
    return Entry(number, 1_700_000_000, act, "ispmail", True, tuple(files), parameters or {}, interrupted)


def step(server, before, after, between=None):
    half_done = () if between is None else (kept(file(server, before), file(server, between), Keys()).after,)
    return kept(file(server, before), file(server, after), Keys(), half_done)


def back(server, now, then):
    return _ispmail_rollback._Back(file(server, now), file(server, then))


def test_from_the_newest_to_the_oldest(server):
    """What was there first comes back, and what was left last has to be there."""
    undone = [entry(3, step(server, b"c", b"d")), entry(2), entry(1, step(server, b"a", b"b"))]
    there(server, b"d")
    assert _ispmail_rollback._files_to_be(undone) == ([back(server, b"d", b"a")], [])
    for held in (b"a", b"a"):
        there(server, held)
        assert _ispmail_rollback._files_to_be(undone) == ([], [])
    for foreign in (b"b", b"c", b"x", None):
        there(server, foreign)
        with pytest.raises(Failed, match=r"a rollback would overwrite what is not ours:\n- .*/a\.cf was changed"):
            _ispmail_rollback._files_to_be(undone)


def test_a_change_that_was_cut_off_may_have_left_either(server):
    half = step(server, b"b", b"c", b"x")
    undone = [entry(2, half, interrupted=True), entry(1, step(server, b"a", b"b"))]
    for held in (b"b", b"c", b"x"):
        there(server, held)
        assert _ispmail_rollback._files_to_be(undone) == ([back(server, held, b"a")], [])
    there(server, b"z")
    with pytest.raises(Failed, match="changed or deleted by somebody else since"):
        _ispmail_rollback._files_to_be(undone)


@pytest.mark.parametrize(("was", "warned"), [(0o640, False), (0o600, False), (0o644, True), (0o641, True)])
def test_a_mode_that_lets_others_in_again_is_told(server, was, warned):
    there(server, b"b")
    before = file(server, b"a", was)
    files, warnings = _ispmail_rollback._files_to_be([entry(1, kept(before, file(server, b"b"), Keys()))])
    assert [each.then for each in files] == [before]
    assert bool(warnings) is warned and all(f"gets mode {was:04o} again" in each for each in warnings)


@pytest.mark.parametrize(("content", "is_left"), [(OPTIONS % 1, True), (TABLE % 1, False), (b"[client]\n", False)])
def test_only_a_new_option_file_is_left(server, content, is_left):
    there(server, content)
    files, warnings = _ispmail_rollback._files_to_be([entry(1, step(server, None, content))])
    assert (len(files), len(warnings)) == ((0, 1) if is_left else (1, 0))


def test_a_directory_of_others_is_not_written(server, monkeypatch):
    monkeypatch.setattr("_ispmail_files.unsafe_directory", lambda directory: "others may")
    there(server, b"b")
    with pytest.raises(Failed, match="cannot be written safely by root: others may"):
        _ispmail_rollback._files_to_be([entry(1, step(server, b"a", b"b"))])


def test_parameters_of_main_cf(server):
    undone = [
        entry(2, parameters={"x": Values("b", "c"), "y": Values("1", "2", ("9",))}, interrupted=True),
        entry(1, parameters={"x": Values(None, "b"), "z": Values("same", "other")}),
    ]
    server.values = {"x": "c", "y": "9", "z": "same"}
    assert _ispmail_rollback._values_to_be(undone, "/etc/postfix") == {"x": Values("c", None), "y": Values("9", "1")}
    for held in ("a", "c, d"):
        server.values = {"x": held, "y": "2", "z": "other"}
        with pytest.raises(Failed, match=r"- x in /etc/postfix/main\.cf was changed by somebody else since: set"):
            _ispmail_rollback._values_to_be(undone, "/etc/postfix")
    assert _ispmail_rollback._values_to_be([entry(1)], "/nowhere") == {}


@pytest.mark.parametrize(("given", "number"), [(None, 12), (12, 12), ("3", 3), (3, 3)])
def test_an_entry_by_its_number(given, number):
    entries = [entry(12), entry(3)]
    assert _ispmail_rollback._chosen(entries, given, "/etc/postfix").number == number


@pytest.mark.parametrize("given", ["", "1", 1, 0, "../3", ["3"], {"3": 3}, True, "3 ", "apply"])
def test_an_entry_that_is_not_there_lists_those_that_are(given):
    with pytest.raises(InvalidInput, match=r"^the history has no such entry, [a-z ]+: it has 12 \(apply, .*"):
        _ispmail_rollback._chosen([entry(12), entry(3, act="remove")], given, "/etc/postfix")
    with pytest.raises(InvalidInput, match=r"^there is nothing to go back to"):
        _ispmail_rollback._chosen([], given, "/etc/postfix")


def test_what_people_are_told_has_no_secret(server):
    a, other = str(server.directory / "a.cf"), str(server.directory / "b.cf")
    files = [
        step(server, TABLE % 1, TABLE % 2),
        kept(file(server, None, name="b.cf"), file(server, OPTIONS % 3, name="b.cf"), Keys()),
        kept(file(server, b"# x\n" + TABLE % 4, 0o644, "c.cf"), file(server, TABLE % 4, name="c.cf"), Keys()),
        kept(file(server, TABLE % 5, name="d.cf"), file(server, None, name="d.cf"), Keys()),
    ]
    values = {"virtual_alias_maps": Values(None, "x"), "smtp_sasl_password_maps": Values("static:canary-6", None)}
    found = _ispmail_rollback._described(files, values, {a: "a_map"}, str(server.directory))
    assert found["a_map"] == {"password": {"old": "***", "new": "***"}}
    assert found[other]["file"] == {"old": None, "new": other} and found[other]["password"]["new"] == "***"
    assert found[str(server.directory / "c.cf")] == {
        "mode": {"old": "0644", "new": "0640"},
        "layout": {"old": "another", "new": "another"},
    }
    assert found[str(server.directory / "d.cf")] == {"file": {"old": str(server.directory / "d.cf"), "new": None}}
    assert found["main.cf"]["smtp_sasl_password_maps"] == {"old": "static:***", "new": None}
    assert "canary" not in repr(found)


def test_a_login_is_tried_where_pillar_says(server, monkeypatch):
    tried = []
    monkeypatch.setattr("_ispmail_logins.probe", lambda consumers: tried.append(dict(consumers.keys)) or ["a doubt"])
    files = [back(server, TABLE % 1, OPTIONS % 2), back(server, OPTIONS % 2, TABLE % 1)]
    known = Consumers("ispmail", (), {"hosts": "db", "dbname": "m"})
    assert _ispmail_rollback._probe_logins(files, known) == ["a doubt"]
    assert tried == [{"hosts": "db", "dbname": "m", "user": "mailserver", "password": "canary-2"}]
    (warning,) = _ispmail_rollback._probe_logins(files, NONE)
    assert "was not tried, because pillar has no hosts" in warning and len(tried) == 1


def test_tables_that_main_cf_would_name_again_have_to_be_there(monkeypatch):
    """One that is broken already is no reason; one that only the rollback would bring is."""
    broken = {"before": [], "after": []}

    def broken_others(maps, inventory, running, parameters):
        assert parameters == ["x"]
        return [SimpleNamespace(table=each, opens=True) for each in broken[inventory.name]]

    monkeypatch.setattr("_ispmail_answers.broken_others", broken_others)
    monkeypatch.setattr("_ispmail_answers.unasked_others", lambda maps, inventory, parameters: [inventory.name])
    monkeypatch.setattr(_ispmail_rollback, "unaskable", lambda groups, directory: (list(failures), ["a doubt"]))
    monkeypatch.setattr("_ispmail_apply.refuse_before_a_reload", lambda broken, inventory, running: ["told"])
    before, after = (SimpleNamespace(name=name, settings=SimpleNamespace(config_directory="/")) for name in broken)
    failures = []
    for held in ([], ["a"]):
        broken.update(before=held, after=held)
        assert _ispmail_rollback._refuse_unaskable([], ["x"], before, after, True) == ["a doubt", "after", "told"]
    broken["after"] = ["a", "b"]
    with pytest.raises(Failed, match=r"What was there then cannot be asked any more:\n- .*'b'"):
        _ispmail_rollback._refuse_unaskable([], ["x"], before, after, True)
    broken["after"], failures = [], ["Access denied"]
    with pytest.raises(Failed, match=r"cannot be asked any more:\n- Access denied$"):
        _ispmail_rollback._refuse_unaskable([], ["x"], before, after, True)


def test_files_are_called_as_pillar_calls_them(server):
    maps = (Map("a_map", "x", "mysql", False, str(server.directory / "a.cf")),)
    instance = Instance("ispmail", "/etc/postfix", maps)
    consumer = SimpleNamespace(name="dovecot", option_file=str(server.directory / "o.cnf"))
    consumers = SimpleNamespace(with_option_file=[consumer])
    assert _ispmail_rollback._names(instance, consumers) == {
        str(server.directory / "a.cf"): "a_map",
        str(server.directory / "o.cnf"): "consumer:dovecot",
    }


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_which_postfix_a_pillar_key_has_changed_last(tmp_path, monkeypatch, is_cut_off):
    """What was changed by another key since is that one's. A change that was cut off counts too."""
    monkeypatch.setattr("_ispmail_files.require_root", lambda: None)
    done = {"a": ["ispmail"], "b": ["ispmail", "second"], "c": ["second", "ispmail"], "d": []}
    for name, keys in done.items():
        journal = Journal(str(tmp_path / name), str(tmp_path))
        with journal.locked():
            history = History(journal.history)
            os.makedirs(journal.history, exist_ok=True)
            for key in keys:
                history.prepare(entry(0, parameters={"x": Values(None, key)})._replace(pillar_key=key), 5)
                journal.write([])
                if not is_cut_off or key is not keys[-1]:
                    history.commit(5)
                    journal.clear()
    directories = _ispmail_rollback.last_changed_by("ispmail", str(tmp_path))
    assert directories == [str(tmp_path / "a"), str(tmp_path / "c")]
    assert _ispmail_rollback.last_changed_by("third", str(tmp_path)) == []
