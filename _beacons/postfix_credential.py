"""Notice that the database refuses the login that a live table file holds. It acts on nothing."""

import contextlib
import json
import logging
import os

from salt.exceptions import CommandExecutionError, SaltInvocationError

log = logging.getLogger(__name__)

_KNOWN = ("interval", "pillar", "disable_during_state_run", "enabled")


def validate(config):
    """
    Check the configuration of the beacon.

    config
        A list of dicts: ``interval`` in seconds, ``pillar``, the pillar key that holds the configuration (``ispmail``;
        the ``instances`` that it names are watched too), and what Salt itself knows.

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
    Have the database asked whether it refuses a login that a live table file holds.

    config
        As for ``validate``:

        .. code-block:: yaml

            beacons:
              postfix_credential:
                - interval: 10
                - disable_during_state_run: true

    Returns a list with a dict for each login that is refused, told once until it works again or the table file has
    another: ``tag`` (``refused``), ``maps``, ``host`` and ``user``. A database that is down is no refusal. It takes
    three seconds at most.

    Raises nothing: where nobody can be asked, an apply says why.

    Source: mysql_table(5)
    """
    pillar = next((item["pillar"] for item in config if "pillar" in item), "ispmail")
    try:
        logins = __salt__["postfix_database.refused"](pillar)
    except (KeyError, CommandExecutionError, SaltInvocationError) as err:
        # KeyError: the modules are not synced yet.
        log.debug("postfix_credential cannot ask: %s", err)
        return []
    told = _told()
    refused = {f"{login['host']} {login['maps']}": login for login in logins}
    events = [
        {"tag": "refused", "maps": login["maps"], "host": login["host"], "user": login["user"]}
        for name, login in refused.items()
        if told.get(name) != login["changed"]
    ]
    changed = {name: login["changed"] for name, login in refused.items()}
    if changed != told:
        _tell(changed)
    return events


def _memory():
    return os.path.join(__opts__["cachedir"], "ispmail", "refused.json")


def _told():
    """What was told already: a login to when its newest table file changed. On disk: a refresh forgets all else."""
    try:
        with open(_memory(), encoding="utf-8") as file:
            told = json.load(file)
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _tell(refused):
    # On a full disk it is told again each time: better than not at all.
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(_memory()), mode=0o700, exist_ok=True)
        with open(_memory(), "w", encoding="utf-8") as file:
            json.dump(refused, file)
