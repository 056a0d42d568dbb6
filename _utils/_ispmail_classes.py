"""Whether mail goes the way that the maps are for: which address class takes a domain, what smtpd says.

Postfix asks mydestination, virtual_alias_domains, virtual_mailbox_domains and relay_domains in this order, see
ADDRESS_CLASS_README. A domain that two of them have goes the way of the first, whatever the maps answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import _ispmail_answers
import _ispmail_inventory
import _ispmail_lookup
import _ispmail_route
import _ispmail_smtpd
from _ispmail_answers import PROBE_SECONDS, UNCHECKED, answering, live
from _ispmail_config import CompleteInstance, Map
from _ispmail_errors import CannotAsk
from _ispmail_inventory import Inventory
from _ispmail_lookup import Group
from _ispmail_maincf import words

ORDER = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")
# The address class that a map's answers are for.
_CLASS_OF = {
    **{name: name for name in ORDER},
    "virtual_mailbox_maps": "virtual_mailbox_domains",
    "relay_recipient_maps": "relay_domains",
}


def taken_before(maps: Sequence[Map], group: Group, inventory: Inventory) -> list[str]:
    """Sentences on the domains that main.cf lists in an address class which Postfix asks before a map's own.

    Args:
        group: How to ask the maps.
    """
    known = inventory.settings
    found = []
    for each in maps:
        if each.name not in group.tables or each.parameter not in ORDER:
            continue
        table = group.tables[each.name]
        for earlier in ORDER[: ORDER.index(each.parameter)]:
            domains = [word for word in words(known.expanded(earlier)) if _is_domain(word)]
            for domain in _ispmail_lookup.found(domains, table, known.config_directory, group.as_):
                found.append(_taken(domain, earlier, each.parameter))
    return found


def wrong_answers(instance: CompleteInstance) -> list[str]:
    """Compare the live answers with those that pillar expects, and where mail for them goes if Postfix runs.

    Returns:
        Sentences on those that are not as expected.
    """
    if not instance.answers:
        return []
    inventory = _ispmail_inventory.read(instance.config_directory)
    running = _ispmail_route.is_there(inventory.settings.queue_directory)
    wrong = _ispmail_answers.wrong_answers(instance, live(answering(instance, instance.maps), inventory, running))
    return wrong or (astray(instance, inventory) if running else [])


def astray(instance: CompleteInstance, inventory: Inventory) -> list[str]:
    """Sentences on the expected answers whose mail goes another way, asked of the running Postfix itself.

    Returns:
        The last one may be UNCHECKED: no more are asked after PROBE_SECONDS.
    """
    found: list[str] = []
    until = time.monotonic() + PROBE_SECONDS
    for address_class, question in _expected(instance):
        if time.monotonic() > until:
            found.append(UNCHECKED)
            break
        domain = question.rpartition("@")[2]
        try:
            route = _ispmail_route.resolve(f"probe@{domain}", inventory.settings.queue_directory)
        except CannotAsk as err:
            found.append(str(err))
            break
        if address_class and route.address_class != address_class:
            found.append(_taken(domain, route.address_class or "no address class", address_class))
        elif "@" in question:
            reply = _ispmail_smtpd.ask(inventory, question)
            if reply.cannot_ask or (reply.code == 550 and "User unknown" in reply.text):
                found.append(f"{question} is in the maps, but smtpd says: {reply}")
    return list(dict.fromkeys(found))


def _expected(instance: CompleteInstance) -> Iterator[tuple[str | None, str]]:
    """The answers that a map must have, as address class and question."""
    parameters = {each.name: each.parameter for each in instance.maps}
    for each in instance.answers:
        parameter = parameters.get(each.map, "")
        is_address = re.fullmatch(r"[^@\s]+@[^@\s]+", each.question) is not None
        if each.answer is not False and (parameter in _CLASS_OF or parameter == "virtual_alias_maps"):
            address_class = _CLASS_OF.get(parameter)
            if is_address or (parameter in ORDER and _is_domain(each.question)):
                yield address_class, each.question


def _is_domain(word: str) -> bool:
    # Letters of any script: Postfix takes münchen.example and its xn--… for two domains, see SMTPUTF8_README.
    return re.fullmatch(r"[\w-]+(\.[\w-]+)*", word) is not None


def _taken(domain: str, taker: str, wanted: str) -> str:
    return f"mail for {domain} goes the way of {taker}, not of {wanted}: name the domain in one of them only"
