"""How Sphinx builds these pages, see CONTRIBUTING.md."""

import sys
from pathlib import Path

import tomllib

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "_utils")]

project = "salt-ispmail"
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser", "salt_reference", "message_reference"]
myst_heading_anchors = 4
add_module_names = False
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_title = f"{project} {version}"
# Shown as they are written, and not as what they would mean to Sphinx.
smartquotes = False
