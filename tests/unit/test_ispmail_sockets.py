"""Who owns a connection: what /proc and ss print, and this very process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import ispmail_sockets
from ispmail_errors import CannotAsk
from ispmail_sockets import Connection, Process, Programs
from lab import wait_until

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   116        0 4711 1 0 100 0 0 10 0
   1: 0100007F:D431 0100007F:0CEA 01 00000000:00000000 00:00000000 00000000   116        0 4712 1 0 20 4 30 10 -1
   2: 0100007F:D432 0100007F:0CEA 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st ... inode
   0: 0000000000000000FFFF00000100007F:0CEB 0000000000000000FFFF00000100007F:D431 01 0:0 00:0 00000000 116 0 4713 1 0
   1: B80D0120000000000000000001000000:0CEB B80D0120000000000000000002000000:D431 01 0:0 00:0 00000000 116 0 4714 1 0
"""
SS = """\
u_str 0      0      /run/mysqld/mysqld.sock 11730573 * 11730572
u_str 0      0      /run/other.sock 1 * 2
u_str 0      0                            * 11730572 * 11730573
u_seq 0      0                            * 11737900 * 0
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the text is one of a little-endian machine")
def test_established_connections():
    assert ispmail_sockets.parse_tcp(TCP) == [Connection("127.0.0.1", 0xD431, "127.0.0.1", 0x0CEA, 4712)]
    mapped, other = ispmail_sockets.parse_tcp(TCP6)
    assert ispmail_sockets.same_address(mapped.address, "127.0.0.1")
    assert other == Connection("2001:db8::1", 0x0CEB, "2001:db8::2", 0xD431, 4714)


def test_clients_of_a_unix_socket():
    assert ispmail_sockets.parse_ss(SS, "/run/mysqld/mysqld.sock") == [11730572]
    assert ispmail_sockets.parse_ss(SS, "/run/none") == []


def test_without_ss_it_is_an_error(monkeypatch):
    """Not an empty list: whoever uses the socket would be nobody."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CannotAsk, match="install iproute2"):
        ispmail_sockets.unix_clients("/run/mysqld/mysqld.sock")


def test_ss_that_fails(monkeypatch, tmp_path):
    (tmp_path / "ss").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "ss").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotAsk, match="it failed"):
        ispmail_sockets.unix_clients("/run/mysqld/mysqld.sock")


def test_the_owner_of_a_connection_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = client.getsockname()[1]
        (ours,) = [one for one in ispmail_sockets.tcp_connections() if one.port == port]
        assert (ours.address, (ours.peer, ours.peer_port)) == ("127.0.0.1", server.getsockname())
        (owner,) = ispmail_sockets.owners([ours.inode])[ours.inode]
    assert (owner.pid, owner.parent, owner.uid) == (os.getpid(), os.getppid(), os.getuid())
    assert ispmail_sockets.owners([ours.inode]) == {}


def process(pid, parent, executable="/usr/bin/python3", name="python3", uid=0):
    return Process(pid, name, parent, executable, 0.0, "", uid)


def test_jobs_of_the_same_minion_are_own():
    own = {4: process(4, 3), 3: process(3, 2)}
    assert ispmail_sockets.is_own(process(4, 3), own)
    assert ispmail_sockets.is_own(process(5, 3), own)
    assert not ispmail_sockets.is_own(process(5, 3, "/usr/bin/mariadb"), own)
    assert not ispmail_sockets.is_own(process(5, 1), own)


def test_own_processes_begin_with_this_one():
    own = ispmail_sockets.own_processes()
    assert {os.getpid(), os.getppid()} <= set(own) and 1 not in own


INSTALLED = [Programs("/usr/lib/postfix/sbin", "/usr/sbin"), Programs("/opt/postfix/libexec", "/opt/postfix/bin")]


@pytest.mark.parametrize(
    ("executable", "parent", "uid", "yes"),
    [
        ("/usr/lib/postfix/sbin/smtpd", "/usr/lib/postfix/sbin/master", 0, True),
        ("/opt/postfix/libexec/smtpd", "/opt/postfix/libexec/master", 0, True),
        ("/usr/lib/postfix/sbin/smtpd (deleted)", "/usr/lib/postfix/sbin/master (deleted)", 0, True),
        ("/usr/lib/postfix/sbin/smtpd", "/usr/lib/postfix/sbin/master", 1000, False),
        ("/usr/lib/postfix/sbin/smtpd", "/home/u/postfix/master", 0, False),
        ("/home/u/smtpd", "/usr/lib/postfix/sbin/master", 0, False),
        ("/home/u/postfix/smtpd", "/home/u/postfix/master", 0, False),
        ("/usr/lib/dovecot/auth", "/usr/lib/dovecot/master", 0, False),
    ],
)
def test_children_of_a_postfix(monkeypatch, executable, parent, uid, yes):
    """Any user can run a program of any name below a folder of any name."""
    monkeypatch.setattr(ispmail_sockets, "read_process", lambda pid: process(pid, 1, parent, "master", uid))
    assert ispmail_sockets.is_postfix(process(5, 4, executable, uid=105), INSTALLED) is yes
    assert not ispmail_sockets.is_postfix(process(5, 4, executable), [])


@pytest.mark.parametrize(
    ("executable", "uid", "yes"),
    [
        ("/usr/sbin/postmap", 0, True),
        ("/usr/sbin/postmap", 105, True),
        ("/usr/sbin/postmap", 1000, False),
        ("/home/u/postmap", 0, False),
        ("/usr/sbin/postalias-like", 0, False),
    ],
)
def test_postmap_by_hand_is_postfix(monkeypatch, executable, uid, yes):
    monkeypatch.setattr(ispmail_sockets, "read_process", lambda pid: None)
    assert ispmail_sockets.is_postfix(process(5, 4, executable, uid=uid), INSTALLED) is yes


def test_addresses_of_a_host():
    assert ispmail_sockets.addresses("192.0.2.1") == ("192.0.2.1",)
    assert "127.0.0.1" in ispmail_sockets.addresses("localhost")
    assert ispmail_sockets.addresses(None) == ispmail_sockets.addresses("none.invalid") == ()


def test_the_unit_of_a_process_is_printable(monkeypatch, tmp_path):
    """Whoever has a cgroup of their own chooses names below it."""
    real = open

    def opened(path, *args, **options):
        return real(cgroup if path.endswith("/cgroup") else path, *args, **options)

    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/user.slice/e\x1b[2Jvil.service\n")
    monkeypatch.setattr("builtins.open", opened)
    assert ispmail_sockets.read_process(os.getpid()).unit == "e?[2Jvil.service"


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.0.0.9", True), ("192.0.2.1", False), ("db.example.org", False)],
)
def test_whether_a_host_is_this_machine(host, here):
    assert ispmail_sockets.is_here(host) is here


def test_a_process_for_people():
    """Without its command line: a password may stand there."""
    sleeper = subprocess.Popen(["sleep", "60", "s3cret"][:2])
    try:
        found = ispmail_sockets.read_process(sleeper.pid)
        assert found.describe().startswith(f"{found.name} (pid {sleeper.pid}, ") and "since 20" in found.describe()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert ispmail_sockets.read_process(sleeper.pid) is None


def test_a_program_whose_path_cannot_be_read_is_there(tmp_path):
    """Any local user can have a path of more than 4096 characters: his program was taken for one that has ended."""
    script = """
import os, shutil
for _ in range(45):
    os.mkdir("x" * 100)
    os.chdir("x" * 100)
shutil.copy("/bin/sleep", "sleep")
os.execv("./sleep", ["sleep", "60"])
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path) as sleeper:
        try:
            assert wait_until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", 10)
            found = ispmail_sockets.read_process(sleeper.pid)
            assert found is not None and (found.name, found.executable) == ("sleep", "")
        finally:
            sleeper.kill()


def test_a_process_whose_first_thread_has_ended_is_there(tmp_path):
    """Its program and its open files are those of the threads that are left."""
    script = """
import ctypes, socket, threading, time
end = socket.socket()
threading.Thread(target=time.sleep, args=[60]).start()
print(end.fileno(), flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as started:
        try:
            descriptor = started.stdout.readline().strip()
            assert wait_until(lambda: "\nState:\tZ" in Path(f"/proc/{started.pid}/status").read_text(), 10)
            (thread,) = {*os.listdir(f"/proc/{started.pid}/task")} - {str(started.pid)}
            inode = os.stat(f"/proc/{started.pid}/task/{thread}/fd/{descriptor}").st_ino
            (found,) = ispmail_sockets.owners([inode])[inode]
            assert found.pid == started.pid and found.executable == os.path.realpath(sys.executable)
        finally:
            started.kill()


def test_a_process_that_has_ended_and_is_still_listed_is_none():
    """A daemon of Postfix that ended in this moment was taken for a program that nobody knows: a rotation stopped."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert ispmail_sockets.read_process(zombie.pid) is None
