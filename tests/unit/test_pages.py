"""Each command and each block of README.md and docs/ is one that some test types or checks, see tests/pages.py."""

import os
import re
import subprocess
import sys

import pytest
import yaml

import _ispmail_salt
import _ispmail_sites
from lab.minion import REPOSITORY

from .. import pages
from .test_documentation import called, public_functions

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]
COMMANDS = [command for page in pages.PAGES for command in pages.commands(page)]
OF_DEVELOPERS = {each.key: each for each in COMMANDS if re.match(pages.OF_DEVELOPERS, each.key)}


def test_the_pages_are_all_that_there_are():
    named = {path for path in pages.PAGES if path.startswith("docs/")}
    assert named == {f"docs/{path.name}" for path in REPOSITORY.glob("docs/*.md")}
    assert len(COMMANDS) > 100


def test_each_command_is_typed_by_a_test():
    """One that no test types is a promise that nobody keeps."""
    elsewhere = pages.used_commands()
    untyped = [
        str(command)
        for command in COMMANDS
        if command.key not in {*elsewhere, *pages.NOT_TYPED, *OF_DEVELOPERS} and pages.answer(command) is None
    ]
    assert not untyped, "\n".join(["type them in a test, or give tests/pages.py a word of their answers:", *untyped])


def test_each_function_of_ours_that_a_page_names_is_there():
    """A command is typed by a test that needs servers, and a name in a sentence by none."""
    ours = {f"{called(file)}.{name}" for file, name, _ in (given.values for given in public_functions())}
    ours |= {f"ispmail.{path.stem}" for path in REPOSITORY.glob("salt/ispmail/*.sls")}
    modules = "|".join(sorted({each.partition(".")[0] for each in ours}))
    named = {
        f"{page}: {name}"
        for page in pages.PAGES
        for code in re.findall(r"`([^`]+)`|^ {4,}(.*)$", (REPOSITORY / page).read_text(), re.MULTILINE)
        for name in re.findall(rf"(?<![\w/.:-])(?:{modules})\.[a-z_]+(?=[\s`,)]|$)", " ".join(code))
    }
    assert len(named) > 100
    wrong = sorted(each for each in named if each.partition(": ")[2] not in ours)
    assert not wrong, "\n".join(wrong)


def test_nothing_is_declared_that_no_page_has():
    keys = {command.key for command in COMMANDS}
    assert [text for text in pages.NOT_TYPED if text not in keys] == []
    counted = {next((text for text in pages.ANSWERS if text in key), None) for key in keys}
    assert [text for text in pages.ANSWERS if text not in counted] == []


@pytest.mark.parametrize("command", OF_DEVELOPERS.values(), ids=lambda command: command.key)
def test_what_developers_type_is_there(command):
    """The program, its files and its options."""
    words = re.sub(r"^(\w+=\S+ )*", "", command.key).split()
    paths = [word for word in words if re.match(r"(tests|docs|bench|bin)/", word)]
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    if words[0] in ("$(bin/setup)", "python") and words[2] not in ("pytest", "nox", "sphinx"):
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/_utils"}
        program = [sys.executable, "-m", words[2], "--help"]
        done = subprocess.run(program, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        options = [word for word in words[3:] if word.startswith("--")]
        assert [option for option in options if option not in done.stdout] == []


def test_each_block_is_a_command_or_configuration_or_declared():
    used = {got for use in pages.uses() for got in use.found if isinstance(got, pages.Block)}
    unknown = [
        block.where
        for block in BLOCKS
        if not block.commands and pages.settings(block) is None and not pages.is_shown(block) and block not in used
    ]
    assert not unknown, "\n".join(
        ["take them by pages.block(…) in a test, or declare them in tests/pages.py:", *unknown]
    )
    starts = [(block.page, block.text) for block in BLOCKS]
    declared = [
        key for key in pages.SHOWN if not any(page == key[0] and text.startswith(key[1]) for page, text in starts)
    ]
    assert declared == [], "no page has it"


def pillars():
    """Each block that is pillar: whole, or some of its sections."""
    for block in BLOCKS:
        found = pages.settings(block) or {}
        if set(found) <= set(pages.OUR_SECTIONS):
            found = {"ispmail": found}
        for key, section in found.items():
            if key.startswith("ispmail") and "sites" not in section and found:
                yield pytest.param(key, section, id=f"{block.page}:{block.line}")


@pytest.mark.parametrize(("key", "section"), list(pillars()))
def test_pillar_is_what_the_library_takes(key, section):
    """What a page leaves out has its default; only the password has none. Its placeholder is no password."""
    whole = {**section, "database": {"password": "x", **section.get("database", {})}}
    looked_up = yaml.safe_load(re.sub(r"sdb://[\w/-]+|(?i:the password of .+)", "value", yaml.safe_dump(whole)))
    _ispmail_salt.wanted({key: looked_up}, {}, key)
    _ispmail_salt.database({key: looked_up}, {}, key)


@pytest.mark.parametrize("block", [each for each in BLOCKS if "sites:" in each.text], ids=lambda block: block.where)
def test_sites_are_what_the_library_takes(block):
    _ispmail_sites.sites(yaml.safe_load(block.text)["ispmail"])
