"""Ask a mail server over SMTP which recipients it accepts: once, or as a steady load. No mail is sent.

    python -m lab.smtp 127.0.0.1:25 --seconds 10 jack@example.org=250 nobody@example.org=550

prints one line of JSON; exit code 1 if a reply was not the expected one.
"""

import argparse
import contextlib
import itertools
import json
import signal
import smtplib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple

HOST = "127.0.0.1"
SENDER = "test@sender.test"
PER_CONNECTION = 20
SLOW = 0.3  # seconds


def rcpt(port: int, address: str, host: str = HOST, timeout: float = 10) -> tuple[int, str]:
    """Send one RCPT TO in a connection of its own. Returns the code and the text of the reply.

    If the server refuses the greeting, EHLO or MAIL, that reply is returned. Raises OSError if there is no connection,
    and smtplib.SMTPServerDisconnected if it is lost.
    """
    return rcpts(port, [address], host, timeout)[0]


def rcpts(port: int, addresses: Iterable[str], host: str = HOST, timeout: float = 10) -> list[tuple[int, str]]:
    """Send several RCPT TO in one connection, to one smtpd process. Returns the code and the text of each reply.

    If the server refuses MAIL, that is the reply for this address; if the greeting or EHLO, it is the only one. Raises
    as `rcpt` does.
    """
    client = None
    try:
        client = _connect(host, port, timeout)
        return [_ask(client, address) for address in addresses]
    except smtplib.SMTPResponseException as refused:
        return [(refused.smtp_code, _text(refused.smtp_error))]
    finally:
        _quit(client)


class Record(NamedTuple):
    """One RCPT: when (time.monotonic()), how long MAIL and RCPT took, what came back. Code 0: no answer at all."""

    at: float
    seconds: float
    address: str
    code: int
    expected: int
    text: str


@dataclass
class Report:
    """The result of a load."""

    seconds: float
    records: list[Record] = field(repr=False)
    longest_connect: float = 0.0

    @property
    def count(self) -> int:
        """How many RCPTs were tried."""
        return len(self.records)

    @property
    def failures(self) -> list[Record]:
        """The RCPTs with another reply than expected, or none."""
        return [record for record in self.records if record.code != record.expected]

    @property
    def failed(self) -> int:
        """How many failed."""
        return len(self.failures)

    @property
    def longest(self) -> float:
        """The longest wait for the answers to MAIL and RCPT, in seconds."""
        return max((record.seconds for record in self.records), default=0.0)

    @property
    def longest_gap(self) -> float:
        """The longest time in which no RCPT was answered, in seconds; 0 if there were fewer than two."""
        ends = sorted(record.at + record.seconds for record in self.records if record.code)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)

    @property
    def examples(self) -> list[str]:
        """One line for each kind of failure, the most frequent first."""
        kinds = Counter((r.address, r.expected, r.code, r.text) for r in self.failures)
        return [
            f"{number}x {address}: expected {expected}, got {code or 'no answer'} {text}"
            for (address, expected, code, text), number in kinds.most_common(10)
        ]

    @property
    def slow(self) -> int:
        """How many waited longer than SLOW."""
        return sum(record.seconds > SLOW for record in self.records)

    @property
    def slowest(self) -> list[str]:
        """One line for each of the three longest waits, with the time of day to look up in a log."""
        offset = time.time() - time.monotonic()
        waits = sorted(self.records, key=lambda record: -record.seconds)[:3]
        return [
            f"{r.seconds:.3f} s for {r.address} at {time.strftime('%H:%M:%S', time.localtime(r.at + offset))}"
            for r in waits
        ]

    def as_dict(self) -> dict[str, object]:
        """The report without its records, for JSON."""
        return {
            "count": self.count,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "longest": round(self.longest, 4),
            "longest_connect": round(self.longest_connect, 4),
            "longest_gap": round(self.longest_gap, 4),
            "slow": self.slow,
            "slowest": self.slowest,
            "examples": self.examples,
        }

    def __str__(self) -> str:
        line = f"{self.count:,} RCPTs in {self.seconds:.1f} s, {self.failed:,} failed, longest {self.longest:.3f} s"
        return line + "".join(f"; {example}" for example in self.examples[:1])


class Load:
    """A steady stream of RCPTs from several sessions at the same time, evenly spaced, until stopped.

    Each session reconnects after `per_connection` RCPTs, so both new and old server processes are asked. A session that
    had to wait does not catch up afterwards.
    """

    def __init__(
        self,
        port: int,
        addresses: dict[str, int],
        host: str = HOST,
        sessions: int = 4,
        rate: float | None = 100,
        timeout: float = 30,
        per_connection: int = PER_CONNECTION,
    ):
        """`addresses`: the expected reply code of each. `rate`: RCPTs per second of all sessions; None: no limit."""
        self.port, self.host, self.timeout, self.per_connection = port, host, timeout, per_connection
        self.addresses = list(addresses.items())
        self.interval = sessions / rate if rate else 0.0
        self._stop = threading.Event()
        self._begin = self._seconds = self._longest_connect = 0.0
        self._records: list[Record] = []
        self._threads = [
            threading.Thread(target=self._session, args=(number, sessions), daemon=True) for number in range(sessions)
        ]

    def __enter__(self) -> "Load":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def count(self) -> int:
        """How many RCPTs were tried until now."""
        return len(self._records)

    def start(self) -> "Load":
        """Start asking."""
        self._begin = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Report:
        """Let each session finish its RCPT, and report. May be called again: it reports the same."""
        if not self._stop.is_set():
            self._stop.set()
            for thread in self._threads:
                thread.join()
            self._seconds = time.monotonic() - self._begin
        return Report(self._seconds, sorted(self._records), self._longest_connect)

    def _session(self, number: int, sessions: int) -> None:
        """One client: connect, send some RCPTs, quit, and begin again."""
        client, asked = None, 0
        due = self._begin + self.interval * number / sessions
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.interval, time.monotonic())
            address, expected = self.addresses[(number + asked) % len(self.addresses)]
            if asked % self.per_connection == 0:
                _quit(client)
                client = None
            asked += 1
            began = time.monotonic()
            try:
                if client is None:
                    client = self._timed_connect()
                    began = time.monotonic()
                code, text = _ask(client, address)
                if code == 421:  # the server closes the connection
                    _quit(client)
                    client = None
            except (OSError, smtplib.SMTPException) as error:
                code, text = getattr(error, "smtp_code", 0), _text(getattr(error, "smtp_error", "") or repr(error))
                _quit(client)
                client = None
            self._records.append(Record(began, time.monotonic() - began, address, code, expected, text))
        _quit(client)

    def _timed_connect(self) -> smtplib.SMTP:
        """Connect, and keep the longest time that a connection took."""
        began = time.monotonic()
        try:
            return _connect(self.host, self.port, self.timeout)
        finally:
            self._longest_connect = max(self._longest_connect, time.monotonic() - began)


def _connect(host: str, port: int, timeout: float) -> smtplib.SMTP:
    """Connect, read the greeting, say EHLO."""
    client = smtplib.SMTP(local_hostname="client.test", timeout=timeout)  # a name saves a DNS lookup
    try:
        greeting = client.connect(host, port)
        if greeting[0] != 220:
            raise smtplib.SMTPConnectError(*greeting)
        client.ehlo_or_helo_if_needed()
    except BaseException:
        client.close()
        raise
    return client


def _ask(client: smtplib.SMTP, address: str) -> tuple[int, str]:
    """Send one MAIL and one RCPT, with RSET first if it is not the first one."""
    if getattr(client, "asked", False):
        client.rset()
    client.asked = True  # type: ignore[attr-defined]
    code, text = client.docmd(f"MAIL FROM:<{SENDER}>")
    if code == 250:
        code, text = client.docmd(f"RCPT TO:<{address}>")
    return code, _text(text)


def _quit(client: smtplib.SMTP | None) -> None:
    """Send QUIT, whatever state the connection is in, and close it."""
    if client is not None:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            client.quit()
        client.close()


def _text(reply: bytes | str) -> str:
    """A reply as text."""
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply


def main(arguments: list[str] | None = None) -> int:
    """Run a load from the command line, for so many seconds or until SIGTERM or SIGINT, and print its report."""
    parser = argparse.ArgumentParser(prog="python -m lab.smtp", description="A steady load of RCPTs; one line of JSON.")
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("addresses", metavar="ADDRESS=CODE", nargs="+", help="a recipient and the expected reply")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100, help="RCPTs per second, of all sessions; 0: no limit")
    parser.add_argument("--per-connection", type=int, default=PER_CONNECTION, help="RCPTs before a session reconnects")
    options = parser.parse_args(arguments)
    host, _, port = options.server.rpartition(":")
    addresses = {address: int(code) for address, _, code in (pair.rpartition("=") for pair in options.addresses)}
    load = Load(
        int(port),
        addresses,
        host or HOST,
        options.sessions,
        options.rate or None,
        per_connection=options.per_connection,
    )
    done = threading.Event()

    def finish(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    load.start()
    done.wait(options.seconds)
    report = load.stop()
    print(json.dumps(report.as_dict()), flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
