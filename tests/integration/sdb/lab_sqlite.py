"""An sdb driver that can write, in SQLite, as Salt had one until 3007; 3008 itself has none."""

import contextlib
import sqlite3

__func_alias__ = {"set_": "set"}


def set_(key, value, profile=None):
    if profile.get("broken"):
        raise OSError(f"cannot write {value}")
    with contextlib.closing(sqlite3.connect(profile["database"])) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sdb (key TEXT PRIMARY KEY, value TEXT)")
        connection.execute("REPLACE INTO sdb VALUES (?, ?)", (key, value))
    return value


def get(key, profile=None):
    with contextlib.closing(sqlite3.connect(profile["database"])) as connection:
        row = connection.execute("SELECT value FROM sdb WHERE key = ?", (key,)).fetchone()
    return row and row[0]
