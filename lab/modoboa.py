"""The tables of Modoboa, made in a private database server by its own migrations, as PyPI has it."""

import os
from pathlib import Path

from lab import HOST
from lab.images import base, image
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL
from lab.processes import run
from lab.web import PASSWORD, USER, create_database

_FOLDER = "/opt/modoboa"
_BUILD = rf"""
apt-get update -q
# rrdtool-bindings and mysqlclient are compiled here; libmagic is loaded by name.
apt-get install -y -q --no-install-recommends python3-venv python3-dev gcc pkgconf librrd-dev libmariadb-dev libmagic1
python3 -m venv {_FOLDER}
{_FOLDER}/bin/pip install -q --no-cache-dir 'modoboa[mysql,postgresql]>=2.9,<2.10'
cd {_FOLDER}
# Only for the settings: it prints that there is no database, and goes on.
bin/modoboa-cli deploy instance --dburl default:postgres://{HOST}:1/none --domain mail.example.test
cat >instance/lab_settings.py <<'END'
import os
import dj_database_url
from instance.settings import *
DATABASES = {{"default": dj_database_url.parse(os.environ["LAB_DATABASE"])}}
END
"""


def create_tables(server: MariaDB | PostgreSQL, dbname: str) -> None:
    """Create a database with all tables of Modoboa. Needs root.

    The first call builds a root with it, in one to four minutes.
    """
    create_database(server, dbname)
    root: Path = image("modoboa", base("trixie"), _BUILD)
    scheme = "postgres" if isinstance(server, PostgreSQL) else "mysql"
    run(
        ["/usr/sbin/chroot", str(root), f"{_FOLDER}/bin/django-admin", "migrate", "--no-input", "--verbosity=0"],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": f"{_FOLDER}/instance",
            "DJANGO_SETTINGS_MODULE": "lab_settings",
            "LAB_DATABASE": f"{scheme}://{USER}:{PASSWORD}@{HOST}:{server.port}/{dbname}",
        },
        timeout=300,
    )
