"""The whole suite on each Debian and each series of Salt that it is for: `nox`, or `nox -s "suite(forky-3008)"`.

Each session runs bin/demo and bin/test in a bare machine of that release, from a copy of this checkout, and then the
tests of whole machines, with machines of that release. As root on Debian, see CONTRIBUTING.md.
"""

import shlex
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
ROWS = (("bookworm", "3006"), ("bookworm", "3008"), ("trixie", "3008"), ("forky", "3008"))
HERE = Path(__file__).resolve().parent


@nox.session
@nox.parametrize("release, series", [nox.param(*row, id="-".join(row)) for row in ROWS])
def suite(session: nox.Session, release: str, series: str) -> None:
    """All of it, for one release and one series."""
    inside = f"cd {shlex.quote(f'/root/{HERE.name}')} && bin/demo && bin/test --salt {series}"
    python = session.run("bin/setup", silent=True).split()[-1]
    session.run(python, "-m", "lab", "bare", "--host-network", release, ".", "--", "bash", "-c", inside)
    session.run("bin/test", "tests/fleet", f"--release={release}", f"--series={series}")
