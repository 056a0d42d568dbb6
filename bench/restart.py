"""How many RCPTs fail after a restart of the database, and for how long, with several settings. Real servers.

    python -m bench.restart [--seconds 100] [--rate 40]

A load asks Postfix for recipients, and after five seconds the database is restarted: with one host, with one host and
retry_interval (Postfix 3.9 and newer), and with two hosts of which one is restarted. After an error Postfix ignores a
host for 60 s. A reload would end that, but is not used here.
"""

import argparse
import time

from bench.apply import ANSWERED, PASSWORD
from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import Minion
from lab.postfix import Postfix
from lab.smtp import Load

BEFORE = 5.0  # seconds


def measure(databases: list[MariaDB], keys: dict, seconds: float, rate: float) -> str:
    """Restart the first database under load. Returns a line of the result."""
    hosts = [f"{database.host}:{database.port}" for database in databases]
    with scratch() as directory, Postfix(directory / "mail") as postfix:
        section = {"password": PASSWORD, "hosts": hosts, **keys}
        directories = {"postfix": {"config_directory": str(postfix.config_directory)}}
        minion = Minion(directory / "minion", {"ispmail": {"packages": False, "database": section, **directories}})
        result = minion.apply()["postfix_map.managed"]
        if not result["result"]:
            raise SystemExit(f"the apply failed: {result['comment']}")
        with Load(postfix.port, ANSWERED, rate=rate, sessions=8) as load:
            time.sleep(BEFORE)
            down = time.monotonic()
            databases[0].restart()
            up = time.monotonic()
            time.sleep(max(0.0, seconds - BEFORE - (up - down)))
            report = load.stop()
    ends = [failure.at - down for failure in report.failures]
    until = f"from {min(ends):.1f} to {max(ends):.1f} s after it" if ends else ""
    return f"{report.count:8,}{report.failed:8,}   {until:28}database down {up - down:.1f} s"


def main() -> None:
    """Measure each setting, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--rate", type=float, default=40, help="RCPTs per second")
    options = parser.parse_args()
    with scratch() as directory, MariaDB(directory / "a") as one, MariaDB(directory / "b") as two:
        version = Postfix(directory / "mail").command("postconf", "-d", "-h", "mail_version").strip()
        rows: list[tuple[str, list[MariaDB], dict]] = [
            ("one host", [one], {}),
            ("two hosts, one restarted", [one, two], {}),
        ]
        if tuple(map(int, version.split(".")[:2])) >= (3, 9):
            rows.insert(1, ("one host, retry_interval 1", [one], {"retry_interval": 1}))
        for database in (one, two):
            schema(database, PASSWORD)
        print(f"{f'Postfix {version}':28}{'RCPTs':>8}{'failed':>8}")
        for name, databases, keys in rows:
            print(f"{name:28}{measure(databases, keys, options.seconds, options.rate)}", flush=True)


if __name__ == "__main__":
    main()
