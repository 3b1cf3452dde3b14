"""Messages kept in memory: for tests and notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Message


@dataclass(slots=True)
class MemoryMessenger:
    """Keeps what is sent, by address. Those in `away` take nothing."""

    names: Sequence[str] = ("memory",)
    away: set[str] = field(default_factory=set[str])
    sent: dict[str, list[Message]] = field(default_factory=dict[str, list["Message"]])

    def addresses(self) -> Sequence[str]:
        """See `Messenger.addresses`."""
        return self.names

    def send(self, messages: Mapping[str, Sequence[Message]]) -> Mapping[str, str]:
        """See `Messenger.send`."""
        for name in messages.keys() - self.away:
            self.sent.setdefault(name, []).extend(messages[name])
        return {name: "is away" for name in messages if name in self.away}

    def check(self) -> str:
        """See `Messenger.check`."""
        return f"{len(self.names)} addresses in memory"
