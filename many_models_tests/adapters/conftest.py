"""An MLflow store for every test that asks: made once, copied for each."""

from __future__ import annotations

import pytest

from many_models_tests.support.blank_registry import blank_registry


@pytest.fixture
def store(tmp_path):
    """Makes a new store whenever it is called: its URI and its folder."""
    count = iter(range(10_000))

    def new() -> tuple[str, str]:
        root = tmp_path / f"store {next(count)}"
        root.mkdir()
        (root / "mlflow.db").write_bytes(blank_registry())
        return f"sqlite:///{root}/mlflow.db", str(root / "files")

    return new
