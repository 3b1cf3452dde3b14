"""Two commands at the same instant on a fresh instance: one waits, and the instance is whole."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from many_models.errors import UnavailableError
from many_models.operations.day import POSTGRES_URL, alone, alone_on, open_instance
from many_models.orchestration.due import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Barrier

    from many_models_tests.stand_ins.postgres_server import PostgresServer

ROUNDS, AT_ONCE = 4, 3


def open_all(homes: Sequence[str], urls: Sequence[str], barrier: Barrier, answers: multiprocessing.Queue[str]) -> None:
    """Open one fresh instance after the other, each at the same instant as the other processes; `urls` are of their
    databases on PostgreSQL, if that is where they are.
    """
    for number, home in enumerate(homes):
        barrier.wait(300)
        try:
            if urls:
                os.environ[POSTGRES_URL] = urls[number]
            with open_instance(Path(home), "postgres" if urls else "sqlite") as instance:
                instance.get_run_ids(limit=1)
                instance.all_asset_keys()
            answers.put("")
        except Exception as error:  # noqa: BLE001  what it was is the answer
            answers.put(f"{type(error).__name__}: {error}")


def open_at_once(homes: Sequence[Sequence[Path]], urls: Sequence[str] = ()) -> list[str]:
    """What each process, which has a list of homes, answers to each of its instances: "" or an error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier, answers = context.Barrier(len(homes)), context.Queue()
    given = [([str(home) for home in own], urls, barrier, answers) for own in homes]
    processes = [context.Process(target=open_all, args=arguments) for arguments in given]
    for process in processes:
        process.start()
    try:
        return [answers.get(timeout=600) for own in homes for _ in own]
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.slow
def test_fresh_instances_opened_by_several_at_once_are_whole(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(ROUNDS)]
    assert open_at_once([homes] * AT_ONCE) == [""] * (ROUNDS * AT_ONCE)
    for database in tmp_path.rglob("*.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert len(connection.execute("SELECT * FROM alembic_version").fetchall()) == 1, database


@pytest.mark.slow
def test_a_fresh_postgres_opened_by_several_at_once_is_whole(tmp_path: Path, postgres: PostgresServer) -> None:
    """Each process has its own home, as pods do: only the server can make one wait for the other."""
    urls = [postgres.new_database() for _ in range(ROUNDS)]
    homes = [[tmp_path / f"pod{pod}" / str(number) for number in range(ROUNDS)] for pod in range(AT_ONCE)]
    assert open_at_once(homes, urls) == [""] * (ROUNDS * AT_ONCE)
    for url in urls:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            assert len(connection.execute(sqlalchemy.text("SELECT * FROM alembic_version")).fetchall()) == 1, url
            limits = connection.execute(sqlalchemy.text("SELECT concurrency_key FROM concurrency_limits")).scalars()
            assert sorted(limits) == sorted(STAGES)
            assert {"event_logs", "runs", "jobs"} <= set(sqlalchemy.inspect(connection).get_table_names())


def test_a_second_run_says_that_another_one_is_at_work(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(UnavailableError, match="another `many-models run` is at work"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):  # the first has ended
        pass


@pytest.mark.slow
def test_a_run_on_another_machine_that_shares_postgres_says_so(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_URL, postgres.new_database())
    with open_instance(tmp_path / "a", "postgres") as one, open_instance(tmp_path / "b", "postgres") as other:
        with alone_on(one):
            with pytest.raises(UnavailableError, match="another `many-models run` is at work on postgresql") as raised:
                alone_on(other).__enter__()
            assert postgres.password not in str(raised.value)
            postgres.drop_connections()  # as where the first is killed
            with alone_on(other):
                pass
        with alone_on(other):
            pass
