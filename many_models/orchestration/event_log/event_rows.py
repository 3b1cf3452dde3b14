"""Rows of Dagster's event log for many events: alike events share a template, which is filled for each of them.

Dagster serialises an event by walking through its objects: 0.1 ms for one of a series. The events of a run differ only
in partition, time, metadata and tags. So the text of the first one is made by Dagster and cut at these places; each
other event fills them. The result equals Dagster's own text byte for byte, which the first event of each batch proves
at run time: where it does not, Dagster serialises all of them.

Uses Dagster's private API; `private_api.private_api_problems` checks it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent
    from dagster._core.events.log import EventLogEntry

_CUTS_KEPT = 1000  # labels of metadata, each with its type
_PARTITION, _TIME = "\x00partition\x00", "\x00time\x00"  # where a template is cut; no event holds them
_METADATA = '"metadata_entries": []'
_SAMPLES: Mapping[type, tuple[str, object]] = {
    dg.TextMetadataValue: ("text", "\x00text\x00"),
    dg.UrlMetadataValue: ("url", "\x00url\x00"),
    dg.FloatMetadataValue: ("value", 1.357924680135792e-211),
    dg.IntMetadataValue: ("value", 135_792_468_013_579),
    dg.BoolMetadataValue: ("value", True),
}  # type of metadata → the field that its value is in, and a value to find the field by
_json_of = json.JSONEncoder(sort_keys=True).encode


def rows_of(entries: Sequence[EventLogEntry]) -> list[dict[str, object]]:
    """A row of the table `event_logs` for each entry, as Dagster's own `_event_to_row` makes it.

    Each entry is an event about an asset. Its times are in UTC without a zone, as Dagster stores them.
    """
    texts, keys = texts_of(entries), dict[dg.AssetKey | None, str | None]({None: None})
    rows = list[dict[str, object]]()
    for entry, text in zip(entries, texts, strict=True):
        event = entry.get_dagster_event()
        asset_key, partition = _place_of(event)
        if asset_key not in keys:
            keys[asset_key] = cast("dg.AssetKey", asset_key).to_string()
        rows.append(
            {
                "run_id": entry.run_id,
                "event": text,
                "dagster_event_type": event.event_type_value,
                "timestamp": datetime.fromtimestamp(entry.timestamp, UTC).replace(tzinfo=None),
                "step_key": event.step_key,
                "asset_key": keys[asset_key],
                "partition": partition or None,
            }
        )
    return rows


def _place_of(event: DagsterEvent) -> tuple[dg.AssetKey | None, str | None]:
    """Asset and partition of an event; of a materialization without Dagster's properties, which look at each kind."""
    from dagster._core.events import StepMaterializationData

    data = event.event_specific_data
    if type(data) is StepMaterializationData:
        return data.materialization.asset_key, data.materialization.partition
    return event.asset_key, event.partition


def texts_of(entries: Sequence[EventLogEntry]) -> list[str]:
    """What Dagster's `serialize_value` says of each entry."""
    texts = list[str]()
    common, template = object(), None
    for entry in entries:
        now = _common(entry)
        if now is None or now != common:
            common = now
            template = _Template.of(entry) if now is not None else None
        texts.append(template.text(entry) if template is not None else serialized(entry))
    return texts


def _common(entry: EventLogEntry) -> tuple[object, ...] | None:
    """All of an entry that a template does not fill; None for an event without a template."""
    from dagster._core.events import AssetMaterializationPlannedData, StepMaterializationData

    event = entry.dagster_event
    if event is None or type(entry.timestamp) is not float:
        return None
    data = event.event_specific_data
    if type(data) is StepMaterializationData:
        made = data.materialization
        differs = (StepMaterializationData, data.asset_lineage, made.asset_key, made.description, made.tags is None)
    elif type(data) is AssetMaterializationPlannedData:
        if data.partitions_subset is not None:
            return None
        differs = (AssetMaterializationPlannedData, data.asset_key)
    else:
        return None
    return entry._replace(timestamp=0.0, dagster_event=None), event._replace(event_specific_data=None), *differs


class _Template:
    """The text of alike events, cut where they differ: partition, time and, once materialized, metadata and tags.

    Raises ValueError where the text does not have these places.
    """

    def __init__(self, entry: EventLogEntry) -> None:
        from dagster._core.events import StepMaterializationData

        event = entry.get_dagster_event()
        data = event.event_specific_data
        if isinstance(data, StepMaterializationData):
            self._tags = "null" if data.materialization.tags is None else "{}"
            made = data.materialization._replace(
                partition=_PARTITION, metadata={}, tags=None if data.materialization.tags is None else {}
            )
            blank = data._replace(materialization=made)
        else:
            self._tags = ""
            blank = cast("AssetMaterializationPlannedData", data)._replace(partition=_PARTITION)
        blank_event = event._replace(event_specific_data=blank)
        rest = serialized(entry._replace(dagster_event=blank_event, timestamp=cast("float", _TIME)))
        self._parts = list[str]()
        for place in (_METADATA, _json(_PARTITION), f'"tags": {self._tags}', _json(_TIME)):
            if self._tags or place in {_json(_PARTITION), _json(_TIME)}:
                part, rest = _cut(rest, place)
                self._parts.append(part)
        self._end = rest

    @classmethod
    def of(cls, entry: EventLogEntry) -> _Template | None:
        """The template of events like `entry`; None where it would not give Dagster's own text."""
        try:
            template = cls(entry)
        except ValueError:
            return None
        return template if template.text(entry) == serialized(entry) else None

    def text(self, entry: EventLogEntry) -> str:
        """The text of `entry`, an event like the one that the template is made of."""
        data: Any = cast("Any", entry.dagster_event).event_specific_data
        if not self._tags:
            before, time = self._parts
            return f"{before}{_json(data.partition)}{time}{_json(entry.timestamp)}{self._end}"
        made = data.materialization
        metadata = ", ".join([_metadata_text(label, value) for label, value in made.metadata.items()])
        tags = "null" if made.tags is None else _json_of(dict(made.tags))
        before, partition, after, time = self._parts
        return (
            f'{before}"metadata_entries": [{metadata}]{partition}{_json(made.partition)}{after}"tags": {tags}'
            f"{time}{_json(entry.timestamp)}{self._end}"
        )


def _metadata_text(label: str, value: dg.MetadataValue) -> str:
    kind = type(value)
    if (cuts := cuts_of(kind, label)) is None:
        return _text_of_metadata(label, value)
    field, before, after = cuts
    return f"{before}{_json(getattr(value, field))}{after}"


@lru_cache(_CUTS_KEPT)
def cuts_of(kind: type[dg.MetadataValue], label: str) -> tuple[str, str, str] | None:
    """The field of the value, and the text before and after it; None for metadata of another type."""
    if kind not in _SAMPLES:
        return None
    field, sample = _SAMPLES[kind]
    place = f'"{field}": {_json(sample)}'
    try:
        before, after = _cut(_text_of_metadata(label, kind(sample)), place)  # pyright: ignore[reportCallIssue]
    except ValueError:
        return None
    return field, f'{before}"{field}": ', after


def _text_of_metadata(label: str, value: dg.MetadataValue) -> str:
    """One entry of an event's metadata as Dagster serialises it."""
    blank = dg.AssetMaterialization("asset")
    before, after = _cut(serialized(blank), _METADATA)
    text = serialized(blank._replace(metadata={label: value}))
    return text[len(before) + len(_METADATA) - 1 : len(text) - len(after) - 1]


def _cut(text: str, place: str) -> tuple[str, str]:
    """What comes before and after `place`. Raises ValueError where it is not there exactly once."""
    before, after = text.split(place)
    return before, after


def _json(value: object) -> str:
    """`json.dumps(value)`, quickly for the usual types."""
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(cast("str", value))
    if kind is int or (kind is float and isfinite(cast("float", value))):
        return repr(value)
    return _json_of(value)


def serialized(value: Any) -> str:
    """What Dagster's own serialiser says of a value."""
    from dagster_shared.serdes import serialize_value

    return serialize_value(value)
