"""How files of other programs spell a password: plain, or escaped for my.cnf, PHP, a shell, JSON, a URL."""

from __future__ import annotations

import json
import re

# Bytes that a URL holds as they are, see RFC 3986.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# What each format escapes by a backslash: my.cnf and double quotes of C, PHP's single quotes, PHP's double quotes, a
# shell's double quotes.
_ESCAPED = ('\\"', "\\'", '\\"$', '\\"$`', '\\"$`!')


def spellings(secret: str) -> tuple[bytes, ...]:
    """List how a configuration file or a script may spell a password, the plain text first; none for an empty one."""
    if not secret:
        return ()
    texts = [secret, *(_backslashed(secret, special) for special in _ESCAPED)]
    # printf %q, and what people type in a shell without quotes.
    texts.append(re.sub(r"([^\w@%+=:,./-])", r"\\\1", secret))
    # A single quote inside single quotes: of a shell, and of YAML and SQL.
    texts += [secret.replace("'", "'\\''"), secret.replace("'", "'\"'\"'"), secret.replace("'", "''")]
    for ascii_only in (True, False):
        quoted = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        # PHP's json_encode escapes slashes too.
        texts += [quoted, quoted.replace("/", "\\/")]
    # Of XML and HTML; and a percent sign of systemd, crontab and Python's configparser.
    texts += [_for_xml(secret), secret.replace("%", "%%"), secret.replace("%", "\\%"), secret.replace("$", "$$")]
    raw = secret.encode("utf-8", "surrogateescape")
    found = [text.encode("utf-8", "surrogateescape") for text in texts]
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


def _for_xml(text: str) -> str:
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, name)
    return text


def _percent_encoded(raw: bytes, safe: frozenset[int]) -> bytes:
    return b"".join(bytes([byte]) if byte in safe else b"%%%02X" % byte for byte in raw)


def _lower_hex(encoded: bytes) -> bytes:
    return re.sub(rb"%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
