"""The text that Prometheus reads, by its own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from _ispmail_metrics import Metric, text

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))


def parsed(found):
    """Name to help, type and the number of each pillar key."""
    return {
        family.name: (family.documentation, family.type, {each.labels["pillar"]: each.value for each in family.samples})
        for family in text_string_to_metric_families(found)
    }


def test_the_text():
    found = text([Metric("a_b", "What it is.", {"ispmail": 1, "second": 2.5}), Metric("c", "Not known.", {"x": None})])
    assert found == ('# HELP a_b What it is.\n# TYPE a_b gauge\na_b{pillar="ispmail"} 1\na_b{pillar="second"} 2.5\n')
    assert parsed(found) == {"a_b": ("What it is.", "gauge", {"ispmail": 1, "second": 2.5})}
    assert text([]) == ""


@given(st.dictionaries(st.sampled_from(["a", "b_c", "d_total_x"]), st.dictionaries(KEYS, NUMBERS | st.none())))
def test_whatever_the_keys_and_numbers_are(given_metrics):
    """A key of pillar may hold a quote, a backslash, or a newline with a metric of its own behind it."""
    found = parsed(text([Metric(name, "Help.", of) for name, of in given_metrics.items()]))
    known = {name: {key: n for key, n in of.items() if n is not None} for name, of in given_metrics.items()}
    assert {name: of for name, (_, _, of) in found.items()} == {name: of for name, of in known.items() if of}
    assert all(of == ("Help.", "gauge", of[2]) for of in found.values())
