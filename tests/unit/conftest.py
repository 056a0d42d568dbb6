"""Settings of the properties (the machine may be busy, so no deadline), and what Salt gives a module."""

import locale
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings

from lab.minion import REPOSITORY

from .. import pages

settings.register_profile(
    "unit", deadline=None, database=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")


@pytest.fixture
def on_minion(monkeypatch, tmp_path):
    """A function that gives a module of ours what Salt gives it on a minion with this pillar."""

    def gives(module, **pillar):
        opts = {"cachedir": str(tmp_path / "cache"), "conf_file": str(tmp_path / "salt" / "minion")}
        given = {"__pillar__": pillar, "__opts__": opts, "__grains__": {"ipv4": ["127.0.0.1", "192.0.2.1"]}}
        for name, value in given.items():
            monkeypatch.setattr(module, name, value, raising=False)

    return gives


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A function that puts a script in the place of a command."""
    folder = tmp_path / "sbin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def ascii_locale():
    """This process has a locale whose encoding is ASCII, as a minion may have."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The pages that Sphinx builds, without a warning: the folder of their HTML."""
    built = tmp_path_factory.mktemp("site")
    _, *arguments, _ = pages.command("CONTRIBUTING.md", "$(bin/setup) -m sphinx").words
    command = [sys.executable, *arguments, f"{built}/html", "--keep-going", "-q", "-d", f"{built}/trees"]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built / "html"
