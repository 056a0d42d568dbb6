"""One look for all pictures: an SVG with a title and what it says, the same bytes each time, for light and dark pages.

Each picture brings its own background, and changes it together with its colours where the reader prefers dark. So it
can be read on any page, also where the page and the reader's system disagree. The colours are those of Okabe and Ito,
which the colour-blind can tell; what they say is also said by dashes or words.
"""

import re
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

WIDTH = 720  # a page of the documentation is about as wide
FONT = 18  # pixels at that width, as in STYLE: on a telephone half of it is left
STYLE = """
svg { font: 18px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif }
text { fill: #1f2328 }
.strong { font-weight: 600 }
.quiet { fill: #57606a }
.code { font: 16px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
.middle { text-anchor: middle }
.end { text-anchor: end }
.paper { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d0d7de; fill: none }
.arrow { stroke: #57606a; stroke-width: 2; fill: none }
.head { fill: #57606a }
.box { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.5 }
.pure { fill: #ddf0fb; stroke: #0072b2; stroke-width: 1.5 }
.good { fill: none; stroke: #0072b2; stroke-width: 3 }
.bad { fill: none; stroke: #d55e00; stroke-width: 3; stroke-dasharray: 9 5 }
.plain { fill: none; stroke: #57606a; stroke-width: 3; stroke-dasharray: 2 5 }
.dot-good { fill: #0072b2 }
.dot-bad { fill: #d55e00 }
.dot-plain { fill: #57606a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.quiet { fill: #9da7b3 }
.paper { fill: #15191f; stroke: #3d444d }
.grid { stroke: #3d444d }
.arrow { stroke: #9da7b3 }
.head { fill: #9da7b3 }
.box { fill: #212830; stroke: #9da7b3 }
.pure { fill: #12324a; stroke: #56b4e9 }
.good { stroke: #56b4e9 }
.bad { stroke: #e69f00 }
.plain { stroke: #9da7b3 }
.dot-good { fill: #56b4e9 }
.dot-bad { fill: #e69f00 }
.dot-plain { fill: #9da7b3 }
}
"""


class Picture(NamedTuple):
    """An SVG, and what it says in words."""

    text: str
    says: str


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: object) -> Element:
    """Add an element; `class_` is `class`, an underscore in a name a hyphen."""
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    element = SubElement(parent, tag, named)
    element.text = text
    return element


def sheet(title: str, says: str, height: float) -> Element:
    """An empty picture: its title and what it says, for those who do not see it, its look and its background."""
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height:g}"})
    root.attrib |= {"width": str(WIDTH), "height": f"{height:g}", "role": "img", "aria-labelledby": "title desc"}
    add(root, "title", title, id="title")
    add(root, "desc", says, id="desc")
    add(root, "style", STYLE)
    add(root, "rect", class_="paper", x=0.5, y=0.5, width=WIDTH - 1, height=f"{height - 1:g}", rx=6)
    add(root, "text", title, class_="strong", x=20, y=34)
    return root


def finished(root: Element, says: str) -> Picture:
    """The picture of a sheet: an element a line, no number longer than it can be seen."""
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, re.sub(r"-?\d+\.\d+", lambda found: f"{round(float(found[0]), 1):g}", value))
    ElementTree.indent(root, space="")
    return Picture(ElementTree.tostring(root, encoding="unicode") + "\n", says)
