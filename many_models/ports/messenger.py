"""The messenger: sends alerts to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Message:
    """Plain text for people. `urgent`: something failed."""

    title: str
    text: str
    urgent: bool = False


@runtime_checkable
class Messenger(Protocol):
    """What tells people, in a channel, by e-mail, through a webhook."""

    def addresses(self) -> Sequence[str]:
        """A name for each address, which stays the same and shows nothing secret."""
        ...

    def send(self, messages: Mapping[str, Sequence[Message]]) -> Mapping[str, str]:
        """Send each address its messages; one that is down stops no other, and nothing is raised.

        Returns the addresses that did not take them all → why, without secrets.
        """
        ...

    def check(self) -> str:
        """One line that says how many addresses there are. Sends nothing. Raises SettingsError where one is wrong."""
        ...
