"""What pillar says of the maps' account, and of all that may use it, as one value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from _ispmail_config import Instance
from _ispmail_config_consumers import Consumer, Consumers
from _ispmail_config_database import DatabaseConfig


class Scope(NamedTuple):
    """What pillar says of the account and of those that may use it."""

    instances: Mapping[str, Instance]  # by pillar key
    database: DatabaseConfig  # the account and pillar's password; the admin's login where that was read
    consumers: tuple[Consumers, ...]  # those of each pillar key
    left_out: tuple[str, ...]  # directories that are not searched: Salt's configuration, pillar and cache
    cache: str  # where it is written down who was left with an older password

    @property
    def accounts(self) -> tuple[str, ...]:
        """The users that stand for the maps' account."""
        return self.database.accounts

    @property
    def each_consumer(self) -> list[Consumer]:
        """The consumers of all pillar keys."""
        return [consumer for some in self.consumers for consumer in some.consumers]

    @property
    def named_files(self) -> frozenset[str]:
        """The files, and directories, that consumers name."""
        return frozenset(path for one in self.each_consumer for path in (*one.holds, one.option_file) if path)

    def names(self, path: str) -> bool:
        """Whether consumers name a file, or a directory that it is in."""
        return any(path == named or path.startswith(f"{named}/") for named in self.named_files)
