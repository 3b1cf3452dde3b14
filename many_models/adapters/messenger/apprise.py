"""Messages through Apprise: Teams, Slack, e-mail, webhooks and whatever else it has an address for."""

from __future__ import annotations

import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from many_models.errors import MissingDependencyError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Message

AT_ONCE = 8
LOGGERS = ("apprise", "urllib3.connectionpool")
SHORTEST_SECRET = 4  # parts of an address that are shorter are not looked for in what Apprise says
HELP = "https://appriseit.com/services/"


class AppriseMessenger:
    """Sends to each address that `text` holds: one a line, or with blanks between them.

    No part of an address is logged or returned. Raises MissingDependencyError without the extra `alerts`, and
    SettingsError for an address that Apprise does not know, which is named by its number and kind alone.
    """

    def __init__(self, text: str) -> None:
        try:
            import apprise
        except ImportError as error:
            raise MissingDependencyError("[alerts] needs a package: pip install 'many_models[alerts]'") from error
        self._apprise = apprise
        self._texts = text.split()
        if not self._texts:
            raise SettingsError("the secret MANY_MODELS_ALERT_ADDRESSES holds no address")
        _keep_out_of_logs(self._texts)
        self._receivers  # noqa: B018  a wrong address is told at once

    @cached_property
    def _receivers(self) -> dict[str, tuple[Any, str]]:
        """Name → Apprise's receiver, and the address."""
        found = dict[str, tuple[Any, str]]()
        for number, address in enumerate(self._texts, 1):
            made = self._apprise.Apprise.instantiate(address, suppress_exceptions=True)
            kind = address.partition("://")[0] if re.match(r"\w+://", address) else "no kind"
            if made is None:
                raise SettingsError(
                    f"address {number} of {len(self._texts)} in MANY_MODELS_ALERT_ADDRESSES ({kind}) is not one that "
                    f"Apprise knows: see {HELP} for how the address of your service is written"
                )
            found[f"{kind} {hashlib.sha256(address.encode()).hexdigest()[:6]}"] = made, address
        return found

    def addresses(self) -> Sequence[str]:
        """See `Messenger.addresses`."""
        return list(self._receivers)

    def send(self, messages: Mapping[str, Sequence[Message]]) -> Mapping[str, str]:
        """See `Messenger.send`."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = pool.map(self._send_all, messages, messages.values())
            return {name: said for name, said in zip(messages, answers, strict=True) if said}

    def _send_all(self, name: str, messages: Sequence[Message]) -> str:
        """Why an address did not take all `messages`; "" when it did."""
        if name not in self._receivers:
            return "there is no such address"
        receiver, address = self._receivers[name]
        for message in messages:
            try:
                if not self._send(receiver, message):
                    return "it is down, or it refused the message: test its address with Apprise's own command"
            except Exception as error:  # noqa: BLE001  a service of another's may fail in any way; the others go on
                return without_secrets(f"{type(error).__name__}: {' '.join(str(error).split())}", address)[:300]
        return ""

    def _send(self, receiver: Any, message: Message) -> bool:
        kinds, formats = self._apprise.NotifyType, self._apprise.NotifyFormat
        one = self._apprise.Apprise()
        one.add(receiver)
        kind = kinds.FAILURE if message.urgent else kinds.WARNING
        return bool(one.notify(message.text, message.title, kind, formats.TEXT, interpret_escapes=False))

    def check(self) -> str:
        """See `Messenger.check`."""
        return f"{len(self._receivers)} addresses: {', '.join(self._receivers)}"


@dataclass(slots=True)
class _WithoutSecrets(logging.Filter):
    """Takes parts of addresses out of what a library logs; what it says at all is left to the level of its logger."""

    addresses: set[str] = field(default_factory=set[str])

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for address in self.addresses:
            text = without_secrets(text, address)
        record.msg, record.args = text, ()
        return True


_FILTER = _WithoutSecrets()  # one for the process, as loggers are


def _keep_out_of_logs(addresses: Sequence[str]) -> None:
    """Apprise logs whole addresses, and urllib3 the paths that it asks for, in which webhooks have their token."""
    _FILTER.addresses |= {*addresses}
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _FILTER not in logger.filters:
            logger.addFilter(_FILTER)


def without_secrets(text: str, address: str) -> str:
    """`text` without any part of the address but its kind."""
    from urllib.parse import unquote

    parts = {part for whole in (address, unquote(address)) for part in re.split(r"[/:@?&=\s]+", whole)}
    for part in sorted(parts - {address.partition("://")[0]}, key=len, reverse=True):
        if len(part) >= SHORTEST_SECRET:
            text = text.replace(part, "…")
    return text
