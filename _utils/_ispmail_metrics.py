"""What a server of monitoring reads, in the text format of Prometheus. Pure.

See https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """One number for each pillar key; what is not known is left out."""

    name: str
    help: str
    of: Mapping[str, float | None]  # pillar key to the number


def text(metrics: list[Metric]) -> str:
    """Write metrics. The label ``pillar`` is the pillar key; Prometheus itself has one that is called ``instance``."""
    return "".join(line + "\n" for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> list[str]:
    known = {key: value for key, value in metric.of.items() if value is not None}
    if not known:
        return []
    # All are gauges: each may fall.
    return [
        f"# HELP {metric.name} {metric.help}",
        f"# TYPE {metric.name} gauge",
        *(f'{metric.name}{{pillar="{_escaped(key)}"}} {value!r}' for key, value in known.items()),
    ]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
