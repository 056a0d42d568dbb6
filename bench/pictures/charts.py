"""The pictures of what was measured: pygal computes scales, axes and lines, svg.py has the look."""

import itertools
import json
import math
import statistics
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import pygal
import pygal.etree
from pygal.style import Style

from bench.pictures import svg

# Not by lxml, which writes the same differently.
pygal.etree.etree.to_etree()

Point = tuple[float, float]
TOP, HEIGHT = 32, 420  # pixels: where the chart begins, below the title
PARTS = 5  # of a vertical axis, at most
KEPT = ("transform", "d", "x", "y", "cx", "cy", "r")  # attributes of pygal's elements
# How far a text that belongs to a point is moved down from where pygal has it, right of the point.
SIDES = {"above": -34, "below": 16}


class Note(NamedTuple):
    """A text above or below a point of a chart."""

    at: Point
    text: str
    side: str = "above"


class Line(NamedTuple):
    """A line of a chart: its look, its points, the dots on it with their texts, and its name."""

    kind: str  # good, bad or plain: a class of svg.STYLE
    points: list[Point]
    dots: list[Note]
    name: Note


class Axis(NamedTuple):
    """An axis: its name with the unit, and the numbers on it, from its begin to its end."""

    name: str
    numbers: list[float]


def rotation(text: str) -> svg.Picture:
    """Failed RCPTs while the password changes, in the naive order and as a rotation."""
    data = json.loads(text)
    lines, steps = [], {}
    for run, kind, name, side in (
        ("naive", "bad", "naive order", "below"),
        ("ours", "good", "this project", "above"),
    ):
        points = _cumulated(data[run]["failed"], data["bin"])
        dots = [Note((ended, _height(points, ended)), str(number)) for number, ended in _ends(data[run])]
        lines.append(Line(kind, points, dots, Note((dots[-1].at[0] + 0.25, points[-1][1]), name, side)))
        steps[run] = ", ".join(f"{number} {each['step']}" for number, each in enumerate(data[run]["steps"], 1))
    ends = [line.points[-1] for line in lines]
    across = Axis("seconds after the change began", list(range(math.ceil(max(end[0] for end in ends)) + 1)))
    up = Axis("failed RCPTs so far", _numbers(max(1, *(end[1] for end in ends))))
    naive, ours = (f"{sum(data[run]['failed'])} of {data[run]['rcpts']:,}" for run in ("naive", "ours"))
    says = (
        f"Of {data['rate']} RCPTs a second, {naive} failed in the naive order, {ours} with this project. Steps of the "
        f"naive order: {steps['naive']}. Steps of this project: {steps['ours']}. {_measured(data)}."
    )
    return _chart("RCPTs that fail while the password changes", says, across, up, lines)


def maps(text: str) -> svg.Picture:
    """CPU seconds of an apply, by the number of maps."""
    data = json.loads(text)
    counts = [float(count) for count in data["converged"]]
    place = counts[-1] * 0.4
    lines, medians, away = [], {}, 0.0
    for kind, name, key, side in (
        ("plain", "an apply of an empty SLS", "empty", "below"),
        ("good", "converged: nothing to change", "converged", "above"),
        ("bad", "first set-up", "first set-up", "above"),
    ):
        rounds = data[key] if isinstance(data[key], dict) else dict.fromkeys(data["converged"], data[key])
        medians[key] = [statistics.median(seconds) for seconds in rounds.values()]
        away = max(away, *(abs(s - median) for median, found in zip(medians[key], rounds.values()) for s in found))
        points = list(zip(counts, medians[key]))
        dots = [] if kind == "plain" else [Note(point, "") for point in points]
        highest = max(_height(points, place), points[-1][1])
        lines.append(Line(kind, points, dots, Note((place, highest), name, side)))
    up = Axis("CPU seconds of an apply", _numbers(max(point[1] for line in lines for point in line.points)))
    says = f"CPU seconds of an apply, median of {len(data['empty'])} rounds: {medians['empty'][0]:.2f} of an empty SLS"
    for key in ("converged", "first set-up"):
        pairs = zip(medians[key], counts)
        says += f"; {key} " + ", ".join(f"{median:.2f} with {count:g}" for median, count in pairs) + " maps"
    says += f". Single rounds are up to {away:.2f} from their median. {_measured(data)}."
    return _chart("What an apply costs", says, Axis("maps in pillar", counts), up, lines)


def _measured(data: dict[str, Any]) -> str:
    """When and on what."""
    at = data["measured"]
    versions = f"Salt {at['salt']}, Postfix {at['postfix']}, MariaDB {at['mariadb']}"
    return f"Measured {at['date']} on {at['cores']} cores, {at['system']}, {versions}; load average before {at['load']}"


def _cumulated(failed: list[int], width: float) -> list[Point]:
    """How many RCPTs have failed until then: at the beginning, at each change and at the end."""
    totals = [0, *itertools.accumulate(failed)]
    points = [(round(number * width, 3), float(total)) for number, total in enumerate(totals)]
    inner = zip(points, points[1:], points[2:])
    return [points[0], *(here for before, here, after in inner if not before[1] == here[1] == after[1]), points[-1]]


def _ends(run: dict[str, Any]) -> list[tuple[int, float]]:
    """The number of each step, and when it ended."""
    return [(number, step["ended"]) for number, step in enumerate(run["steps"], 1)]


def _height(points: list[Point], at: float) -> float:
    """How high a line is there."""
    (x0, y0), (x1, y1) = next(pair for pair in itertools.pairwise(points) if at <= pair[1][0])
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def _numbers(largest: float) -> list[float]:
    """Round numbers from 0 to no less than this one."""
    steps = (base * 10.0**power for power in range(-2, 6) for base in (1, 2, 5))
    step = next(step for step in steps if step * PARTS >= largest)
    return [round(step * number, 2) for number in range(math.ceil(round(largest / step, 6)) + 1)]


def _chart(title: str, says: str, across: Axis, up: Axis, lines: list[Line]) -> svg.Picture:
    """A chart of these lines."""
    sizes = {f"{kind}_font_size": svg.FONT for kind in ("label", "major_label", "title", "value", "value_label")}
    chart = pygal.XY(
        style=Style(**sizes),
        width=svg.WIDTH,
        height=HEIGHT,
        js=(),
        show_legend=False,
        print_labels=True,
        xrange=(across.numbers[0], across.numbers[-1]),
        range=(up.numbers[0], up.numbers[-1]),
        x_labels=across.numbers,
        y_labels=up.numbers,
        x_title=across.name,
        y_title=up.name,
        value_formatter=lambda value: f"{value:g}",
        x_value_formatter=lambda value: f"{value:g}",
    )
    looks = []
    for line in lines:
        chart.add(line.kind, line.points, show_dots=False)
        chart.add(line.kind, [_labelled(note) for note in line.dots], stroke=False, dots_size=6)
        chart.add(line.kind, [_labelled(line.name)], stroke=False)
        looks += [line.kind, f"dot dot-{line.kind}", line.name.side]
    root = svg.sheet(title, says, TOP + HEIGHT)
    _copy(chart.render_tree(), svg.add(root, "g", transform=f"translate(0 {TOP})"), looks)
    return svg.finished(root, says)


def _labelled(note: Note) -> dict[str, object]:
    """A point as pygal takes it, with its text."""
    return {"value": note.at, "label": note.text}


def _copy(source: Element, target: Element, looks: list[str], look: str = "") -> None:
    """Of pygal's elements those that are seen, with the looks of svg.STYLE: `looks` of the series, in their order."""
    for element in source:
        words = element.get("class", "").split()
        here = look
        if series := [word for word in words if word.startswith("serie-")]:
            here = looks[int(series[0].removeprefix("serie-"))]
        elif element.tag == "g" and "axis" in words:
            here = "grid end" if "y" in words else "grid middle"
        elif "titles" in words:
            here = "middle quiet"
        kept: dict[str, object] = {name: element.attrib[name] for name in KEPT if name in element.attrib}
        if element.tag == "g":
            group = svg.add(target, "g", **kept)
            _copy(element, group, looks, here)
            if not len(group):
                target.remove(group)
        elif element.tag == "path":
            svg.add(target, "path", **kept, class_=here.partition(" ")[0])
        elif element.tag == "circle" and here not in SIDES:
            svg.add(target, "circle", **kept, class_=here)
        elif element.tag == "text" and element.text:
            if here in SIDES or here.startswith("dot"):
                kept["x"] = float(element.attrib["x"]) - svg.FONT
                kept["y"] = float(element.attrib["y"]) + SIDES.get(here, SIDES["above"])
                here = "strong middle" if here.startswith("dot") else "name"
            svg.add(target, "text", element.text, **kept, class_=here.removeprefix("grid "))
