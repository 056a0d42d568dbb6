"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

import time
from typing import NamedTuple

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")


import _ispmail_applied
import _ispmail_apply
import _ispmail_compare
import _ispmail_config
import _ispmail_config_database
import _ispmail_doctor
import _ispmail_doctor_server
import _ispmail_logins
import _ispmail_metrics
import _ispmail_report
import _ispmail_salt
import _ispmail_servers
import _ispmail_textfile
import _ispmail_told
from _ispmail_config_consumers import NONE
from _ispmail_doctor_postfix import Target
from _ispmail_errors import Failed, IspmailError
from _ispmail_events import DOCTOR_FAULT
from _ispmail_metrics import Metric
from _ispmail_report import FAULT, WARNING, Finding, fault_if

_METRICS = "the metrics for Prometheus can be written"


class _Look(NamedTuple):
    """What the doctor looks at, filled as it goes."""

    targets: list  # the instances
    servers: dict  # pillar key to what the admin of its database server saw


@_ispmail_salt.for_salt
def check(pillar="ispmail", notify=False, width=None):
    """
    Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed.

    pillar : ispmail
        The pillar key that holds the configuration. The ``instances`` that it names are checked too.

    notify : False
        Whether to send the event ``ispmail/doctor/fault`` where other checks have a fault than at the last such call,
        or none any more, and to write the file ``watch:textfile`` for Prometheus: for the minion's schedule.

    width : None
        How many columns a table for people may take, 60 or more; None for data.

    Returns a list of dicts: ``check`` (what should hold), ``where`` (for another instance with its pillar key in
    front), ``result`` (``ok``, ``warning`` or ``fault``) and ``fix`` (what was found instead, and what to do). With
    ``width`` a text: a table of the same, faults first, then warnings, then one line for each check that holds; its
    last line has the counts. The database is asked as its admin only if pillar has ``server:host``, or if the maps'
    database runs on this machine. A server with that database, or with all maps set to null, needs no Postfix.

    Raises SaltInvocationError if pillar or the width is wrong, CommandExecutionError if Postfix cannot be asked.

    Source: mysql_table(5), pgsql_table(5), proxymap(8), EXPLAIN, SHOW GRANTS, pg_roles

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_doctor.check width=100
    """
    if width is not None:
        _ispmail_report.check_width(width)
    look = _Look([], {})
    try:
        found = _findings(pillar, look)
    except IspmailError as err:
        if notify and pillar in __pillar__:
            _notify(pillar, _measured(pillar, look, [Finding("the doctor can look", pillar, FAULT, str(err))]))
        raise
    if notify:
        found = _measured(pillar, look, found)
        _notify(pillar, found)
    return [finding._asdict() for finding in found] if width is None else _ispmail_report.table(found, width)


def _notify(pillar, findings):
    """Send an event where other checks have a fault than the last time. A fix may have a number that always changes."""
    faults = [_ispmail_salt.sendable(each) for each in findings if each.result == FAULT]
    checks = [f"{each.check} ({each.where})" for each in faults]
    data = {
        "faults": [{"check": each.check, "where": each.where, "fix": each.fix} for each in faults],
        "comment": "\n".join(f"{check}: {each.fix}" for check, each in zip(checks, faults)),
    }
    folder, text = _ispmail_salt.cache_folder(__opts__), "\n".join(sorted(set(checks)))
    send = __salt__["event.send"]
    _ispmail_told.once(folder, f"faults-{pillar}", text, lambda: send(DOCTOR_FAULT.tag, data))


def _measured(pillar, look, findings):
    """Write the metrics of what was found, where pillar names a file for them; tell too where that fails."""
    path = _ispmail_config.textfile(__pillar__.get(pillar))
    if path is None or _ispmail_textfile.obstacle(path):
        return findings
    try:
        _ispmail_textfile.write(path, _ispmail_metrics.text(_metrics(pillar, look, findings)))
    except Failed as err:
        return [*(each for each in findings if each.check != _METRICS), fault_if(str(err), _METRICS, path)]
    return findings


def _metrics(pillar, look, findings):
    folder = _ispmail_salt.cache_folder(__opts__)
    keys = [target.instance.pillar_key for target in look.targets]
    counts = {result: sum(each.result == result for each in findings) for result in (FAULT, WARNING)}
    return [
        Metric("ispmail_doctor_faults", "What postfix_doctor.check finds that is wrong.", {pillar: counts[FAULT]}),
        Metric("ispmail_doctor_warnings", "What it finds that is doubtful.", {pillar: counts[WARNING]}),
        Metric("ispmail_doctor_timestamp_seconds", "When it has looked last.", {pillar: time.time()}),
        Metric(
            "ispmail_last_apply_timestamp_seconds",
            "When the state postfix_map.managed has succeeded last.",
            {key: _ispmail_applied.when(folder, key) for key in keys},
        ),
        Metric(
            "ispmail_password_age_seconds",
            "How old the password of the maps' account is, as far as the server or this minion knows.",
            {key: _password_age(target, look) for key, target in zip(keys, look.targets) if target.own_server},
        ),
        Metric(
            "ispmail_refused_logins",
            "How many logins of live table files and option files the database refuses now.",
            {pillar: _refused_logins(look)},
        ),
    ]


def _password_age(target, look):
    """The age of the oldest one of the account at its hosts; None where the server's admin was not asked."""
    accounts = look.servers.get(target.instance.pillar_key, {"accounts": {}})["accounts"].values()
    ages = [
        _ispmail_doctor_server.password_age(account, target.password_set) for account in accounts if account["managed"]
    ]
    return max((each for each in ages if each is not None), default=None)


def _refused_logins(look):
    """None where that cannot be asked: the doctor tells it."""
    found = {target.instance.pillar_key: target.instance for target in look.targets}
    try:
        consumers = [_ispmail_salt.consumer_logins(__pillar__, key) for key in found]
        return len(_ispmail_logins.refused(found, next(iter(found)), consumers)) if found else None
    except IspmailError:
        return None


def _findings(pillar, look):
    instances = _ispmail_salt.instances(__pillar__, pillar)
    look.targets.extend(_target(pillar, instance, look.servers) for instance in instances.values())

    def scope():
        return _ispmail_salt.scope(__pillar__, __opts__, pillar, as_admin=False)

    found = list(_ispmail_doctor.check(look.targets, __grains__["ipv4"], scope))
    path = _ispmail_config.textfile(__pillar__.get(pillar))
    return found if path is None else [*found, fault_if(_ispmail_textfile.obstacle(path), _METRICS, path)]


def _target(pillar, instance, servers):
    """One instance, with what pillar says of it. What needs secrets is read only when a check asks for it."""
    key = instance.pillar_key
    section = _ispmail_salt.section(__pillar__, key)

    def changes():
        cache = __opts__["cachedir"]
        maps = _ispmail_salt.complete(__pillar__, __opts__, key)
        return _ispmail_apply.apply(_ispmail_compare.compare(maps, NONE, cache), cache, test=True).changes

    def admin_view():
        config = _ispmail_salt.database(__pillar__, __opts__, key)
        servers[key] = _ispmail_servers.of(config).read(config)
        return servers[key]

    is_main = key == pillar
    # An instance without a server of its own shares the main one's. What its preset says is none.
    has_server = is_main or "server" in __pillar__[key]
    source = key if has_server else pillar
    return Target(
        instance=instance,
        prefix="" if is_main else f"{key}: ",
        database=_database(source),
        own_server=has_server,
        names_socket="unix_socket" in (section.get("server") or {}),
        hosts=_ispmail_config_database.servers(section),
        has_consumers=bool(section.get("consumers")),
        answers=section.get("answers") or (),
        changes=changes,
        admin_view=admin_view,
        password_set=_ispmail_applied.ago(_ispmail_salt.cache_folder(__opts__), source, _ispmail_applied.PASSWORD),
    )


def _database(pillar):
    """The database server's side. A bad password is a finding of the apply, and no reason to look at nothing."""
    section = _ispmail_salt.section(__pillar__, pillar)
    return _ispmail_config_database.database(pillar, section, account_checked=False)
