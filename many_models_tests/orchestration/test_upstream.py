"""What stages should have consumed: read and digested once a look, whatever the number of series."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data import covariates
from many_models.orchestration import stage_state
from many_models.orchestration.upstream import Upstream
from many_models.settings import Settings


def settings_in(folder) -> Settings:
    (folder / "holidays.csv").write_text("date,name\n2026-12-25,christmas\n")
    data = {"keys": ["store", "item"], "timestamp": "date", "target": "sales", "holidays": "holidays.csv"}
    return Settings.model_validate({"root": folder, "data": data})


@dataclass
class Looked:
    """A look whose stages have all made `series`."""

    lake: MemoryLake
    series: dict[str, str]

    def made(self, stage: str) -> dict[str, str]:
        return self.series

    def tag(self, stage: str, tag: str) -> str:
        return "pooled"


@pytest.mark.parametrize("stage", ["trained_models", "promoted_models"])
def test_a_look_reads_holidays_and_rules_once_for_all_series(tmp_path, monkeypatch, stage):
    settings = settings_in(tmp_path)
    series = {f"s{number}": f"version {number}" for number in range(50)}
    monkeypatch.setattr(stage_state, "active_series", lambda *_: frozenset(series))
    monkeypatch.setattr(stage_state, "ended_series", lambda *_: frozenset())
    read, ruled = [], []
    read_holidays, rules = covariates.read_holidays, type(settings.promotion).rules
    monkeypatch.setattr(covariates, "read_holidays", lambda path: read.append(path) or read_holidays(path))
    monkeypatch.setattr(type(settings.promotion), "rules", lambda self: ruled.append(1) or rules(self))
    look = Looked(MemoryLake(), series)
    wanted = stage_state._wanted(settings, look, stage)
    assert len(wanted) == len(set(wanted.values())) == 50
    assert len(read) + len(ruled) == 1


def test_covariates_are_looked_at_although_the_holidays_cannot_be_read(tmp_path):
    settings = settings_in(tmp_path)
    (tmp_path / "holidays.csv").unlink()
    content = {"past": "", "ahead": ""}
    assert Upstream(settings).covariates(None, content) == Upstream(settings).covariates(None, content)
