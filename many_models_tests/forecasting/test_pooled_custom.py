"""`[forecast.pooled_custom]`: a regressor over all series and a model that is brought compete, and fail alone."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
import pytest

from many_models.cli.backtest_inputs import custom_of
from many_models.errors import IntegrityError, SettingsError
from many_models.forecasting import PackModel, PooledModels, Spec, pool, pooling, train
from many_models.forecasting.calibration import gather_evidence
from many_models.forecasting.custom.parent import check_custom
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.spec import Custom
from many_models.orchestration.assets.pooled_models import choice_in_words
from many_models.orchestration.forecast_spec import spec_of
from many_models.settings import ForecastSettings, Settings
from many_models_tests.forecasting.histories import AS_OF, rows_of, sales

if TYPE_CHECKING:
    from many_models.forecasting.calibration import Evidence
    from many_models.forecasting.evaluation import Evaluation

MINE = "many_models_tests.forecasting.mine"
RIDGE = Custom("over_all", "sklearn.linear_model:Ridge", '{"alpha": 1.0}', 60.0, pooled=True)
BROUGHT = Custom("brought", f"{MINE}:Brought", "{}", 60.0, pooled=True, licence="Apache-2.0")
PLAIN = Spec("D", 7, windows=2)
HISTORIES = {f"s{i:02d}": sales(200, 10.0 + 4 * i, seed=i) for i in range(8)}


def spec_with(*custom: Custom, only: bool = False) -> Spec:
    return replace(PLAIN, custom=custom, candidates=tuple(mine.name for mine in custom) if only else ())


def trained(spec: Spec):
    """Training with what all learn together, and that."""
    rows = rows_of(HISTORIES, spec)
    pooled = PooledModels.from_files(pool(rows, spec, AS_OF, trees=False).files())
    return train(rows, spec, AS_OF, pooled=pooled), pooled


@cache
def both():
    return trained(spec_with(RIDGE, BROUGHT, only=True))


def problems(result, name: str) -> dict[str, str | None]:
    return {row["series_id"]: row["problem"] for row in result.scores.to_pylist() if row["candidate"] == name}


def test_a_regressor_of_all_series_and_a_brought_model_are_scored_and_weighted() -> None:
    result, _ = both()
    scores = [row for row in result.scores.to_pylist() if row["candidate"] in {"over_all", "brought"}]
    assert {(row["series_id"], row["candidate"]) for row in scores} == {
        (name, mine) for name in HISTORIES for mine in ("over_all", "brought")
    }
    assert all(row["wape"] is not None and not row["problem"] for row in scores)
    weights = [json.loads(row["weights"]) for row in result.series.to_pylist()]
    assert sum("over_all" in one for one in weights) == len(HISTORIES)
    wape = np.mean([row["wape"] for row in scores if row["candidate"] == "over_all"])
    assert wape < 0.35, "what it learned of other series holds here"


def test_their_forecasts_are_stored_in_the_pack_and_need_none_of_the_users_code() -> None:
    result, _ = both()
    model = PackModel.from_files(result.model.files())
    path = loader.read(model.files()).arrays["path"]
    assert path.shape == (len(HISTORIES), 2, 7)
    assert np.isfinite(path).all()
    last = np.array([np.tile(y[-7:], 1) for y in HISTORIES.values()])
    assert path[:, 1] == pytest.approx(last), "the stand-in repeats the last week"
    assert not model.blobs
    assert np.isfinite(model.predict(None)["y_hat"].to_numpy()).all()


def test_a_series_gets_the_same_forecast_whatever_else_is_in_its_chunk() -> None:
    result, pooled = both()
    rows = rows_of(HISTORIES, pooled.spec)
    alone = train(rows.filter(pc.equal(rows["series_id"], "s03")), pooled.spec, AS_OF, pooled=pooled)
    assert alone.model.files() == result.model.select(["s03"]).files()


def test_the_regressor_has_seen_nothing_after_a_window(monkeypatch) -> None:
    """Poison after the first window's cutoff: what was learned before it stays."""
    _, pooled = both()
    poisoned = {name: np.concatenate([y[:-14], y[-14:] * 9.0]) for name, y in HISTORIES.items()}
    again = pool(rows_of(poisoned, pooled.spec), pooled.spec, AS_OF, trees=False)
    assert again.brought["over_all"].early == pooled.brought["over_all"].early
    assert again.brought["over_all"].late != pooled.brought["over_all"].late


@pytest.mark.parametrize("over_all", [True, False])
def test_what_is_trained_over_all_is_judged_by_all_series_of_the_sample(monkeypatch, over_all: bool) -> None:
    """Few series would flatter it by chance. A forecaster that is made for each series is tried on a few of them."""
    spec = spec_with(replace(RIDGE, pooled=over_all), only=True)
    rows = rows_of({name: HISTORIES[name] for name in ("s00", "s01", "s02", "s03")}, spec)
    whole = pool(rows, spec, AS_OF, trees=False).evidence.moments
    monkeypatch.setattr(pooling, "CUSTOM_SERIES", 2)
    few = pool(rows, spec, AS_OF, trees=False).evidence.moments
    assert np.allclose(few, whole, rtol=1e-9) == over_all


def test_a_forecaster_of_each_series_is_tried_on_series_of_every_shop(monkeypatch) -> None:
    """Names sort by shop: the first ones would be series of one shop, and judge for the others."""
    spec = spec_with(Custom("means", f"{MINE}:WeekdayMeans"), only=True)
    rows = rows_of({f"{shop}|{i:02d}": sales(120, 20.0, seed=i) for shop in ("north", "south") for i in range(8)}, spec)
    tried: list[list[str]] = []

    def gather(found: Evaluation) -> Evidence:
        tried.append([name for name, there in zip(found.panel.series, found.custom.there[:, 0], strict=True) if there])
        return gather_evidence(found)

    monkeypatch.setattr(pooling, "gather_evidence", gather)
    monkeypatch.setattr(pooling, "CUSTOM_SERIES", 8)
    for shuffled in (rows, rows.take(np.random.default_rng(0).permutation(len(rows)))):
        pool(shuffled, spec, AS_OF, trees=False)
    assert {name.split("|")[0] for name in tried[0]} == {"north", "south"}
    assert len(tried[0]) == 8
    assert tried[0] == tried[1]


@pytest.mark.parametrize("how", ["raise", "die", "nan", "shape"])
@pytest.mark.slow
def test_a_series_on_which_a_brought_model_fails_fails_alone(how: str) -> None:
    """The last series breaks it; the forecasts of the others are as without it."""
    options = json.dumps({"break_above": 36.0, "how": how})
    spec, names = spec_with(replace(BROUGHT, options=options), only=True), ("s00", "s06", "s07")
    rows = rows_of({name: HISTORIES[name] for name in names}, spec)
    found = train(rows, spec, AS_OF)
    assert {name: bool(problem) for name, problem in problems(found, "brought").items()} == {
        "s00": False, "s06": False, "s07": True,
    }  # fmt: skip
    good = train(rows, spec_with(BROUGHT, only=True), AS_OF)
    assert np.array_equal(found.model.arrays["path"][:2], good.model.arrays["path"][:2])


@pytest.mark.slow
def test_a_brought_model_that_fails_everywhere_changes_no_other_result() -> None:
    options = json.dumps({"break_above": 0.0})
    spec = spec_with(replace(BROUGHT, options=options))
    result, _ = trained(spec)
    plain = train(rows_of(HISTORIES, PLAIN), PLAIN, AS_OF, pooled=pool(rows_of(HISTORIES), PLAIN, AS_OF, trees=False))
    assert all(problems(result, "brought").values())
    for name in ("y_hat", "lo80", "hi95"):
        ours, theirs = (one.model.predict(None)[name].to_numpy() for one in (result, plain))
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.slow
def test_a_regressor_that_cannot_be_stored_says_so_and_does_not_compete() -> None:
    result, pooled = trained(spec_with(Custom("own", f"{MINE}:NoRegressor", pooled=True), only=True))
    assert "cannot be stored" in pooled.brought["own"].problem
    assert all("cannot be stored" in str(problem) for problem in problems(result, "own").values())


def test_without_pooled_models_a_regressor_of_all_series_says_why_it_is_silent() -> None:
    spec = spec_with(RIDGE)
    result = train(rows_of(HISTORIES, spec), spec, AS_OF)
    assert set(problems(result, "over_all").values()) == {"nothing was learned together"}


def test_a_damaged_regressor_is_refused_by_name() -> None:
    _, pooled = both()
    files = pooled.files()
    with pytest.raises(IntegrityError, match=r"over_all_late\.skops"):
        PooledModels.from_files({**files, "over_all_late.skops": b"other"})


def test_what_cannot_forecast_batches_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="has no predict"):
        check_custom(spec_with(Custom("no", "subprocess:Popen", pooled=True)))
    with pytest.raises(SettingsError, match="device is 'gpu', use cpu, cuda"):
        Custom("no", f"{MINE}:Brought", pooled=True, device="gpu")


def test_a_recipe_without_pooled_forecasters_is_what_it_was() -> None:
    plain = json.loads(spec_with(Custom("ridge", "sklearn.linear_model:Ridge")).to_json())
    assert set(plain["custom"][0]) == {"name", "use", "options", "seconds"}
    spec = spec_with(RIDGE, BROUGHT)
    assert Spec.from_json(spec.to_json()) == spec


def test_the_command_takes_one_for_all_series() -> None:
    found = custom_of('pooled:forest=sklearn.ensemble:RandomForestRegressor {"n_estimators": 5}')
    assert found == Custom(
        "forest", "sklearn.ensemble:RandomForestRegressor", '{"n_estimators": 5}', 600.0, pooled=True
    )
    assert not custom_of("mine=mine:WeekdayMeans").pooled


def test_settings_say_device_and_licence_and_the_metadata_shows_them() -> None:
    own = {"brought": {"use": f"{MINE}:Brought", "device": "cuda", "licence": "MIT"}}
    settings = Settings(forecast=ForecastSettings.model_validate({"pooled_custom": own}))
    custom = spec_of(settings).custom[0]
    assert (custom.name, custom.pooled, custom.device, custom.licence) == ("brought", True, "cuda", "MIT")
    _, pooled = both()
    shown = str(choice_in_words(pooled)["forecasters_of_all_series"])
    assert "licence not said" in shown
    assert f"brought ({MINE}:Brought, licence Apache-2.0, cpu)" in shown
