"""As which users a client library of MariaDB may log in by option files, where a program names no user."""

from __future__ import annotations

import os
from typing import NamedTuple

import _ispmail_files
import _ispmail_optionfile
from _ispmail_errors import CannotAsk

# What libmariadb reads where a program names no option file. (~/.my.cnf too, but daemons of the mail have no HOME.)
_DEFAULT_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf")


def users(file: str | None, group: str, chroot: str = "", directory: str = "/") -> set[str]:
    """Find the users that option files name, with those that they include.

    A program passes over a file that it cannot see or open, so it may take none of them.

    Args:
        file: The option file that the program names; without one, those of the system are read.
        group: The group that it reads beside those of all clients.
        chroot: Of the program; empty for one outside.
        directory: Where a relative path begins, for a program outside a chroot.

    Raises:
        CannotAsk: One of the files cannot be read.
    """
    found: set[str] = set()
    for path in (file,) if file else _DEFAULT_FILES:
        found = _users(_OptionFile(path, chroot, directory), group) or found
    return found - {""}


class _OptionFile(NamedTuple):
    path: str  # as the program sees it
    chroot: str  # of the program; empty for one outside
    directory: str  # where a relative path begins outside of it: the queue directory of Postfix

    @property
    def real(self) -> str:
        """Where it is."""
        if self.chroot:
            return _ispmail_files.inside(self.chroot, self.path)
        return os.path.join(self.directory, self.path)


def _users(file: _OptionFile, group: str, above: tuple[str, ...] = ()) -> set[str]:
    """The users that may be the last one that a file sets, with those that it includes; the empty one unsets."""
    found: set[str] = set()
    # The library follows a file that includes itself 64 times, to the same end.
    content = None if file.path in above else _ispmail_files.content(file.real)
    for step, value in _ispmail_optionfile.login_steps(content, group):
        inner = file._replace(path=value)
        if step == "user":
            found = {value}
        elif step == "include":
            found = _users(inner, group, (*above, file.path)) or found
        else:
            # Some releases of the library read all of its files, others my.cnf only.
            for name in _listed(inner.real):
                found = found | _users(inner._replace(path=os.path.join(value, name)), group, (*above, file.path))
    return found


def _listed(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".cnf")]
    except FileNotFoundError:
        return []
    except OSError as err:
        raise CannotAsk(f"{directory} cannot be read: {err.strerror}") from err
