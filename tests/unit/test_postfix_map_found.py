"""The pillar that describes the tables of a server."""

import pytest
import yaml
from salt.exceptions import CommandExecutionError, SaltInvocationError

from _ispmail_errors import Failed
from _modules import postfix_map_found
from lab.postfix import write_cold

from .postfix_files import postfix
from .test_ispmail_reapply import fails

QUERY = "SELECT 1 FROM x WHERE y='%s'"


def test_it_is_a_part_of_postfix_map():
    assert postfix_map_found.__virtual__() == "postfix_map"


def test_the_tables_that_a_server_has_as_pillar(on_minion, tmp_path):
    """With the real postconf. Only a directory that pillar names, or Postfix, may be looked at."""
    keys = "user = former\npassword = secret\nhosts = db\ndbname = mail\n"
    write_cold(tmp_path / "own.cf", f"{keys}query = {QUERY}\n")
    directory = postfix(tmp_path, f"virtual_alias_maps = mysql:{tmp_path}/own.cf\n")
    on_minion(postfix_map_found, ispmail={"postfix": {"config_directory": directory}})
    text = postfix_map_found.found(directory)
    found = yaml.safe_load(text)["ispmail"]
    assert found["postfix"] == {"config_directory": directory} and "secret" not in text
    assert found["maps"]["virtual_alias_maps"]["query"] == QUERY
    with pytest.raises(SaltInvocationError, match="config_directory must be /etc/postfix, one that pillar names"):
        postfix_map_found.found("/srv")


def test_by_default_it_is_the_default_postfix(on_minion, monkeypatch):
    on_minion(postfix_map_found)
    monkeypatch.setattr("_ispmail_postconf.known_directory", lambda directory, named: directory)
    monkeypatch.setattr("_ispmail_found.found", lambda directory: [directory])
    monkeypatch.setattr("_ispmail_found.text", lambda *found: found)
    assert postfix_map_found.found() == (["/etc/postfix"], "/etc/postfix")


def test_errors_are_salts(on_minion, monkeypatch):
    on_minion(postfix_map_found)
    monkeypatch.setattr("_ispmail_postconf.known_directory", fails(Failed("There is no Postfix")))
    with pytest.raises(CommandExecutionError, match="There is no Postfix"):
        postfix_map_found.found()
