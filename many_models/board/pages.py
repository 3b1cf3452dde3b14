"""What every page shares: who asks, the templates and their filters, and the note on parts that are missing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from many_models.board.item import Records
from many_models.board.reading import Reading
from many_models.board.releases import live_of, waiting_of
from many_models.board.remembered import Remembered
from many_models.board.what_if import Plans
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request

    from many_models.board.access import Access, User
    from many_models.board.catalogue import Catalogue
    from many_models.board.entra import BrowserSignIn
    from many_models.board.handed_in import Operations, Stores
    from many_models.board.items import Items
    from many_models.board.night import StageRun
    from many_models.board.static_files import StaticFiles
    from many_models.settings import Settings

LONGEST_FORM = 20_000  # bytes
RUNS_SECONDS, RELEASE_SECONDS = 10.0, 3.0  # that runs and releases are remembered
DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")
NOTHING = "–"  # where there is no number


@dataclass(frozen=True)
class Board:
    """What the routes need."""

    settings: Settings
    stores: Stores
    operations: Operations
    access: Access
    catalogue: Catalogue
    static: StaticFiles
    entra: BrowserSignIn | None = None
    plans: Plans = field(default_factory=Plans)
    records: Records = field(default_factory=Records)

    @cached_property
    def night(self) -> Remembered[Sequence[StageRun]]:
        """The runs of the newest night."""
        return Remembered(self.operations.night, RUNS_SECONDS)

    @cached_property
    def live(self) -> Remembered[dict[str, Any] | None]:
        """The release that is live."""
        return Remembered(lambda: live_of(self.stores), RELEASE_SECONDS)

    @cached_property
    def waiting(self) -> Remembered[dict[str, Any] | None]:
        """The proposal that waits."""
        return Remembered(lambda: waiting_of(self.stores), RELEASE_SECONDS)

    def forget(self) -> None:
        """Look again at what is live and what waits."""
        self.live.forget()
        self.waiting.forget()

    def warm(self) -> None:
        """Read what the first page shows, before anybody asks for it: imports alone take seconds."""
        reading = Reading()
        for what, read in (("items", self.catalogue.items), ("night", self.night), ("live", self.live)):
            reading.part(what, read, None)

    @cached_property
    def templates(self) -> Environment:
        """The templates, which escape what they are given."""
        environment = Environment(
            loader=PackageLoader("many_models.board"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Any] = {
            "number": number,
            "percent": percent,
            "signed": signed,
            "day": day,
            "moment": moment,
            "key": self.shown,
            "item_url": item_url,
            "quoted": quoted,
            "seconds": seconds,
            "spark": spark,
            "dated": dated,
            "sentence": sentence,
        }
        given: dict[str, Any] = {"static": self.static.url, "settings": self.settings, "nothing": NOTHING}
        environment.filters.update(filters)
        environment.globals.update(given)
        return environment

    def shown(self, series_id: str) -> str:
        """A series as people call it: its key's parts."""
        return " · ".join(SeriesKey.parse(series_id).parts)

    def page(
        self, request: Request, template: str, user: User | None, status: int = 200, **more: object
    ) -> HTMLResponse:
        """A page; `more` is what its template shows."""
        found = self.templates.get_template(template)
        text = found.render(user=user, path=request.url.path, access=self.access, **more)
        return HTMLResponse(text, status)

    def seen(self, user: User, items: Items) -> NDArray[np.bool_] | None:
        """Which items the user sees; None: all."""
        return self.access.visible(user, items)

    def own(self, user: User, items: Items) -> frozenset[str] | None:
        """The series that the user sees; None: all, and whatever is told of all."""
        seen = self.seen(user, items)
        return None if seen is None else frozenset(items.frame["series_id"].to_numpy()[seen])


async def form_of(request: Request) -> dict[str, str]:
    """A form's fields. What is longer than any of ours is cut off, which leaves its token out."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            return {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def item_url(series_id: str) -> str:
    """The address of a series' page, on the board."""
    return f"/items/{quote(series_id, safe='')}"


def quoted(text: str) -> str:
    """A part of an address."""
    return quote(text, safe="")


def with_query(pairs: Sequence[tuple[str, str]], **changed: str | None) -> str:
    """The query of an address with some fields changed, or left out where they are None."""
    kept = [(name, value) for name, value in pairs if name not in changed]
    return urlencode([*kept, *((name, value) for name, value in changed.items() if value is not None)])


# --- numbers and times as people read them --------------------------------------------------------------------------
def number(value: object) -> str:
    """Three significant digits, thousands apart."""
    told = _float(value)
    if told is None:
        return NOTHING
    if abs(told) >= 1000:
        return f"{told:,.0f}"
    return f"{told:.3g}" if abs(told) < 100 else f"{told:.0f}"


def percent(value: object, digits: int = 0) -> str:
    """A share."""
    told = _float(value)
    return NOTHING if told is None else f"{told * 100:.{digits}f} %"


def signed(value: object) -> str:
    """A share with its sign, which is a true minus."""
    told = _float(value)
    return NOTHING if told is None else f"{told * 100:+.0f} %".replace("-", "−")


def _float(value: object) -> float | None:
    try:
        told = float(value)  # pyright: ignore[reportArgumentType]  what is not a number raises
    except (TypeError, ValueError):
        return None
    return told if math.isfinite(told) else None


def day(value: object) -> str:
    """A day, with its hour where it has one."""
    told = _time(value)
    if told is None:
        return NOTHING
    return f"{told:%-d %b %Y}" + (f" {told:%H:%M}" if (told.hour, told.minute) != (0, 0) else "")


def dated(text: object) -> str:
    """A text whose dates are written as on the rest of the page."""
    return DATE.sub(lambda found: day(found[0]), str(text))


def sentence(text: object) -> str:
    """A text as the beginning of a sentence."""
    told = dated(text)
    return told[:1].upper() + told[1:]


def moment(value: object) -> str:
    """A moment, to the minute."""
    told = _time(value)
    return NOTHING if told is None else f"{told:%-d %b %Y, %H:%M}"


def _time(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, datetime.min.time())
    return value if isinstance(value, datetime) and value == value else None  # noqa: PLR0124  NaT is not itself


def seconds(value: object) -> str:
    """A duration."""
    told = _float(value)
    if told is None:
        return NOTHING
    return f"{told:.1f} s" if told < 100 else f"{told / 60:.0f} min"


def spark(recent: Sequence[float], ahead: Sequence[float], width: int = 132, height: int = 24) -> Mapping[str, Any]:
    """Points of a small chart: of the past, and of the forecast after it."""
    values = [*recent, *ahead]
    finite = [value for value in values if math.isfinite(value)]
    high, low = max([*finite, 0.0]), min([*finite, 0.0])
    step, scale = width / max(len(values) - 1, 1), (height - 3) / ((high - low) or 1.0)

    def points(start: int, part: Sequence[float]) -> str:
        shown = ((start + at, value) for at, value in enumerate(part) if math.isfinite(value))
        return " ".join(f"{at * step:.1f},{height - 1.5 - (value - low) * scale:.1f}" for at, value in shown)

    return {"width": width, "height": height, "past": points(0, recent), "ahead": points(len(recent), ahead)}
