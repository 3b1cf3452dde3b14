"""Two commands at the same instant on a fresh instance: one waits, and the instance is whole."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from many_models.errors import UnavailableError
from many_models.operations.day import alone, open_instance

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

ROUNDS, AT_ONCE = 5, 3


def open_all(root: str, barrier: Barrier, answers: multiprocessing.Queue[str]) -> None:
    """Open one fresh instance after the other, each at the same instant as the other processes."""
    for number in range(ROUNDS):
        barrier.wait(300)
        try:
            with open_instance(Path(root) / str(number)) as instance:
                instance.get_run_ids(limit=1)
                instance.all_asset_keys()
            answers.put("")
        except Exception as error:  # noqa: BLE001  what it was is the answer
            answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
def test_fresh_instances_opened_by_several_at_once_are_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(AT_ONCE), context.Queue()
    processes = [context.Process(target=open_all, args=(str(tmp_path), barrier, answers)) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    try:
        assert [answers.get(timeout=600) for _ in range(ROUNDS * AT_ONCE)] == [""] * (ROUNDS * AT_ONCE)
    finally:
        for process in processes:
            process.kill()
            process.join()
    for database in tmp_path.rglob("*.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert len(connection.execute("SELECT * FROM alembic_version").fetchall()) == 1, database


def test_a_second_run_says_that_another_one_is_at_work(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(UnavailableError, match="another `many-models run` is at work"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):  # the first has ended
        pass
