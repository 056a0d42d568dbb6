"""A private Dovecot, 2.3 or 2.4, on loopback, whose users are in the ISPmail database, see dovecot(1). Needs root.

IMAP and LMTP as in the ISPmail guide, but on TCP ports, and mails in Maildirs of the user `mail`.

    python -m lab.dovecot 127.0.0.1 143 24 john@example.org mailSecret

logs in and delivers until SIGTERM, then prints one line of JSON: how often, how often in vain, and why.
"""

import imaplib
import json
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lab import HOST, free_port, program
from lab.private import Private

_COMMON = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
listen = {host}
protocols = imap lmtp
ssl = no
# A refused login would slow down all later ones.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
first_valid_uid = 1
service imap-login {{
  process_min_avail = 1
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  process_min_avail = 1
  inet_listener lmtp {{
    {listener}
    port = {lmtp_port}
  }}
}}
"""
_OLD = """
default_internal_user = dovecot
disable_plaintext_auth = no
mail_location = maildir:{directory}/mail/%n
mail_uid = mail
mail_gid = mail
passdb {{
  driver = sql
  args = {directory}/etc/dovecot-sql.conf.ext
}}
userdb {{
  driver = sql
  args = {directory}/etc/dovecot-sql.conf.ext
}}
"""
_OLD_SQL = """
driver = mysql
connect = host={host} port={port} dbname=mailserver {login}
password_query = SELECT email as user, password FROM virtual_users WHERE email='%u'
user_query = SELECT email as user FROM virtual_users WHERE email='%u'
"""
_NEW = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = {directory}/mail/%{{user | username}}
mail_uid = mail
mail_gid = mail
sql_driver = mysql
mysql {host} {{
  port = {port}
  dbname = mailserver
  {login}
}}
passdb sql {{
  query = SELECT email as user, password FROM virtual_users WHERE email='%{{user}}'
}}
userdb sql {{
  query = SELECT email as user FROM virtual_users WHERE email='%{{user}}'
}}
"""


def configuration(new: bool, directory: Path, login: dict[str, str], **values: object) -> dict[str, str]:
    """The configuration files in `directory`/etc: name to text.

    Args:
        new: Whether they are for Dovecot 2.4, or else for 2.3.
        login: How to log in to the database, such as ``{"option_file": "/etc/dovecot/ispmail.cnf"}``.
        values: ``host``, ``imap_port`` and ``lmtp_port`` to listen on, and ``port``, the database's on that host.
    """
    given = " = ".join if new else "=".join
    values |= {
        "directory": directory,
        "login": ("\n  " if new else " ").join(given(item) for item in login.items()),
        "listener": f"listen = {values['host']}" if new else f"address = {values['host']}",
    }
    if new:
        version, _, rest = _NEW.strip().partition("\ndovecot_storage")  # it has to be the first setting
        return {"dovecot.conf": f"{version}\ndovecot_storage{rest}\n{_COMMON}".format(**values)}
    return {"dovecot.conf": f"{_COMMON}{_OLD}".format(**values), "dovecot-sql.conf.ext": _OLD_SQL.format(**values)}


class Dovecot(Private):
    """One instance with its configuration, mails and log in `directory`, which every user may enter."""

    host = HOST

    def __init__(self, directory: Path, database_port: int, **login: str):
        """Write the configuration, start nothing. `login`: how it logs in to the database, as its settings have it."""
        self.directory = Path(directory).absolute()
        self.imap_port, self.lmtp_port, self.database_port = free_port(), free_port(), database_port
        self.config_file = self.directory / "etc" / "dovecot.conf"
        super().__init__(self.directory / "log")
        for name in ("etc", "mail", "run", "state"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(self.directory / "mail", "mail", "mail")
        self.configure(**login)

    @property
    def new(self) -> bool:
        """Whether it is Dovecot 2.4 or newer."""
        said = subprocess.run(
            [program("dovecot", "dovecot-core"), "--version"], capture_output=True, text=True, check=True
        )
        return tuple(map(int, said.stdout.split(".")[:2])) >= (2, 4)

    @property
    def sql_file(self) -> Path:
        """Where its login to the database is."""
        return self.config_file if self.new else self.config_file.with_name("dovecot-sql.conf.ext")

    def configure(self, **login: str) -> None:
        """Write the configuration, with another login to the database. Reloads nothing."""
        values = {"imap_port": self.imap_port, "lmtp_port": self.lmtp_port, "port": self.database_port}
        for name, text in configuration(self.new, self.directory, login, host=self.host, **values).items():
            path = self.config_file.with_name(name)
            path.write_text(text)
            shutil.chown(path, "root", "dovecot")
            path.chmod(0o640)

    def login(self, user: str, password: str, timeout: float = 30) -> str:
        """Log in by IMAP; "ok", or why not."""
        return imap_login(self.host, self.imap_port, user, password, timeout)

    def deliver(self, recipient: str, timeout: float = 30) -> str:
        """Deliver a mail by LMTP; "ok", or why not."""
        return lmtp_delivery(self.host, self.lmtp_port, recipient, timeout)

    def _command(self) -> list[str]:
        return [program("dovecot", "dovecot-core"), "-F", "-c", str(self.config_file)]

    def _answers(self) -> bool:
        for port in (self.imap_port, self.lmtp_port):
            # The master process takes connections before there is anybody who greets.
            try:
                with socket.create_connection((self.host, port), timeout=2) as client:
                    if not client.recv(1):
                        return False
            except OSError:
                return False
        return True


def imap_login(host: str, port: int, user: str, password: str, timeout: float = 30) -> str:
    """Log in by IMAP and look into the inbox; "ok", or why not."""
    try:
        with imaplib.IMAP4(host, port, timeout) as client:
            client.login(user, password)
            return "ok" if client.select("INBOX")[0] == "OK" else "no inbox"
    except (OSError, imaplib.IMAP4.error) as err:
        return str(err) or type(err).__name__


def lmtp_delivery(host: str, port: int, recipient: str, timeout: float = 30) -> str:
    """Deliver a mail by LMTP; "ok", or why not."""
    try:
        with smtplib.LMTP(host, port, local_hostname="client.test", timeout=timeout) as client:
            client.sendmail("test@sender.test", [recipient], "Subject: test\r\n\r\ntest\r\n")
            return "ok"
    except (OSError, smtplib.SMTPException) as err:
        return str(err) or type(err).__name__


class Done(NamedTuple):
    """One login or delivery: what, when it began (time.monotonic()), how long it took, "ok" or why it failed."""

    what: str
    at: float
    seconds: float
    result: str


class MailLoad:
    """Logins by IMAP and deliveries by LMTP, side by side, each in a connection of its own, until stopped."""

    def __init__(self, imap_port: int, lmtp_port: int, user: str, password: str, host: str = HOST, pause: float = 0.05):
        """`pause`: how many seconds each of the clients waits after each try."""
        self._stop = threading.Event()
        self._pause = pause
        self.done: list[Done] = []

        def login() -> str:
            return imap_login(host, imap_port, user, password)

        def delivery() -> str:
            return lmtp_delivery(host, lmtp_port, user)

        clients = [("login", login), ("login", login), ("mail", delivery)]
        self._threads = [threading.Thread(target=self._run, args=client, daemon=True) for client in clients]

    def __enter__(self) -> "MailLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def counts(self) -> Counter[str]:
        """How many logins and mails there were, and how many of them failed."""
        found: Counter[str] = Counter()
        for each in list(self.done):
            found[f"{each.what}s"] += 1
            found[f"failed {each.what}s"] += each.result != "ok"
        return found

    def _run(self, what: str, act: Callable[[], str]) -> None:
        while not self._stop.wait(self._pause):
            began = time.monotonic()
            result = act()
            self.done.append(Done(what, began, time.monotonic() - began, result))


def main(host: str, imap_port: str, lmtp_port: str, user: str, password: str) -> None:
    """Run a load from the command line until SIGTERM, and print its report."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with MailLoad(int(imap_port), int(lmtp_port), user, password, host) as load:
        ended.wait()
    reasons = Counter(each.result for each in load.done if each.result != "ok")
    print(json.dumps({**load.counts(), "reasons": dict(reasons.most_common(5))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
