"""Which instances of Postfix a server has, by real main.cf files and postconf. Running ones: tests/functional."""

import os

import pytest

import _ispmail_instances
from _ispmail_errors import CannotAsk
from _ispmail_instances import may_run, old_processes, others
from _ispmail_inventory import read

from .configured import Configured

A = {"a": {"parameter": "virtual_alias_maps"}}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Makes instances by their names. The default one of this machine does not count."""
    monkeypatch.setattr(_ispmail_instances, "DEFAULT_DIRECTORY", "/nowhere")

    def server(name, main_cf=""):
        (tmp_path / name).mkdir(exist_ok=True)
        return Configured(tmp_path / name).main_cf(main_cf)

    return server


@pytest.fixture
def default(server, monkeypatch):
    """The default instance of this server."""
    found = server("default")
    monkeypatch.setattr(_ispmail_instances, "DEFAULT_DIRECTORY", str(found.directory))
    return found


def folders(found):
    return [each.settings.config_directory for each in found.read]


def inventory(configured):
    return read(str(configured.directory))


def test_who_names_whom(server, default):
    """The default one, those of pillar, and all that any of them name: each once, links resolved, none of the given."""
    one, two, three, four = (server(name) for name in ("one", "two", "three", "four"))
    os.symlink(two.directory, f"{one.directory}/link")
    default.main_cf(f"multi_instance_directories = {one.directory}, DIR /nowhere")
    one.main_cf(f"x = DIR/link\nmulti_instance_directories = $x {two.directory}")
    two.main_cf(f"alternate_config_directories = {three.directory} {one.directory}")
    expected = [str(default.directory), f"{one.directory}/link", str(three.directory)]
    found = others([inventory(one)])
    assert folders(found) == expected and found.unread == {}
    expected.insert(1, str(four.directory))
    assert folders(others([inventory(one)], [str(four.directory), str(one.directory)])) == expected
    assert others([inventory(each) for each in (default, one, two, three)]) == ((), {})


def break_master_cf(folder):
    os.unlink(f"{folder}/master.cf")


def make_a_fifo(folder):
    os.unlink(f"{folder}/main.cf")
    os.mkfifo(f"{folder}/main.cf")


def make_a_loop(folder):
    os.unlink(f"{folder}/main.cf")
    os.symlink("main.cf", f"{folder}/main.cf")


@pytest.mark.parametrize("broken", [break_master_cf, make_a_fifo, make_a_loop])
def test_an_instance_that_cannot_be_read(server, broken):
    """That nobody can tell what it asks is not that it asks nothing."""
    two, three = server("two"), server("three")
    one = server("one", f"multi_instance_directories = {two.directory} {three.directory}")
    broken(two.directory)
    found = others([inventory(one)])
    assert folders(found) == [str(three.directory)]
    ((folder, sentence),) = found.unread.items()
    assert folder == str(two.directory)
    assert sentence.startswith(f"whether the Postfix in {folder} asks the table files could not be told: ")
    fix = ": mend that, or take the directory out of multi_instance_directories and alternate_config_directories of "
    assert sentence.endswith(f"{fix}main.cf")
    with pytest.raises(CannotAsk, match=rf"^whether the Postfix in {folder} asks"):
        old_processes([one.instance(**A)])


def test_which_instance_may_run(server, default, monkeypatch):
    """Postmulti starts those that are enabled, and `postfix start` the default one; any other may run all the same."""
    running = []
    monkeypatch.setattr("_ispmail_postfix.running", lambda queue: queue in running)
    assert may_run(inventory(default)) is True
    two = server("two")
    assert may_run(inventory(two)) is False
    for value, enabled in (("no", False), ("YES", True), ("$x", True)):
        assert may_run(inventory(two.main_cf(f"multi_instance_enable = {value}\nx = yes"))) is enabled
    two.main_cf("")
    running.append(str(two.queue))
    assert may_run(inventory(two)) is True

    def fail(queue):
        raise CannotAsk("it cannot be read")

    monkeypatch.setattr("_ispmail_postfix.running", fail)
    assert may_run(inventory(two)) is True


def test_whose_old_processes_count(server, monkeypatch):
    """Each instance that asks a table file of pillar: the file's own, one whose maps are null, and one of nobody."""
    one, null, two, three = (server(name) for name in ("one", "null", "two", "three"))
    asked = {}

    def of_postfix(files, queue, programs):
        asked[queue] = sorted(files)
        return ["smtpd 1"] if files else []

    monkeypatch.setattr("_ispmail_postfix.old_processes", of_postfix)
    os.symlink(one.path("a"), f"{two.directory}/link.cf")
    one.table("a").main_cf(f"multi_instance_directories = {two.directory} {three.directory}")
    null.main_cf(f"relocated_maps = proxy:mysql:{one.path('a')}")
    two.main_cf("relocated_maps = mysql:DIR/link.cf mysql:DIR/own.cf")
    of_null = null.instance()._replace(pillar_key="null")
    found = old_processes([one.instance(**A), of_null])
    assert found == ["smtpd 1", "smtpd 1", f"smtpd 1 of the Postfix in {two.directory}"]
    path = one.path("a")
    assert asked == {str(one.queue): [path], str(null.queue): [path], str(two.queue): [path], str(three.queue): []}
    # Where pillar names no map there may be no Postfix; where it names one, it has to be there.
    assert old_processes([of_null._replace(config_directory="/nowhere")]) == []
    with pytest.raises(CannotAsk, match=r"^there is no /nowhere/main\.cf"):
        old_processes([one.instance(**A)._replace(config_directory="/nowhere")])
