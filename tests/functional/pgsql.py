"""Pillar and rows for the tests with a PostgreSQL."""

from lab import HOST

from .database import OLD

JACK, JOHN, NOBODY = "jack@example.org", "john@example.org", "nobody@example.org"
TABLES = ("virtual_domains", "virtual_users", "virtual_aliases")
MAPS = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
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
