"""Which of Postfix's programs read a parameter of main.cf, and what may stand in it, see postconf(5). Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from _ispmail_errors import Fault

_SMTPD, _CLEANUP, _REWRITE, _LOCAL, _VIRTUAL = "smtpd", "cleanup", "trivial-rewrite", "local", "virtual"

# The programs that open the tables of a parameter, by their manual pages.
_PROGRAMS: dict[str, tuple[str, ...]] = {
    "mydestination": (_REWRITE, _SMTPD, _LOCAL),
    "relay_domains": (_REWRITE, _SMTPD),
    "virtual_alias_domains": (_REWRITE, _SMTPD),
    "virtual_mailbox_domains": (_REWRITE, _SMTPD),
    "relocated_maps": (_REWRITE, _SMTPD),
    "mynetworks": (_SMTPD,),
    "local_recipient_maps": (_SMTPD,),
    "relay_recipient_maps": (_SMTPD,),
    "rbl_reply_maps": (_SMTPD,),
    "virtual_alias_maps": (_SMTPD, _CLEANUP),
    "virtual_maps": (_SMTPD, _CLEANUP),
    "canonical_maps": (_SMTPD, _CLEANUP),
    "recipient_canonical_maps": (_SMTPD, _CLEANUP),
    "sender_canonical_maps": (_SMTPD, _CLEANUP),
    "sender_bcc_maps": (_CLEANUP,),
    "recipient_bcc_maps": (_CLEANUP,),
    "virtual_mailbox_maps": (_SMTPD, _VIRTUAL),
    "virtual_uid_maps": (_VIRTUAL,),
    "virtual_gid_maps": (_VIRTUAL,),
    "fast_flush_domains": ("flush",),
    "fallback_transport_maps": (_LOCAL,),
    "alias_maps": (_LOCAL, _SMTPD),
    "proxy_read_maps": ("proxymap",),
    "qmqpd_authorized_clients": ("qmqpd",),
    "local_login_sender_maps": ("postdrop",),
    "authorized_submit_users": ("sendmail", "postdrop"),
    "authorized_flush_users": ("postqueue",),
    "authorized_mailq_users": ("postqueue",),
}
# No daemons: they run as the local user who calls them, two of them with group postdrop too, which may use no proxymap.
_COMMANDS = ("sendmail", "postdrop", "postqueue")
# By the beginning or end of a name; the first that fits.
_BY_PATTERN: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"(address_verify_)?(sender_dependent|empty_address|transport).*_maps", (_REWRITE,)),
    (r"smtpd_.*|permit_mx_backup_networks|.*_clients", (_SMTPD,)),
    (r"smtp_.*|use_srv_lookup", ("smtp",)),
    (r"lmtp_.*", ("lmtp",)),
    (r"postscreen_.*", ("postscreen",)),
    (r"tlsproxy_.*", ("tlsproxy",)),
    (r"mailbox_.*|propagate_.*|forward_.*", (_LOCAL,)),
    (r".*_checks|masquerade_.*", (_CLEANUP,)),
)
# What is taken for a parameter that we do not know.
MOST = (_SMTPD, _CLEANUP, _REWRITE)
# All daemons that may ask a table.
ASKERS = frozenset(each for found in (*_PROGRAMS.values(), *(found for _, found in _BY_PATTERN)) for each in found)
ASKERS -= {*_COMMANDS}

_TAKES_TABLES = re.compile(
    r".*_maps|.*_checks|.*_domains|.*_networks|.*_exceptions|.*_clients|mydestination|mynetworks"
    r"|debug_peer_list|smtpd_authorized_.*_hosts|relay_clientcerts|smtpd_.*_ccerts"
)
# Lists in which "/file/name" stands for what is in that file.
_MATCH_LISTS = re.compile(
    r".*_(domains|networks|clients|hosts|users|exceptions|exclusions|destinations|interfaces|list|mechanism_filter)"
    r"|mydestination|mynetworks|smtpd_log_access_permit_actions|(smtpd|postscreen)_forbidden_commands|use_srv_lookup"
)
_RESTRICTIONS = re.compile(r"smtpd_\w+_restrictions|postscreen_access_list|smtpd_restriction_classes")
# What smtpd asks a table by that stands in such a list without a restriction before it, see access(5).
_BY_DEFAULT = {
    "smtpd_client_restrictions": "check_client_access",
    "smtpd_helo_restrictions": "check_helo_access",
    "smtpd_sender_restrictions": "check_sender_access",
    "smtpd_relay_restrictions": "check_recipient_access",
    "smtpd_recipient_restrictions": "check_recipient_access",
    "smtpd_etrn_restrictions": "check_etrn_access",
}
# Parameters of a transport have the transport's name before them, so Postfix's own list does not have them.
_OF_TRANSPORT = re.compile(r".*_(limit|delay|feedback|concurrency|slots|cost|discount|loan)")


@functools.lru_cache(maxsize=1024)
def programs_of(parameter: str) -> tuple[str, ...]:
    """The programs that open the tables of a parameter, such as smtpd."""
    if parameter in _PROGRAMS:
        return _PROGRAMS[parameter]
    return next((found for pattern, found in _BY_PATTERN if re.fullmatch(pattern, parameter)), MOST)


def is_transport(parameter: str) -> bool:
    """Whether a parameter names the service that mail goes to, before the first colon."""
    return parameter.endswith("_transport") or parameter == "content_filter"


def has_transports(parameter: str) -> bool:
    """Whether the tables of a parameter name services that mail goes to."""
    return parameter.endswith("transport_maps")


def is_match_list(parameter: str) -> bool:
    """Whether a parameter takes "/file/name" patterns: Postfix reads each line of the file as a part of the value."""
    return _MATCH_LISTS.fullmatch(parameter) is not None


def is_check(word: str) -> bool:
    """Whether a word of a list of restrictions is ``check_…``, which needs the table behind it: in any letter case."""
    return word.lower().startswith("check_")


def restriction_fault(parameter: str, key: str) -> Fault:
    """The fault of a parameter that holds restrictions, such as ``check_sender_access`` and its table."""
    return Fault(
        key,
        f"{parameter} is a list of restrictions, no list of tables",
        "name a parameter of your own, such as access_maps_sql, "
        f"and write check_…_access $access_maps_sql into {parameter} yourself",
    )


def restriction_lists(names: Iterable[str]) -> list[str]:
    """Those of these parameters that are smtpd's lists of restrictions."""
    return [name for name in names if name.startswith("smtpd_") and name.endswith("_restrictions")]


def takes_one_table(restrictions: str, before: str) -> bool:
    """Tell whether a word of a list of restrictions gives only one table to the parameter behind it.

    smtpd asks a second one by what the list is about: in smtpd_recipient_restrictions, by the recipient.

    Args:
        restrictions: The list, such as smtpd_sender_restrictions.
        before: The word, such as check_sender_access.
    """
    return is_check(before) and before.lower() != _BY_DEFAULT.get(restrictions)


def second_table_fault(parameter: str, key: str, before: str, restrictions: str) -> Fault:
    """The fault of a parameter that has several words, where it may have one."""
    return Fault(
        key,
        f"{parameter} stands behind {before} in {restrictions}, and would hold more than one table: "
        "smtpd looks up what the check is about in the first one only",
        f"give the map a parameter of its own, such as {parameter}_2, and write {before} ${parameter}_2 there too",
    )


def command_fault(parameter: str, key: str, programs: Iterable[str]) -> Fault | None:
    """Why a parameter cannot hold a map where commands that local users run are among its programs."""
    commands = [f"{each}(1)" for each in programs if each in _COMMANDS]
    if not commands:
        return None
    return Fault(
        key,
        f"{parameter} is read by {' and '.join(commands)}, as the local user who runs it, and a map's table file is "
        "for root and Postfix alone, for the password in it",
        "write a table without a password there yourself, which all users may read, such as texthash:",
    )


def table_fault(parameter: str, key: str, is_own: bool) -> Fault | None:
    """Why a parameter cannot hold a map, and what works instead; None where it can.

    Args:
        key: The pillar key that names the parameter.
        is_own: Whether it is none of Postfix's parameters.
    """
    if _RESTRICTIONS.fullmatch(parameter):
        return restriction_fault(parameter, key)
    if fault := command_fault(parameter, key, programs_of(parameter)):
        return fault
    if _TAKES_TABLES.fullmatch(parameter) or (is_own and not _OF_TRANSPORT.fullmatch(parameter)):
        return None
    return Fault(key, f"{parameter} does not take lookup tables", "see postconf(5) for the parameter that does")
