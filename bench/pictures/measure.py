"""Measure for a picture on real servers, as root: writes docs/pictures/NAME.json. Each takes less than three minutes.

    python -m bench.pictures.measure rotation
    python -m bench.pictures.measure maps [--rounds 5]

`rotation`: RCPTs under a steady load while the password changes, first in the naive order (the database gets the new
one, then state.apply), then as a rotation does it, both by salt-call on one server. Each smtpd ends after ten clients,
as on a busy server, so that new ones log in all the time. `maps`: CPU seconds of an apply by the number of maps, as
bench.apply measures them. What else the machine had to do is in the data, as its load average before.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Sequence

import salt.version

from bench import apply
from bench.pictures import FOLDER
from lab.mariadb import MariaDB
from lab.minion import Minion
from lab.postfix import Postfix
from lab.smtp import Load

RATE = 150  # RCPTs per second
BIN = 0.1  # seconds that are counted together
BEFORE, SECONDS, AFTER = 1.0, 8.0, 2.0  # of load before a change, from its begin on, and at least after it
NEW = ("bench-naive", "bench-rotated")
COUNTS = (3, 30, 100, 300)  # maps
KINDS = ("first set-up", "converged")


def machine(database: MariaDB, postfix: Postfix) -> dict[str, object]:
    """What it was measured on, and when: nothing that names the machine."""
    release = platform.freedesktop_os_release()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cores": os.cpu_count(),
        "system": f"Debian {release['VERSION_ID'] if 'VERSION_ID' in release else release['VERSION_CODENAME']}",
        "salt": salt.version.__version__,
        "postfix": postfix.command("postconf", "-d", "-h", "mail_version").strip(),
        "mariadb": str(database.sql("SELECT VERSION()")[0][0]).partition("-")[0],
    }


def command(minion: Minion, *arguments: str) -> None:
    """Run salt-call as an admin does; it has to succeed."""
    done = minion.command("--retcode-passthrough", *arguments)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def changed(postfix: Postfix, steps: Sequence[tuple[str, Callable[[], object]]]) -> dict[str, object]:
    """Take these steps under load: when each ended, and by time how many RCPTs there were and how many failed."""
    with Load(postfix.port, apply.ANSWERED, rate=RATE, per_connection=5) as load:
        time.sleep(BEFORE)
        began, ended = time.monotonic(), []
        for name, step in steps:
            step()
            ended.append({"step": name, "ended": round(time.monotonic() - began, 2)})
        time.sleep(max(AFTER, began + SECONDS - time.monotonic()))
        failed = [0] * round((time.monotonic() - began) / BIN)
        report = load.stop()
    for record in report.failures:
        if record.at < began:
            raise SystemExit(f"failed before anything changed: {record}")
        failed[min(int((record.at + record.seconds - began) / BIN), len(failed) - 1)] += 1
    return {"rcpts": report.count, "longest": round(report.longest, 2), "steps": ended, "failed": failed}


def rotation() -> dict[str, object]:
    """Both changes."""
    with apply.servers() as (_, database, (side, *_)):
        postfix, minion = side.postfix, side.minion

        def pillar(password: str) -> dict:
            found = apply.pillar(database, postfix, server={"unix_socket": database.socket})
            found["ispmail"]["database"]["password"] = password
            return found

        def naive() -> None:
            database.sql("ALTER USER mailserver@'127.0.0.1' IDENTIFIED BY %s", NEW[0])

        def maps() -> None:
            command(minion, "state.apply", "ispmail.maps")

        minion.pillar = pillar(apply.PASSWORD)
        command(minion, "saltutil.sync_all")
        maps()
        data = {"measured": machine(database, postfix), "rate": RATE, "bin": BIN}
        minion.pillar = pillar(NEW[0])
        data["naive"] = changed(postfix, [("the database has the new password", naive), ("state.apply", maps)])
        minion.pillar = pillar(NEW[1])
        steps = [
            ("the database accepts both", lambda: command(minion, "postfix_database.credential_accepted")),
            ("state.apply", maps),
            ("no process has the old one", lambda: command(minion, "state.apply", "ispmail.drained")),
            ("the database accepts the new one only", lambda: command(minion, "postfix_database.credential_sole")),
        ]
        data["ours"] = changed(postfix, steps)
        return data


def maps(rounds: int) -> dict[str, object]:
    """All rounds, of each kind of apply."""
    with apply.servers() as (_, database, sides):
        found = machine(database, sides[0].postfix)
        apply.measure(database, sides, [count - 3 for count in COUNTS[1:]], rounds)
        cpu = {name: [round(cost.cpu, 2) for cost in costs] for name, costs in sides[0].lines.items()}
    kinds = {kind: {str(count): cpu[f"{kind}, {count} maps"] for count in COUNTS} for kind in KINDS}
    return {"measured": found, "empty": cpu["empty"], **kinds}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("rotation", "maps"))
    parser.add_argument("--rounds", type=int, default=5, help="of maps (default: 5)")
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    data = rotation() if options.name == "rotation" else maps(options.rounds)
    measured = data["measured"]
    assert isinstance(measured, dict)
    measured["load"] = load
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
    (FOLDER / f"{options.name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
