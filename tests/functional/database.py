"""A database server before and after the guide's reader has been there: what several tests begin with."""

import contextlib
import itertools
import socket
import struct
import threading

import pymysql

from lab import HOST
from lab.mariadb import native_hash

# No quoting, escape or encoding hides these from a search.
OLD, NEW, OTHER = "oldSecretJ4x8K2", "newSecretW7q3Z9", "otherSecretP5m1T6"
ACCOUNT = "mailserver@'127.0.0.1'"
NAME = "mailserver@127.0.0.1"
SELECT = ["SELECT ON `mailserver`.*"]

# To the letter what the guide has the reader type.
GUIDE = """
CREATE TABLE virtual_domains (id int NOT NULL auto_increment, name varchar(50) NOT NULL, PRIMARY KEY (id))
    ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE virtual_users (id int NOT NULL auto_increment, domain_id int NOT NULL, email varchar(100) NOT NULL,
    password varchar(150) NOT NULL, quota bigint(11) NOT NULL DEFAULT 0, PRIMARY KEY (id), UNIQUE KEY email (email),
    FOREIGN KEY (domain_id) REFERENCES virtual_domains(id) ON DELETE CASCADE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE virtual_aliases (id int NOT NULL auto_increment, domain_id int NOT NULL, source varchar(100) NOT NULL,
    destination varchar(100) NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY (domain_id) REFERENCES virtual_domains(id) ON DELETE CASCADE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""
ROWS = """
INSERT INTO virtual_domains (id, name) VALUES (1, 'example.org');
INSERT INTO virtual_users (domain_id, email, password) VALUES (1, 'john@example.org', '!');
INSERT INTO virtual_aliases (domain_id, source, destination) VALUES (1, 'jack@example.org', 'john@example.org'),
    (1, 'jack@example.org', 'jane@example.org')
"""
NATIVE = "IDENTIFIED VIA mysql_native_password USING"
TWO = f"{NATIVE} '{native_hash(OTHER)}' OR mysql_native_password USING '{native_hash(OLD)}'"


def pillar(server, password=OLD, **section):
    database = {"password": password, "hosts": f"{HOST}:{server.port}"}
    return {"ispmail": {"database": database, "server": {"unix_socket": server.socket, **section}}}


def call(minion, function, **options):
    return minion.call(f"postfix_database.{function}", **options)


def run(server, text, dbname="mailserver"):
    connection = pymysql.connect(unix_socket=server.socket, user="root", autocommit=True, database=dbname)
    with contextlib.closing(connection), connection.cursor() as cursor:
        for statement in text.split(";"):
            cursor.execute(statement)


def guide(server, rows=ROWS):
    server.sql("CREATE DATABASE mailserver")
    run(server, GUIDE)
    run(server, rows)


def _packet(number, payload):
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


class AskingServer:
    """
    Speaks as a MariaDB as far as the login plugin, for which it asks each connection in turn.

    With caching_sha2_password it lets everybody in, and then understands no statement but SET; with others it waits
    for the password. `got` holds what each connection sent: at first, and after it was asked.
    """

    _OK = b"\0\0\0\2\0\0\0"
    _ERROR = b"\xff" + struct.pack("<H", 1064) + b"#42000no"

    def __init__(self, *plugins):
        self.plugins = plugins
        self.got = []
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # close() alone would leave accept() waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            for plugin in itertools.cycle(self.plugins):
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[peer, plugin], daemon=True).start()

    def _serve(self, peer, plugin):
        capabilities = struct.pack("<I", 0x200 | 0x8000 | 0x80000)
        greeting = b"\x0a5.5.5-10.11-MariaDB\0" + bytes(4) + b"saltsalt\0" + capabilities[:2] + b"\x21\x02\0"
        greeting += capabilities[2:] + b"\x15" + bytes(10) + b"saltsaltsalt\0mysql_native_password\0"
        question = {"dialog": b"\x04Password: ", "caching_sha2_password": b"saltsaltsaltsaltsalt\0"}.get(plugin, b"")
        with peer, contextlib.suppress(OSError):
            peer.settimeout(5)
            peer.sendall(_packet(0, greeting))
            first = peer.recv(4096)
            peer.sendall(_packet(2, b"\xfe" + plugin.encode() + b"\0" + question))
            self.got.append((first, peer.recv(4096)))
            if plugin == "caching_sha2_password":
                peer.sendall(_packet(4, b"\1\3") + _packet(5, self._OK))
                while command := peer.recv(4096):
                    peer.sendall(_packet(1, self._OK if command[5:8] == b"SET" else self._ERROR))
