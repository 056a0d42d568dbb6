"""Lookups per second with the guide's own tables, and with the indexes that Salt adds. Real servers, one run.

    python -m bench.lookups [--aliases 100000] [--domains 1000] [--rounds 3]

The tables are those of the ISPmail guide: without an index on virtual_aliases.source and virtual_domains.name. Each
round measures both maps without these indexes (guide), calls postfix_database.tables to add them, checks that the rows
are the same, measures again (ours), and drops the indexes. Alternating gives both sides the same conditions.

A measurement is one `postmap -q -` of about two seconds with random keys, half of which exist: Postfix's own mysql
client, one connection, and the table file that state.apply has written. Each answer is checked. All tables fit into
MariaDB's memory; where they do not, a scan costs more.
"""

import argparse
import random
import statistics
import subprocess
import time

from bench.apply import pillar
from lab import program, scratch
from lab.mariadb import MariaDB
from lab.minion import Minion
from lab.postfix import Postfix

SECONDS = 2.0  # for each measurement
CALIBRATION = 20  # keys
INDEXED = {"virtual_domains": ["index on name"], "virtual_aliases": ["index on source"]}
MAPS = {"alias": "virtual_alias_maps", "domain": "virtual_mailbox_domains"}
# As the guide has them.
TABLES = """
CREATE DATABASE mailserver CHARACTER SET utf8mb4;
CREATE TABLE mailserver.virtual_domains (id int NOT NULL auto_increment, name varchar(50) NOT NULL, PRIMARY KEY (id))
    ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE mailserver.virtual_users (id int NOT NULL auto_increment, domain_id int NOT NULL,
    email varchar(100) NOT NULL, password varchar(150) NOT NULL, quota bigint(11) NOT NULL DEFAULT 0, PRIMARY KEY (id),
    UNIQUE KEY email (email), FOREIGN KEY (domain_id) REFERENCES mailserver.virtual_domains(id) ON DELETE CASCADE)
    ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE mailserver.virtual_aliases (id int NOT NULL auto_increment, domain_id int NOT NULL,
    source varchar(100) NOT NULL, destination varchar(100) NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY (domain_id) REFERENCES mailserver.virtual_domains(id) ON DELETE CASCADE)
    ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""


def fill(database: MariaDB, aliases: int, domains: int) -> None:
    """Create the guide's tables with so many rows. Alias n is in domain n modulo `domains`, plus 1."""
    for statement in TABLES.split(";"):
        database.sql(statement)
    database.sql(
        "INSERT INTO mailserver.virtual_domains (id, name)"
        f" SELECT seq, CONCAT('domain', seq, '.example') FROM mailserver.seq_1_to_{domains}"
    )
    database.sql(
        "INSERT INTO mailserver.virtual_aliases (domain_id, source, destination)"
        f" SELECT seq MOD {domains} + 1, CONCAT('alias', seq, '@domain', seq MOD {domains} + 1, '.example'),"
        f" CONCAT('to', seq, '@elsewhere.example') FROM mailserver.seq_1_to_{aliases}"
    )
    database.sql("ANALYZE TABLE mailserver.virtual_domains, mailserver.virtual_aliases")


def questions(kind: str, number: int, aliases: int, domains: int) -> list[tuple[str, str | None]]:
    """Random keys with their answers; every other key does not exist."""
    chosen: list[tuple[str, str | None]] = []
    for count in range(number):
        alias, domain = random.randint(1, aliases), random.randint(1, domains)
        if kind == "domain":
            chosen.append((f"domain{domain}.example", "1") if count % 2 else (f"missing{domain}.example", None))
        elif count % 2:
            chosen.append((f"alias{alias}@domain{alias % domains + 1}.example", f"to{alias}@elsewhere.example"))
        else:
            chosen.append((f"missing{alias}@domain{domain}.example", None))
    return chosen


def ask(postfix: Postfix, table: str, asked: list[tuple[str, str | None]]) -> float:
    """The seconds that one postmap takes for all questions. SystemExit if an answer is wrong."""
    keys = "".join(f"{key}\n" for key, _ in asked)
    command = [program("postmap", "postfix"), "-c", str(postfix.config_directory), "-q", "-", table]
    began = time.monotonic()
    done = subprocess.run(command, check=False, input=keys, capture_output=True, text=True, timeout=60)
    seconds = time.monotonic() - began
    if done.stdout != "".join(f"{key}\t{answer}\n" for key, answer in asked if answer) or done.stderr:
        raise SystemExit(f"postmap -q - {table} did not answer as expected:\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return seconds


def rate(postfix: Postfix, kind: str, aliases: int, domains: int) -> float:
    """Lookups per second, measured for about SECONDS."""
    table = postfix.postconf(MAPS[kind])[MAPS[kind]]
    number = CALIBRATION
    ask(postfix, table, questions(kind, number, aliases, domains))  # fills the caches
    while (seconds := ask(postfix, table, questions(kind, number, aliases, domains))) < SECONDS / 10:
        number *= 4
    number = max(CALIBRATION, int(number * SECONDS / seconds))
    return number / ask(postfix, table, questions(kind, number, aliases, domains))


def index(database: MariaDB, minion: Minion) -> float:
    """Call postfix_database.tables, and check that it adds both indexes and changes no row. Returns its seconds."""
    before, began = contents(database), time.monotonic()
    result = minion.call("postfix_database.tables")
    seconds = time.monotonic() - began
    changes = result["changes"] if isinstance(result, dict) else {}
    if {table: change["new"] for table, change in changes.items()} != INDEXED:
        raise SystemExit(f"postfix_database.tables did not add the indexes: {result}")
    if contents(database) != before:
        raise SystemExit("postfix_database.tables has changed rows")
    return seconds


def contents(database: MariaDB) -> tuple[tuple, ...]:
    """Checksums of all rows."""
    return database.sql("CHECKSUM TABLE mailserver.virtual_domains, mailserver.virtual_aliases EXTENDED")


def main() -> None:
    """Measure both by turns, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aliases", type=int, default=100_000)
    parser.add_argument("--domains", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size = (options.aliases, options.domains)
    random.seed(1)
    with scratch() as directory, MariaDB(directory / "db") as database:
        postfix = Postfix(directory / "mail")  # not started: postmap needs its configuration only
        minion = Minion(directory / "minion")
        minion.pillar = pillar(database, postfix, server={"unix_socket": database.socket})
        fill(database, *size)
        minion.call("postfix_database.account")
        result = minion.apply()["postfix_map.managed"]
        if not result["result"]:
            raise SystemExit(f"the apply failed: {result['comment']}")
        took: list[float] = []
        guide: dict[str, list[float]] = {kind: [] for kind in MAPS}
        ours: dict[str, list[float]] = {kind: [] for kind in MAPS}
        for _ in range(options.rounds):
            for kind in MAPS:
                guide[kind].append(rate(postfix, kind, *size))
            took.append(index(database, minion))
            for kind in MAPS:
                ours[kind].append(rate(postfix, kind, *size))
            database.sql("ALTER TABLE mailserver.virtual_domains DROP INDEX name")
            database.sql("ALTER TABLE mailserver.virtual_aliases DROP INDEX source")
    median = statistics.median
    print(f"{f'lookups per second, median of {options.rounds}':34}{'guide':>10}{'ours':>10}{'ratio':>8}   (all rounds)")
    for kind, rows in zip(MAPS, size):
        ratios = sorted(fast / slow for slow, fast in zip(guide[kind], ours[kind]))
        line = f"{f'{kind}, one of {rows:,}':34}{median(guide[kind]):10,.0f}{median(ours[kind]):10,.0f}"
        print(f"{line}{median(ratios):8,.0f}   ({ratios[0]:,.0f} to {ratios[-1]:,.0f})")
    print(f"postfix_database.tables has added both indexes in {median(took):.1f} s, with the data unchanged")


if __name__ == "__main__":
    main()
