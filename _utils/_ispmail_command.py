"""Run commands of Postfix and Dovecot, see postconf(1), postfix(1), postmap(1) and doveconf(1)."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from _ispmail_errors import CannotAsk, readable, repr_without, without_uri_logins

Name = Literal["postconf", "postfix", "postmap", "doveconf"]

_PACKAGES = {"doveconf": "dovecot-core"}

# Postfix's programs read a main.cf again and again that is less than two seconds old. That is in whole seconds.
_HOT_SECONDS = 3

# What Postfix's messages quote of a configuration file, and what is shown in place of it. A line that Postfix cannot
# read is quoted whole, a value that it cannot use with its key, and so is the first of two lines with one key.
_QUOTES = (
    (r"((?:parameter|config variable) \w+: [\w ]+(?=: | for )).*", r"\1"),
    (r"((?:unknown|bad) [\w ]{1,40} value(?=:? \"|: )|\w+_\w+ value(?= ')).*", r"\1"),
    (r"(parameter settings? must not [\w ]+):.*", r"\1"),
    (r"((?:invalid|bad) \w+ field|bad transport type|bad address pattern|missing '.' in)(?=:? ).*", r"\1"),
    (r"((?:bad|malformed) (?:[\w:-]+ ){0,3}syntax|macro [\w ]+|(?:expected|error|suffix) at)(?=: ).*", r"\1"),
    (
        r"(valid_\w+: [^:]*|non-UTF-8 input|unsupported syntax|unbalanced '.' in|(?:cidr|pcre|regexp) map(?= \{)).*",
        r"\1",
    ),
    (r"(missing '=' after attribute name|missing attribute name|must not start with whitespace).*", r"\1"),
    (r"(overriding earlier entry|unused parameter): (?:([A-Za-z0-9_]{1,40})\s*=)?.*", r"\1: \2"),
    (r"(bad (?:string length|numerical configuration|boolean configuration)[^:]*): (\w{1,40})\s*=.*", r"\1: \2"),
    (r"(Invalid (?:query|result) template).*", r"\1"),
    # The server's own "(using password: YES)" stays.
    (r"(?i)(?!(?<=\(using )password: (?:YES|NO)\))(\w*pass\w*\s*[=:]\s*)[^'\"]*", r"\1***"),
)


# What doveconf says without the value that may follow: file and line, the setting that a check is of, and the kind.
_DOVECONF = re.compile(
    r"doveconf: \w+: (open\(/.*\) failed: .*|Error in configuration file /.*?(?: line \d+)?(?=: )"
    r"(?:: (?:[a-z]+(?:_[a-z]+)+|protocols|ssl)(?=: ))?"
    r"(?:: (?:Invalid (?:number|value|size|time interval)|Unknown (?:setting|protocol)"
    r"|Expecting '.'|(?:Unexpected|Missing) '.'|No matches))?)"
)


class Done(NamedTuple):
    """How a command ended. `returncode` is None where it was killed at the end of its time.

    Bytes that are not UTF-8 are kept in the texts as surrogates.
    """

    returncode: int | None
    stdout: str
    stderr: str

    def __repr__(self) -> str:
        return repr_without(self, "stdout", "stderr")


def run(
    name: Name,
    arguments: Sequence[str],
    timeout: float = 10,
    environment: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
    *,
    user: str | None = None,
    primary_group_only: bool = False,
    stdin: str = "",
) -> Done:
    """Run a command without a shell, for `timeout` seconds at most.

    Args:
        environment: Variables to set for it.
        pass_fds: Open files that it inherits.
        user: As whom it runs, with that user's groups; None for ourselves. Other processes of that user can look into
            it: it gets nothing of ours, no environment, working directory or terminal.
        primary_group_only: Whether it runs without that user's supplementary groups.
        stdin: What it can read.

    Raises:
        CannotAsk: It is not installed, or there is no such user.
    """
    # MAIL_CONFIG and MAIL_VERBOSE would change what is asked and said; a plain user's PATH has no sbin.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAIL_") and user is None}
    path = f"{inherited.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            [name, *arguments],
            capture_output=True,
            input=stdin.encode("utf-8", "surrogateescape"),
            timeout=timeout,
            env={**inherited, "LC_ALL": "C", "PATH": path, **(environment or {})},
            pass_fds=tuple(pass_fds),
            check=False,
            **(as_user(user, primary_group_only) if user is not None else {}),
        )
    except FileNotFoundError as err:
        package = _PACKAGES.get(name, "postfix")
        raise CannotAsk(f"{name} is not there: install the package {package}") from err
    except OSError as err:
        raise CannotAsk(f"{name} cannot be run: {err.strerror}") from err
    except subprocess.TimeoutExpired:
        return Done(None, "", _why_no_end(arguments, timeout))
    except subprocess.SubprocessError as err:
        # The forked child failed before its execve, and could not say why.
        raise CannotAsk(f"{name} cannot be run: its process could not be started") from err
    return Done(
        done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "surrogateescape")
    )


def as_user(user: str, primary_group_only: bool = False) -> dict[str, Any]:
    """Options of `subprocess.run` by which a program runs as a user, with its groups, and has no terminal of ours.

    Raises:
        CannotAsk: There is no such user.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError as err:
        raise CannotAsk(f"there is no user {user}: check mail_owner in main.cf") from err
    groups = [entry.pw_gid] if primary_group_only else os.getgrouplist(user, entry.pw_gid)
    ids = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    return {**ids, "cwd": "/", "start_new_session": True}


def output(name: Name, arguments: Sequence[str]) -> str:
    """Run a command that has to succeed, and return what it printed.

    Raises:
        CannotAsk: It failed (with the last line that it wrote to stderr), or it did not end within 10 seconds.
    """
    done = run(name, arguments)
    if done.returncode != 0:
        complaints = lines(done.stderr.strip())
        command = f"{name} {arguments[-1]}" if name == "postfix" else name
        ended = f"it ended with {done.returncode}, and wrote why into the mail log"
        if name == "doveconf" and done.returncode is not None:
            raise CannotAsk(f"{command} failed: {_of_doveconf((complaints or [''])[-1], arguments)}")
        raise CannotAsk(f"{command} failed: {_with_fix(safe(complaints[-1])) if complaints else ended}")
    return done.stdout


def _of_doveconf(complaint: str, arguments: Sequence[str]) -> str:
    """What doveconf said, as far as it is known to hold no value: it quotes what it cannot use, perhaps a secret."""
    found = _DOVECONF.match(readable(complaint))
    said = f"{found[1]}: " if found else ""
    return f"{said}run doveconf {' '.join(arguments)} on this server to see what it quotes"


def _with_fix(complaint: str) -> str:
    """What a command said, and what to do where it could not read a file: postconf reads each table file too."""
    is_of_a_line = re.search(r": fatal: /.+, line \d+: ", complaint)
    fix = ": mend that line; if the file is a map's, it may also be deleted: the next apply writes it anew"
    return complaint + fix if is_of_a_line else complaint


def _why_no_end(arguments: Sequence[str], timeout: float) -> str:
    """Say why a command did not end in time. Those of Postfix wait while a file that they read is too new."""
    files = [argument.partition(":")[2] for argument in arguments if ":/" in argument]
    if "-c" in arguments[:-1]:
        files.insert(0, os.path.join(arguments[arguments.index("-c") + 1], "main.cf"))
    for path in files:
        with contextlib.suppress(OSError):
            if abs(time.time() - os.stat(path).st_mtime) < _HOT_SECONDS:
                return hot_file(path)
    return f"no end within {timeout:.0f} s"


def hot_file(path: str) -> str:
    """Say what is wrong with a file that stays so new, and how to go on."""
    return (
        f"{path} is changed again and again by another program, such as a loop of postconf -e, and all "
        "programs of Postfix (new smtpd processes too) wait until it is 2 s old: stop that program "
        f"(auditctl -w {path} -p wa, then ausearch -f {path}, tells which one it is) and try again"
    )


def lines(text: str) -> list[str]:
    """Split what a command wrote into lines: with splitlines() the rest of a value behind U+2028 would be one too."""
    return text.removesuffix("\n").split("\n") if text else []


def safe(line: str) -> str:
    """A line that a command wrote to stderr, without what it quotes of a configuration file: that may be a secret."""
    line = readable(line)
    for pattern, replacement in _QUOTES:
        line = re.sub(pattern, replacement, line)
    return without_uri_logins(line)
