"""The pictures that are drawn, not measured: what an apply does, and which file of the library imports which."""

import re
from xml.etree.ElementTree import Element

import yaml

from bench.pictures import ROOT, svg

LINE = 24  # pixels from one line of text to the next
LEFT, RIGHT, STEP = (20, 340), (422, 278), 100  # two columns, each with its width; from one step to the next
LABELS, CHIP = 140.0, 30  # where the files of a layer begin; how high one is
EDGE = ("_states", "_modules", "_beacons", "_runners")


def apply(text: str) -> svg.Picture:
    """The steps of an apply from above to below, and on the right how it ends early."""
    source = yaml.safe_load(text)
    steps, back, end = source["steps"], source["put_back"], source["done"]
    says = "; ".join(_said(step) for step in steps)
    says += f"; {back['if']} {' '.join(back['then'])}; {end['name'].lower()}: {' '.join(end['does'])}."
    says = says[0].upper() + says[1:]
    tops = [56 + STEP * number for number in range(len(steps) + 1)]
    root = svg.sheet(source["title"], says, tops[-1] + 82)
    middle = LEFT[0] + LEFT[1] / 2
    for top, step in zip(tops, [*steps, end]):
        _box(root, LEFT, top, step["name"], step["does"], "good" if step is end else "box")
        if step is not end:
            _arrow(root, (middle, top + 62), (middle, top + STEP - 2))
        if "if" in step:
            _box(root, RIGHT, top, step["if"], step["then"], "good" if step["ends"] == "done" else "bad")
            _arrow(root, (sum(LEFT), top + 31), (RIGHT[0] - 2, top + 31))
    undone = [top for top, step in zip(tops, steps) if step["ends"] == "put back"]
    centre = (undone[0] + undone[-1] + 62) / 2
    _box(root, RIGHT, centre - 52, back["if"], back["then"], "bad")
    bus = (sum(LEFT) + RIGHT[0]) / 2
    for top in undone:
        svg.add(root, "path", class_="arrow", d=f"M{sum(LEFT)} {top + 31} H{bus}")
    svg.add(root, "path", class_="arrow", d=f"M{bus} {undone[0] + 31} V{undone[-1] + 31}")
    _arrow(root, (bus, centre), (RIGHT[0] - 2, centre))
    return svg.finished(root, says)


def house(text: str) -> svg.Picture:
    """The library in layers, from the table of docs/ARCHITECTURE.md: a file imports only files of layers below it."""
    rows = re.findall(r"^\| `_ispmail_(\w+)` \| (pure)? *\| .+? \| (.*?) *\|$", text, re.MULTILINE)
    imports = {name: set(re.findall(r"\w+", allowed)) for name, _, allowed in rows}
    pure = {name for name, kind, _ in rows if kind}
    layers = _layers(imports)
    title = "The library in layers: a file imports only files of layers below it"
    says = f"{len(imports)} files in {len(layers)} layers, {len(pure)} of them pure. From above to below: "
    says += "; ".join(", ".join(layer) for layer in reversed(layers)) + "."
    bands = [(f"{room}/", sorted(file.stem for file in (ROOT / room).glob("*.py"))) for room in EDGE]
    bands += [(str(number), layer) for number, layer in reversed([*enumerate(layers, 1)])]
    places, height = _places(bands)
    root = svg.sheet(title, says, height)
    _arrow(root, (28, 96), (28, height - 22))
    _chip(root, (LABELS, 52), "pure", "pure")
    svg.add(root, "text", "opens no file, no socket, no process", x=LABELS + 64, y=72)
    for name, place in places:
        look = "label" if place[0] < LABELS else "pure" if name in pure else "box"
        _chip(root, place, name, look)
    return svg.finished(root, says)


def _places(bands: list[tuple[str, list[str]]]) -> tuple[list[tuple[str, tuple[float, float]]], float]:
    """Where the label and the chips of each band go, from line to line as words do; and where the last one ends."""
    places: list[tuple[str, tuple[float, float]]] = []
    top = 96.0
    for label, names in bands:
        places.append((label, (LABELS - 98.0, top)))
        left = LABELS
        for name in names:
            if left + _wide(name) > svg.WIDTH - 16:
                left, top = LABELS, top + CHIP + 6
            places.append((name, (left, top)))
            left += _wide(name) + 6
        top += CHIP + 14
    return places, top + 6


def _wide(name: str) -> float:
    """How wide a chip is."""
    return 9.7 * len(name) + 16


def _chip(root: Element, place: tuple[float, float], name: str, look: str) -> None:
    """A file's name in its frame, round where the file is pure; a label has none."""
    left, top = place
    if look != "label":
        rounded = CHIP / 2 if look == "pure" else 2
        svg.add(root, "rect", class_=look, x=left, y=top, width=_wide(name), height=CHIP, rx=rounded)
    svg.add(root, "text", name, class_="code", x=left + 8, y=top + 21)


def _said(step: dict) -> str:
    """A step in words."""
    said = f"{step['name'][0].lower()}{step['name'][1:]} {' '.join(step['does'])}"
    return f"{said} ({step['if']} {' '.join(step['then'])})" if "if" in step else said


def _box(root: Element, column: tuple[float, float], top: float, name: str, lines: list[str], look: str) -> None:
    """A box with a name and lines of text."""
    left, width = column
    height = 62 if len(lines) == 1 else 38 + LINE * len(lines)
    svg.add(root, "rect", class_="box", x=left, y=top, width=width, height=height, rx=6)
    if look != "box":
        svg.add(root, "rect", class_=look, x=left, y=top, width=width, height=height, rx=6)
    for number, line in enumerate([name, *lines]):
        svg.add(root, "text", line, class_="" if number else "strong", x=left + 14, y=top + 26 + LINE * number)


def _arrow(root: Element, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """A straight arrow, down or to the right."""
    (x0, y0), (x1, y1) = begin, end
    down = x0 == x1
    svg.add(root, "path", class_="arrow", d=f"M{x0:g} {y0:g} L{x1:g} {y1:g}")
    sides = ((x1 - 6, y1 - 9), (x1 + 6, y1 - 9)) if down else ((x1 - 9, y1 - 6), (x1 - 9, y1 + 6))
    corners = " L".join(f"{x:g} {y:g}" for x, y in (end, *sides))
    svg.add(root, "path", class_="head", d=f"M{corners} Z")


def _layers(imports: dict[str, set[str]]) -> list[list[str]]:
    """The files of each layer, the lowest first: one above the highest file that it imports."""
    layers: list[list[str]] = []
    left = dict(imports)
    while left:
        free = sorted(name for name, needed in left.items() if not needed & left.keys())
        if not free:
            raise ValueError(f"these import each other: {', '.join(left)}")
        layers.append(free)
        for name in free:
            del left[name]
    return layers
