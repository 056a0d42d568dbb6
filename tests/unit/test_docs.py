"""The pages that Sphinx builds from docs/: without a warning, and with all that can be called."""

from lab.minion import REPOSITORY

from .test_documentation import called, public_functions


def test_the_reference_has_all_that_can_be_called(site):
    pages = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    each = (parameters.values[:2] for parameters in public_functions())
    names = [f"salt.{file.parent.name[1:]}.{called(file)}.{name}" for file, name in each]
    assert len(names) > 35
    assert [name for name in names if f'id="{name}"' not in pages] == []


def test_the_start_page_is_the_readme_and_leads_to_each_page(site):
    start = (site / "index.html").read_text()
    assert "lose no lookup" in start
    docs = REPOSITORY / "docs"
    pages = [page.relative_to(docs) for page in docs.rglob("*") if page.suffix in (".md", ".rst")]
    assert len(pages) > 15
    links = [f'href="{page.with_suffix(".html")}"' for page in pages if page.stem != "index"]
    assert [link for link in links if link not in start] == []
