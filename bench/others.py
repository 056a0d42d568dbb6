"""The same table files and parameters by Salt's own states and by Ansible, for `bench.apply`. Neither asks a table."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lab.minion import Minion
from lab.postfix import Postfix

TEXT = "user = mailserver\npassword = bench-secret\nhosts = 127.0.0.1\ndbname = mailserver\nquery = {}\n"
# What an admin writes: a file for each table, one command for main.cf where it differs, one reload after a change.
SLS = """{%- set given = pillar['plain'] %}
{%- for path, text in given['files'].items() %}
{{ path }}:
  file.managed:
    - user: root
    - group: postfix
    - mode: '0640'
    - contents: {{ text | json }}
    - show_changes: False
    - require_in:
      - cmd: main.cf
    - onchanges_in:
      - cmd: reload
{%- endfor %}

main.cf:
  cmd.run:
    - name: postconf -c {{ given['directory'] }} -e {{ given['assignments'] }}
    - unless: {{ given['is_so'] | json }}

reload:
  cmd.run:
    - name: postfix -c {{ given['directory'] }} reload
    - onchanges:
      - cmd: main.cf
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - copy: {dest: "{{ item.key }}", content: "{{ item.value }}", owner: root, group: postfix, mode: "0640"}
      loop: "{{ files | dict2items }}"
      no_log: true
      notify: reload
    - command: postconf -c {{ directory }} -h {{ names }}
      register: found
      changed_when: false
    - command: postconf -c {{ directory }} -e {{ assignments }}
      when: found.stdout != values
      notify: reload
  handlers:
    - name: reload
      command: postfix -c {{ directory }} reload
"""


class Tool(Protocol):
    """A tool that writes table files and parameters."""

    name: str

    def prepare(self, queries: Mapping[str, str], postfix: Postfix) -> None:
        """Tell it what is wanted: parameters, each with the query of its table."""

    def run(self) -> subprocess.CompletedProcess[str]:
        """Bring Postfix to that."""


def wanted(queries: Mapping[str, str], postfix: Postfix) -> dict[str, object]:
    """What both tools are given."""
    paths = {name: f"{postfix.config_directory}/{name}.cf" for name in queries}
    assignments = [f"{name}=mysql:{path}" for name, path in paths.items()]
    names, values = " ".join(paths), "\n".join(f"mysql:{path}" for path in paths.values())
    return {
        "directory": str(postfix.config_directory),
        "files": {paths[name]: TEXT.format(query) for name, query in queries.items()},
        "names": names,
        "values": values,
        "is_so": f'test "$(postconf -c {postfix.config_directory} -h {names})" = "{values}"',
        "assignments": " ".join(assignments),
    }


class PlainStates:
    """Salt's own states."""

    name = "Salt's own states"

    def __init__(self, directory: Path):
        """Write the SLS below `directory`."""
        (directory / "sls").mkdir(parents=True)
        (directory / "sls" / "plain.sls").write_text(SLS)
        self._minion = Minion(directory / "minion", file_roots={"base": [str(directory / "sls")]})

    def prepare(self, queries: Mapping[str, str], postfix: Postfix) -> None:
        """Write pillar."""
        self._minion.pillar = {"plain": wanted(queries, postfix)}

    def run(self) -> subprocess.CompletedProcess[str]:
        """Apply the SLS."""
        return self._minion.command("--retcode-passthrough", "state.apply", "plain")


class Ansible:
    """A playbook, run by an ansible-core that is installed for it."""

    name = "Ansible"

    def __init__(self, directory: Path):
        """Install it below `directory`."""
        self._directory = directory
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([f"{directory}/bin/pip", "install", "-q", "ansible-core"], check=True)
        (directory / "playbook.yml").write_text(PLAYBOOK)

    def prepare(self, queries: Mapping[str, str], postfix: Postfix) -> None:
        """Write the variables."""
        (self._directory / "wanted.json").write_text(json.dumps(wanted(queries, postfix)))

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the playbook."""
        options = ["-c", "local", "-i", "localhost,", "-e", "@wanted.json"]
        python = f"ansible_python_interpreter={self._directory}/bin/python"
        return subprocess.run(
            [f"{self._directory}/bin/ansible-playbook", *options, "-e", python, "playbook.yml"],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
