"""The tables of PostfixAdmin, made in a private database server by its own program, as Debian 12 has it."""

import os
from pathlib import Path

from lab import HOST
from lab.images import base, image
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL
from lab.processes import run
from lab.web import PASSWORD, USER, create_database

_BUILD = r"""
apt-get update -q
apt-get install -y -q --no-install-recommends php-cli php-mysql php-pgsql php-mbstring
cd /tmp
apt-get download -q postfixadmin  # not installed: its dependencies want a web server
dpkg --extract postfixadmin_*.deb /
rm postfixadmin_*.deb
echo '<?php' >/etc/postfixadmin/dbconfig.inc.php  # Debian's dbconfig would write the login there
cat >/etc/postfixadmin/config.local.php <<'END'
<?php
$CONF['configured'] = true;
$CONF['database_type'] = getenv('LAB_TYPE');
$CONF['database_host'] = getenv('LAB_HOST');
$CONF['database_port'] = getenv('LAB_PORT');
$CONF['database_user'] = getenv('LAB_USER');
$CONF['database_password'] = getenv('LAB_PASSWORD');
$CONF['database_name'] = getenv('LAB_DBNAME');
END
"""


def create_tables(server: MariaDB | PostgreSQL, dbname: str) -> None:
    """Create a database with all tables of PostfixAdmin. Needs root.

    The first call builds a root with PHP, in one or two minutes.
    """
    create_database(server, dbname)
    root: Path = image("postfixadmin", base("bookworm"), _BUILD)
    kind = "pgsql" if isinstance(server, PostgreSQL) else "mysqli"
    login = {"TYPE": kind, "HOST": HOST, "PORT": str(server.port), "USER": USER, "PASSWORD": PASSWORD, "DBNAME": dbname}
    done = run(
        ["/usr/sbin/chroot", str(root), "/usr/bin/php", "-f", "/usr/share/postfixadmin/public/upgrade.php"],
        env={"PATH": os.defpath, **{f"LAB_{name}": value for name, value in login.items()}},
        timeout=300,
    )
    if "Fatal error" in done.stdout + done.stderr:
        raise RuntimeError(f"PostfixAdmin made no tables:\n{(done.stdout + done.stderr)[-2000:]}")
