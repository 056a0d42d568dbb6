"""Replace a set of configuration files of Postfix in one go, and put them back.

Every Postfix program re-reads a file younger than two seconds in sleeps of 0.3 s. So a
file is made ready aside, its modification time set back, and only then renamed: no
program ever sees one that is hot, half-written, or readable by others.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import stat
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

# How far a file's modification time is set back, in seconds.
_BACKDATED = 5
_LOCK_SECONDS = 10


def read(path, **kwargs):
    """
    Read a file and what belongs to it.

    path
        Absolute path; a symbolic link is followed.

    Returns a dict as ``replace`` takes it: ``path`` (the link resolved), ``content`` (bytes,
    None where there is no such file), ``uid``, ``gid``, ``mode`` (of ``os.stat``, permission
    bits only) and ``mtime_ns``.

    Raises CommandExecutionError where the file cannot be read, SaltInvocationError where it is called as a job: what a
    job returns is kept, and a table file holds a password. ``postfix_map.read`` shows it without.

    Source: stat(2)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_files.read /etc/postfix/main.cf    # refused: for other modules only
    """
    if kwargs:
        raise SaltInvocationError("this is not for the command line, as it would show secrets: use postfix_map.read")
    return _read(path)


def _read(path):
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return {"path": os.path.realpath(path), "content": None}
    except OSError as err:
        raise CommandExecutionError(f"{path} cannot be read: {err.strerror}") from err
    return {
        "path": os.path.realpath(path),
        "content": content,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mode": stat.S_IMODE(status.st_mode),
        "mtime_ns": status.st_mtime_ns,
    }


def replace(files):
    """
    Replace files, all of them or none.

    files
        A list of dicts: ``path``; ``content``, bytes, or None to remove the file; ``uid``, ``gid``
        and ``mode``; optionally ``mtime_ns`` (at the latest, and by default, five seconds ago), ``expected``, the
        bytes that the file must still hold if not the new ones (None: no file) for anything to be done, and
        ``lock``, True to take the lock that postconf(1) takes while it edits. Bytes
        cannot be given on a command line: this is for other modules.

    Returns a list of the same form that puts everything back as it was.

    Raises SaltInvocationError for content that is not bytes, CommandExecutionError where
    a file cannot be written or was changed by somebody else; nothing is changed then.

    Source: rename(2), postconf(1) -e

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_files.replace '[]'
    """
    if not all(isinstance(file["content"], (bytes, type(None))) for file in files):
        raise SaltInvocationError("content must be bytes: this is not for the command line")
    before, staged = [], []
    try:
        with contextlib.ExitStack() as stack:
            for file in files:
                if file.get("lock"):
                    stack.enter_context(_postconf_lock(file["path"]))
            writes = [file for file in files if file["content"] is not None]
            staged = [_aside(file["path"]) for file in writes]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(_stage, writes))
            # As late as can be: what somebody else writes from here on would be lost.
            before = [_read(file["path"]) for file in files]
            for file, old in zip(files, before):
                if "expected" in file and old["content"] not in (file["expected"], file["content"]):
                    raise CommandExecutionError(
                        f"{file['path']} was changed by somebody else meanwhile, nothing was written: try again"
                    )
            _go_live(files, before)
    except OSError as err:
        # write(2) names no file, rename(2) two.
        path = err.filename2 or err.filename or ", ".join(file["path"] for file in files)
        raise CommandExecutionError(f"{path} cannot be written: {err.strerror}") from err
    finally:
        for path in staged:
            with contextlib.suppress(OSError):
                os.unlink(path)
    for file, old in zip(files, before):
        old.update(expected=file["content"], lock=file.get("lock", False))
    return before


def tidy(paths):
    """
    Remove what a ``replace`` that was killed has left beside these files: a secret may be in it.

    paths
        A list of paths.

    Returns None.

    Raises CommandExecutionError where one cannot be removed.

    Source: unlink(2)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_files.tidy '[/etc/postfix/mariadb-virtual-alias-maps.cf]'
    """
    for path in paths:
        try:
            os.unlink(_aside(path))
        except FileNotFoundError:
            pass
        except OSError as err:
            raise CommandExecutionError(f"{err.filename} cannot be removed: {err.strerror}") from err


def _go_live(files, before):
    done = []
    try:
        for file, old in zip(files, before):
            done.append(old)
            if file["content"] is not None:
                os.rename(_aside(file["path"]), file["path"])
            elif old["content"] is not None:
                os.unlink(file["path"])
        for directory in {os.path.dirname(file["path"]) for file in files}:
            _fsync(directory)
    except BaseException:
        for old in done:
            if old["content"] is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old["path"])
            else:
                _stage(old)
                os.rename(_aside(old["path"]), old["path"])
        raise


def _aside(path):
    """The one name that a file is made ready under, so that none is left for long."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")


def _stage(file):
    aside = _aside(file["path"])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as stream:
        os.fchown(descriptor, file["uid"], file["gid"])
        os.fchmod(descriptor, file["mode"])
        stream.write(file["content"])
        stream.flush()
        cold = time.time_ns() - _BACKDATED * 10**9
        when = min(file.get("mtime_ns", cold), cold)
        os.utime(descriptor, ns=(when, when))
        os.fsync(descriptor)


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _postconf_lock(path):
    """Hold what postconf -e holds, so that neither loses the other's edit."""
    lock = f"{path}.tmp"
    until = time.monotonic() + _LOCK_SECONDS
    descriptor = None
    while descriptor is None:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # postconf renames its lock file away when it is done.
            if os.path.exists(lock) and os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                break
        except BlockingIOError:
            pass
        os.close(descriptor)
        descriptor = None
        if time.monotonic() > until:
            raise CommandExecutionError(
                f"another postconf has held {lock} for {_LOCK_SECONDS} s, nothing was written: look with fuser {lock}"
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(descriptor)
