"""What a page reads of the stores: a part that cannot be read is named on the page, and the rest is shown."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from many_models.errors import ManyModelsError, MissingTableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reading:
    """The parts that could not be read, each with its reason."""

    missing: dict[str, str] = field(default_factory=dict[str, str])

    def part(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        """What `read` returns; `otherwise` where it fails, which `missing` then says of `what`."""
        try:
            return read()
        except MissingTableError:
            self.missing.setdefault(what, "nothing has been written there yet")
        except ManyModelsError as error:
            self.missing.setdefault(what, str(error))
        except Exception as error:  # a store that breaks in an unforeseen way leaves the rest of the page alone
            log.exception("%s cannot be read", what)
            self.missing.setdefault(what, f"{type(error).__name__}: the board's log has the details")
        return otherwise
