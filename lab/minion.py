"""A masterless minion of its own: real loader, real state engine, real pillar files, see salt-call(1)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.client
import salt.config

REPOSITORY = Path(__file__).resolve().parent.parent
# As docs/setup.md has it.
FILE_ROOTS = [str(REPOSITORY / "salt")]
# And what else a master has to have that serves a checkout.
SERVING = {
    "runner_dirs": [str(REPOSITORY / "_runners")],
    "utils_dirs": [str(REPOSITORY / "_utils")],
}


class Minion:
    """
    One minion with its configuration, pillar, cache and log in `directory`, serving this checkout to itself.

    Setting `pillar` rewrites its file: the next call reads it.
    """

    def __init__(self, directory: Path, pillar: dict | None = None, **config: object):
        """Write its configuration. `config`: more keys of the minion's configuration file."""
        self.directory = Path(directory).absolute()
        self.cache = self.directory / "cache"
        self.log_file = self.directory / "minion.log"
        self.pillar_file = self.directory / "pillar" / "ispmail.sls"
        self.pillar_file.parent.mkdir(parents=True, exist_ok=True)
        (self.pillar_file.parent / "top.sls").write_text("base: {'*': [ispmail]}\n")
        self._config = {
            "id": "lab",
            "file_client": "local",
            "root_dir": str(self.directory),
            "cachedir": str(self.cache),
            "file_roots": {"base": FILE_ROOTS},
            "pillar_roots": {"base": [str(self.pillar_file.parent)]},
            "log_file": str(self.log_file),
            "log_level_logfile": "debug",
            **config,
        }
        (self.directory / "minion").write_text(json.dumps(self._config))
        self.pillar = pillar or {}

    @property
    def pillar(self) -> dict:
        """What its pillar holds."""
        return json.loads(self.pillar_file.read_text().removeprefix("#!json\n"))

    @pillar.setter
    def pillar(self, pillar: dict) -> None:
        with open(os.open(self.pillar_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            # JSON is YAML, and leaves no doubt about any character. Raw: nothing in it is Jinja.
            file.write("#!json\n" + json.dumps(pillar))

    def call(self, function: str, *args: object, **kwargs: object) -> Any:
        """Call an execution module's function in this process, with fresh pillar and the checkout's modules."""
        return self.caller()(function, *args, **kwargs)

    def caller(self) -> Callable[..., Any]:
        """What `call` calls, to be kept where many calls need no fresh pillar."""
        opts = salt.config.minion_config(str(self.directory / "minion"))
        opts["module_dirs"] = [str(REPOSITORY / "_modules")]
        opts["states_dirs"] = [str(REPOSITORY / "_states")]
        opts["utils_dirs"] = [str(REPOSITORY / "_utils")]
        opts["autoload_dynamic_modules"] = False
        # What a call costs is mostly Salt's own start. It need not look for changes of served files that nobody asks
        # about, nor find out anew what machine this is.
        self.cache.mkdir(parents=True, exist_ok=True)
        opts["__fs_update"] = opts["grains_cache"] = True
        return salt.client.Caller(mopts=opts).cmd

    def apply(self, sls: str = "ispmail.maps", test: bool = False) -> dict:
        """Apply an SLS: `module.function` of each state to what it returned. AssertionError if it did not render."""
        done = self.call("state.apply", sls, test=test)
        assert isinstance(done, dict), done
        states = {}
        for key, result in done.items():
            module, _, _, function = key.split("_|-")
            states[f"{module}.{function}"] = result
        return states

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run salt-call --local as a process of its own, as an admin would; what it says is captured."""
        salt_call = Path(sys.executable).parent / "salt-call"
        command = [str(salt_call), "--local", "-c", str(self.directory), *arguments]
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
