"""docs/messages.md: each message is there with its fixed words, and what the page quotes is said by some file."""

import html
import re
import sys

import pytest

import _ispmail_salt
from _ispmail_errors import IspmailError
from lab.minion import REPOSITORY

from .. import pages

sys.path.append(str(REPOSITORY / "docs"))
import message_reference as reference

PAGE = (REPOSITORY / "docs/messages.md").read_text(encoding="utf-8")
LISTS = re.findall(r"```\{ispmail-messages\}\n(.*?)```", PAGE, re.DOTALL)
SOURCES = sorted(REPOSITORY.glob("_[a-z]*/*.py"))
# What has its own page of the reference, what writes files for programs, and what is no message.
ELSEWHERE = ("_ispmail_events.py", "_ispmail_metrics.py")
LISTED = [path for patterns in LISTS for path in reference.files(patterns)]
SENTENCES = [sentence for path in LISTED for sentence in reference.sentences(path)]


def test_each_file_that_says_something_is_on_the_page_once():
    assert len(LISTED) == len(set(LISTED)), "a file is in two lists"
    saying = {path.name for path in SOURCES if list(reference.sentences(path))} - {*ELSEWHERE}
    assert sorted(saying - {path.name for path in LISTED}) == []
    assert len(set(SENTENCES)) > 700


def words(text):
    """The fixed words of a message: what stands between gaps, numbers, quoted names, brackets and colons."""
    parts = re.split(r"…|\d[\d.:]*|[(),:](?: and )?|^- ispmail\S+", text)
    return [" ".join(part.split()).strip(" '\"():;,.`") for part in parts]


def is_said(part, source):
    """Whether a file has these words, or two pieces of them, which it puts together."""
    split = part.split()
    pairs = ((" ".join(split[:n]), " ".join(split[n:])) for n in range(2, len(split) - 1))
    return part in source or part in OF_OTHERS or any(one in source and other in source for one, other in pairs)


def said():
    """All texts of the files and of the formula, in one."""
    formula = [re.sub(r"['\"]\n? *~ *['\"]|\n +", " ", path.read_text()) for path in REPOSITORY.glob("salt/*/*.sls")]
    texts = [" ".join(text.split()) for path in SOURCES for text in reference.texts(path)]
    return "\n".join([*texts, *(" ".join(text.split()) for text in formula)])


# The words of Postfix and of the databases.
OF_OTHERS = (
    *("connect to mysql server", "Access denied for user", "query failed"),
    *("Can't connect to server on", "Application error", "SSL connection error"),
)


def test_what_the_page_quotes_is_said_by_a_file():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    source = said()
    quoted = [quote for quote in re.findall(r"`([^`]+)`", " ".join(text.split())) if quote.count(" ") >= 2]
    quoted = [quote for quote in quoted if not pages.is_command(quote)]
    quoted += [line.strip() for block in pages.blocks("docs/messages.md") for line in block.text.splitlines()]
    assert len(quoted) > 40
    lies = [
        f"{quote}: no file says {part!r}"
        for quote in quoted
        for part in words(quote)
        if len(part) > 3 and not is_said(part, source)
    ]
    assert not lies, "\n".join(lies)


def shown_as(sentence):
    """A pattern that fits all messages of a sentence."""
    return re.compile(".*".join(map(re.escape, sentence.split(reference.GAP))), re.DOTALL)


WRONG = [
    {"database": {"password": "a\nb"}},
    {"database": {"password": "x", "hosts": "localhost:3306"}},
    {"database": {"password": "x", "hosts": []}},
    {"database": {}},
    {"databse": {"password": "x"}},
    {"database": {"password": "x"}, "maps": {"a": {"query": "SELECT 1"}}},
    {"database": {"password": "x"}, "maps": {"a b": {}, "c": 7, "d": {"type": "odd"}, "e": {"file": "x y"}}},
    {"database": {"password": "x"}, "maps": {"virtual_alias_maps": {"query": "SELECT 1 FROM t WHERE a=%s"}}},
    {
        "database": {"password": "x"},
        "maps": {"virtual_alias_maps": {"timeout": 5, "domain": "a b"}},
    },
    {
        "database": {"password": "x"},
        "rotation": {"batch": "many", "drain": "x", "method": "odd", "max_age": 3},
    },
    {"database": {"password": "x"}, "consumers": {"a": {}, "b": {"option_file": "x", "mode": "0644"}, "c": {"sls": 1}}},
    {"database": {"password": "x"}, "answers": [{"map": "x", "question": ""}, 5], "watch": {"textfile": "x"}},
    {"database": {"password": "x"}, "preset": "odd", "instances": "x", "postfix": {"config_directory": "etc"}},
]


@pytest.mark.parametrize("section", WRONG)
def test_each_fault_of_a_wrong_pillar_is_found_on_the_page(section):
    """As the admin searches: what is printed is one of the sentences, its gaps filled."""
    with pytest.raises(IspmailError) as err:
        _ispmail_salt.wanted({"ispmail": section}, {}, "ispmail")
    patterns = [shown_as(sentence) for sentence in SENTENCES if words(sentence) != [""]]
    faults = str(err.value).split("\n- ")[1:]
    assert faults
    missing = [fault for fault in faults if not any(len(p.pattern) > 12 and p.search(fault) for p in patterns)]
    assert missing == []


def test_each_check_of_the_doctor_is_on_the_page():
    """By another way than that of the page: a name of a check is the text before or behind which a place stands."""
    checks = []
    for path in REPOSITORY.glob("_utils/_ispmail_doctor*.py"):
        text = path.read_text()
        for line in re.findall(r"(?m)^[A-Z_, ]*_CHECK.* = .*$", text):
            checks += re.findall(r'"([^"]+)"', line)
        checks += re.findall(r'(?:fault|warning)_if\([^"]*?, "([a-z][^"{]+)", ', text)
    assert len(checks) > 20
    assert [check for check in checks if check not in SENTENCES] == []


def test_the_page_has_them_as_they_are_printed(site):
    built = " ".join(html.unescape(re.sub(r"<[^>]+>", "", (site / "messages.html").read_text())).split())
    assert [sentence for sentence in SENTENCES if " ".join(sentence.split()) not in built] == []
