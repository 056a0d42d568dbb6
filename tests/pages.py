"""What README.md and docs/ tell a reader to type and to write, as Markdown itself reads it, and which tests do so.

A test that types a command takes it from here: `pages.command(…)` or `pages.block(…)`. By these calls
tests/unit/test_pages.py knows that it does.
"""

import ast
import collections
import json
import logging
import re
import textwrap
import types
from typing import Any, NamedTuple

import jinja2
import yaml
from markdown_it import MarkdownIt

from _ispmail_config import _SECTIONS as OUR_SECTIONS
from lab.minion import REPOSITORY

_INDEX = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
# In the order in which docs/index.md leads to them.
PAGES = [
    "README.md",
    "docs/index.md",
    *(f"docs/{name}.md" for name in re.findall(r"(?m)^(\w+)$", _INDEX)),
    *("CONTRIBUTING.md", "SECURITY.md"),
]
logging.getLogger("markdown_it").setLevel(logging.INFO)  # a line for each line of a page
# What begins with one of these words is a command.
_PROGRAMS = """
    salt salt-call salt-run salt-ssh salt-pip salt-key bin/demo bin/test bin/stamp bin/setup $(bin/setup)
    /opt/saltstack/salt/bin/python3 postfix postmap postconf postqueue postsuper postmulti sendmail doveadm doveconf
    dovecot mariadb mariadb-dump mysql mysqldump psql pg_dump vault apt apt-get dpkg systemctl service journalctl git
    pip pip3 pre-commit nox python python3 sudo su sh bash cp mv rm ln cat echo printf sed grep install mkdir chmod
    chown editor vi curl wget docker ss fuser ansible debops
"""
PROGRAMS = frozenset(_PROGRAMS.split())
_ASSIGNMENTS = r"(?:\w+=(?:\$\([^)]*\)|[^\s$]\S*)\s+(?:&& )?)*"


class Command(NamedTuple):
    """What is typed, in one line of a block or more, or in a sentence."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """It without the comment at its end, word by word."""
        return re.sub(r"\s+# .*$", "", self.text, flags=re.MULTILINE).split()

    @property
    def key(self) -> str:
        """It in one line, without the comment: equal keys are one command."""
        return " ".join(self.words)


class Block(NamedTuple):
    """An indented or fenced block of a page."""

    page: str
    line: int
    text: str

    @property
    def where(self) -> str:
        """Its page and line, and how it begins."""
        return f"{self.page}:{self.line}: {self.text.partition(chr(10))[0]}"

    @property
    def commands(self) -> list[Command]:
        """The commands of which it consists; none if it is something else."""
        return list(_commands(self)) if is_command(self.text) else []


def is_command(text: str) -> bool:
    """Whether a text begins with a program."""
    found = re.match(_ASSIGNMENTS + r"(\S+)", text)
    return bool(found) and found[1] in PROGRAMS


def _commands(block: Block):
    """Each with the lines that belong to it: what `\\` or an operator joins, and what stands before a word of `<<`."""
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        first = number
        if not lines[first].strip():
            number += 1
            continue
        while re.search(r"(\\|&&|\|)$", lines[number]):
            number += 1
        if until := re.search(r"<<(\w+)", lines[number]):
            number = lines.index(until[1], number)
        elif is_indented := re.match(r"editor ", lines[number]):
            # Below it is what is written there.
            while is_indented and number + 1 < len(lines) and lines[number + 1].startswith(" "):
                number += 1
        yield Command(block.page, block.line + first, "\n".join(lines[first : number + 1]))
        number += 1


def _tokens(page: str):
    return MarkdownIt("commonmark").enable("table").parse((REPOSITORY / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[Block]:
    """All blocks of a page, but for those that are directives to Sphinx."""
    found = []
    for token in _tokens(page):
        if token.type == "code_block" or (token.type == "fence" and not token.info.startswith("{")):
            text = textwrap.dedent(token.content).strip("\n")
            found.append(Block(page, token.map[0] + 1 + (token.type == "fence"), text))
    return found


def _inline(page: str):
    """Each `code` of a page that is a command with an argument."""
    row = 0
    for token in _tokens(page):
        row = token.map[0] if token.map else row
        for part in token.children or []:
            if part.type == "code_inline" and " " in part.content and is_command(part.content):
                words = r"\s+".join(map(re.escape, part.content.split()))
                before = token.content[: re.search(words, token.content).start()]
                yield Command(page, row + 1 + before.count("\n"), part.content)


def commands(page: str) -> list[Command]:
    """All that a page tells to type, in its order."""
    found = [each for block in blocks(page) for each in block.commands]
    return sorted([*found, *_inline(page)], key=lambda command: command.line)


def command(page: str, start: str) -> Command:
    """The one command of a page that starts so."""
    (found,) = {each.text: each for each in commands(page) if each.text.startswith(start)}.values()
    return found


def block(page: str, after: str) -> Block:
    """The first block of a page below a text."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert text.count(after) == 1, f"{page} has {after!r} {text.count(after)} times"
    line = text[: text.index(after)].count("\n") + 1
    return next(each for each in blocks(page) if each.line > line)


class Use(NamedTuple):
    """A call of this file's functions in a test: the test, and what it takes from which page."""

    test: str
    found: list[Block | Command]


def _calls(tree: ast.AST, name: str):
    """Each call `pages.FUNCTION("…")` below a node, with the function or class of a test that it is in."""
    for node in ast.iter_child_nodes(tree):
        inside = name
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not name:
            inside = node.name
        if (
            isinstance(node, ast.Call)
            and re.fullmatch(r"pages\.(block|blocks|command|commands)", ast.unparse(node.func))
            and all(isinstance(argument, ast.Constant) for argument in node.args)
        ):
            yield inside, node.func.attr, [argument.value for argument in node.args]
        yield from _calls(node, inside)


def uses() -> list[Use]:
    """What tests take from pages by name."""
    found = []
    for file in sorted(REPOSITORY.glob("tests/*/*.py")):
        text = file.read_text(encoding="utf-8")
        if "pages." in text:
            for name, function, arguments in _calls(ast.parse(text), ""):
                got: Any = globals()[function](*arguments)
                where = f"{file.relative_to(REPOSITORY)}::{name}"
                found.append(Use(where, got if isinstance(got, list) else [got]))
    return found


def used_commands() -> dict[str, str]:
    """The key of each command that a test takes from a page by name, and that test."""
    return {
        command.key: use.test
        for use in uses()
        for got in use.found
        for command in (got.commands if isinstance(got, Block) else [got])
    }


_NOTHING = r"\Amx1:\s*\Z"
_SILENT = r"\A\s*\Z"
# What tests/integration/test_docs_commands.py types: a text of the command, and a pattern that is in what it prints.
# The first that fits counts.
ANSWERS: dict[str, str] = {
    "| sed": _SILENT,
    "chmod 600": _SILENT,
    "postfix stop": "",
    "postfix start": "",
    "postfix status": "",
    "postfix reload": "",
    "postqueue -p": r"Mail queue is empty|^\S+ +\d+ ",
    "postconf -M": r"^smtp +inet|^\S+:\d+ +inet",
    "saltutil.sync_all": r"mx1:\n +-+\n +beacons:",
    "saltutil.refresh_pillar": r"\Amx1:\n +True$",
    "sys.doc postfix_map": r"^postfix_map\.lookup:$",
    "config_directory=/etc/postfix-submission": "in /etc/postfix-submission, as pillar",
    "postfix_map.found": r"virtual_alias_maps: \{\}",
    "postfix_map.lookup": r"answer:\n +john@example\.org",
    "postfix_map.read": r"password:\n +\*\*\*$",
    "postfix_map.answers": _NOTHING,
    "postfix_map.probe": _NOTHING,
    "postfix_map.consumers": _NOTHING,
    "postfix_map.old_processes": _NOTHING,
    "postfix_map.compare": r"faults:\n +maps:\n +4",
    "postfix_map.apply": r"maps:\n +4",
    "postfix_map.remove": r"new:\n +None\n +old:\n +mysql:/etc/postfix/mariadb-smtpd-sender-login-maps\.cf",
    "postfix_map.history": r"act:\n +apply$",
    "postfix_map.rollback": r"smtpd_sender_login_maps:\n(.*\n)* +new:\n +mysql:/etc/postfix/mariadb-smtpd-sender",
    "postfix_map.fingerprints": r"virtual_alias_maps:\n +[0-9a-f]{32}",
    "postconf.get '[virtual_alias_maps, myhostname]'": r"myhostname:\n +\S",
    "postconf.get": "mysql:/etc/postfix/mariadb-virtual-alias-maps.cf",
    "message_size_limit: null": r"mx1:\n +-+\s*\Z",
    "postconf.set": r"new:\n +20480000",
    "postfix_database.read": "SELECT ON `mailserver`",
    "postfix_database.refused": _NOTHING,
    "postfix_database.holders": r"unnamed:\s*\Z",
    "postfix_database.": r"changes:\n +-+\n +warnings:\s*\Z",
    "postfix_doctor.check width=": r"result +check +where +fix\n(.*\n)* +ok +smtpd can ask its maps",
    "postfix_doctor.check": r"check:\n +files and main\.cf are as pillar says",
    "event.send": r"\ATrue$",
    "ispmail.new_password main test=True": "- write a new password to sdb",
    "ispmail.new_password main": "a new one is in sdb and in pillar",
    "ispmail.rotate test=True": r"stops:\n +would:\n +- accept the new password",
    "ispmail.rotate": r"reasons:\n(.*\n)* +main +mx1 +ok",
    "orch.rotate": r"Failed: +0$",
    "ispmail.sites": r"canary:\n +- mx1",
    "ispmail.status": r"reasons:\n(.*\n)* +main +mx1 +\S+ +4 +as pillar +correct",
    "ispmail.holders main": r"\Amx1:$",
    "ispmail.prove main": r"\Amx1:\n +4$",
    "salt-run ispmail.reapply": r"\Amain:\n +\d{20}$",
    "ispmail.reapply": r"result:\n +True$",
    "ispmail.version": r"\d+\.\d+\.\d+\+[0-9a-f]{12}$",
    "state.apply": r"Failed: +0$",
}

# What nobody types: the command, and why.
_A_NAME = "a program is named, and nobody is told to type this"
NOT_TYPED: dict[str, str] = {
    "postconf -e": _A_NAME,
    "postmap -q": _A_NAME,
    "sed -i": _A_NAME,
    "salt-call --local": _A_NAME,
    "salt-pip install": "only Salt's own packages have it; the page says that it was not tried",
    "/opt/saltstack/salt/bin/python3 -m salt_ispmail": "the same",
    "pre-commit install": "it changes the checkout's .git; .pre-commit-config.yaml has what it would run",
}

# Of developers' commands a test sees only that the programs, files and options are there: they run for hours.
OF_DEVELOPERS = r"(\w+=\S+ )*(\$\(bin/setup\) -m |bin/test\b|python -m tests\.)"


# The blocks that are no command and no configuration: the page and how the block begins, and what it is. What no key of
# Salt or of ours begins, on a page of figures, is one.
SHOWN = {
    ("docs/rotation.md", "main: Nobody holds"): "what a rotation prints, see tests/unit/test_ispmail_rotation.py",
    ("docs/messages.md", "Pillar has errors"): "a fault, see tests/unit/test_ispmail_tablefile.py",
    ("docs/operations.md", "site  server"): "a table, see tests/unit/test_ispmail_status.py",
    ("docs/ARCHITECTURE.md", "import _ispmail_stamp"): "the head of each synced file, which bin/stamp writes",
}
FIGURES = ("docs/costs.md", "docs/SCALING.md")
_DRAWING = re.compile(r"[─│┌└►▼▲]")
# The first key of each piece of Salt's own configuration.
_OF_SALT = (
    *("file_client", "fileserver_backend", "file_roots", "publisher_acl", "myvault", "beacons", "schedule", "reactor"),
    *("ext_pillar", "mx1", "Mails may have 20 MB", "The limits of Postfix", "vault", "base"),
)


def rendered(text: str) -> str:
    """A text of pillar without its Jinja: each function of Salt gives a login, or a text where one is written."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["json"] = lambda value: json.dumps(str(value))
    looked_up = types.SimpleNamespace(username="mailserver_a", password="x")
    return environment.from_string(text).render(salt=collections.defaultdict(lambda: lambda *_, **__: looked_up))


def settings(block: Block) -> dict[str, Any] | None:
    """What a block of YAML says, None if it is none. YAML that cannot be read is an error."""
    first = re.search(r"(?m)^[^#\s{].*$", block.text)
    key = first[0].partition(":")[0] if first and ":" in first[0] else ""
    if key.startswith("ispmail") or key in OUR_SECTIONS or key in _OF_SALT:
        found = yaml.safe_load(rendered(block.text))
        assert isinstance(found, dict), block.where
        return found
    return None


def is_shown(block: Block) -> bool:
    """Whether it only shows something: a drawing, figures, or what is declared above."""
    declared = any(block.page == page and block.text.startswith(start) for page, start in SHOWN)
    return declared or block.page in FIGURES or bool(_DRAWING.search(block.text))


def answer(command: Command) -> str | None:
    """The pattern that has to be in what a command prints, None if nobody has written one."""
    return next((pattern for text, pattern in ANSWERS.items() if text in command.key), None)


def to_type() -> list[Command]:
    """What tests/integration/test_docs_commands.py types, page by page; what differs only in its target once."""
    found: dict[str, Command] = {}
    elsewhere = used_commands()
    for page in PAGES:
        for each in commands(page):
            if each.key not in elsewhere and each.key not in NOT_TYPED and answer(each) is not None:
                found.setdefault(re.sub(r"^salt \S+", "salt", each.key), each)
    return list(found.values())
