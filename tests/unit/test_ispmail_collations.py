"""Which columns any sender can make a query fail with, and how they are converted."""

import pytest

from _ispmail_collations import by_hand, conversion, convert_clause, narrow


def test_columns_that_do_not_hold_every_address():
    columns = {"a": "utf8mb3_general_ci", "b": "utf8_bin", "c": "latin1_swedish_ci", "d": "utf8mb4_bin", "e": "binary"}
    assert narrow(columns) == ("a", "b", "c")
    assert narrow({"a": "utf16_bin", "b": "utf16le_general_ci", "c": "utf32_unicode_ci"}) == ()
    cure = by_hand({"a": "latin1_bin", "b": "utf8mb4_bin", "c": "ascii_bin"})
    assert cure.startswith("convert a (latin1_bin), c (ascii_bin) to utf8mb4 by hand, see ALTER TABLE")


@pytest.mark.parametrize(
    ("collations", "target"),
    [
        (["utf8mb3_general_ci", "utf8mb3_general_ci"], "utf8mb4_general_ci"),
        (["utf8_bin"], "utf8mb4_bin"),
        (["utf8mb3_unicode_ci", "utf8mb4_unicode_ci"], "utf8mb4_unicode_ci"),
        (["utf8mb3_uca1400_ai_ci"], "utf8mb4_uca1400_ai_ci"),
        (["utf8_bin", "utf8mb3_bin", "utf8mb4_bin"], "utf8mb4_bin"),
        # A password that was compared by its bytes would be compared by its letters.
        (["utf8mb3_general_ci", "utf8mb3_bin"], ""),
        # It may hold UTF-8 that was written through a latin1 connection.
        (["latin1_swedish_ci"], ""),
        (["utf8mb3_general_ci", "ascii_general_ci"], ""),
        (["utf8mb3_general_mysql500_ci"], ""),
        (["utf8mb3_tolower_ci"], ""),
    ],
)
def test_only_what_is_sure_to_keep_its_order_is_converted(collations, target):
    assert conversion({str(number): text for number, text in enumerate(collations)}) == target


def test_all_columns_of_a_table_are_converted():
    assert convert_clause("utf8mb4_bin") == "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
