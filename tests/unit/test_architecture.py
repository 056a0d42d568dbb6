"""The library's imports are as docs/ARCHITECTURE.md has them: no circle, pure files without I/O, no Salt in it."""

import ast
import dataclasses
import importlib
import pprint
import re
import sys

import pytest

from .test_documentation import ROOT, constant

LIBRARY = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "_utils").glob("*.py")}
EDGE = {
    f"{room}/{file.stem}": ast.parse(file.read_text(encoding="utf-8"))
    for room in ("_modules", "_states", "_beacons", "_runners")
    for file in (ROOT / room).glob("*.py")
}
DUNDERS = {"__salt__", "__opts__", "__pillar__", "__grains__", "__context__", "__utils__", "__proxy__"}
# What a pure file may import: nothing that opens a file, a socket or a process.
PURE = {
    "__future__",
    "base64",
    "collections",
    "collections.abc",
    "contextlib",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
}
PURE |= {
    "itertools",
    "json",
    "math",
    "os.path",
    "re",
    "stringprep",
    "sys",
    "textwrap",
    "types",
    "typing",
    "unicodedata",
}


# What holds a secret, or what is in a file: fields of these names, and of others in one class only.
SECRET_FIELDS = {"password", "keys", "content", "values", "texts", "hashes", "verifier", "data", "stdout", "stderr"}
SECRET_IN = {
    "_ispmail_hosts.Host": {"text"},
    "_ispmail_config.Answer": {"answer"},
    "_ispmail_files.Replacement": {"still"},
    "_ispmail_postconf.Service": {"command"},
    "_ispmail_reach.Place": {"before"},
    "_ispmail_reach.Word": {"text"},
    "_ispmail_plan.Difference": {"parameters"},
    "_ispmail_plugins.Reply": {"data"},
    "_ispmail_transaction.Change": {"parameters", "expected"},
    "_ispmail_replaced.Values": {"before", "after", "between"},
    "_ispmail_replaced.Replaced": {"after", "between"},
    "_ispmail_replaced.Entry": {"parameters"},
    "_ispmail_database.Step": {"arguments"},
    "_ispmail_steps.Step": {"parameters"},
    "_ispmail_scram.Keys": {"client", "server"},
    "_ispmail_scram._Verifier": {"salt", "stored"},
}
CANARY = "canary-Zq8x7"


def imports(tree):
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def values_of(name):
    """The values that a file of the library defines: each class to its fields."""
    module = importlib.import_module(name)
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
    named = {each: set(each._fields) for each in classes if issubclass(each, tuple)}
    return named | {
        each: {field.name for field in dataclasses.fields(each)} for each in classes if dataclasses.is_dataclass(each)
    }


def ours(tree):
    return {name for name in imports(tree) if name.startswith("_ispmail_")}


def drawn():
    """The table of files: a file's name to whether it is pure, and what it may import."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(_ispmail_\w+)` \| (pure)? *\| .+? \| (.*?) *\|$", text, re.MULTILINE)
    return {name: (kind == "pure", set(re.findall(r"\w+", allowed))) for name, kind, allowed in rows}


DRAWN = drawn()


def test_every_file_is_in_the_table():
    assert set(DRAWN) == set(LIBRARY) and len(DRAWN) > 15


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_imports_are_as_drawn(name):
    """Both ways: an arrow that is no longer there misleads as much as one that is not drawn."""
    assert {found.removeprefix("_ispmail_") for found in ours(LIBRARY[name])} == DRAWN[name][1]


@pytest.mark.parametrize("name", sorted(name for name, (pure, _) in DRAWN.items() if pure))
def test_pure_files_import_no_io(name):
    foreign = imports(LIBRARY[name]) - ours(LIBRARY[name])
    assert foreign <= PURE
    assert all(DRAWN[found][0] for found in ours(LIBRARY[name])), "a pure file imports one that is not"
    names = {node.id for node in ast.walk(LIBRARY[name]) if isinstance(node, ast.Name)}
    assert not names & {"open", "exec", "eval", "compile", "__import__", "print", "input"}


def test_there_is_no_circle():
    below = {name: ours(tree) for name, tree in LIBRARY.items()}
    while below:
        free = [name for name, needed in below.items() if not needed & set(below)]
        assert free, f"these import each other: {', '.join(below)}"
        for name in free:
            del below[name]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_the_library_knows_nothing_of_salt(name):
    """What it needs comes as arguments; one file turns its errors into Salt's and reads pillar."""
    names = {node.id for node in ast.walk(LIBRARY[name]) if isinstance(node, ast.Name)}
    assert not names & DUNDERS
    uses_salt = {found for found in imports(LIBRARY[name]) if found.partition(".")[0] == "salt"}
    assert not uses_salt or name == "_ispmail_salt"


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_the_library_is_imported_at_the_top(name):
    """Salt has it on the path only while it loads a module: an import inside a function would fail on a new minion."""
    top = {found for node in LIBRARY[name].body for found in ours(ast.Module([node], []))}
    assert ours(LIBRARY[name]) == top
    nested = [node for node in ast.walk(LIBRARY[name]) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert not [node.name for node in nested if ours(node)]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_no_value_shows_a_secret_in_its_repr(name):
    """A traceback of somebody else's, or a careless log line, may print any value."""
    for each, fields in values_of(name).items():
        secret = fields & (SECRET_FIELDS | SECRET_IN.get(f"{name}.{each.__name__}", set()))
        value = each(**{field: CANARY if field in secret else None for field in fields})
        shown = [repr(value), str(value), format(value), f"{value!r}", str([value]), pprint.pformat({"a": value})]
        assert [text for text in shown if CANARY in text] == [], each


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_a_dataclass_says_beside_a_secret_that_it_is_not_shown(name):
    classes = [node for node in LIBRARY[name].body if isinstance(node, ast.ClassDef) and node.decorator_list]
    fields = [part for each in classes for part in each.body if isinstance(part, ast.AnnAssign)]
    assert {each.target.id for each in fields if "repr=False" not in ast.unparse(each)} & SECRET_FIELDS == set()


def test_the_values_that_hold_a_secret_are_there():
    """Else the test of their repr would look at none."""
    found = {f"{name}.{each.__name__}": fields for name in LIBRARY for each, fields in values_of(name).items()}
    assert len([name for name, fields in found.items() if fields & SECRET_FIELDS]) > 12
    assert all(fields <= found[name] for name, fields in SECRET_IN.items())


@pytest.mark.parametrize("name", sorted(EDGE))
def test_the_edge_calls_by_string_only_salt_and_the_edge(name):
    """`__salt__` reaches Salt's own functions and our public ones: everything else is imported."""
    public = {
        f"{constant(tree, '__virtualname__', path.partition('/')[2])}.{node.name.rstrip('_')}"
        for path, tree in EDGE.items()
        if path.startswith(("_modules", "_runners"))
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    salts = {"cache.grains", "event.send", "saltutil.refresh_pillar", "state.apply", "state.orchestrate"}
    called = {
        node.slice.value
        for node in ast.walk(EDGE[name])
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "__salt__"
    }
    assert called <= public | salts


@pytest.mark.parametrize("name", sorted(EDGE))
def test_the_stamp_comes_first(name):
    """Before any other import of ours: else a minion's process would keep an older library."""
    body = [
        node for node in EDGE[name].body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    at = next(number for number, node in enumerate(body) if ast.unparse(node) == "import _ispmail_stamp")
    assert ast.unparse(body[at + 1]).startswith("_ispmail_stamp.require('")
    # Below, that name would stand for the older library where require() has dropped it.
    later = {node.id for part in body[at + 2 :] for node in ast.walk(part) if isinstance(node, ast.Name)}
    assert "_ispmail_stamp" not in later
    assert all(found in sys.stdlib_module_names for node in body[:at] for found in imports(ast.Module([node], [])))


def test_files_of_one_virtual_name_have_different_functions():
    """Salt keeps the one that it loads first, and says nothing."""
    seen = {}
    for name, tree in EDGE.items():
        called = constant(tree, "__virtualname__", name.partition("/")[2])
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert seen.setdefault((name.partition("/")[0], called, node.name), name) == name


def loaded_by(*modules):
    """The files of the library that Salt has loaded with some modules."""
    loaded, left = set(), set().union(*(ours(EDGE[f"_modules/{name}"]) for name in modules))
    while left:
        name = left.pop()
        loaded.add(name)
        left |= ours(LIBRARY[name]) - loaded
    return loaded


def test_a_change_loads_nothing_of_the_database_s_admin():
    """It may log in, to see who holds a password that it replaces. What the server has, it neither asks nor writes."""
    admins = {"database", "sql", "dialect", "mariadb", "mysql", "collations", "postgresql", "account_users", "servers"}
    others = {"found", "adopt"}
    assert {f"_ispmail_{name}" for name in admins | others} <= set(LIBRARY)
    changing = loaded_by("postfix_map", "postfix_map_ask", "postfix_map_change")
    assert changing & {f"_ispmail_{name}" for name in admins | others} == set()


def test_a_converged_apply_loads_no_more_than_it_needs():
    """What a change or a question alone needs is imported by files of their own, and by nothing that compares."""
    loaded = loaded_by("postfix_map")
    later = {"apply", "remove", "found", "adopt", "transaction", "logins", "holders", "client", "database", "search"}
    later |= {"history", "rollback", "answers", "classes", "lookup", "proof", "route", "smtpd"}
    # What one kind of server needs, no apply of the other's maps pays for.
    later |= {"servers", "dialect", "mariadb", "mysql", "sql", "plugins", "meanings", "accounts"}
    later |= {"postgresql", "postgresql_client", "postgresql_accounts", "scram", "sqlstates", "peer"}
    assert {f"_ispmail_{name}" for name in later} <= set(LIBRARY)
    assert loaded & {f"_ispmail_{name}" for name in later} == set()
    assert {"_ispmail_apply", "_ispmail_remove", "_ispmail_holders"} <= ours(EDGE["_modules/postfix_map_change"])
    assert {"_ispmail_answers", "_ispmail_classes", "_ispmail_proof"} <= ours(EDGE["_modules/postfix_map_ask"])
    # Nor does a change pay for what only a rollback needs.
    assert "_ispmail_rollback" in ours(EDGE["_modules/postfix_map_undo"])
    assert not [name for name, tree in LIBRARY.items() if "_ispmail_rollback" in ours(tree)]


def test_the_tests_of_every_file_can_be_found():
    """By its name in tests/unit, or in the table of docs/ARCHITECTURE.md."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = {file.stem.removeprefix("test") for file in (ROOT / "tests" / "unit").glob("test_ispmail_*.py")}
    for names, files in re.findall(r"^\| ([a-z_, ]+) \| (`tests/.+`) \|$", text, re.MULTILINE):
        assert all((ROOT / file).is_file() for file in re.findall(r"`(.+?)`", files)), files
        found |= {f"_ispmail_{name}" for name in names.split(", ")}
    assert set(LIBRARY) - found == set()
