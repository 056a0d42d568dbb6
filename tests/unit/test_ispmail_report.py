"""The table that postfix_doctor.check prints for people."""

import pytest

from _ispmail_errors import InvalidInput
from _ispmail_report import Finding, check_width, fault_if, table, warning_if


def found(result, check="the table file is private", where="virtual_alias_maps", fix="chmod"):
    return Finding(check, where, result, "" if result == "ok" else fix)


def test_faults_come_first_and_what_holds_is_short():
    findings = [
        found("ok"),
        found("warning", "b"),
        found("ok", where="x"),
        found("ok"),
        found("fault", "c"),
        found("warning", "a"),
    ]
    assert table(findings, 100).split("\n") == [
        "result   check                      where               fix",
        f"-------  -------------------------  ------------------  {'-' * 44}",
        "fault    c                          virtual_alias_maps  chmod",
        "warning  b                          virtual_alias_maps  chmod",
        "warning  a                          virtual_alias_maps  chmod",
        "ok       the table file is private  virtual_alias_maps; x",
        "",
        "1 fault, 2 warnings, 3 checks ok",
    ]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_is_wider_and_nothing_is_lost(width):
    """Also a path that is longer than its column, and sentences that are lines of their own."""
    path = "/etc/postfix/" + "x" * 150
    findings = [found("fault", "all " * 20, f"{path} here", f"first:\n- chmod 0640 {path}\n- more"), found("ok")]
    text = table(findings, width)
    assert max(map(len, text.split("\n"))) <= width
    assert text.count("x") >= 2 * 150 and text.count("all") == 20
    assert any(line.endswith("  - more") for line in text.split("\n"))
    assert text.endswith("\n1 fault, 0 warnings, 1 check ok")


def test_no_findings():
    assert table([], 80).split("\n") == [
        "result  check  where          fix",
        f"------  -----  {'-' * 13}  {'-' * 50}",
        "",
        "0 faults, 0 warnings, 0 checks ok",
    ]


@pytest.mark.parametrize(("width", "columns"), [(100, [6, 26, 29, 33]), (102, [6, 27, 30, 33])])
def test_a_long_name_leaves_room_for_the_fix(width, columns):
    assert [len(part) for part in table([found("fault", "c" * 90, "w" * 90)], width).split("\n")[1].split()] == columns


def test_places_where_a_check_holds_take_the_whole_line():
    lines = table([found("ok", where="x" * 300), found("fault", where="y")], 100).split("\n")
    assert len(lines[3]) == 100 and lines[3].endswith("x" * 50)


@pytest.mark.parametrize("before", range(30, 60))
def test_a_name_with_a_hyphen_stays_on_one_line(before):
    """It may be part of a command, to be copied."""
    assert "apt-get" in table([found("fault", fix=f"{'x' * before} apt-get")], 100)


@pytest.mark.parametrize("width", [60, 61, 1000])
def test_widths_that_are_taken(width):
    check_width(width)


@pytest.mark.parametrize("width", [59, 1001, True, "100", None])
def test_another_width_is_refused(width):
    with pytest.raises(InvalidInput, match="width must be a number, 60 or more"):
        check_width(width)


def test_a_check_holds_where_there_is_nothing_to_fix():
    assert fault_if("", "a", "b") == warning_if("", "a", "b") == Finding("a", "b", "ok", "")
    assert fault_if("c", "a", "b") == Finding("a", "b", "fault", "c")
    assert warning_if("c", "a", "b") == Finding("a", "b", "warning", "c")
