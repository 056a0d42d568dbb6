"""The pictures of the documentation, drawn from data that was measured, or from what is in the repository.

    python -m bench.pictures [rotation] [maps] [apply] [house]

writes docs/pictures/NAME.svg of each of these, or of all, and prints what it says. `rotation` and `maps` are drawn from
docs/pictures/NAME.json, which `python -m bench.pictures.measure NAME` writes; `apply` from docs/pictures/apply.yaml;
`house` from the table of files in docs/ARCHITECTURE.md. A test draws them again, and sees that a page shows each with
its words.
"""

import argparse

from bench.pictures import FOLDER, ROOT, charts, drawings
from bench.pictures.svg import Picture

# Each picture: what draws it, and from which file.
PICTURES = {
    "rotation": (charts.rotation, FOLDER / "rotation.json"),
    "maps": (charts.maps, FOLDER / "maps.json"),
    "apply": (drawings.apply, FOLDER / "apply.yaml"),
    "house": (drawings.house, ROOT / "docs" / "ARCHITECTURE.md"),
}


def draw(name: str) -> Picture:
    """One picture, from what is committed."""
    drawer, source = PICTURES[name]
    return drawer(source.read_text(encoding="utf-8"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "bench.pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PICTURES)}; without one, all")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PICTURES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}: there are {', '.join(PICTURES)}")
    for name in options.names or PICTURES:
        picture = draw(name)
        (FOLDER / f"{name}.svg").write_text(picture.text, encoding="utf-8")
        print(f"{name}: {picture.says}")


if __name__ == "__main__":
    main()
