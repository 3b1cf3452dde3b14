"""A Dagster instance that was made before the modules moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from many_models.errors import SettingsError
from many_models.operations.day import MOVED_MODULES, open_instance

if TYPE_CHECKING:
    from pathlib import Path

STORAGE = """\
storage:
  custom:
    module: {module}
    class: BatchedSqliteStorage
    config: {{base_dir: .}}
telemetry: {{enabled: false}}
"""


@pytest.mark.parametrize("module", MOVED_MODULES)
def test_an_instance_from_before_the_move_names_the_line_to_change(tmp_path: Path, module: str) -> None:
    file = tmp_path / "dagster.yaml"
    file.write_text(STORAGE.format(module=module))
    with pytest.raises(SettingsError, match="line 3") as caught, open_instance(tmp_path):
        pass
    assert str(file) in str(caught.value)
    assert f"module: {MOVED_MODULES[module]}" in str(caught.value)


def test_the_changed_line_opens_the_instance(tmp_path: Path) -> None:
    module = MOVED_MODULES["many_models.dagster_storage"]
    (tmp_path / "dagster.yaml").write_text(STORAGE.format(module=module))
    with open_instance(tmp_path) as instance:
        assert not instance.get_runs()
