"""The pictures of the documentation: measured by `bench.pictures.measure`, drawn by `bench.pictures`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
