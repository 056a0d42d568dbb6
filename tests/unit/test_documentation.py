"""Every public function is documented, names clash with none of Salt's, versions agree."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
import salt.modules
import salt.states

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("_modules", "_states", "_beacons", "_runners")
FILES = sorted(file for room in ROOMS for file in ROOT.glob(f"{room}/*.py"))
LIBRARY = sorted(ROOT.glob("_utils/*.py"))
# What a minion calls by itself: there is no command for it.
HOOKS = ("_beacons/validate", "_beacons/beacon")


def trees():
    return [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in FILES]


def constant(tree, name, default=None):
    """What a module's NAME = … says, without importing it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return default


def called(file):
    """The name by which Salt calls a module: two files may share one."""
    return constant(ast.parse(file.read_text(encoding="utf-8")), "__virtualname__", file.stem)


def public_functions():
    """Module, name as Salt knows it, and syntax tree of each function that Salt makes public."""
    return [
        pytest.param(
            file,
            constant(tree, "__func_alias__", {}).get(node.name, node.name),
            node,
            id=f"{file.parent.name}/{called(file)}.{node.name}",
        )
        for file, tree in trees()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def arguments(node):
    """Argument to its default as text, None where it has none."""
    named = node.args.posonlyargs + node.args.args
    given = [None] * (len(named) - len(node.args.defaults)) + node.args.defaults
    pairs = [*zip(named, given), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
    return {argument.arg: default and str(ast.literal_eval(default)) for argument, default in pairs}


def docstring(node):
    return inspect.cleandoc(ast.get_docstring(node) or "")


def test_there_are_functions_to_check():
    """All below is one test a function: with none found, none would fail."""
    names = {parameter.id for parameter in public_functions()}
    assert {"_modules/postfix_map.apply", "_modules/postconf.set_", "_states/postfix_map.managed"} <= names
    assert set(FILES) == {parameter.values[0] for parameter in public_functions()}


@pytest.mark.parametrize("file, name, node", public_functions())
def test_every_argument_is_explained(file, name, node):
    text = docstring(node)
    headings = re.findall(r"^(\w+(?:, \w+)*)(?: : (.+))?\n    \S", text, re.MULTILINE)
    explained = {name: default or None for names, default in headings for name in names.split(", ")}
    assert list(explained.items()) == list(arguments(node).items())


@pytest.mark.parametrize("file, name, node", public_functions())
@pytest.mark.parametrize(
    "pattern", [r"^Returns \S", r"\b[Rr]aises \S", r"^Source: \S"], ids=["returns", "raises", "source"]
)
def test_what_it_returns_what_it_raises_and_its_source(pattern, file, name, node):
    assert re.search(pattern, docstring(node), re.MULTILINE)


@pytest.mark.parametrize(
    "file, name, node",
    [given for given in public_functions() if f"{given.values[0].parent.name}/{given.values[1]}" not in HOOKS],
)
def test_the_example_calls_the_function_itself(file, name, node):
    example = docstring(node).partition("CLI Example:\n\n.. code-block:: bash\n\n")[2]
    state = "state.single " if file.parent.name == "_states" else ""
    command = "salt-run" if file.parent.name == "_runners" else r"salt '\*'"
    assert re.match(rf"    {command} {state}{called(file)}\.{name}(\s|$)", example), example


@pytest.mark.parametrize(
    "file, name, node", [given for given in public_functions() if given.values[0].parent.name == "_modules"]
)
def test_every_function_has_a_use_that_the_documents_name(file, name, node):
    """What nobody needs is no function: it would only be one more job to call."""
    texts = [path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]]
    assert any(re.search(rf"\b{called(file)}\.{name}\b", text) for text in texts)


@pytest.mark.parametrize("file", [*FILES, *LIBRARY], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_module_says_what_it_is(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z].{10,110}\.|[A-Z].{10,110}[a-z),]", first), first


def names_of_salt(package):
    """Names that Salt's own loader gives to its modules, __virtualname__ too."""
    names = {"postfix"}
    for file in pathlib.Path(package.__file__).parent.glob("*.py"):
        names.add(file.stem)
        names.update(re.findall(r"^__virtualname__ = [\"'](\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    return names


@pytest.mark.parametrize(
    "room, package, known",
    [("_modules", salt.modules, "cmdmod"), ("_states", salt.states, "file")],
    ids=["modules", "states"],
)
def test_no_module_takes_the_place_of_one_of_salts(room, package, known):
    """A synced module of a name that Salt has replaces it for every other state of the minion."""
    taken = names_of_salt(package)
    assert known in taken
    ours = {name for file in FILES if file.parent.name == room for name in (file.stem, called(file))}
    assert ours
    assert ours & taken == set()


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_every_public_name_of_the_library_is_explained(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    public = [node for node in named if not node.name.startswith("_")]
    assert public
    assert not [node.name for node in public if not ast.get_docstring(node)]


VERSIONS = {
    "pyproject.toml": lambda text: re.search(r'^version = "(.+?)"', text, re.MULTILINE)[1],
    "salt/ispmail/modules.sls": lambda text: re.search(r"set wanted = '(.+?)\+", text)[1],
    "CHANGELOG.md": lambda text: re.search(r"^## \[?([0-9][0-9.]*)", text, re.MULTILINE)[1],
    "FORMULA": lambda text: re.search(r"^version: (.+)$", text, re.MULTILINE)[1],
}


@pytest.mark.parametrize("file", VERSIONS)
def test_all_versions_are_one(file):
    """Where the formula wants another version than the modules say, it syncs at every run."""
    tree = ast.parse((ROOT / "_utils/_ispmail_stamp.py").read_text(encoding="utf-8"))
    version = constant(tree, "VERSION")
    assert VERSIONS[file]((ROOT / file).read_text(encoding="utf-8")) == version


def test_each_change_has_its_place_in_the_next_changelog():
    """towncrier leaves out a file whose name has no kind that it knows."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2030-01-01"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "## 9.9.9 (2030-01-01)" in done.stdout
    written = " ".join(done.stdout.split())
    fragments = [path for path in ROOT.glob("changelog/*") if path.name != ".gitignore"]
    assert not [path.name for path in fragments if " ".join(path.read_text().split()) not in written]


DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors(document):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    broken = []
    for target in re.findall(r"\]\(([\w:/.#-]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if "://" not in target and (not file.exists() or (anchor and anchor not in anchors(file))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_test_that_a_document_names_exists(document):
    """A promise whose test has gone, or has another name, is not tested by what the document says."""
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    tests = {path.name: path for path in ROOT.glob("tests/*/*.py")}
    missing, file = [], document
    for path, function in re.findall(r"`([\w./-]*)(?:::(\w+)\S*)?`", document.read_text(encoding="utf-8")):
        if path.endswith(".py") or re.match(rf"({rooms})/", path):
            file = tests.get(path, ROOT / path)
            if not file.exists():
                missing.append(path)
        if function and not (file.is_file() and re.search(rf"def {function}\(", file.read_text(encoding="utf-8"))):
            missing.append(f"{file.name}::{function}")
    assert not missing
