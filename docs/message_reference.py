"""A directive for Sphinx: ``ispmail-messages`` has the sentences that files of ours say to an admin.

They are read from the files. So an admin who searches the page for words of a message finds them, and the page cannot
quote what no file says any more.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
# In place of what a message names.
GAP = "…"
_WORDS = re.compile(r"(?:^|[ (…:,'])[A-Za-z…'’()/-]+,? [a-z…'()/-]+,? [a-z…'()/-]+")
_NO_SENTENCE = re.compile(
    r"\b(SELECT|FROM|WHERE|ALTER TABLE|CREATE|INSERT|import)\b|\\[sdwSDW]|\(\?|\[\^|\[[a-z]-|^\W*$|\n.*\n.*=.*\n"
)


class _Texts(ast.NodeVisitor):
    """The texts of a file, docstrings, log lines and patterns left out: line to text, in the file's order."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self.faults: list[tuple[int, str]] = []

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called in ("Fault", "Rule"):
            texts = [_text(argument) for argument in node.args]
            if called == "Fault" and len(texts) > 1 and texts[1].strip(GAP):
                sentence = f"{texts[0]} {texts[1]}".strip()
                self.faults.append((node.lineno, ": ".join(filter(None, [sentence, *texts[2:]]))))
        if not called.startswith(("log.", "re.", "_log")):
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.found.append((node.lineno, _text(node)))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.generic_visit(part)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.append((node.lineno, _text(node)))


def _text(node: ast.AST) -> str:
    """A text with gaps in place of what is only known when it is said."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\\b", "", re.sub(r"\\([(.])", r"\1", re.sub(r"\{[\w.!]*\}|\.\*", GAP, node.value)))
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return GAP


def texts(path: Path) -> list[str]:
    """All texts of a file, also those that are no sentence."""
    visitor = _Texts()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return [text for _, text in [*visitor.found, *visitor.faults]]


def sentences(path: Path) -> Iterator[str]:
    """What a file says to an admin: faults of pillar with their fix, and each other text of three words or more."""
    visitor = _Texts()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    told = [fault for _, fault in visitor.faults]
    for _, text in sorted([*visitor.found, *visitor.faults], key=lambda pair: pair[0]):
        for part in re.split(r"\|(?![^(]*\))", text):
            sentence = re.sub(f"{GAP}[{GAP}\\s]*{GAP}", GAP, " ".join(part.split())).lstrip("-").strip(" :,;")
            is_part = part not in told and any(part in fault for fault in told)
            if not is_part and (part in told or _WORDS.search(part)) and not _NO_SENTENCE.search(part):
                yield sentence


def files(patterns: str) -> list[Path]:
    """The files that patterns below the checkout's root, separated by blanks, name."""
    return [path for pattern in patterns.split() for path in sorted(ROOT.glob(pattern))]


class IspmailMessages(SphinxDirective):
    """``.. ispmail-messages::``, with patterns of files below the checkout's root as its content."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Put the list in place of the directive."""
        items = nodes.bullet_list()
        said: dict[str, None] = {}
        for path in files("\n".join(self.content)):
            self.env.note_dependency(str(path))
            said.update(dict.fromkeys(sentences(path)))
        for sentence in said:
            items += nodes.list_item("", nodes.paragraph("", sentence))
        return [items]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it."""
    app.add_directive("ispmail-messages", IspmailMessages)
    return {"parallel_read_safe": True}
