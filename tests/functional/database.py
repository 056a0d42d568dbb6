"""A database server before and after the guide's reader has been there: what several tests begin with."""

import contextlib
import datetime
import functools
import ipaddress
import itertools
import os
import socket
import ssl
import struct
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab import HOST, wait_until
from lab.images import missing_requirements
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
    connection = server.connect(database=dbname)
    with contextlib.closing(connection), connection.cursor() as cursor:
        for statement in text.split(";"):
            cursor.execute(statement)


def needs_machines():
    """Leave a test out where the root of a server cannot be built, with the reason; in CI it has to run."""
    if (reason := missing_requirements()) and os.environ.get("CI") != "true":
        pytest.skip(reason)


def guide(server, rows=ROWS):
    server.sql("CREATE DATABASE mailserver")
    run(server, GUIDE)
    run(server, rows)


# By these a server asks for the password itself, or for what is as good; and by one that nobody knows.
PLUGINS = (
    "mysql_clear_password",
    "dialog",
    "sha256_password",
    "caching_sha2_password",
    "mysql_old_password",
    "client_ed25519",
    "not_invented_yet",
)


class Listener:
    """Listens on an address of loopback, or on a unix socket at `path`, and begins what a subclass does."""

    def __init__(self, path=None, address=(HOST, 0)):
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._listener = socket.create_server(address, family=family, backlog=64)
            self.port = self._listener.getsockname()[1]

    def __enter__(self):
        in_background(self._accept)
        return self

    def __exit__(self, *_):
        # close() alone would leave accept() waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def begin(self, peer):
        """Start to serve a connection."""
        raise NotImplementedError

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.begin(self._listener.accept()[0])


class Relay(Listener):
    """Passes connections on to another port of loopback."""

    def __init__(self, port, address):
        super().__init__(address=address)
        self._upstream = (HOST, port)

    def begin(self, peer):
        """Pass on, both ways."""
        upstream = socket.create_connection(self._upstream)
        in_background(self._pass, peer, upstream)
        in_background(self._pass, upstream, peer)

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def in_background(function, *arguments):
    """Run a function in a thread that nobody waits for."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


class AskingServer(Listener):
    """
    Speaks as a MariaDB as far as the login plugin, for which it asks each connection in turn.

    It asks for a plugin by an auth switch request or, with `greeting`, names it in its greeting. It wants the password
    in clear or, by the two plugins that know that, encrypted with a key of its own, for which it has the other half.
    Without `full` it takes caching_sha2_password's scramble, lets everybody in, and then understands no statement but
    SET. `got` holds, of each connection that has ended, the plugin and what it sent: packets, without TLS.
    """

    _OK = b"\0\0\0\2\0\0\0"
    _ERROR = b"\xff" + struct.pack("<H", 1064) + b"#42000no"

    def __init__(self, *plugins, greeting=False, tls=None, full=False, path=None):
        """`tls`: the file of a certificate, to offer TLS. `path`: of a unix socket to listen on, in place of a port."""
        self.plugins = plugins
        self.got = []
        self.certificate = tls
        self._greeting, self._full = greeting, full
        self._in_turn = itertools.cycle(plugins)
        super().__init__(path)

    def begin(self, peer):
        """Ask each connection by the next plugin."""
        in_background(self._serve, peer, next(self._in_turn))

    def heard(self):
        """All that it can make of what it got: the packets, and those decrypted that were encrypted with its key."""
        packets = [packet for _, packets in self.got for packet in packets]
        return packets + [text for packet in packets if (text := _decrypted(packet[4:]))]

    def check(self, user, secret):
        """See that `user` was asked by each plugin once, and has not given the secret away."""
        assert wait_until(lambda: len(self.got) == len(self.plugins), 10), self.got
        assert {plugin for plugin, _ in self.got} == set(self.plugins)
        assert not [text for text in self.heard() if secret.encode() in text]
        for plugin, packets in self.got:
            named = [user.encode() + b"\0" in packet for packet in packets]
            assert any(named), plugin
            answers = packets[named.index(True) + 1 :]
            # Nothing at all but, by one plugin, a scramble.
            assert not answers or (plugin == "caching_sha2_password" and [len(each) for each in answers] == [4 + 32])

    def _serve(self, peer, plugin):
        peer.settimeout(5)
        talk = Talk(peer)
        with contextlib.suppress(OSError):
            self._login(talk, plugin)
        with contextlib.suppress(OSError):
            talk.peer.settimeout(1)
            while talk.hear():
                pass
        talk.peer.close()
        self.got.append((plugin, talk.got))

    def _login(self, talk, plugin):
        talk.say(_greeting(self.certificate) + (plugin if self._greeting else "mysql_native_password").encode() + b"\0")
        if self.certificate and talk.wants_tls():
            talk.hear(exactly=36)
            talk.begin_tls(self.certificate)
        answer = talk.hear()
        if not self._greeting:
            question = {"dialog": b"\x04Password: "}.get(plugin, _NONCE + b"\0")
            talk.say(b"\xfe" + plugin.encode() + b"\0" + question)
            answer = talk.hear()
        elif plugin not in ("sha256_password", "caching_sha2_password"):
            talk.say(b"\1\x04Password: ")
        if plugin == "caching_sha2_password" and not self._full:
            talk.say(b"\1\3")
            talk.say(self._OK)
            while command := talk.hear():
                talk.say(self._OK if command[5:8] == b"SET" else self._ERROR)
        elif plugin == "caching_sha2_password":
            talk.say(b"\1\4")
            if talk.hear()[4:] == b"\2":
                talk.say(b"\1" + _public_key())
        elif plugin == "sha256_password" and (self._greeting or answer[4:] == b"\1"):
            talk.say(b"\1" + _public_key())


class OddServer(Listener):
    """Answers each connection by a function that gets the connection as a `Talk`, until the client has gone."""

    def __init__(self, serve):
        self._serve = serve
        super().__init__()
        self.host = f"{HOST}:{self.port}"

    def begin(self, peer):
        """Have the function answer each connection."""
        in_background(self._one, peer)

    def _one(self, peer):
        talk = Talk(peer)
        with contextlib.suppress(OSError):
            self._serve(talk)
        talk.peer.close()


OK = b"\0\0\0\2\0\0\0"
MORE_RESULTS = b"\0\0\0\x0a\0\0\0"


def error(number):
    """A server's error packet."""
    return b"\xff" + struct.pack("<H", number) + b"#28000no"


def greet(talk, tls=False):
    """Greet, and hear the client's reply."""
    talk.say(_greeting(tls) + b"mysql_native_password\0")
    return b"" if tls else talk.hear()


def knows(answer):
    """Serves logins, SET, and each other statement by `answer(talk, statement)`."""

    def serve(talk):
        greet(talk)
        talk.say(OK)
        while packet := talk.hear():
            if packet[5:8] == b"SET":
                talk.say(OK)
            else:
                answer(talk, packet[5:])

    return serve


def say_rows(talk, names, *rows):
    """Answer a statement with rows of texts, b"" for a text and None for NULL."""
    talk.say(bytes([len(names)]))
    for name in names:
        parts = [b"def", b"", b"t", b"t", name, name]
        field = struct.pack("<HIBHB", 33, 255, 253, 0, 0)
        talk.say(b"".join(_text(part) for part in parts) + b"\x0c" + field + b"\0\0")
    talk.say(b"\xfe\0\0\2\0")
    for row in rows:
        talk.say(b"".join(_text(text) for text in row))
    talk.say(b"\xfe\0\0\2\0")


def _text(text):
    return b"\xfb" if text is None else bytes([len(text)]) + text


class Talk:
    """The packets of one connection, with their numbers."""

    def __init__(self, peer):
        self.peer, self.number, self.got = peer, 0, []

    def say(self, payload):
        self.peer.sendall(_packet(self.number, payload))
        self.number = (self.number + 1) % 256

    def hear(self, exactly=65536):
        packet = self.peer.recv(exactly)
        if packet:
            self.got.append(packet)
            self.number = (packet[3] + 1) % 256 if len(packet) > 3 else self.number
        return packet

    def wants_tls(self):
        """Whether the next packet asks for TLS; what follows on that is no longer ours to read."""
        packet = self.peer.recv(36, socket.MSG_PEEK)
        return len(packet) == 36 and packet[0] == 32 and bool(packet[5] & 0x08)

    def begin_tls(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.peer = context.wrap_socket(self.peer, server_side=True)


_NONCE = b"saltsaltsaltsaltsalt"


def _greeting(tls):
    """A server's greeting, up to the name of its plugin."""
    capabilities = struct.pack("<I", 0x200 | 0x8000 | 0x80000 | (0x800 if tls else 0))
    greeting = b"\x0a5.5.5-10.11-MariaDB\0" + bytes(4) + _NONCE[:8] + b"\0" + capabilities[:2] + b"\x21\x02\0"
    return greeting + capabilities[2:] + b"\x15" + bytes(10) + _NONCE[8:] + b"\0"


def _packet(number, payload):
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


@functools.cache
def _key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _public_key():
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _key().public_key().public_bytes(serialization.Encoding.PEM, form)


def _decrypted(data):
    """What was encrypted with our key as these plugins do it; None if nothing was."""
    with contextlib.suppress(ValueError):
        way = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
        return bytes(a ^ b for a, b in zip(_key().decrypt(data, way), itertools.cycle(_NONCE)))
    return None


def certificate(directory, host=HOST):
    """A file with a key and a certificate for `host` that nobody but itself has signed."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternative = x509.IPAddress(ipaddress.ip_address(host))
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(_key().public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    key = _key().private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = directory / f"{host}.pem"
    path.write_bytes(key + builder.sign(_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path
