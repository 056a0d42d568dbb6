"""The demo with a PostgreSQL: what differs from that with a MariaDB. bin/demo --postgresql runs this."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lab.demo import ACCEPTED, DRAINED, MANAGED, MAPS, SOLE, Demo, address, main
from lab.postgresql import PostgreSQL
from lab.signals import delayed_signals
from lab.smtp import Report

# State IDs of salt/ispmail/database.sls.
TABLES = "The database has the tables that the maps ask"
ACCOUNT = "The account of the maps may read the tables"
OTHER_ACCOUNT = {"mailserver_a": "mailserver_b", "mailserver_b": "mailserver_a"}
ROWS = """
INSERT INTO virtual_domains (id, name) VALUES (1, 'example.org');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'jack@example.org', 'john@example.org');
"""


class PostgreSQLDemo(Demo):
    """An empty PostgreSQL, which Salt fills; and two accounts, as a role has one password only."""

    server = "PostgreSQL"
    table_type = "pgsql"
    user = "mailserver_a"
    refusal = 'password authentication failed for user "mailserver_a"'

    @staticmethod
    def database(directory: Path) -> PostgreSQL:
        """The private database server, not started yet."""
        return PostgreSQL(directory)

    def run(self) -> None:
        """Run all steps. Failed if a check fails."""
        self.servers()
        self.pillar()
        self.tables_and_account()
        self.main_job()
        self.lookups()
        self.recipients()
        self.second_apply()
        self.wrong_password()
        self.by_hand(self.rotation())

    def servers(self) -> None:
        """Start the servers, both empty."""
        self.screen.step("Start a private PostgreSQL without any database, and a private Postfix without maps", 22)
        with delayed_signals():
            self.db.start()
        ((version,),) = self.db.sql("SHOW server_version")
        names = self.db.sql("SELECT datname FROM pg_database WHERE NOT datistemplate")
        self.screen.check(f"PostgreSQL {version.split()[0]}", names, [("postgres",)], f"listens on {address(self.db)}")
        self.start_postfix()

    def pillar(self) -> None:
        """Show the pillar."""
        self.screen.step("Write the pillar: all that Salt needs to know", 0)
        self._write_pillar(self.password)
        self.screen.quote(
            "ispmail:\n"
            "  database:\n"
            "    user: mailserver_a   # and mailserver_b, when the password changes\n"
            "    password: ********   # random in this demo; it may contain quotes, blanks, %, # and ;\n"
            f"    hosts: {address(self.db)}\n"
            "  maps:\n"
            + "".join(f"    {name}: {{type: pgsql}}\n" for name in MAPS)
            + f"  server:\n    unix_socket: {self.db.socket}\n"
            f"  postfix:\n    config_directory: {self.mail.config_directory}"
        )
        self.screen.note(
            "Salt logs in as the server's superuser, by its socket as the system's user postgres.\n"
            "The output below shows this directory as /etc/postfix."
        )

    def tables_and_account(self) -> None:
        """Salt creates the database, its tables and the account."""
        self.screen.step("Salt creates the database, the guide's tables with their indexes, and the account", 41)
        code, states = self._apply("ispmail.database")
        self._check_synced(states)
        tables = {"virtual_domains", "virtual_users", "virtual_aliases"}
        self.screen.check(
            "the database", set(self._succeeded(states, TABLES)["changes"]), {"database", *tables}, "made"
        )
        self.screen.check("the account", set(self._succeeded(states, ACCOUNT)["changes"]), {self.user}, "made")
        self._check_exit_code(code, 0)
        self.db.sql(ROWS, "mailserver")
        got = self.db.sql_as(self.user, self.password, "SELECT source FROM virtual_aliases", "mailserver")
        self.screen.check(f"{self.user} logs in", got, [("jack@example.org",)], "and reads the tables")
        ((verifier,),) = self.db.sql(f"SELECT left(rolpassword, 18) FROM pg_authid WHERE rolname = '{self.user}'")
        self.screen.check("its password", verifier, "SCRAM-SHA-256$4096", "is a verifier that Salt has computed")

    def rotation(self) -> Report:
        """Another user with a new password, in the order of salt/orch/rotate.sls, without a failed lookup."""
        self.screen.step("Change user and password with Salt, while clients ask Postfix for recipients", 18)
        self.screen.note(
            "A role of PostgreSQL has one password. So two accounts take turns: pillar gets the other user and a new\n"
            "password at the same time."
        )
        old, self.password = self.password, f"{self.token} is new"
        old_user, self.user = self.user, OTHER_ACCOUNT[self.user]
        self._write_pillar(self.password)
        before = self._smtpd_processes()
        with self._load() as load:
            self._credential("accepted", ACCEPTED, old, (True, True), f"lets {old_user} in, and {self.user} too")
            code, states = self._apply("ispmail.drained")
            self._check_state(states, MANAGED, {*MAPS}, "the files")
            self._check_state(states, DRAINED, set(), "Postfix")
            self._check_exit_code(code, 0)
            self._credential("sole", SOLE, old, (False, True), f"lets only {self.user} in: {old_user} is locked")
            time.sleep(1)  # enough to replace each smtpd process that runs now
            report = load.stop()
        enough = len(self._smtpd_processes() - before) >= 5
        self.screen.check_silently("at least 5 new smtpd processes during the rotation", enough, True)
        self._check_load(report)
        text = "are in pillar, live files and (old ones) the history; in no output or log"
        self.screen.check("the passwords", self._leaks(), [], text)
        self.screen.check(
            "PostgreSQL's log", self.token in self.db.log, False, "at its most talkative, has none of them"
        )
        return report

    def by_hand(self, with_salt: Report) -> None:
        """Change the password of one account by hand, as many do it, and count the failures."""
        self.screen.step("For comparison, change it by hand: the database, then the files, then a reload", 18)
        self.screen.command('psql -c "ALTER ROLE …"; sleep 1; sed -i … /etc/postfix/pgsql-*.cf; postfix reload')
        old, self.password = self.password, f"{self.token} is newer"
        with self._load() as load:
            time.sleep(1)
            self.db.sql(f"ALTER ROLE {self.user} PASSWORD '{self.password}'")
            time.sleep(1)
            for path in self._files():
                path.write_text(path.read_text().replace(old, self.password))
            self.mail.reload()
            time.sleep(2)
            report = load.stop()
        self._compare(report, with_salt)

    def _write_pillar(self, password: str, **sections: dict) -> None:
        """Write the pillar for these servers."""
        section = {
            "database": {"user": self.user, "password": password, "hosts": address(self.db)},
            "maps": {name: {"type": "pgsql"} for name in MAPS},
            "server": {"unix_socket": self.db.socket},
            "postfix": {"config_directory": str(self.mail.config_directory)},
        }
        self.minion.pillar = {"ispmail": {**section, **sections}}

    def _account(self, step: str) -> str:
        """The account that a step of a rotation changes."""
        return self.user if step == "accepted" else OTHER_ACCOUNT[self.user]

    def _accepted(self, old: str) -> tuple[bool, bool]:
        """Whether the database lets the other account in with an old password, and this one with the current one."""
        other = self.db.sql(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{OTHER_ACCOUNT[self.user]}'")
        may = other == [("t",)] and self.db.logs_in(OTHER_ACCOUNT[self.user], old, "mailserver")
        return may, self.db.logs_in(self.user, self.password, "mailserver")


if __name__ == "__main__":
    sys.exit(main(PostgreSQLDemo))
