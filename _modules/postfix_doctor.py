"""Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed."""

import _ispmail_stamp

_ispmail_stamp.require("48042d760452")


import _ispmail_apply
import _ispmail_compare
import _ispmail_config_database
import _ispmail_doctor
import _ispmail_report
import _ispmail_salt
import _ispmail_servers
import _ispmail_told
from _ispmail_config_consumers import NONE
from _ispmail_doctor_postfix import Target
from _ispmail_errors import IspmailError
from _ispmail_events import DOCTOR_FAULT
from _ispmail_report import FAULT, Finding


def check(pillar="ispmail", notify=False):
    """
    Look for all that is wrong, or will be, between Postfix on this server and its database. Nothing is changed.

    pillar : ispmail
        The pillar key that holds the configuration. The ``instances`` that it names are checked too.

    notify : False
        Whether to send the event ``ispmail/doctor/fault`` where other checks have a fault than at the last such call,
        or none any more: for the minion's schedule.

    Returns a list of dicts: ``check`` (what should hold), ``where`` (for another instance with its pillar key in
    front), ``result`` (``ok``, ``warning`` or ``fault``) and ``fix`` (what was found instead, and what to do). The
    database is asked as its admin only if pillar has ``server:host``, or if the maps' database runs on this machine.

    Raises SaltInvocationError if pillar is wrong, CommandExecutionError if Postfix cannot be asked.

    Source: mysql_table(5), pgsql_table(5), proxymap(8), EXPLAIN, SHOW GRANTS, pg_roles

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_doctor.check
    """
    with _ispmail_salt.salt_errors():
        try:
            found = _findings(pillar)
        except IspmailError as err:
            if notify and pillar in __pillar__:
                _notify(pillar, [Finding("the doctor can look", pillar, FAULT, str(err))])
            raise
        if notify:
            _notify(pillar, found)
    return [finding._asdict() for finding in found]


def report(pillar="ispmail", width=100):
    """
    Write what ``check`` finds as a table for people: faults first, then warnings, then one line for each check that
    holds.

    pillar : ispmail
        The pillar key that holds the configuration. The ``instances`` that it names are checked too.

    width : 100
        How many columns the text may take, 60 or more.

    Returns a text. Its last line has the counts.

    Raises what ``check`` raises, and SaltInvocationError for another width.

    Source: mysql_table(5), pgsql_table(5), proxymap(8), EXPLAIN, SHOW GRANTS, pg_roles

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_doctor.report width=160
    """
    with _ispmail_salt.salt_errors():
        _ispmail_report.check_width(width)
        return _ispmail_report.table(_findings(pillar), width)


def _notify(pillar, findings):
    """Send an event where other checks have a fault than the last time. A fix may have a number that always changes."""
    faults = [each for each in findings if each.result == FAULT]
    checks = [f"{each.check} ({each.where})" for each in faults]
    data = {
        "faults": [{"check": each.check, "where": each.where, "fix": each.fix} for each in faults],
        "comment": "\n".join(f"{check}: {each.fix}" for check, each in zip(checks, faults)),
    }
    folder, text = _ispmail_salt.cache_folder(__opts__), "\n".join(sorted(set(checks)))
    send = __salt__["event.send"]
    _ispmail_told.once(folder, f"faults-{pillar}", text, lambda: send(DOCTOR_FAULT.tag, data))


def _findings(pillar):
    instances = _ispmail_salt.instances(__pillar__, pillar)
    targets = [_target(pillar, instance) for instance in instances.values()]

    def scope():
        return _ispmail_salt.scope(__pillar__, __opts__, pillar)

    return list(_ispmail_doctor.check(targets, __grains__["ipv4"], scope))


def _target(pillar, instance):
    """One instance, with what pillar says of it. What needs secrets is read only when a check asks for it."""
    key = instance.pillar_key
    section = _ispmail_salt.section(__pillar__, key)

    def changes():
        cache = __opts__["cachedir"]
        maps = _ispmail_salt.complete(__pillar__, __opts__, key)
        return _ispmail_apply.apply(_ispmail_compare.compare(maps, NONE, cache), cache, test=True).changes

    def admin_view():
        return _ispmail_servers.read(_ispmail_salt.database(__pillar__, __opts__, key))

    is_main, has_server = key == pillar, "server" in section
    # An instance without a server of its own shares the main one's.
    source = key if has_server else pillar
    return Target(
        instance=instance,
        prefix="" if is_main else f"{key}: ",
        database=_database(source),
        own_server=is_main or has_server,
        names_socket="unix_socket" in (section.get("server") or {}),
        answers=section.get("answers") or (),
        changes=changes,
        admin_view=admin_view,
    )


def _database(pillar):
    """The database server's side. A bad password is a finding of the apply, and no reason to look at nothing."""
    section = _ispmail_salt.section(__pillar__, pillar)
    return _ispmail_config_database.database(pillar, section, account_checked=False)
