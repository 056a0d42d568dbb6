"""A database server for the tests of what is asked there and done: it answers by what it was given."""

import json

import _ispmail_dialect
from _ispmail_config_database import database
from _ispmail_errors import DatabaseError

# What changes something.
_CHANGES = ("ALTER USER ", "CREATE USER ", "DROP USER ", "GRANT ", "REVOKE ")
MARIADB, MYSQL, MYSQL_9 = "11.8.3-MariaDB", "8.4.6", "9.7.4"
NATIVE, SHA2 = "mysql_native_password", "caching_sha2_password"
SELECT = "GRANT SELECT ON `mailserver`.* TO `mailserver`@`127.0.0.1`"


def config(password="new", user="mailserver", rotation=None, **server):
    """What pillar says of the database server's side."""
    account = {"password": password, "user": user}
    return database("second", {"database": account, "server": server, "rotation": rotation})


def mariadb_row(*hashes, host="127.0.0.1", plugin=NATIVE, **more):
    """An account as mysql.global_priv of a MariaDB has it."""
    ways = [{"plugin": plugin, "authentication_string": text} for text in hashes] or [{"plugin": plugin}]
    return {"host": host, "priv": json.dumps({"auth_or": ways, **more})}


def mysql_row(hash, second=None, host="127.0.0.1", plugin=NATIVE, locked="N", lifetime=0, tls="", **more):
    """An account as mysql.user of a MySQL has it."""
    texts = {"hash": hash and hash.encode().hex().upper(), "second": second and second.encode().hex().upper()}
    known = {"host": host, "plugin": plugin, **texts, "locked": locked}
    return {**known, "changed": 1700000000, "lifetime": lifetime, "tls": tls, **more}


class FakeServer:
    """Answers each question by its beginning, and notes what it is told to change."""

    def __init__(
        self, *accounts, version=MARIADB, after=None, refuses=None, grants=(SELECT,), answers=None, other=(), others=()
    ):
        """What it is.

        Args:
            accounts: The rows of the user's accounts; `after`: those after the first change, or the error that is then.
            refuses: The error with which it answers to each change.
            grants: The lines of SHOW GRANTS for each account.
            other: The rows of the accounts of the pair's other user, `mailserver_b`.
            others: The lines of SHOW GRANTS for each of those.
            answers: The beginnings of other questions, to the rows.
        """
        self.version, self.dialect = version, _ispmail_dialect.of_version(version)
        self.done, self.asked = [], []
        self._accounts, self._after, self._refuses = list(accounts), after, refuses
        self._other, self._others = list(other), [{"Grants": line} for line in others]
        known = {"SHOW GRANTS FOR %s@%s": [{"Grants": line} for line in grants]}
        nothing = {"SHOW GLOBAL VARIABLES LIKE 'caching_sha2": (), self.dialect.memberships: ()}
        self._answers = {**known, **nothing, **(answers or {})}

    def ask(self, statement, arguments=None):
        """As `_ispmail_database.Server.ask`."""
        if statement.startswith(_CHANGES):
            if self._refuses:
                raise self._refuses
            self.done.append(statement % arguments)
            self._accounts = self._accounts if self._after is None else self._after
            return []
        self.asked.append((statement, arguments))
        if arguments and arguments[0] == "mailserver_b":
            return self._others if statement.startswith("SHOW GRANTS") else self._other
        if statement.startswith("SELECT Host AS host"):
            if isinstance(self._accounts, Exception):
                raise self._accounts
            return list(self._accounts)
        found = [rows for beginning, rows in self._answers.items() if statement.startswith(beginning)]
        assert found, f"nobody expects {statement}"
        return found[0]


class FakeClient:
    """The client of one login: it answers by the beginning of a statement, and notes all that it is told."""

    plugin = "mysql_native_password"

    def __init__(self, answers=None, expired=False):
        self._answers, self._expired = answers or {}, expired
        self.said, self.where, self.login, self.closed = [], None, None, False

    def __call__(self, where, login, *within):
        self.where, self.login = where, login
        return self

    def connect(self):
        self.said.append("connect")
        if self._expired:
            raise DatabaseError("x", 1862)

    def ask(self, statement, arguments=None):
        self.said.append((statement, arguments) if arguments else statement)
        found = [answer for text, answer in self._answers.items() if statement.startswith(text)]
        if found and isinstance(found[0], Exception):
            raise found[0]
        return found[0] if found else []

    def close(self):
        self.closed = True
