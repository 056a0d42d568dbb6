"""Pillar and rows for the tests with a PostgreSQL."""

from lab import HOST
from lab.postgresql import HBA

from .database import OLD

JACK, JOHN, NOBODY = "jack@example.org", "john@example.org", "nobody@example.org"
TABLES = ("virtual_domains", "virtual_users", "virtual_aliases")
MAPS = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
# As somebody might have made them, who needs no quota.
BY_HAND = """
CREATE TABLE virtual_domains (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE virtual_users (id serial PRIMARY KEY, domain_id int NOT NULL, email text NOT NULL, password text NOT NULL);
CREATE TABLE virtual_aliases (id serial PRIMARY KEY, domain_id int NOT NULL, source text NOT NULL, destination text);
"""
ROWS = """
INSERT INTO virtual_domains (id, name) VALUES (1, 'example.org');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'jack@example.org', 'john@example.org');
"""


def pillar(server, password=OLD, postfix=None, maps=None, database=None, **section):
    found = {
        "database": {"password": password, "hosts": f"{HOST}:{server.port}", **(database or {})},
        "server": {"unix_socket": server.socket, **section},
        "maps": {name: {"type": "pgsql"} for name in MAPS} if maps is None else maps,
        "packages": False,
    }
    if postfix:
        found["postfix"] = {"config_directory": str(postfix.config_directory)}
    return {"ispmail": found}


def untouched(server):
    """Make a PostgreSQL as it is before anything of ours: root is let in as the system's user postgres only."""
    server.hba.write_text(HBA)
    server.sql("SELECT pg_reload_conf()")
    server.sql("DROP DATABASE IF EXISTS mailserver WITH (FORCE)")
    for (name,) in server.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^(pg_|postgres$)'"):
        server.sql(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')
