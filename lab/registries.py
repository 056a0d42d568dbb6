"""The settings by which apt and pip on this host reach their package registries, for use inside a machine."""

from __future__ import annotations

import ast
import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from lab.cleanup import remove
from lab.processes import PREFIX

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = re.compile(
    r"(?i)(https?|ftp|all|no)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO"
)
APT = re.compile(r"Acquire::(http|https|ftp|Check-|Retries)")
PIP = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "cert",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)


class Registries:
    """The host's settings: `env` (environment variables) and `binds` (path inside the machine to path on the host).

    apt and pip are asked for their settings, so that this repository contains none of them.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-registries-"))
        atexit.register(remove, self.folder)
        self.env = {key: value for key, value in os.environ.items() if ENVIRONMENT.fullmatch(key)}
        pip = _pip_settings()
        named = _paths([CA_BUNDLE, *self.env.values(), *pip.values()])
        self.binds = {path: Path(path).resolve() for path in named}
        self._add("/etc/pip.conf", "[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
        self._add("/etc/apt/apt.conf.d/99registries", "".join(filter(APT.match, dump.splitlines(keepends=True))))

    def __enter__(self) -> Registries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the files made for the machine."""
        remove(self.folder)

    def _add(self, inside: str, text: str) -> None:
        """Write a file that is visible under the path `inside` of the machine."""
        path = self.folder / Path(inside).name
        path.write_text(text)
        self.binds[inside] = path


def _pip_settings() -> dict[str, str]:
    """pip's effective settings about where packages come from."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    if not listed and shutil.which("pip3"):  # this Python may have no pip
        listed = subprocess.run(["pip3", "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), reverse=True):  # "global." comes before ":env:", which wins
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in PIP:
            found[name] = " ".join(ast.literal_eval(value).split())
    return found


def _paths(values: Iterable[str]) -> list[str]:
    """The local files and folders that settings name. An index keeps its packages beside its folder `simple`."""
    found: list[str] = []
    for word in " ".join(values).split():
        path = urllib.parse.unquote(word.removeprefix("file://")).rstrip("/").removesuffix("/simple")
        if path.startswith("/") and os.path.exists(path) and path not in found:
            found.append(path)
    return found
