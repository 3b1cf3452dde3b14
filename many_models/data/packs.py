"""Which series travel together in one pack."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from many_models.keys import SeriesKey, pack_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.settings import Settings


def packs_of(settings: Settings, series: Sequence[str]) -> dict[str, list[str]]:
    """Pack → its series among `series`, both in order of first appearance."""
    packs = defaultdict[str, list[str]](list)
    keys = settings.data.keys
    for name in series:
        pack = pack_of(SeriesKey.parse(name, len(keys)), keys, settings.packs.by, settings.packs.buckets)
        packs[pack].append(name)
    return dict(packs)
