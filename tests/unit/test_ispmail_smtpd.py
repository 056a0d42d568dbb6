"""Where smtpd listens, what its replies mean, and how it is asked: by a socket that replies as smtpd does."""

import contextlib
import socket
import ssl
import threading
import time

import pytest

import _ispmail_smtpd
from _ispmail_errors import Failed
from _ispmail_inventory import Inventory, Settings
from _ispmail_postconf import Service
from _ispmail_smtpd import Reply

from ..functional.database import certificate

REFUSED = "554 5.7.1 <localhost[127.0.0.1]>: Client host rejected: Access denied"


def inventory(*services, **values):
    """A Postfix with these services, each a name and a command."""
    found = [Service(name, "unix" if "/" in name else "inet", "y", command) for name, command in services]
    return Inventory(Settings("/etc/postfix", values, frozenset()), tuple(found), (), (), {})


@pytest.mark.parametrize(
    ("services", "values", "where"),
    [
        ([("25", "smtpd")], {}, ("127.0.0.1", 25, False)),
        ([("smtp", "smtpd")], {}, ("127.0.0.1", 25, False)),
        ([("submission", "smtpd -o smtpd_tls_security_level=encrypt")], {}, ("127.0.0.1", 587, False)),
        ([("25", "smtpd")], {"inet_interfaces": "loopback-only"}, ("127.0.0.1", 25, False)),
        ([("25", "smtpd")], {"inet_interfaces": "192.0.2.1, 192.0.2.2"}, ("192.0.2.1", 25, False)),
        ([("25", "smtpd")], {"inet_interfaces": "$own", "own": "[2001:db8::1]"}, ("2001:db8::1", 25, False)),
        ([("192.0.2.3:26", "smtpd")], {"inet_interfaces": "192.0.2.1"}, ("192.0.2.3", 26, False)),
        ([("[::1]:10025", "smtpd")], {}, ("::1", 10025, False)),
        # What speaks TLS or another protocol first, or is no smtpd, is passed over.
        (
            [("25", "postscreen"), ("465", "smtpd -o smtpd_tls_wrappermode=yes"), ("26", "smtpd"), ("27", "smtpd")],
            {},
            ("127.0.0.1", 26, False),
        ),
        ([("private/x", "smtpd"), ("28", "smtpd")], {}, ("127.0.0.1", 28, False)),
        ([("25", "smtpd -o smtpd_upstream_proxy_protocol=haproxy")], {}, ("127.0.0.1", 25, True)),
        ([("25", "smtpd")], {"smtpd_upstream_proxy_protocol": "haproxy"}, ("127.0.0.1", 25, True)),
        ([("25", "smtpd")], {"smtpd_upstream_proxy_protocol": "$own", "own": "haproxy"}, ("127.0.0.1", 25, True)),
        (
            [("25", "smtpd -o smtpd_upstream_proxy_protocol=")],
            {"smtpd_upstream_proxy_protocol": "haproxy"},
            ("127.0.0.1", 25, False),
        ),
        ([("465", "smtpd -o smtpd_tls_wrappermode=yes")], {}, None),
        ([("no-such-service", "smtpd")], {}, None),
        ([], {}, None),
    ],
)
def test_where_smtpd_listens(services, values, where):
    assert _ispmail_smtpd._listening(inventory(*services, **values)) == where


@pytest.mark.parametrize(
    ("code", "text", "cannot_ask", "was_not_asked"),
    [
        (250, "2.1.5 Ok", False, False),
        (550, "5.1.1 <probe@probe.invalid>: Recipient address rejected", False, False),
        (451, "4.3.0 <x@y>: Temporary lookup failure", True, False),
        (451, "4.3.5 Server configuration error", True, False),
        (451, "4.7.1 try again later", False, False),
        (450, "4.3.0 Temporary lookup failure", False, False),
        (421, "4.7.0 too many connections", False, True),
        (530, "5.7.0 Must issue a STARTTLS command first", False, True),
        (531, "x", False, False),
        (554, REFUSED[4:], False, True),
        (450, "Client host rejected: cannot find your hostname", False, False),
        (500, "Access denied", False, True),
        (499, "Access denied", False, False),
        (None, "Connection refused", False, True),
    ],
)
def test_what_a_reply_means(code, text, cannot_ask, was_not_asked):
    reply = Reply("127.0.0.1:25", code, text)
    assert (reply.cannot_ask, reply.was_not_asked) == (cannot_ask, was_not_asked)
    assert str(reply) == (f"{code} {text}" if code else text)


OK, NOT, SILENT = Reply("a:25", 250, "Ok"), Reply("a:25", 451, "Temporary lookup failure"), Reply("a:25", None, "gone")
NOWHERE = Reply(None, None, "no smtpd listens without TLS", connected=False)
CLOSED = Reply("a:25", None, "Connection refused", connected=False)
SEE = ": see the mail log, which names the table"


@pytest.fixture
def says(monkeypatch):
    """A function that takes what smtpd says after a change; gives the timeouts that it is asked with."""

    def set_up(*replies):
        left, timeouts, now = list(replies), [], [0.0]

        def ask(_, timeout=10):
            reply = left.pop(0) if len(left) > 1 else left[0]
            timeouts.append(timeout)
            now[0] += timeout if reply.is_silent and reply.text != "at once" else 0
            return reply

        def sleep(seconds):
            now[0] += seconds

        monkeypatch.setattr(_ispmail_smtpd, "ask", ask)
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        monkeypatch.setattr("time.sleep", sleep)
        return timeouts

    return set_up


THROTTLED = inventory(service_throttle_time="30s")


@pytest.mark.parametrize("after", [OK, NOWHERE, Reply("a:25", 550, "User unknown")])
@pytest.mark.parametrize("before", [None, OK, NOT, SILENT, CLOSED])
def test_what_answers_is_not_worse(says, before, after):
    timeouts = says(after)
    assert _ispmail_smtpd.refuse_if_worse(before, THROTTLED) == []
    assert after is NOWHERE or timeouts == [40 if before is SILENT else 10]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (OK, NOT, "can no longer ask its maps, though postmap can (451 Temporary lookup failure)"),
        (OK, SILENT, "can no longer ask its maps, though postmap can (gone)"),
        (OK, CLOSED, "can no longer ask its maps, though postmap can (Connection refused)"),
        (NOT, SILENT, "can no longer ask its maps, though postmap can (gone)"),
        (CLOSED, SILENT, "can no longer ask its maps, though postmap can (gone)"),
        (CLOSED, NOT, "can no longer ask its maps, though postmap can (451 Temporary lookup failure)"),
        (
            SILENT,
            NOT,
            "did not answer before this change, and cannot ask its maps now (451 Temporary lookup failure)",
        ),
        (SILENT, SILENT, "did not answer before this change, and not within 40 s after it either (gone)"),
        (SILENT, CLOSED, "did not answer before this change, and not within 40 s after it either (Connection refused)"),
        (
            None,
            NOT,
            "does not answer, or cannot ask its maps, though postmap can (451 Temporary lookup failure)",
        ),
        (None, SILENT, "does not answer, or cannot ask its maps, though postmap can (gone)"),
        (None, CLOSED, "does not answer, or cannot ask its maps, though postmap can (Connection refused)"),
    ],
)
def test_what_is_worse_than_before_is_refused(says, before, after, said):
    """Silence before and after was taken for a yes: a change that had killed a program was live at the second try."""
    says(after)
    with pytest.raises(Failed) as raised:
        _ispmail_smtpd.refuse_if_worse(before, THROTTLED)
    assert str(raised.value) == f"smtpd on a:25 {said}{SEE}"


def test_what_was_as_bad_before_is_a_warning(says):
    says(NOT)
    assert _ispmail_smtpd.refuse_if_worse(NOT, THROTTLED) == [
        f"smtpd on a:25 could not ask its maps before this change, and cannot now (451 Temporary lookup failure){SEE}"
    ]


@pytest.mark.parametrize("reply", [NOWHERE, CLOSED])
def test_an_smtpd_that_nobody_reaches_is_no_worse(says, reply):
    """A program that has died does not look like that: master(8) itself takes the connection."""
    timeouts = says(reply)
    assert _ispmail_smtpd.refuse_if_worse(reply, THROTTLED) == []
    assert timeouts == [10]


@pytest.mark.parametrize(
    ("replies", "timeouts"),
    [
        # It hangs up at once while it dies, and then hangs until master starts the next one.
        ([Reply("a:25", None, "at once"), OK], [40, 39.5]),
        ([Reply("a:25", None, "at once")] * 3 + [OK], [40, 39.5, 39, 38.5]),
        ([OK], [40]),
    ],
)
def test_an_smtpd_that_was_silent_is_waited_for(says, replies, timeouts):
    seen = says(*replies)
    assert _ispmail_smtpd.refuse_if_worse(SILENT, THROTTLED) == []
    assert seen == timeouts


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("60s", 70), ("5", 15), ("1m", 70), ("1h", 120), ("2d", 120), ("1w", 120), ("$own", 30), ("", 70), ("odd", 70)],
)
def test_how_long_a_silent_smtpd_is_waited_for(value, seconds):
    found = inventory(service_throttle_time=value, own="20s")
    assert _ispmail_smtpd._restarted_after(found) == seconds


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (OK, OK, "It answers as before."),
        *((before, OK, "It answers now.") for before in (None, SILENT, CLOSED, NOT)),
        (OK, CLOSED, "smtpd on a:25 does not answer any more (Connection refused): see the mail log."),
        (
            OK,
            SILENT,
            "smtpd on a:25 does not answer yet (gone): master(8) starts a program that has died again after 30 s "
            "(service_throttle_time); postfix stop and postfix start do so at once.",
        ),
        (
            SILENT,
            SILENT,
            "smtpd on a:25 does not answer yet (gone), nor did it before the change: master(8) starts a program that "
            "has died again after 30 s (service_throttle_time); postfix stop and postfix start do so at once.",
        ),
        (OK, NOT, f"smtpd on a:25 cannot ask its maps (451 Temporary lookup failure){SEE}."),
        (None, NOT, f"smtpd on a:25 cannot ask its maps (451 Temporary lookup failure){SEE}."),
        (
            NOT,
            NOT,
            "smtpd on a:25 cannot ask its maps (451 Temporary lookup failure), nor could it before the change"
            + SEE
            + ".",
        ),
        (NOWHERE, NOWHERE, "smtpd itself was not asked (no smtpd listens without TLS)."),
        (CLOSED, CLOSED, "smtpd itself was not asked (Connection refused)."),
        (OK, Reply("a:25", 554, REFUSED[4:]), f"smtpd itself was not asked ({REFUSED})."),
    ],
)
def test_how_postfix_answers_after_the_way_back(says, before, now, said):
    says(now)
    assert _ispmail_smtpd.describe_now(before, THROTTLED) == said


@contextlib.contextmanager
def smtpd(*replies, greeting=b"220 mail.example.org ESMTP\r\n", family=socket.AF_INET):
    """A server that greets, and gives these replies after its EHLO; its port, and the lines that it gets."""
    lines = []
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as server:

        def serve():
            with contextlib.suppress(OSError), server.accept()[0] as client, client.makefile("rb") as stream:
                client.sendall(greeting)
                for reply in [b"250 mail.example.org\r\n", *replies, b"221 Bye\r\n"]:
                    line = stream.readline()
                    if line.startswith(b"PROXY"):
                        lines.append(line)
                        line = stream.readline()
                    lines.append(line)
                    client.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], lines
        thread.join(5)


def asked(port, recipient="jack@example.org", host="127.0.0.1", command="smtpd"):
    return _ispmail_smtpd.ask(inventory((f"{host}:{port}", command)), recipient, timeout=5)


def test_a_recipient_is_asked_for_and_no_mail_is_sent():
    with smtpd(b"250 Ok\r\n", b"550 5.1.1 \xff unknown\r\n") as (port, lines):
        assert asked(port) == (f"127.0.0.1:{port}", 550, "5.1.1 \ufffd unknown", True)
    assert lines == [b"ehlo localhost\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<jack@example.org>\r\n", b"QUIT\r\n"]


def test_a_sender_that_is_refused_is_the_answer():
    with smtpd(b"451 4.3.0 Temporary lookup failure\r\n") as (port, lines):
        reply = asked(port)
    assert (reply.code, reply.cannot_ask) == (451, True) and not any(line.startswith(b"RCPT") for line in lines)


def test_by_default_it_is_asked_for_nobody():
    with smtpd(b"250 Ok\r\n", b"554 5.7.1 Relay access denied\r\n") as (port, lines):
        _ispmail_smtpd.ask(inventory((f"127.0.0.1:{port}", "smtpd")))
    assert b"RCPT TO:<probe@probe.invalid>\r\n" in lines


def test_a_client_that_is_refused_at_once():
    with smtpd(greeting=f"{REFUSED}\r\n".encode()) as (port, _):
        reply = asked(port)
    assert (reply.code, reply.text, reply.was_not_asked) == (554, REFUSED[4:], True)


class Submission:
    """An smtpd with STARTTLS: it takes mail after a greeting, and where it needs TLS, after a greeting in TLS."""

    def __init__(self, file, needs_tls=True, offers=("STARTTLS", "SMTPUTF8")):
        self.lines, self.lines_in_tls = [], []
        self._needs_tls, self._offers = needs_tls, offers
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(file)

    def asked(self, **options):
        """What our client makes of it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self._serve, args=[server], daemon=True)
            thread.start()
            reply = asked(server.getsockname()[1], **options)
            thread.join(5)
        return reply

    def _serve(self, server):
        with contextlib.suppress(OSError), server.accept()[0] as client:
            client.sendall(b"220 mail.example.org ESMTP\r\n")
            if self._talk(client, self.lines):
                with self._context.wrap_socket(client, server_side=True) as in_tls:
                    self._talk(in_tls, self.lines_in_tls)

    def _talk(self, client, lines):
        """Reply to each line; whether TLS begins now."""
        offer = "\r\n".join(["250-mail.example.org", *(f"250-{each}" for each in self._offers), "250 8BITMIME"])
        replies = {"EHLO": offer, "STARTTLS": "220 Ready", "MAIL": "503 send HELO/EHLO first", "RCPT": "550 unknown"}
        with client.makefile("rb") as stream:
            for line in stream:
                lines.append(line.decode().strip())
                verb = lines[-1].split()[0].upper()
                client.sendall(f"{replies.get(verb, '221 Bye')}\r\n".encode())
                if verb == "EHLO":
                    is_safe = lines is self.lines_in_tls or not self._needs_tls
                    replies["MAIL"] = "250 Ok" if is_safe else "530 Must issue a STARTTLS command first"
                if verb == "STARTTLS":
                    return True
        return False


MAIL = ["MAIL FROM:<>", "RCPT TO:<jack@example.org>", "QUIT"]


def test_where_smtpd_wants_tls_it_is_asked_in_tls(tmp_path):
    """The service submission does. Whose certificate it has does not matter: it gets no password."""
    smtpd = Submission(certificate(tmp_path))
    assert smtpd.asked()[1:3] == (550, "unknown")
    assert smtpd.lines == ["ehlo localhost", MAIL[0], "STARTTLS"] and smtpd.lines_in_tls == ["ehlo localhost", *MAIL]


def test_where_smtpd_wants_no_tls_none_begins(tmp_path):
    """What is wrong with its certificate then does not keep a change from being checked."""
    smtpd = Submission(certificate(tmp_path), needs_tls=False)
    assert smtpd.asked()[1:3] == (550, "unknown")
    assert smtpd.lines == ["ehlo localhost", *MAIL] and smtpd.lines_in_tls == []


def test_where_smtpd_wants_tls_and_has_none_its_reply_says_so(tmp_path):
    smtpd = Submission(certificate(tmp_path), offers=())
    reply = smtpd.asked()
    assert reply[1:3] == (530, "Must issue a STARTTLS command first") and reply.was_not_asked


@pytest.mark.parametrize("needs_tls", [True, False])
@pytest.mark.parametrize(
    ("recipient", "offers", "begins"),
    [
        ("jürgen@example.org", ("STARTTLS", "SMTPUTF8"), "MAIL FROM:<> SMTPUTF8"),
        ("jürgen@example.org", ("STARTTLS",), "MAIL FROM:<>"),
        ("jack@example.org", ("STARTTLS", "SMTPUTF8"), "MAIL FROM:<>"),
    ],
)
def test_a_recipient_may_have_any_letter(tmp_path, needs_tls, recipient, offers, begins):
    """An expected answer to such a question ended in a UnicodeEncodeError, after the change was live."""
    smtpd = Submission(certificate(tmp_path), needs_tls, offers)
    assert smtpd.asked(recipient=recipient)[1:3] == (550, "unknown")
    lines = smtpd.lines_in_tls if needs_tls else smtpd.lines
    assert lines == ["ehlo localhost", begins, f"RCPT TO:<{recipient}>", "QUIT"]


def test_a_recipient_that_is_no_text_is_not_asked_for():
    with smtpd(b"250 Ok\r\n") as (port, lines):
        assert asked(port, "\udcff@example.org") == (f"127.0.0.1:{port}", None, "UnicodeEncodeError", True)
    assert lines == [b"ehlo localhost\r\n", b"MAIL FROM:<>\r\n", b"QUIT\r\n"]


def test_a_reply_that_never_ends_is_not_read_on():
    """No smtpd has such a line, but something else may listen there."""
    with smtpd(greeting=b"220 " + b"x" * 10000 + b"\r\n") as (port, _):
        assert asked(port) == (f"127.0.0.1:{port}", 500, "Line too long.", True)


def test_an_smtpd_that_says_nothing_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        # It hangs up in the end, so that a client which waits for ever gets somewhere.
        hang_up = threading.Timer(5, server.close)
        hang_up.start()
        began = time.monotonic()
        reply = _ispmail_smtpd.ask(inventory((f"127.0.0.1:{server.getsockname()[1]}", "smtpd")), timeout=0.2)
        hang_up.cancel()
    assert reply.is_silent and reply.was_not_asked and time.monotonic() - began < 3


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert asked(port) == (f"127.0.0.1:{port}", None, "Connection refused", False)
    assert _ispmail_smtpd.ask(inventory()) == NOWHERE


def test_it_hangs_up():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            server.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        reply = asked(server.getsockname()[1])
    assert reply.is_silent and reply.text in ("SMTPServerDisconnected", "Connection reset by peer")


@pytest.mark.parametrize(
    ("family", "host", "line"),
    [
        (socket.AF_INET, "127.0.0.1", r"PROXY TCP4 127.0.0.1 127.0.0.1 {client} {port}"),
        (socket.AF_INET6, "[::1]", r"PROXY TCP6 ::1 ::1 {client} {port}"),
    ],
)
def test_behind_a_load_balancer_its_line_comes_first(family, host, line):
    """smtpd waits for it, and would call what it gets instead a protocol error."""
    with smtpd(b"250 Ok\r\n", b"250 Ok\r\n", family=family) as (port, lines):
        command = "smtpd -o smtpd_upstream_proxy_protocol=haproxy"
        assert asked(port, host=host, command=command).code == 250
    client = lines[0].split()[4].decode()
    assert lines[0].decode() == line.format(client=client, port=port) + "\r\n" and client.isdigit()
    assert lines[1] == b"ehlo localhost\r\n"
