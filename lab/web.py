"""The database of a web interface for mail, and the account by which it writes there."""

from lab import HOST
from lab.mariadb import MariaDB
from lab.postgresql import PostgreSQL

USER = PASSWORD = "web"


def create_database(server: MariaDB | PostgreSQL, dbname: str) -> None:
    """Create an empty database whose owner is the account, which may be there already."""
    if isinstance(server, PostgreSQL):
        if not server.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{USER}'"):
            server.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        server.sql(f"CREATE DATABASE {dbname} OWNER {USER}")
        return
    server.sql(f"CREATE USER IF NOT EXISTS {USER}@{HOST} IDENTIFIED BY '{PASSWORD}'")
    server.sql(f"CREATE DATABASE {dbname} CHARACTER SET utf8mb4")  # the default of Debian's servers
    server.sql(f"GRANT ALL ON {dbname}.* TO {USER}@{HOST}")
