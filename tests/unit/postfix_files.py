"""A configuration directory of Postfix for the tests that ask the real postconf(1); no Postfix runs."""

import os
import time

MASTER_CF = """\
smtp       inet n - y - - smtpd
submission inet n - n - - smtpd -o virtual_alias_maps=$ours -o biff=no
proxymap   unix - - n - - proxymap
"""


def write(path, text):
    """Write a file that Postfix's programs read at once: they wait where one is younger than two seconds."""
    path.write_text(text)
    os.utime(path, times=(time.time() - 10,) * 2)


def postfix(folder, main_cf, master_cf=MASTER_CF):
    """Make a folder the configuration directory of a Postfix; return its path."""
    write(folder / "main.cf", f"compatibility_level = 3.6\n{main_cf}")
    write(folder / "master.cf", master_cf)
    return str(folder)
