"""Tables that people keep for decisions: a change is due at the next look, once, and for its own stage alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.errors import MissingTableError, UnavailableError
from many_models.orchestration import decision_tables, stage_state
from many_models.orchestration.decision_inputs import ever_sold, series_values
from many_models.ports import Filter
from many_models.settings import Settings

if TYPE_CHECKING:
    from many_models.orchestration.due import Stage
    from many_models.orchestration.look import Look
    from many_models.ports import Source

SETTINGS = Settings.model_validate({
    "data": {"keys": ["item"]}, "source": {"attributes_table": "items"}, "stock": {"table": "stock"},
    "overrides": {"table": "changes"}, "hierarchy": {"levels": [["category"]]}, "drift": {"watch": True},
})  # fmt: skip
STAGES: tuple[Stage, ...] = ("stock_recommendations", "coherent_predictions", "final_predictions", "drift")


@dataclass
class Tables:
    """A source of small tables; one that is not there, or a source that is away."""

    tables: dict[str, pa.Table]
    away: bool = False

    def read_table(self, table: str, columns: tuple[str, ...] = ()) -> pa.Table:
        if self.away:
            raise UnavailableError("the source is away")
        if table not in self.tables:
            raise MissingTableError(f"no table {table}")
        return self.tables[table]


@dataclass(frozen=True)
class Looked:
    """A look at an installation whose predictions are made; `done` is what the stages of decisions have consumed."""

    lake: MemoryLake
    done: dict[Stage, dict[str, str]] = field(default_factory=dict)

    def made(self, stage: Stage) -> dict[str, str]:
        return {"a": "1"} if stage == "predictions" else {}

    def consumed(self, stage: Stage) -> dict[str, str]:
        return self.done.get(stage, {})

    def busy(self, stage: Stage) -> frozenset[str]:
        return frozenset()


@pytest.fixture(autouse=True)
def predictions_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_state, "lake_as_of", lambda _: datetime(2024, 6, 30))
    monkeypatch.setattr(stage_state, "active_series", lambda *_: frozenset("a"))


def source() -> Tables:
    return Tables({name: pa.table({"item": ["a", "b"], "value": ["1", "2"]}) for name in ("items", "stock", "changes")})


def due(seen: Looked, tables: Tables) -> list[Stage]:
    """The stages that are due, the source being asked."""
    found = list["Stage"]()
    for stage in STAGES:
        look, of = cast("Look", seen), cast("Source", tables)
        if stage_state.asked_decision_state(SETTINGS, look, stage, of).due():
            found.append(stage)
    return found


def run(seen: Looked, tables: Tables) -> Looked:
    """What is due, done as the stages do it: the mark first, then what was consumed."""
    done = dict(seen.done)
    for stage in due(seen, tables):
        content = decision_tables.contents(SETTINGS, cast("Source", tables), stage)
        if content is not None:
            decision_tables.note(seen.lake, stage, content)
        done[stage] = dict(stage_state.decision_state(SETTINGS, cast("Look", seen), stage, content).wanted)
    return replace(seen, done=done)


def test_a_changed_table_makes_its_own_stage_due_and_once() -> None:
    tables, seen = source(), Looked(MemoryLake())
    assert due(seen, tables) == list(STAGES)
    seen = run(seen, tables)
    assert due(seen, tables) == []
    for changed, expected in (
        ("changes", ["final_predictions"]), ("stock", ["stock_recommendations"]),
        ("items", ["coherent_predictions", "final_predictions"]),
    ):  # fmt: skip
        tables.tables[changed] = pa.table({"item": ["a", "b"], "value": ["1", f"3 {changed}"]})
        assert due(seen, tables) == expected
        seen = run(seen, tables)
        assert due(seen, tables) == []


def test_what_was_used_is_known_without_asking_the_source() -> None:
    """The looks of sensors in between find nothing due, neither before nor after a change that a run has used."""
    tables, lake = source(), MemoryLake()
    seen = run(Looked(lake), tables)
    for stage in STAGES:
        assert not stage_state.decision_state(SETTINGS, cast("Look", seen), stage).due()
    tables.tables["changes"] = pa.table({"item": ["a"], "value": ["9"]})
    seen = run(seen, tables)
    assert not stage_state.decision_state(SETTINGS, cast("Look", seen), "final_predictions").due()
    assert set(decision_tables.used(lake)) == {"stock_recommendations", "coherent_predictions", "final_predictions"}


def test_rows_in_another_order_are_no_change_and_a_table_that_goes_is_one() -> None:
    tables = source()
    seen = run(Looked(MemoryLake()), tables)
    tables.tables["stock"] = tables.tables["stock"].take([1, 0]).select(["value", "item"])
    assert due(seen, tables) == []
    del tables.tables["stock"]
    assert due(seen, tables) == ["stock_recommendations"]
    assert due(run(seen, tables), tables) == []


def test_a_source_that_does_not_answer_makes_nothing_due() -> None:
    tables = source()
    seen = run(Looked(MemoryLake()), tables)
    tables.tables["stock"] = pa.table({"item": ["a"]})
    tables.away = True
    assert due(seen, tables) == []
    tables.away = False
    assert due(seen, tables) == ["stock_recommendations"]


def test_rows_that_contradict_each_other_about_an_item_change_no_other_items_category() -> None:
    items = pa.table({"item": ["i0", "i1"], "category": ["milk", "bread"]})
    bad = pa.table({"item": ["i2", "i2", "gone"], "category": ["milk", "bread", "ghost"]})
    series = ["i0", "i1", "i2"]
    plain, beside = (
        series_values(SETTINGS, cast("Source", Tables({"items": rows})), series)
        for rows in (items, pa.concat_tables([items, bad]))
    )
    assert plain == (beside[0], [])
    assert [values["category"] for values in beside[0].values()] == ["milk", "bread", None]
    assert [(one["row"], one["reason"]) for one in beside[1]] == [
        ("i2", "its rows of attributes give category several values (milk, bread); it stays empty until they agree"),
        ("gone", "there are no sales of it: write names as the sales do"),
    ]


def test_attributes_of_ended_series_are_no_problem_and_names_that_nothing_sold_under_are_one() -> None:
    lake = MemoryLake()
    lake.replace("series_keys", pa.table({"series_id": ["i0", "ended"]}), Filter())
    items = pa.table({"item": ["i0", "ended", "I0", "new"], "category": ["milk"] * 4})
    source_of = cast("Source", Tables({"items": items}))
    _, problems = series_values(SETTINGS, source_of, ["i0"], ever_sold(SETTINGS, lake))
    assert [(one["row"], one["reason"]) for one in problems] == [
        ("I0", "there are no sales of it (did you mean i0?): write names as the sales do"),
        ("new", "there are no sales of it: write names as the sales do"),
    ]
