"""How many series are sent to a worker at a time, and what is said while their results come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from many_models.adapters.compute.serial import SerialCompute
from many_models.orchestration import chunks as module
from many_models.orchestration.chunks import chunk_size, chunks_of, follow
from many_models.settings import Settings
from many_models_tests.support.compute_tasks import Raises, chunked


@pytest.mark.parametrize(
    ("series", "slots", "expected"),
    [
        (10_000, 2, 200),  # no more than a worker should lose
        (10_000, 32, 79),  # four chunks a slot
        (10_000, 1_000, 25),  # no fewer than reading is worth
        (12, 2, 25),
        (0, 2, 25),
    ],
)
def test_chunks_fill_the_slots_evenly_within_bounds(series, slots, expected):
    assert chunk_size(series, slots) == expected


def settings(chunk: int, tmp_path) -> Settings:
    return Settings.model_validate({"root": tmp_path, "data": {"keys": ["store", "item"]}, "compute": {"chunk": chunk}})


@pytest.mark.parametrize(
    ("chunk", "slots", "sizes"), [(0, 2, [125] * 8), (0, 16, [25] * 40), (300, 16, [300, 200] * 2)]
)
def test_the_slots_of_the_compute_say_how_large_chunks_are_unless_a_setting_does(tmp_path, chunk, slots, sizes):
    series = [f"{store}__{item}" for store in ("a", "b") for item in range(500)]
    chunks = chunks_of(settings(chunk, tmp_path), series, SimpleNamespace(slots=lambda: slots))
    assert [len(part.series) for part in chunks] == sizes
    assert [name for part in chunks for name in part.series] == series
    assert [part.pack[0] for part in chunks] == sorted(part.pack[0] for part in chunks)


def test_a_compute_is_not_asked_where_a_setting_says(tmp_path):
    class Away(SerialCompute):
        def slots(self) -> int:
            raise AssertionError("nobody asked")

    assert len(chunks_of(settings(1, tmp_path), ["a__1", "a__2"], Away())) == 2


def test_a_stage_says_how_far_it_is_while_results_come(monkeypatch):
    said = list[str]()
    context = SimpleNamespace(log=SimpleNamespace(info=said.append))
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.0)
    seen = list[list[str]]()
    for _, _ in follow(context, SerialCompute(), Raises(("s3",)), chunked(3, 3)):
        seen.append([line.rpartition(",")[0] for line in said])
    expected = [
        "3 of 6 series, 0 failed",
        "4 of 6 series, 1 failed",  # what is left of the second chunk once it was split
        "6 of 6 series, 1 failed",
    ]
    assert seen == [expected[:1], expected]
