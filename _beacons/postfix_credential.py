"""Notice that the database refuses the login that a live table file or option file holds. It acts on nothing."""

import importlib
import os
import sys

# Salt puts the folder of the synced library on the path for modules and states. For a beacon it does so only if the
# folder was there when the minion started.
_LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "utils")
if os.path.isdir(_LIBRARY) and _LIBRARY not in sys.path:
    sys.path.append(_LIBRARY)
    importlib.invalidate_caches()

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import contextlib
import json
import logging

import _ispmail_logins
import _ispmail_salt
from _ispmail_errors import IspmailError

log = logging.getLogger(__name__)

_KNOWN = ("interval", "pillar", "disable_during_state_run", "enabled")


def validate(config):
    """
    Check the configuration of the beacon.

    config
        A list of dicts: ``interval`` in seconds, ``pillar``, the pillar key that holds the configuration (``ispmail``;
        the ``instances`` that it names are watched too), and Salt's own ``disable_during_state_run`` and ``enabled``.

    Returns a pair, whether it is valid and a sentence.

    Raises nothing.

    Source: salt.beacons
    """
    if not isinstance(config, list) or not all(isinstance(item, dict) for item in config):
        return False, "postfix_credential must be a list of mappings"
    unknown = [str(key) for item in config for key in item if key not in _KNOWN]
    if unknown:
        return False, f"postfix_credential does not know {', '.join(unknown)}: known are {', '.join(_KNOWN)}"
    if not all(isinstance(item["pillar"], str) for item in config if "pillar" in item):
        return False, "pillar must be a text, one pillar key: the instances that it names are watched too"
    return True, "Valid"


def beacon(config):
    """
    Report the logins in live table files that the database refuses.

    The beacon runs in the minion's main loop, so it waits for no database: it reads the table files, has their logins
    tried in a thread, and returns what the thread of the interval before has found.

    config
        As for ``validate``:

        .. code-block:: yaml

            beacons:
              postfix_credential:
                - interval: 10
                - disable_during_state_run: true

    Returns a list with a dict for each login that is refused, reported once until it works again or the table file has
    another: ``tag`` (``refused``), ``maps``, ``host`` and ``user``. A database that is down is no refusal.

    Raises nothing: where the database cannot be asked, an apply says why.

    Source: mysql_table(5)
    """
    pillar = next((item["pillar"] for item in config if "pillar" in item), "ispmail")
    if not isinstance(pillar, str):
        return []
    try:
        instances = _ispmail_salt.instances(__pillar__, pillar)
        consumers = [_ispmail_salt.consumer_logins(__pillar__, key) for key in instances]
        logins = _ispmail_logins.read(instances, pillar, consumers)
        _ispmail_logins.require_client(logins)
    except IspmailError as err:
        log.debug("postfix_credential cannot ask: %s", err)
        return []
    watch = _ispmail_logins.watch(f"{_memory()} {pillar}")
    tried = watch.take()
    watch.start(logins)
    if tried is None:
        return []
    if tried.untried:
        log.info("postfix_credential: %s", tried.left_out())
    # A table file that was replaced since then is for the next attempt to judge.
    refused = _by_name(login for login in tried.refused if login in logins)
    forgiven = _by_name(tried.worked)
    remembered = {name: login["changed"] for name, login in _by_name(logins).items() if name not in forgiven}
    return _news(refused, remembered)


def _by_name(logins):
    """A name for the memory to the login."""
    described = [login.describe() for login in logins]
    return {f"{login['host']} {login['maps']}": login for login in described}


def _news(refused, remembered):
    """The events for those refused logins that were not reported before.

    ``remembered`` are the live logins that have not worked, to when their table files changed. A server that is down or
    gives another error does not end what was reported: it would be reported again at each change of mind.
    """
    reported = _reported()
    events = [
        {"tag": "refused", "maps": login["maps"], "host": login["host"], "user": login["user"]}
        for name, login in refused.items()
        if reported.get(name) != login["changed"]
    ]
    changed = {name: when for name, when in remembered.items() if name in refused or reported.get(name) == when}
    if changed != reported:
        _remember(changed)
    return _ispmail_salt.sendable(events)


def _memory():
    return os.path.join(_ispmail_salt.cache_folder(__opts__), "refused.json")


def _reported():
    """A login to when its newest table file changed. On disk, as each refresh of pillar loads this module anew."""
    try:
        with open(_memory(), encoding="utf-8") as file:
            reported = json.load(file)
    except (OSError, ValueError):
        return {}
    return reported if isinstance(reported, dict) else {}


def _remember(refused):
    # On a full disk each interval reports again: better than not at all.
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(_memory()), mode=0o700, exist_ok=True)
        with open(_memory(), "w", encoding="utf-8") as file:
            json.dump(refused, file)
