"""The output of the demo: numbered steps, checks and quotes."""

from __future__ import annotations

import io
import itertools
import os
import sys
import textwrap

WIDTH = 99  # columns
INDENT = "   "
GREEN, RED, CYAN, BOLD, FAINT = "32", "31", "36", "1", "2"  # terminal codes
ASCII_SIGNS = {"✓": "+", "✗": "!", "→": "->", "│": "|", "…": "..."}


class Failed(Exception):
    """A check found something else than expected."""

    def __init__(self, what: str, expected: object, got: object):
        super().__init__(what)
        self.what, self.expected, self.got = what, str(expected), str(got)


class Screen:
    """Prints to standard output, with colours on a terminal and with signs that its encoding has."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = terminal and not os.environ.get("NO_COLOR")
        self._signs: dict[int, str] = {}
        try:
            "".join(ASCII_SIGNS).encode(sys.stdout.encoding)
        except UnicodeEncodeError:
            self._signs = str.maketrans(ASCII_SIGNS)
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")
        self._steps = itertools.count(1)
        self._label_width = 0
        self.title = "the start"
        self.checks = 0  # how many passed so far

    def step(self, title: str, label_width: int) -> None:
        """Begin a step. Its checks have labels of so many columns."""
        self.title, self._label_width = title, label_width
        self._print("\n" + self._coloured(BOLD, f"{next(self._steps)}. {title}"))

    def command(self, text: str, label_width: int | None = None) -> None:
        """Show a command as an admin would type it. `label_width`: of the checks from here on, see step()."""
        if label_width is not None:
            self._label_width = label_width
        self._print(INDENT + self._coloured(CYAN, f"$ {text}"))

    def quote(self, text: str) -> None:
        """Show the text of a file or the output of a program."""
        for line in _wrapped(text, WIDTH - 7):
            self._print(INDENT + self._coloured(FAINT, f"│ {line}"))

    def note(self, text: str) -> None:
        """Show a remark."""
        for line in text.splitlines():
            self._print(INDENT + line)

    def check(self, label: str, got: object, expected: object, text: str | None = None) -> None:
        """Raise Failed if the two differ; otherwise show a line with `text`, or with what was got."""
        if got != expected:
            raise Failed(label, expected, text if text and str(got) in text else got)
        self.checks += 1
        line = f"{label:{self._label_width}}  {got if text is None else text}"
        self._print(f"{INDENT}{self._coloured(GREEN, '✓')} {line[: WIDTH - 5].rstrip()}")

    def check_silently(self, what: str, got: object, expected: object) -> None:
        """Raise Failed if the two differ; otherwise only count the check."""
        if got != expected:
            raise Failed(what, expected, got)
        self.checks += 1

    def failed(self, what: str, expected: str, got: str, log: str) -> None:
        """Show a failed check. `log`: what the servers logged, may be empty."""
        self._print(f"{INDENT}{self._coloured(RED, '✗')} {what}")
        parts = [("expected", expected), ("got", got)]
        if log:
            parts.append(("logged", log))
        for label, text in parts:
            for number, line in enumerate(_wrapped(text.strip() or "nothing", WIDTH - 15)):
                self._print(f"{INDENT}  {label if number == 0 else '':9} {line}")

    def end(self, text: str) -> None:
        """Show the last words."""
        self._print("\n" + text)

    def _print(self, text: str) -> None:
        print(text.translate(self._signs), flush=True)

    def _coloured(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, wrapped to a width."""
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    ]
