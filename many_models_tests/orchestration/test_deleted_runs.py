"""Whether a run was deleted between two looks, told without reading the runs, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from many_models.orchestration.event_log.history import RunsMark, lost_runs, runs_mark
from many_models.orchestration.event_log.private_api import sql_runs
from many_models_tests.orchestration import test_events, test_postgres_storage

STEPS = st.lists(st.one_of(st.just("add"), st.just("look"), st.integers(0, 4)), max_size=12)  # a number: delete it


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def instance(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    if request.param == "sqlite":
        with test_events.open_instance(home) as opened:
            yield opened
        return
    server = request.getfixturevalue("postgres")
    with test_postgres_storage.open_instance(home, server.new_database()) as opened:
        yield opened


def added(instance: dg.DagsterInstance) -> str:
    return instance.add_run(dg.DagsterRun("stage_job", make_new_run_id())).run_id


@given(STEPS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_deleted_run_is_noticed_and_no_other_one(instance, steps):
    """Also where SQLite gives the row of the deleted one to the next."""
    for run_id in instance.get_run_ids():
        instance.delete_run(run_id)
    kept, mark, seen = list[str](), runs_mark(instance), set[str]()
    assert mark == RunsMark()
    for step in (*steps, "look"):
        if step == "add":
            kept.append(added(instance))
        elif step == "look":
            now = runs_mark(instance)
            assert now.count == len(kept)
            assert lost_runs(instance, mark, now) == (not seen <= set(kept))
            mark, seen = now, set(kept)
        elif step < len(kept):
            instance.delete_run(kept.pop(step))


def test_the_runs_themselves_are_not_read(instance):
    """Their bodies are most of Dagster's records after a year."""
    added(instance)
    asked = list[str]()

    def note(_connection, _cursor, statement, *_):
        asked.append(statement)

    with sql_runs(instance).connect() as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        lost_runs(instance, runs_mark(instance), RunsMark(1, "other", 9))
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert 3 <= len(asked) <= 4
    assert not any("run_body" in statement for statement in asked)
    assert all("count" in statement or "LIMIT" in statement or "WHERE runs.id =" in statement for statement in asked)
