"""Directives for Sphinx, so that no page says again what the code says.

``salt-functions`` has what the docstrings of a Salt module say. No such module is imported: it cannot be without Salt's
loader, and two of ours have one name. ``ispmail-events`` has the events.
"""

import ast
from pathlib import Path
from typing import Any, ClassVar

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes

import _ispmail_events

ROOT = Path(__file__).resolve().parent.parent


def public_functions(path: Path) -> dict[str, ast.FunctionDef]:
    """The functions of a file that a job, a state file or Salt itself can call, by the names that Salt gives them."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    aliases: dict[str, str] = {}
    for each in body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__func_alias__":
            aliases = ast.literal_eval(each.value)
    functions = [each for each in body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    return {aliases.get(each.name, each.name): each for each in functions}


def text(module: str, paths: list[Path]) -> str:
    """The reStructuredText of a module that has these files: the docstring of the first, and all public functions."""
    kind, _, name = module.rpartition(".")
    lines = [ast.get_docstring(ast.parse(paths[0].read_text(encoding="utf-8"))) or "", ""]
    lines += [f".. py:currentmodule:: {kind}", ""]
    functions = {called: each for path in paths for called, each in public_functions(path).items()}
    for called, function in sorted(functions.items()):
        lines += [f".. py:function:: {name}.{called}({ast.unparse(function.args)})", ""]
        lines += [f"   {line}" for line in (ast.get_docstring(function) or "").splitlines()]
        lines.append("")
    return "\n".join(lines)


class SaltFunctions(SphinxDirective):
    """``.. salt-functions:: MODULE FILE …``: such as salt.states.postconf, and its files below the checkout's root."""

    required_arguments = 2
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[Node]:
        """Put the text in place of the directive."""
        paths = [ROOT / path for path in self.arguments[1].split()]
        for path in paths:
            self.env.note_dependency(str(path))
        return nested_parse_to_nodes(self.state, text(self.arguments[0], paths), source=self.arguments[1])


def events() -> str:
    """The reStructuredText of all events."""
    lines: list[str] = []
    for event in _ispmail_events.ALL:
        lines += [f"``{event.tag}``", f"   {event.meaning}", "", f"   Sender: {event.sender}.", ""]
        lines += [f"   - ``{key}``: {what}" for key, what in event.holds.items()] or ["   It has no data."]
        lines.append("")
    return "\n".join(lines)


class IspmailEvents(SphinxDirective):
    """``.. ispmail-events::``: all events of the library."""

    def run(self) -> list[Node]:
        """Put the list in place of the directive."""
        self.env.note_dependency(_ispmail_events.__file__)
        return nested_parse_to_nodes(self.state, events(), source="_ispmail_events.py")


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    app.add_directive("salt-functions", SaltFunctions)
    app.add_directive("ispmail-events", IspmailEvents)
    return {"parallel_read_safe": True}
