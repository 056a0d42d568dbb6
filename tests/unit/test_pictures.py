"""The pictures of the documentation are what their commands draw, and a page shows each with its words and command."""

import itertools
import json
import re
from xml.etree import ElementTree

import pytest

from bench.pictures import __main__, svg
from bench.pictures.__main__ import FOLDER, PICTURES, draw

from .test_documentation import DOCUMENTS

SVG = "{http://www.w3.org/2000/svg}"
MEASURED = [name for name, (_, source) in PICTURES.items() if source.suffix == ".json"]


def words(text):
    return " ".join(text.split())


def pages(name):
    """The text of each page that shows a picture."""
    shown = re.compile(rf"!\[[^\]]{{40,}}\]\((?:docs/)?pictures/{name}\.svg\)")
    texts = [words(page.read_text(encoding="utf-8")) for page in DOCUMENTS]
    return [text for text in texts if shown.search(text)]


def committed(name):
    return (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def test_each_file_belongs_to_a_picture():
    sources = [source.name for _, source in PICTURES.values() if source.parent == FOLDER]
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted([*sources, *(f"{name}.svg" for name in PICTURES)])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_its_command_draws(name):
    assert draw(name).text == committed(name), f"python -m bench.pictures {name}"


def test_the_command_writes_the_picture_and_prints_its_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["pictures", "apply"])
    __main__.main()
    assert [file.name for file in tmp_path.iterdir()] == ["apply.svg"]
    assert (tmp_path / "apply.svg").read_text(encoding="utf-8") == committed("apply")
    assert capsys.readouterr().out == f"apply: {draw('apply').says}\n"


@pytest.mark.parametrize("name", PICTURES)
def test_a_page_shows_it_with_its_command(name):
    """With an alternative text too; each line of an SVG is one that a README may not show."""
    assert [text for text in pages(name) if re.search(rf"bench\.pictures {name}\b", text)]


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_says_in_words_what_was_measured(name):
    """Those who measure again find out here that the page has the older figures."""
    assert [text for text in pages(name) if draw(name).says in text], draw(name).says


@pytest.mark.parametrize("name", PICTURES)
def test_a_reader_of_screens_is_told_what_it_shows(name):
    root = ElementTree.fromstring(committed(name))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "title desc")
    found = {element.get("id"): element.text for element in root if element.get("id")}
    assert found["desc"] == draw(name).says
    assert found["title"] in [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", MEASURED)
def test_the_data_name_the_kind_of_machine_and_no_machine(name):
    text = PICTURES[name][1].read_text(encoding="utf-8")
    kind = {"date", "cores", "system", "salt", "postfix", "mariadb", "load"}
    assert set(json.loads(text)["measured"]) == kind
    assert "/" not in text


def looks(text):
    """Class to its colours, in a part of the style."""
    rules = re.findall(r"^\.?([\w-]+) \{(.*)\}$", text, re.MULTILINE)
    return {name: dict(re.findall(r"(fill|stroke): (#\w{6})", rule)) for name, rule in rules}


def contrast(one, other):
    """See WCAG 2.2, 1.4.3."""

    def luminance(colour):
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read_in_light_and_dark(dark):
    """A picture brings its own background: whatever page it is on, its colours fit that."""
    light, _, other = svg.STYLE.partition("@media")
    found = looks(light)
    for name, colours in looks(other).items() if dark else ():
        found[name] = found[name] | colours
    paper = found["paper"]["fill"]
    for ground, text in itertools.product((paper, found["box"]["fill"], found["pure"]["fill"]), ("text", "quiet")):
        assert contrast(found[text]["fill"], ground) >= 4.5, (text, ground)
    for line in ("good", "bad", "plain", "arrow", "box", "pure"):
        assert contrast(found[line]["stroke"], paper) >= 3, line
    assert {name for name in found if name.startswith("dot-")} == {"dot-good", "dot-bad", "dot-plain"}
    assert all(found[name]["fill"] == found[name.removeprefix("dot-")]["stroke"] for name in found if "dot-" in name)
