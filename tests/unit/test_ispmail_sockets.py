"""Who owns a connection: what /proc prints, and this very process."""

import contextlib
import errno
import locale
import os
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

import _ispmail_sockets
from _ispmail_errors import CannotAsk
from _ispmail_sockets import Connection, Process, Programs
from lab import scratch, wait_until

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


@pytest.mark.skipif(sys.byteorder != "little", reason="the text is one of a little-endian machine")
def test_established_connections():
    assert _ispmail_sockets.parse_tcp(TCP) == [Connection("127.0.0.1", 0xD431, "127.0.0.1", 0x0CEA, 4712)]
    mapped, other = _ispmail_sockets.parse_tcp(TCP6)
    assert _ispmail_sockets.same_address(mapped.address, "127.0.0.1")
    assert other == Connection("2001:db8::1", 0x0CEB, "2001:db8::2", 0xD431, 4714)


def test_the_owner_of_a_connection_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = client.getsockname()[1]
        (ours,) = [one for one in _ispmail_sockets.tcp_connections() if one.port == port]
        assert (ours.address, (ours.peer, ours.peer_port)) == ("127.0.0.1", server.getsockname())
        (owner,) = _ispmail_sockets.owners([ours.inode])[ours.inode]
    assert (owner.pid, owner.parent, owner.uid) == (os.getpid(), os.getppid(), os.getuid())
    assert _ispmail_sockets.owners([ours.inode]) == {}


def process(pid, parent, executable="/usr/bin/python3", name="python3", uid=0):
    return Process(pid, name, parent, executable, 0.0, "", uid)


def test_jobs_of_the_same_minion_are_own():
    own = {4: process(4, 3), 3: process(3, 2)}
    assert _ispmail_sockets.is_own(process(4, 3), own) and _ispmail_sockets.is_own(process(3, 2), own)
    assert _ispmail_sockets.is_own(process(5, 3), own)
    assert not _ispmail_sockets.is_own(process(5, 3, "/usr/bin/mariadb"), own)
    assert not _ispmail_sockets.is_own(process(5, 1), own)


def test_own_processes_begin_with_this_one():
    own = _ispmail_sockets.own_processes()
    assert {os.getpid(), os.getppid()} - {1} <= set(own) and 1 not in own


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
    monkeypatch.setattr(_ispmail_sockets, "read_process", lambda pid: process(pid, 1, parent, "master", uid))
    assert _ispmail_sockets.is_postfix(process(5, 4, executable, uid=105), INSTALLED) is yes
    assert not _ispmail_sockets.is_postfix(process(5, 4, executable), [])


@pytest.mark.parametrize(
    ("executable", "uid", "yes"),
    [
        ("/usr/sbin/postmap", 0, True),
        ("/usr/sbin/postmap", 105, True),
        ("/usr/sbin/postmap (deleted)", 0, True),
        ("/usr/sbin/postmap", 1000, False),
        ("/home/u/postmap", 0, False),
        ("/usr/sbin/postalias-like", 0, False),
    ],
)
def test_postmap_by_hand_is_postfix(monkeypatch, executable, uid, yes):
    monkeypatch.setattr(_ispmail_sockets, "read_process", lambda pid: None)
    assert _ispmail_sockets.is_postfix(process(5, 4, executable, uid=uid), INSTALLED) is yes


def test_addresses_of_a_host():
    assert _ispmail_sockets.addresses("192.0.2.1") == ("192.0.2.1",)
    assert "127.0.0.1" in _ispmail_sockets.addresses("localhost")
    assert _ispmail_sockets.addresses(None) == _ispmail_sockets.addresses("none.invalid") == ()


def test_the_unit_of_a_process_is_printable(monkeypatch, tmp_path):
    """Whoever has a cgroup of their own chooses names below it."""
    real = open

    def opened(path, *args, **options):
        return real(cgroup if path.endswith("/cgroup") else path, *args, **options)

    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/user.slice/e\x1b[2Jvil.service\n")
    monkeypatch.setattr("builtins.open", opened)
    assert _ispmail_sockets.read_process(os.getpid()).unit == "e?[2Jvil.service"


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.0.0.9", True), ("192.0.2.1", False), ("db.example.org", False)],
)
def test_whether_a_host_is_this_machine(host, here):
    assert _ispmail_sockets.is_here(host) is here


@pytest.mark.parametrize(
    ("stands_for", "here"),
    [(["127.0.1.1"], True), (["192.0.2.1", "127.0.0.1"], True), (["192.0.2.1"], False), ([], False)],
)
def test_a_name_of_this_machine_is_here(monkeypatch, stands_for, here):
    """A database by the own name of its machine was another one's: who used its unix socket was nobody."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in stands_for]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: found if host == "vm" else [])
    assert _ispmail_sockets.is_here("vm") is here
    assert _ispmail_sockets.is_here(None) is False
    # Whatever the resolver says of it.
    assert _ispmail_sockets.is_here("localhost") is True


@pytest.mark.parametrize("text", ["localhost", "vm", "192.0.2.1", ""])
def test_what_is_no_address_of_this_machine(text):
    assert _ispmail_sockets.is_own_address(text) is False


def test_another_machines_address_that_can_be_bound_is_none_of_ours(monkeypatch):
    """Beside keepalived each of the site's servers was this one: a stranger passed, and a neighbour was a container."""
    binds = contextlib.nullcontext(SimpleNamespace(bind=lambda address: None))
    monkeypatch.setattr(socket, "socket", lambda *_: binds)
    found = [_ispmail_sockets.is_own_address(each) for each in ("127.0.0.1", "::1", "198.51.100.77", "2001:db8::6")]
    assert found == [True, True, False, False]


def test_a_process_for_people():
    """Without its command line: a password may stand there."""
    sleeper = subprocess.Popen(["sleep", "60", "s3cret"][:2])
    try:
        found = _ispmail_sockets.read_process(sleeper.pid)
        assert found.describe().startswith(f"{found.name} (pid {sleeper.pid}, ") and "since 20" in found.describe()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert _ispmail_sockets.read_process(sleeper.pid) is None


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
            found = _ispmail_sockets.read_process(sleeper.pid)
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
            (found,) = _ispmail_sockets.owners([inode])[inode]
            assert found.pid == started.pid and found.executable == os.path.realpath(sys.executable)
        finally:
            started.kill()


def test_a_process_that_has_ended_and_is_still_listed_is_none():
    """A daemon of Postfix that ended in this moment was taken for a program that nobody knows: a rotation stopped."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert _ispmail_sockets.read_process(zombie.pid) is None


def test_a_process_of_a_unit_for_people():
    found = Process(5, "report", 1, "/opt/report", 1e9, "report.service", 0)
    since = datetime.fromtimestamp(10**9)
    assert found.describe() == f"report (pid 5, report.service, since {since})"
    assert found._replace(unit="").describe() == f"report (pid 5, since {since})"


def test_a_line_that_is_cut_short_is_passed_over():
    line = TCP.splitlines()[2].split()
    assert _ispmail_sockets.parse_tcp(" ".join(line[:10])) == _ispmail_sockets.parse_tcp(TCP)
    assert _ispmail_sockets.parse_tcp("\n".join(("", *(" ".join(line[:count]) for count in range(10))))) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_of_either_family(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        inode = os.fstat(client.fileno()).st_ino
        (found,) = [one for one in _ispmail_sockets.tcp_connections() if one.inode == inode]
        ends = (*client.getsockname()[:2], *server.getsockname()[:2])
        assert found == (*ends, inode)
        assert _ispmail_sockets.is_here(address)


@pytest.fixture
def opened(monkeypatch):
    """Open another file, or raise an error, for each path that ends so."""

    def set_up(end, target):
        real = open

        def open_other(path, *args, **options):
            if not str(path).endswith(end):
                return real(path, *args, **options)
            if isinstance(target, Exception):
                raise target
            return real(target, *args, **options)

        monkeypatch.setattr("builtins.open", open_other)

    return set_up


def test_a_kernel_without_ipv6(opened, tmp_path):
    (tmp_path / "tcp").write_text(TCP)
    opened("/net/tcp", tmp_path / "tcp")
    opened("/net/tcp6", FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert _ispmail_sockets.tcp_connections() == _ispmail_sockets.parse_tcp(TCP) != []


def test_connections_that_cannot_be_read_are_an_error(opened):
    """Not an empty list: nobody would hold the password."""
    opened("/net/tcp6", PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(CannotAsk) as caught:
        _ispmail_sockets.tcp_connections()
    assert str(caught.value) == "/proc/net/tcp6 cannot be read: Permission denied"


@pytest.fixture
def zombie():
    """The pid of a child that has ended and is still listed."""
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        yield child.pid


def test_who_has_ended_holds_nothing(zombie, monkeypatch, tmp_path):
    """Whatever stands in the folder that Salt runs in."""
    (tmp_path / "None" / "fd").mkdir(parents=True)
    (tmp_path / "None" / "fd" / "0").symlink_to("socket:[1]")
    (tmp_path / "None" / "exe").symlink_to("/bin/true")
    monkeypatch.chdir(tmp_path)
    assert _ispmail_sockets.read_process(zombie) is None
    assert _ispmail_sockets._descriptors(zombie) == []
    assert _ispmail_sockets.owners([1]) == {}


def test_who_ends_while_it_is_looked_at_holds_nothing(monkeypatch):
    with socket.socket() as ours, monkeypatch.context() as patch:
        inode = os.fstat(ours.fileno()).st_ino
        assert [one.pid for one in _ispmail_sockets.owners([inode])[inode]] == [os.getpid()]
        patch.setattr(_ispmail_sockets, "read_process", lambda pid: None)
        assert _ispmail_sockets.owners([inode]) == {}
    monkeypatch.setattr(_ispmail_sockets, "_living_thread", lambda pid: "/proc/none")
    assert _ispmail_sockets.owners([1]) == {}


@pytest.mark.parametrize(("name", "shown"), [(b"a\xffb) c", "a\ufffdb) c"), ("caf\xe9".encode(), "caf\xe9")])
def test_a_process_may_have_any_name(name, shown):
    """Any local user chooses one: it stopped the search. How it is shown does not depend on the locale."""
    script = f"open('/proc/self/comm', 'wb').write({name!r}); print(flush=True); input()"
    earlier = time.time()
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        before = locale.setlocale(locale.LC_CTYPE)
        try:
            locale.setlocale(locale.LC_CTYPE, "C")
            found = _ispmail_sockets.read_process(child.pid)
        finally:
            locale.setlocale(locale.LC_CTYPE, before)
            child.kill()
    assert found.name == shown
    # In ticks of the kernel, and its two clocks are not read in the same moment.
    assert earlier - 1 < found.started < time.time() + 1


def test_a_unit_may_have_any_name(opened, tmp_path):
    (tmp_path / "cgroup").write_bytes("0::/user.slice/caf\xe9-".encode() + b"\xff.service\n")
    opened("/cgroup", tmp_path / "cgroup")
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert _ispmail_sockets.read_process(os.getpid()).unit == "caf\xe9-\ufffd.service"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_in_a_container_pid_2_is_like_any_other(monkeypatch):
    known = {os.getpid(): process(os.getpid(), 2), 2: process(2, 1), 1: process(1, 0)}
    monkeypatch.setattr(_ispmail_sockets, "read_process", known.get)
    assert list(_ispmail_sockets.own_processes()) == [os.getpid(), 2]


def test_an_address_is_here_whatever_its_ports_do():
    with socket.create_server(("127.0.0.77", 1)):
        assert _ispmail_sockets.is_here("127.0.0.77")


@pytest.mark.parametrize(("name", "known"), [("smtp", True), ("none-such", False), ("a" * 70 + ".\udcff", False)])
def test_names_of_services(name, known):
    assert _ispmail_sockets.is_service(name) is known


@pytest.fixture
def jail():
    """A chroot that knows the hosts localhost and inside, and has no other file. Every user may enter it."""
    with scratch() as directory:
        (directory / "etc").mkdir()
        (directory / "etc" / "hosts").write_text("127.0.0.1 localhost inside\n")
        yield directory


def unknown(jail, *names):
    return _ispmail_sockets.unknown_in_chroot(names, str(jail), "nobody")


def test_names_that_a_chroot_does_not_know(jail):
    """The host's own name in /etc/hosts was not in the jail's copy."""
    own = next(
        word for word in Path("/etc/hosts").read_text().split()[::-1] if word[0].isalpha() and word != "localhost"
    )
    found = unknown(jail, own, "inside", "localhost")
    assert list(found) == [own] and found[own]
    # Of what is known nowhere the chroot is not the cause.
    assert unknown(jail, "inside", "localhost") == unknown(jail, "none.invalid") == {}
    # The daemon reads the file as its user, which is not root.
    hosts = jail / "etc" / "hosts"
    hosts.write_text(f"127.0.0.1 {own}\n")
    assert unknown(jail, own) == {}
    hosts.chmod(0o600)
    assert list(unknown(jail, own)) == [own]


def test_a_slow_name_server_is_asked_once_more(monkeypatch):
    """It may not have answered in time inside, and a moment later outside: that is no fault of the chroot."""
    said = [{"a": "no", "b": "no", "c": ""}, {"a": "", "b": "no"}, {"a": ""}]
    asked = []

    def resolve(names, root, user):
        asked.append((list(names), root))
        return said.pop(0)

    monkeypatch.setattr(_ispmail_sockets, "_resolve", resolve)
    assert _ispmail_sockets.unknown_in_chroot(["a", "b", "c"], "/jail", "x") == {}
    assert asked == [(["a", "b", "c"], "/jail"), (["a", "b"], "/"), (["a"], "/jail")]
    # No process is started to ask for nothing.
    said, asked = [{"a": "no"}, {"a": "no"}], []
    assert _ispmail_sockets.unknown_in_chroot(["a"], "/jail", "x") == {}
    said = [{"a": ""}]
    assert _ispmail_sockets.unknown_in_chroot(["a"], "/jail", "x") == {} and said == []


@pytest.mark.parametrize(
    ("chroot", "program", "reason"),
    [
        ("/none", sys.executable, r"x could not be resolved in /none: FileNotFoundError.*"),
        ("/", "/none", "x could not be resolved in /: No such file or directory"),
        ("/", "/bin/true", "x could not be resolved in /: "),
    ],
)
def test_could_not_tell_whether_a_name_is_known(monkeypatch, chroot, program, reason):
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(CannotAsk, match=f"^{reason}$"):
        unknown(chroot, "x")


def test_a_child_that_resolves_names_has_nothing_of_ours(monkeypatch):
    """It runs as another user, who may not enter our folder; its reason is English, whatever its bytes are."""
    code = "import os; print(os.getcwd(), dict(os.environ), flush=True); os.write(1, b'\\xff\\n')"
    monkeypatch.setattr(_ispmail_sockets, "_RESOLVE", code)
    found = _ispmail_sockets._resolve(["a", "b"], "/", "nobody")
    assert found == {"a": "/ {'LC_ALL': 'C'}", "b": "\ufffd"}


def test_a_name_that_is_resolved_for_too_long(monkeypatch):
    monkeypatch.setattr(_ispmail_sockets, "_SECONDS", 0.3)
    monkeypatch.setattr(_ispmail_sockets, "_RESOLVE", "import time; time.sleep(60)")
    with pytest.raises(CannotAsk, match=r"^x could not be resolved in / within "):
        unknown("/", "x")


def test_an_address_with_its_interface():
    assert _ispmail_sockets.same_address("fe80::1%eth0", "fe80::1")
    assert not _ispmail_sockets.same_address("fe80::1%eth0", "fe80::2")
    assert not _ispmail_sockets.same_address("db.example.org", "db.example.org")
    assert _ispmail_sockets.is_address("fe80::1%eth0") and not _ispmail_sockets.is_address("db.example.org")
