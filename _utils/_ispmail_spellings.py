"""How files of other programs spell a password: plain, or escaped for my.cnf, PHP, a shell, JSON, HTML, a URL."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator

# Bytes that a URL holds as they are, see RFC 3986.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# What each format escapes by a backslash: my.cnf and double quotes of C, PHP's single quotes, PHP's double quotes, a
# shell's double quotes.
_ESCAPED = ('\\"', "\\'", '\\"$', '\\"$`', '\\"$`!')
# What writers of JSON for web pages escape by its number, each or not: Go, Rails, Django, PHP's JSON_HEX_….
_ESCAPED_IN_JSON = ("<>", "&", "'", '"')
# How XML and HTML are written: some leave one of the last three as it is, or write its number.
_REFERENCES = {
    "&": ("&amp;",),
    "<": ("&lt;",),
    ">": ("&gt;", ">"),
    '"': ("&quot;", '"', "&#34;", "&#x22;"),
    "'": ("'", "&#39;", "&#039;", "&#x27;", "&apos;"),
}


def spellings(secret: str) -> tuple[bytes, ...]:
    """List how a configuration file or a script may spell a password, the plain text first; none for an empty one."""
    if not secret:
        return ()
    texts = [secret, *(_backslashed(secret, special) for special in _ESCAPED)]
    # printf %q, and what people type in a shell without quotes.
    texts.append(re.sub(r"([^\w@%+=:,./-])", r"\\\1", secret))
    # A single quote inside single quotes: of a shell, and of YAML and SQL.
    texts += [secret.replace("'", "'\\''"), secret.replace("'", "'\"'\"'"), secret.replace("'", "''")]
    # A percent sign of systemd, crontab and Python's configparser, a dollar sign of a compose file.
    texts += [secret.replace("%", "%%"), secret.replace("%", "\\%"), secret.replace("$", "$$")]
    texts += [*_for_json(secret), *_for_xml(secret)]
    found = [text.encode("utf-8", "surrogateescape") for text in texts]
    with contextlib.suppress(UnicodeEncodeError):
        found += [text.encode("latin-1", "surrogateescape") for text in texts]
    # The first one is the plain text, in both encodings.
    for raw in (found[0], *found[len(texts) : len(texts) + 1]):
        for safe in (_UNRESERVED, _UNRESERVED | frozenset(b"/"), _UNRESERVED | frozenset(b"!$&'()*+,;=")):
            encoded = _percent_encoded(raw, safe)
            found += [encoded, encoded.replace(b"%20", b"+"), _lower_hex(encoded)]
    return tuple(dict.fromkeys(found))


def contains_whole(content: bytes, secret: str) -> bool:
    """Whether a file holds a password in one of its spellings, and not only as a part of a longer word."""
    return any(
        re.search(rb"(?<![A-Za-z0-9\x80-\xff])" + re.escape(spelling) + rb"(?![A-Za-z0-9\x80-\xff])", content)
        for spelling in spellings(secret)
    )


def _backslashed(text: str, special: str) -> str:
    return "".join(f"\\{character}" if character in special else character for character in text)


def _for_json(text: str) -> Iterator[str]:
    """A text in JSON; PHP escapes slashes too."""
    groups = [group for group in _ESCAPED_IN_JSON if set(group) & set(text)]
    by_number = ["".join(some) for count in range(len(groups) + 1) for some in itertools.combinations(groups, count)]
    for escaped, ascii_only in itertools.product(by_number, (True, False)):
        parts = [_json_character(character, escaped, ascii_only) for character in text]
        for each in (parts, [part.upper().replace("U", "u") if part.startswith("\\u") else part for part in parts]):
            yield "".join(each)
            yield "".join("\\/" if part == "/" else part for part in each)


def _json_character(character: str, escaped: str, ascii_only: bool) -> str:
    if character in escaped:
        return f"\\u{ord(character):04x}"
    return json.dumps(character, ensure_ascii=ascii_only)[1:-1]


def _for_xml(text: str) -> Iterator[str]:
    """A text in XML and HTML."""
    held = [character for character in _REFERENCES if character in text]
    for some in itertools.product(*(_REFERENCES[character] for character in held)):
        references = dict(zip(held, some))
        yield "".join(references.get(character, character) for character in text)
        # Where the file is of ASCII.
        for number in ("&#{:d};", "&#x{:x};", "&#x{:X};"):
            yield "".join(
                references.get(character, character if character.isascii() else number.format(ord(character)))
                for character in text
            )


def _percent_encoded(raw: bytes, safe: frozenset[int]) -> bytes:
    return b"".join(bytes([byte]) if byte in safe else b"%%%02X" % byte for byte in raw)


def _lower_hex(encoded: bytes) -> bytes:
    return re.sub(rb"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
