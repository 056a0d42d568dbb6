"""Notice that the database refuses the login that a live table file holds. It acts on nothing."""

import json
import os
import re

try:
    import pymysql
except ImportError:
    pymysql = None

# ER_ACCESS_DENIED_ERROR of MariaDB and MySQL.
_REFUSED = 1045
_SECONDS = 2


def __virtual__():
    if pymysql is None:
        return False, "PyMySQL is not there for Salt's own Python"
    return "postfix_credential"


def validate(config):
    """
    Check the configuration of the beacon.

    config
        A list of dicts: ``interval`` in seconds, ``pillar``, a list of pillar keys.

    Returns a pair, whether it is valid and a sentence.

    Raises nothing.

    Source: salt.beacons
    """
    if not isinstance(config, list) or not all(isinstance(item, dict) for item in config):
        return False, "postfix_credential must be a list of mappings"
    unknown = {key for item in config for key in item} - {"interval", "pillar", "disable_during_state_run", "enabled"}
    if unknown:
        return False, f"postfix_credential does not know {', '.join(sorted(unknown))}"
    return True, "Valid"


def beacon(config):
    """
    Log in to the database as each live table file says, once for all that say the same.

    config
        As for ``validate``:

        .. code-block:: yaml

            beacons:
              postfix_credential:
                - interval: 10
                - disable_during_state_run: true

    Returns a list with a dict for each login that is refused, told once until it works again or the table
    file has another: ``tag`` (``refused``), ``maps``, ``host`` and ``user``. A database that is down is no refusal.

    Raises nothing.

    Source: mysql_table(5)
    """
    keys = next((item["pillar"] for item in config if "pillar" in item), ["ispmail"])
    events, refused, told = [], {}, _told()
    for (host, user, dbname, password), tables in _logins(keys).items():
        if _is_refused(host, user, dbname, password):
            maps = [name for name, _ in tables]
            refused[f"{host} {maps}"] = max(changed for _, changed in tables)
            if told.get(f"{host} {maps}") != refused[f"{host} {maps}"]:
                events.append({"tag": "refused", "maps": maps, "host": host, "user": user})
    if refused != told:
        _tell(refused)
    return events


def _memory():
    return os.path.join(__opts__["cachedir"], "ispmail", "refused.json")


def _told():
    """What was told already: a login to when its newest table file changed. On disk: a refresh forgets all else."""
    try:
        with open(_memory(), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _tell(refused):
    os.makedirs(os.path.dirname(_memory()), mode=0o700, exist_ok=True)
    with open(_memory(), "w", encoding="utf-8") as file:
        json.dump(refused, file)


def _logins(pillars):
    """Each login in the live table files, with the maps that use it and when their files changed."""
    logins = {}
    for pillar in pillars:
        for place in __salt__["ispmail_pillar.places"](__pillar__.get(pillar) or {})["maps"]:
            content = __salt__["postfix_files.read"](place["path"])["content"]
            if place["type"] != "mysql" or not place["wanted"] or content is None:
                continue
            keys = __salt__["postfix_table.parse"](content.decode("utf-8", "surrogateescape"))
            for host in re.split(r"[,\s]+", keys.get("hosts", "localhost")):
                login = (host, keys.get("user", ""), keys.get("dbname", ""), keys.get("password", ""))
                logins.setdefault(login, []).append((place["name"], os.stat(place["path"]).st_ctime_ns))
    return logins


def _is_refused(host, user, dbname, password):
    where = {"unix_socket": host.removeprefix("unix:")} if host.startswith("unix:") else _address(host)
    try:
        pymysql.connect(
            **where,
            user=user,
            password=password,
            database=dbname,
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            write_timeout=_SECONDS,
        ).close()
    except pymysql.err.OperationalError as err:
        return err.args[0] == _REFUSED
    except Exception:  # pylint: disable=broad-except
        # Down, silent, or not to be asked this way: not what is looked for here.
        return False
    return False


def _address(host):
    name, _, port = host.removeprefix("inet:").partition(":")
    return {"host": name, "port": int(port or 3306)}
