"""Tell something once, as long as it stays the same: a file has what was told last."""

from __future__ import annotations

import logging
import os
import urllib.parse
from collections.abc import Callable

from _ispmail_errors import kind_of

log = logging.getLogger(__name__)


def once(folder: str, name: str, text: str, tell: Callable[[], object]) -> None:
    """Call `tell` if a text is another one than at the last call; at first there was an empty one.

    What cannot be remembered is told again, with a warning in the log.

    Args:
        folder: Where the texts are; made if it is not there.
        name: Of the text; any one.
    """
    path = os.path.join(folder, urllib.parse.quote(name, safe=""))
    if text == _last(path):
        return
    tell()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        log.warning("%s cannot be written, a failure may be reported twice: %s", path, kind_of(err))


def _last(path: str) -> str | None:
    """What was told last; None where nobody knows."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as err:
        log.warning("%s cannot be read, a failure may be reported twice: %s", path, kind_of(err))
        return None
