"""Configuration files of a Postfix for tests."""

import os
import time


def write(path, text):
    """Write one as of a minute ago: Postfix's programs wait while one is less than two seconds old."""
    path.write_text(text)
    os.utime(path, (time.time() - 60,) * 2)
