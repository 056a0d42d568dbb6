"""bin/setup with scripts in place of apt and dpkg: what it installs when, and what it says of a wrong argument."""

import os
import subprocess

import pytest

from lab.minion import REPOSITORY
from lab.sshd import layers

# Of apt-get install: an empty package in the folder where it was to put them. Of dpkg: what that package holds.
APT_GET = """
echo "$*" >>"$XDG_CACHE_HOME/apt-get"
for each in "$@"; do
    case $each in Dir::Cache::archives=*) touch "${each#*=}/openssh-server.deb" ;; esac
done
"""
DPKG = 'mkdir -p "$3/usr/sbin" "$3/lib/systemd"; echo "$2" >"$3/usr/sbin/sshd"; chmod 755 "$3/usr/sbin/sshd"'
DPKG_QUERY = """
case $2 in *Version*) cat "$XDG_CACHE_HOME/version"; exit ;; esac
shift 2
printf 'installed %s\\n' "$@"
"""


@pytest.fixture
def cache(tmp_path, script, monkeypatch):
    """The cache of a machine on which all packages are installed, and a Python environment is made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script("apt-get", APT_GET)
    script("dpkg", DPKG)
    script("dpkg-query", DPKG_QUERY)
    script("sha256sum", "cat >/dev/null; echo 0123456789abcdef0123")
    script("id", "echo 0")
    (tmp_path / "version").write_text("1:9.2p1-2+deb12u6")
    complete = tmp_path / "salt-ispmail" / "venv-0123456789abcdef" / ".complete"
    complete.parent.mkdir(parents=True)
    complete.touch()
    return tmp_path


def setup(*arguments):
    return subprocess.run(
        [REPOSITORY / "bin" / "setup", *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_what_is_installed_is_not_installed_again(cache):
    """And no sshd, which one test needs."""
    done = setup()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{cache}/salt-ispmail/venv-0123456789abcdef/bin/python\n"
    assert not (cache / "apt-get").exists() and not list((cache / "salt-ispmail").glob("sshd*"))


@pytest.mark.skipif(os.path.exists("/usr/sbin/sshd"), reason="there is an sshd here")
def test_an_sshd_is_unpacked_once_and_renewed_with_the_machines_ssh(cache):
    """It was kept for ever: after an upgrade of the machine it may not run with the libraries that it finds."""
    first = layers()["usr"]
    assert os.access(first / "sbin" / "sshd", os.X_OK) and ":" not in str(first), "an overlay cannot have such a path"
    asked = (cache / "apt-get").read_text()
    assert asked.startswith("update\ninstall --yes --download-only ")
    assert layers()["usr"] == first and (cache / "apt-get").read_text() == asked
    (cache / "version").write_text("1:10.0p1-7")
    second = layers()["usr"]
    assert second != first and (second / "sbin" / "sshd").exists() and not first.exists()
    assert (cache / "apt-get").read_text() == asked * 2


@pytest.mark.parametrize("arguments", [("--salt", "3005"), ("--salt", "3008.1"), ("--salt", ""), ("--salt", "x 3008")])
def test_a_series_that_is_none_is_one_clear_error(cache, arguments):
    """pip was asked for it, and said in 40 lines that there is no such version."""
    done = setup(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bin/setup: --salt takes 3006, 3007 or 3008, not {arguments[1] or 'nothing'}\n"


@pytest.mark.parametrize("arguments", [("--salt",), ("--sshd", "x"), ("3006",), ("--salt", "3006", "x")])
def test_other_arguments_are_refused(cache, arguments):
    done = setup(*arguments)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("bin/setup: it takes no arguments, ")
    assert done.stderr.count("\n") == 1


def test_each_series_is_taken(cache):
    for series in ("3006", "3007", "3008"):
        assert setup("--salt", series).returncode == 0
