"""Which columns cannot be compared with every address, and the ALTER TABLE that cures them. Pure.

With SMTPUTF8 an address may hold 4-byte characters. A column whose character set does not hold them makes the query
fail ("Illegal mix of collations"), and Postfix then ignores the database host for a minute.
"""

from __future__ import annotations

from collections.abc import Mapping

# These hold all of Unicode; a binary column has no character set.
_WIDE = ("utf8mb4", "utf16", "utf16le", "utf32", "binary")
# Up to MariaDB 10.5 and MySQL 8.0.28, utf8mb3 has the name utf8.
_UTF8MB3 = ("utf8mb3", "utf8")
# Collations of utf8mb3 that utf8mb4 does not have.
_NO_TWIN = ("general_mysql500_ci", "tolower_ci")


def narrow(collations: Mapping[str, str]) -> tuple[str, ...]:
    """The columns whose character set does not hold 4-byte characters.

    Args:
        collations: Column to its collation.
    """
    return tuple(column for column, collation in collations.items() if _charset(collation) not in _WIDE)


def conversion(collations: Mapping[str, str]) -> str:
    """The collation that a table's columns get in utf8mb4: the one that they have, so that equal texts stay equal.

    Args:
        collations: Column to its collation, all columns of the table that have one.

    Returns:
        Its name. Empty where only a human can tell: the columns have several collations, or are not utf8mb3. A latin1
        column may hold UTF-8 that was written through a latin1 connection, which CONVERT would spoil.
    """
    charsets = {_charset(collation) for collation in collations.values()}
    orders = {collation.partition("_")[2] for collation in collations.values()}
    if not charsets <= {*_UTF8MB3, "utf8mb4"} or len(orders) != 1 or orders & set(_NO_TWIN):
        return ""
    return f"utf8mb4_{orders.pop()}"


def convert_clause(collation: str) -> str:
    """The clause of ALTER TABLE that converts all columns of a table."""
    return f"CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}"


def by_hand(collations: Mapping[str, str]) -> str:
    """What to do where `conversion` cannot tell, with the columns that need it."""
    columns = ", ".join(f"{column} ({collations[column]})" for column in narrow(collations))
    return f"convert {columns} to utf8mb4 by hand, see ALTER TABLE … MODIFY, after a look at what they hold"


def _charset(collation: str) -> str:
    return collation.partition("_")[0]
