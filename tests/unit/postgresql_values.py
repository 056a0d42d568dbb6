"""Values that tests of a PostgreSQL share: pillar, roles, and a server that only listens."""

from _ispmail_config_database import database
from _ispmail_postgresql import Role
from _ispmail_scram import verifier

PGSQL = {name: {"type": "pgsql"} for name in ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")}
VERIFIER = verifier(b"new", bytes(16))


def config(password="new", user="m_a", keep=None):
    """What pillar says."""
    rotation = {} if keep is None else {"rotation": {"keep": keep}}
    return database("ispmail", {"database": {"user": user, "password": password}, "maps": PGSQL, **rotation})


def role(name="m_a", **more):
    """One that accepts pillar's password, unless told otherwise."""
    known = {"can_login": True, "is_superuser": False, "verifier": VERIFIER, "expires": None, "groups": ()}
    return Role(name, **{**known, "settings": (), "connections": 0, "most": -1, **more})


class FakeServer:
    """Says which roles there are, and takes all statements without doing anything."""

    has_database, is_superuser = True, True

    def __init__(self, *roles):
        self.roles = {each.name: each for each in roles}
        self.told = []

    def ask(self, statement, arguments=None):
        if statement.startswith(("ALTER", "CREATE", "GRANT")):
            self.told.append(statement)
        return [{"rounds": "5000"}] if "scram_iterations" in statement else []
