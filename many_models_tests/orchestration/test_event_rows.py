"""Rows of many events are what Dagster's own serialiser makes of each, byte for byte."""

from __future__ import annotations

import logging

import dagster as dg
import pytest
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.orchestration.event_log import event_rows

TEXTS = st.sampled_from(["", "a", "ü", 'say "no"', "\x00partition\x00", '"metadata_entries": []', '"tags": {}', "\x00"])
VALUES = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    TEXTS,
    TEXTS.map(dg.MetadataValue.url),
    st.just(dg.IntMetadataValue(None)),
    st.just(dg.TextMetadataValue(None)),
    st.just(dg.MetadataValue.json({"b": [1, None], "a": 0.5})),
    st.just(dg.MetadataValue.table([dg.TableRecord({"x": 1.5})])),
    st.just(dg.MetadataValue.timestamp(1.7e9)),
)
ASSETS = st.sampled_from([["a"], ["b", "ü"]]).map(dg.AssetKey)
PARTITIONS = st.none() | TEXTS.filter(bool)
MATERIALIZATIONS = st.builds(
    lambda *of: dg.AssetMaterialization(*of),  # noqa: PLW0108  `builds` would ask its annotations, too
    ASSETS,
    st.none() | TEXTS,
    st.dictionaries(TEXTS, VALUES, max_size=4),
    PARTITIONS,
    st.dictionaries(st.sampled_from(["z", "many_models/version"]), st.sampled_from(["", "a-1.b"]), max_size=2),
)
DATA = st.one_of(
    MATERIALIZATIONS.map(StepMaterializationData),
    MATERIALIZATIONS.map(lambda made: StepMaterializationData(made._replace(tags=None))),
    st.tuples(ASSETS, PARTITIONS).map(lambda of: AssetMaterializationPlannedData(*of)),
    ASSETS.map(lambda asset: AssetObservationData(dg.AssetObservation(asset))),
)
KINDS = {
    StepMaterializationData: DagsterEventType.ASSET_MATERIALIZATION,
    AssetMaterializationPlannedData: DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    AssetObservationData: DagsterEventType.ASSET_OBSERVATION,
}


def entry(data, run_id: str = "run", message: str = "", at: float = 1.7e9, tags: str = "") -> EventLogEntry:
    """The entry of an event with `data`."""
    event = DagsterEvent(
        KINDS[type(data)].value, "job", None, None, None, {"tag": tags}, data, message=message, pid=1, step_key="step"
    )
    return EventLogEntry(None, logging.DEBUG, message, run_id, at, event.step_key, event.job_name, event)


ENTRIES = st.builds(
    entry, DATA, st.sampled_from(["run", "other"]), TEXTS, st.floats(1e9, 2e9), st.sampled_from(["", "\x00time\x00"])
)


@pytest.fixture(scope="module")
def stock() -> SqliteEventLogStorage:
    """Dagster's own event log, without files: it is asked for rows alone."""
    return SqliteEventLogStorage.__new__(SqliteEventLogStorage)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRIES, max_size=6).flatmap(lambda found: st.permutations([*found, *found])))
def test_rows_are_dagsters_own_whatever_the_events_hold(stock, entries) -> None:
    assert event_rows.rows_of(entries) == [stock._event_to_row(found) for found in entries]


def alike(count: int) -> list[EventLogEntry]:
    """Planned and materialized events of a run over `count` series."""
    key = dg.AssetKey("trained_models")
    planned = [AssetMaterializationPlannedData(key, f"s{at}") for at in range(count)]
    made = [
        StepMaterializationData(
            dg.AssetMaterialization(
                key,
                metadata={"wape": at / 7, "candidate": "ridge", "history": at, "good": at % 2 == 0},
                partition=f"s{at}",
                tags={"many_models/version": str(at), "many_models/upstream": "u"},
            )
        )
        for at in range(count)
    ]
    return [entry(data, at=1.7e9 + at / 1000) for data in (planned, made) for at, data in enumerate(data)]


def test_dagster_serialises_a_few_of_a_thousand_alike_events(stock, monkeypatch) -> None:
    entries, asked = alike(500), list[object]()
    kept = event_rows.serialized
    monkeypatch.setattr(event_rows, "serialized", lambda value: (asked.append(value), kept(value))[1])
    rows = event_rows.rows_of(entries)
    assert rows == [stock._event_to_row(found) for found in entries]
    assert len(asked) < 50


@pytest.mark.parametrize("change", ["names", "order"])
def test_a_dagster_that_serialises_otherwise_gets_its_own_text(stock, monkeypatch, change) -> None:
    """Another name of a field leaves no place to cut; another order puts the wrong text there."""
    kept = event_rows.serialized
    texts = {"names": ('"metadata_entries"', '"metadata"'), "order": ('"partition": ', '"part": "", "partition": ')}
    old, new = texts[change]
    monkeypatch.setattr(event_rows, "serialized", lambda value: kept(value).replace(old, new))
    monkeypatch.setattr(event_rows, "_json_of", lambda value: "{}")
    event_rows.cuts_of.cache_clear()
    entries = alike(3)
    expected = [stock._event_to_row(found)["event"].replace(old, new) for found in entries]
    assert event_rows.texts_of(entries) == expected
    event_rows.cuts_of.cache_clear()
