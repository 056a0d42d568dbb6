"""A Postfix that is configured and not started: what it would do is tested in tests/functional."""

import grp
import os

from _ispmail_config import complete, instance
from lab.postfix import write_cold

POSTFIX = grp.getgrnam("postfix").gr_gid
# The three maps that pillar need not mention, left out.
NO_DEFAULTS = dict.fromkeys(("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"))
QUERY = "SELECT 1 FROM t WHERE n='%s'"
TEXT = f"user = mailserver\npassword = x\nhosts = 127.0.0.1\ndbname = mailserver\nquery = {QUERY}\n"
SERVICES = "smtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\nrewrite unix - - y - - trivial-rewrite\n"


class Configured:
    """In a text for main.cf or master.cf, DIR is its directory. The file of the map `a` is DIR/a.cf."""

    def __init__(self, path):
        self.directory = path / "etc"
        self.cache = str(path)
        self.queue = path / "queue"
        for directory in (self.directory, self.queue, path / "data"):
            directory.mkdir()
        self.main_cf("").master_cf(SERVICES)

    def main_cf(self, text, release="3.10.1"):
        head = f"compatibility_level = 3.6\nqueue_directory = {self.queue}\ndata_directory = {self.queue}/../data\n"
        self.write("main.cf", f"{head}mail_version = {release}\n{text}\n")
        return self

    def master_cf(self, text):
        self.write("master.cf", text)
        return self

    def write(self, name, text, mode=0o644):
        write_cold(self.directory / name, text.replace("DIR", str(self.directory)), mode)

    def path(self, name):
        """Where the file of a map is."""
        return str(self.directory / f"{name}.cf")

    def table(self, name, text=TEXT, mode=0o640, gid=POSTFIX):
        self.write(f"{name}.cf", text, mode)
        os.chown(self.path(name), 0, gid)
        return self

    def pillar(self, maps, **sections):
        """Maps, each with its file and a query."""
        entries = {name: {"file": f"{name}.cf", "query": QUERY, **entry} for name, entry in maps.items()}
        directory = {"config_directory": str(self.directory)}
        return {"database": {"password": "x"}, "postfix": directory, "maps": {**NO_DEFAULTS, **entries}, **sections}

    def instance(self, **maps):
        return instance("ispmail", self.pillar(maps))

    def complete(self, **maps):
        return complete("ispmail", self.pillar(maps))

    def short(self, value):
        """Texts, in a list or dict too, without the path of this directory."""
        if isinstance(value, dict):
            return {key: self.short(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.short(each) for each in value]
        return value.replace(str(self.directory), "DIR") if isinstance(value, str) else value
