"""What pillar's `preset` stands for: the maps of another project's tables. Pure.

The maps ask these tables as the project's own maps do, with two differences. Domains for which the server is only a
backup MX are no virtual mailbox domains, and an address of an alias domain exists only if the target domain has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Without `preset`: the tables of the ISPmail guide, whose maps are in _ispmail_config.
DEFAULT = "ispmail"


class _Schema(NamedTuple):
    """The tables of a project: the usual name of its database, and the maps. Their order decides which answer wins.

    All table types understand each query; {now} is the current time. Postfix asks for a catch-all last, as @domain.
    So '%s' = '@%d' keeps a catch-all from being the answer for user+tag@domain.
    """

    dbname: str
    maps: Mapping[str, Mapping[str, str]]


# Tried with PostfixAdmin 3.3. Each mailbox has an alias to itself.
_POSTFIXADMIN = _Schema(
    "postfix",
    {
        "virtual_mailbox_domains": {
            "query": "SELECT domain FROM domain WHERE domain = '%s' AND backupmx = '0' AND active = '1'",
        },
        "virtual_alias_maps": {
            "query": "SELECT goto FROM alias WHERE address = '%s' AND active = '1'",
        },
        "alias_domain_aliases": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT alias.goto FROM alias_domain"
                " JOIN alias ON alias.address = CONCAT('%u', '@', alias_domain.target_domain)"
                " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = '1' AND alias.active = '1'"
            ),
        },
        "alias_domain_catch_all": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT alias.goto FROM alias_domain"
                " JOIN alias ON alias.address = CONCAT('@', alias_domain.target_domain)"
                " WHERE alias_domain.alias_domain = '%d' AND '%s' = '@%d'"
                " AND alias_domain.active = '1' AND alias.active = '1'"
            ),
        },
        "virtual_mailbox_maps": {
            "query": "SELECT maildir FROM mailbox WHERE username = '%s' AND active = '1'",
        },
        "alias_domain_mailboxes": {
            "parameter": "virtual_mailbox_maps",
            "query": (
                "SELECT mailbox.maildir FROM alias_domain"
                " JOIN mailbox ON mailbox.username = CONCAT('%u', '@', alias_domain.target_domain)"
                " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = '1' AND mailbox.active = '1'"
            ),
        },
    },
)

# Tried with Modoboa 2.9. Each mailbox has an internal alias to itself, and each alias domain one from @alias.domain
# to @target.domain. The latter is left out here: it takes every address. A mailbox that only sends gets no mail.
_RECIPIENTS = (
    " JOIN modoboa_admin_aliasrecipient AS recipient ON recipient.alias_id = alias.id"
    " LEFT JOIN admin_mailbox AS sender ON sender.id = recipient.r_mailbox_id AND sender.is_send_only = '1'"
    " WHERE alias.enabled = '1' AND (alias.expire_at IS NULL OR alias.expire_at > {now}) AND sender.id IS NULL"
)
_MODOBOA = _Schema(
    "modoboa",
    {
        "virtual_mailbox_domains": {
            "query": "SELECT name FROM admin_domain WHERE name = '%s' AND type = 'domain' AND enabled = '1'",
        },
        "alias_domains": {
            "parameter": "virtual_mailbox_domains",
            "query": (
                "SELECT target.name FROM admin_domainalias"
                " JOIN admin_domain AS target ON target.id = admin_domainalias.target_id"
                " WHERE admin_domainalias.name = '%s' AND admin_domainalias.enabled = '1'"
                " AND target.type = 'domain' AND target.enabled = '1'"
            ),
        },
        "virtual_alias_maps": {
            "query": (
                f"SELECT recipient.address FROM admin_alias AS alias{_RECIPIENTS} AND alias.address = '%s'"  # noqa: S608
                " AND NOT (alias.internal = '1' AND alias.address LIKE '@%%')"
            ),
        },
        "alias_domain_aliases": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT recipient.address FROM admin_domainalias"  # noqa: S608
                " JOIN admin_domain AS target ON target.id = admin_domainalias.target_id"
                f" JOIN admin_alias AS alias ON alias.address = CONCAT('%u', '@', target.name){_RECIPIENTS}"
                " AND admin_domainalias.name = '%d' AND admin_domainalias.enabled = '1'"
            ),
        },
        "alias_domain_catch_all": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT recipient.address FROM admin_domainalias"  # noqa: S608
                " JOIN admin_domain AS target ON target.id = admin_domainalias.target_id"
                f" JOIN admin_alias AS alias ON alias.address = CONCAT('@', target.name){_RECIPIENTS}"
                " AND admin_domainalias.name = '%d' AND '%s' = '@%d' AND admin_domainalias.enabled = '1'"
            ),
        },
        "virtual_mailbox_maps": {
            "query": (
                "SELECT mailbox.address FROM admin_domain AS domain"
                " JOIN admin_mailbox AS mailbox ON mailbox.domain_id = domain.id"
                " JOIN core_user AS owner ON owner.id = mailbox.user_id"
                " WHERE domain.name = '%d' AND mailbox.address = '%u' AND domain.enabled = '1'"
                " AND owner.is_active = '1' AND mailbox.is_send_only = '0'"
            ),
        },
    },
)

# Tried with the schema of iRedMail 1.8.1. Each mailbox has a forwarding to itself. A catch-all has the bare domain as
# its address. By default Postfix asks virtual_alias_maps for domains too: '%u@%d' keeps that from being an answer.
_IREDMAIL = _Schema(
    "vmail",
    {
        "virtual_mailbox_domains": {
            "query": "SELECT domain FROM domain WHERE domain = '%s' AND backupmx = 0 AND active = 1",
        },
        "alias_domains": {
            "parameter": "virtual_mailbox_domains",
            "query": (
                "SELECT domain.domain FROM alias_domain"
                " JOIN domain ON domain.domain = alias_domain.target_domain"
                " WHERE alias_domain.alias_domain = '%s' AND alias_domain.active = 1"
                " AND domain.backupmx = 0 AND domain.active = 1"
            ),
        },
        "virtual_alias_maps": {
            "query": (
                "SELECT forwardings.forwarding FROM forwardings"
                " JOIN domain ON domain.domain = forwardings.domain"
                " WHERE forwardings.address = '%u@%d' AND forwardings.active = 1"
                " AND domain.backupmx = 0 AND domain.active = 1"
            ),
        },
        "alias_domain_aliases": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT forwardings.forwarding FROM alias_domain"
                " JOIN domain ON domain.domain = alias_domain.target_domain"
                " JOIN forwardings ON forwardings.address = CONCAT('%u', '@', alias_domain.target_domain)"
                " WHERE alias_domain.alias_domain = '%d' AND alias_domain.active = 1 AND forwardings.active = 1"
                " AND domain.backupmx = 0 AND domain.active = 1"
            ),
        },
        "catch_all": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT forwardings.forwarding FROM forwardings"
                " JOIN domain ON domain.domain = forwardings.address"
                " WHERE forwardings.address = '%d' AND '%s' = '@%d' AND forwardings.active = 1"
                " AND domain.backupmx = 0 AND domain.active = 1"
            ),
        },
        "alias_domain_catch_all": {
            "parameter": "virtual_alias_maps",
            "query": (
                "SELECT forwardings.forwarding FROM alias_domain"
                " JOIN domain ON domain.domain = alias_domain.target_domain"
                " JOIN forwardings ON forwardings.address = alias_domain.target_domain"
                " WHERE alias_domain.alias_domain = '%d' AND '%s' = '@%d' AND alias_domain.active = 1"
                " AND forwardings.active = 1 AND domain.backupmx = 0 AND domain.active = 1"
            ),
        },
        "virtual_mailbox_maps": {
            "query": (
                "SELECT CONCAT(mailbox.storagenode, '/', mailbox.maildir, '/Maildir/') FROM mailbox"
                " JOIN domain ON domain.domain = mailbox.domain"
                " WHERE mailbox.username = '%s' AND mailbox.active = 1 AND mailbox.enabledeliver = 1"
                " AND domain.active = 1"
            ),
        },
    },
)

_SCHEMAS = {"postfixadmin": _POSTFIXADMIN, "modoboa": _MODOBOA, "iredmail": _IREDMAIL}
# What a preset's name ends with, for each table type: salt/ispmail/types.jinja has the same rule.
_SUFFIXES = {"mysql": "", "pgsql": "-pgsql"}
# The current time as tables have it that hold UTC: NOW() of MySQL is that of the session's time zone.
_NOW = {"mysql": "UTC_TIMESTAMP()", "pgsql": "NOW()"}


def _preset(schema: _Schema, table_type: str) -> dict[str, dict[str, Any]]:
    maps = {
        name: {"type": table_type, **fields, "query": fields["query"].replace("{now}", _NOW[table_type])}
        for name, fields in schema.maps.items()
    }
    return {"database": {"dbname": schema.dbname}, "server": {"create_tables": False}, "maps": maps}


_PRESETS = {
    f"{project}{suffix}": (schema, table_type)
    for project, schema in _SCHEMAS.items()
    for table_type, suffix in _SUFFIXES.items()
}
NAMES = (DEFAULT, *_PRESETS)


def expanded(section: Any) -> Any:
    """Write out what `preset` stands for, as if pillar had it; what pillar says itself stays.

    Args:
        section: What pillar holds under the key. What is wrong with it is left as it is, for _ispmail_config to tell.

    Returns:
        The section. The preset's maps come first, in its own order: it decides which answer wins.
    """
    name = section.get("preset") if isinstance(section, Mapping) else None
    preset = _PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return section
    found = {**section}
    for key, values in _preset(*preset).items():
        given = section.get(key)
        if given is None:
            found[key] = values
        elif isinstance(given, Mapping):
            found[key] = _maps(values, given) if key == "maps" else {**values, **given}
    return found


def _maps(preset: Mapping[str, Any], given: Mapping[Any, Any]) -> dict[Any, Any]:
    """The preset's maps as pillar changes them, and then pillar's own, of the same type unless they say another."""
    merged = {name: _merged(fields, given.get(name, {})) for name, fields in preset.items()}
    of_type = {"type": next(iter(preset.values()))["type"]}
    return {**merged, **{name: _merged(of_type, fields) for name, fields in given.items() if name not in preset}}


def _merged(preset: Mapping[str, Any], given: Any) -> Any:
    """A map that pillar changes; null, and what is no map, stay."""
    return {**preset, **given} if isinstance(given, Mapping) else given
