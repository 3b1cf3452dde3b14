"""A board on a free port of loopback, over the demo's day."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

from many_models.board.access import Keys
from many_models.board.server import build_server
from many_models.onboarding.demo import write_source
from many_models.onboarding.demo_settings import demo_settings
from many_models.operations.board import make_board
from many_models_tests.support.project import Project
from many_models_tests.support.running_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from fastapi import FastAPI

    from many_models.settings import BoardSettings, Settings

END = date(2026, 10, 31)
NO_KEYS = Keys()
URL = "http://127.0.0.1:8090"  # where records say that the board is


def demo_nights(root: Path, series: int = 16, days: int = 200) -> Project:
    """The demo's shop after two nights a week apart: the first release is live, the second one waits for approval."""
    root.mkdir(parents=True, exist_ok=True)
    facts = write_source(root / "sales.db", series=series, days=days, end=END)
    settings = demo_settings(start=facts.first, url="sqlite:///sales.db", horizon=14, windows=2)
    file = root / "many_models.toml"
    more = f'\n[board]\nurl = "{URL}"\n'
    file.write_text(settings.replace("workers = 0", 'kind = "serial"\nworkers = 0') + more)
    project = Project(root)
    project.run(END - timedelta(days=7))
    file.write_text(file.read_text() + "\n[promotion]\napproval = true\n")
    project.run(END)
    return project


@contextmanager
def served_board(
    settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys = NO_KEYS, *, is_open: bool = True
) -> Iterator[str]:
    """The address of a board of `settings`."""
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with served_app(make_board(settings, keys, is_open=is_open), settings.board.model_copy(update={"port": 0})) as url:
        yield url


@contextmanager
def served_app(app: FastAPI, board: BoardSettings) -> Iterator[str]:
    """The address of an application that is served by a thread of this process."""
    with running(build_server(app, board)) as port:
        yield f"http://127.0.0.1:{port}"
