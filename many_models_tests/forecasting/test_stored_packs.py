"""A pack that the code wrote before its modules moved: `pack_before_the_move.zip`, files of arrays and their loader."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from many_models.forecasting import PackModel
from many_models.forecasting.pack import mm_pack_v1 as loader

STORED = Path(__file__).with_name("pack_before_the_move.zip")


def test_a_pack_from_before_the_move_loads_and_forecasts_as_then() -> None:
    with zipfile.ZipFile(STORED) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    expected = np.load(io.BytesIO(files.pop("expected/candidates.npy")))
    assert "mm_pack_v1.py" in files
    model = PackModel.from_files(files)
    assert len(model.series) == 4
    np.testing.assert_allclose(model.candidates()[:, : loader.BEFORE_BOOSTED], expected, rtol=1e-9)
    assert not model.arrays["weights"][:, loader.BEFORE_BOOSTED :].any()
