"""Print the folder that takes the place of a checkout: python -m salt_ispmail."""

from . import FOLDER

print(FOLDER)
