"""Forecasts in parts: they add up for every candidate, and agree with a slow, obvious version."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.errors import InputError
from many_models.forecasting import PackModel, Spec, pool, train
from many_models.forecasting import explanation as ex
from many_models.forecasting.pack import mm_explain_v1
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models_tests.forecasting.histories import AS_OF, ODD, SPEC, rows_of, sales


def close(parts, whole):
    """Parts add up to 1e-6 of the whole, or of the largest part where they cancel out."""
    size = np.maximum(np.abs(whole), np.abs(parts).max(-1, initial=0.0))
    return (np.abs(parts.sum(-1) - whole) <= 1e-6 * np.maximum(size, 1e-300)).all()


def promoted(periods=800, n=8):
    """Rows of series whose promotions sell three times as much and whose Saturdays sell more, and their future."""
    spec = Spec("D", 28, windows=2, known=("promotion", "price"), country="DE")
    rng = np.random.default_rng(3)
    on = rng.random(periods + 28) < 0.15
    on[periods:] = False
    on[periods + 3 : periods + 7] = True
    price = np.where(rng.random(periods + 28) < 0.5, 2.0, 1.6)
    day = np.arange(periods + 28) % 7
    mean = 20.0 * np.where(on, 3.0, 1.0) * (2.0 / price) ** 1.5 * np.where(day == 5, 1.4, 1.0)
    histories = {f"s{i}": rng.poisson(mean[:periods] * (1 + i)).astype(float) for i in range(n)}
    rows = rows_of(histories, spec, promotion=on[:periods].astype(float), price=price[:periods])
    ds = [AS_OF + timedelta(days=k) for k in range(1, 29)] * n
    future = pa.table({
        "series_id": [name for name in histories for _ in range(28)], "ds": pa.array(ds, pa.timestamp("us")),
        "promotion": pa.array(np.tile(on[periods:].astype(float), n)), "price": pa.array(np.tile(price[periods:], n)),
    })  # fmt: skip
    return spec, rows, future


@pytest.fixture(scope="module")
def shop():
    spec, rows, future = promoted()
    return train(rows, spec, AS_OF, pooled=pool(rows, spec, AS_OF)).model, future


@pytest.fixture(scope="module")
def odd():
    rows = rows_of(ODD)
    return train(rows, SPEC, AS_OF, pooled=pool(rows, SPEC, AS_OF)).model


def all_candidates(model, future=None):
    """For each series the parts of its candidates, and the candidates' forecasts."""
    pack = model.computing()
    h = model.index["horizon"]
    for name, _, x, fresh, _ in model.aligned(pack, None, future=future, horizon=h):
        parts, forecasts, _ = pack.explainer().candidates(pack.row[name], h, x, fresh)
        yield name, parts, forecasts


@pytest.mark.slow
def test_every_candidate_and_the_combination_add_up(shop):
    model, future = shop
    for name, parts, forecasts in all_candidates(model, future):
        assert len(parts) == len(model.index["candidates"])
        assert close(parts, forecasts), name
    forecast = model.predict(None, future=future)["y_hat"].to_numpy().reshape(-1, 28)
    for one, y_hat in zip(ex.explanations(model, future=future), forecast, strict=True):
        assert close(one.parts, y_hat), one.series_id
        assert one.y_hat.tolist() == y_hat.tolist()


def test_what_has_no_weight_changes_no_explanation(shop):
    """Candidates without weight are passed over, whichever they are; what they say must not be needed."""
    model, future = shop
    for c, name in enumerate(loader.CANDIDATES):
        weights = np.zeros_like(model.arrays["weights"])
        weights[:, c] = 1.0
        alone = PackModel(model.index, {**model.arrays, "weights": weights})
        bare = PackModel(model.index, {**alone.arrays, "root_count": np.zeros_like(model.arrays["root_count"])})
        for one in (alone, bare):
            y_hat = one.predict(None, future=future, series=["s0"])["y_hat"].to_numpy()
            assert close(ex.explanations(one, future=future, series=["s0"])[0].parts, y_hat), name


def test_odd_series_add_up_too(odd):
    for name, parts, forecasts in all_candidates(odd):
        assert close(parts, forecasts), name
    forecast = odd.predict(None)["y_hat"].to_numpy().reshape(-1, 7)
    for one, y_hat in zip(ex.explanations(odd), forecast, strict=True):
        assert close(one.parts, y_hat), one.series_id


def test_promotion_and_weekday_get_what_they_did(shop):
    model, future = shop
    one = ex.explanations(model, future=future)[0]
    on = future["promotion"].to_numpy()[:28] > 0
    promotion, rest = one.of("promotion"), one.y_hat - one.of("promotion")
    assert (promotion[on] > 0.8 * rest[on]).all()
    assert (np.abs(promotion[~on]) < 0.1 * one.y_hat[~on]).all()


# --- the slow, obvious version ---------------------------------------------------------------------------------------
def slow(pack, i, h, x, row):
    """Parts of the linear candidate 8 + `row` of a series: what the linear predictor changes when one driver's inputs
    are as usual, times the mean slope of the way back between the usual and all, by a fine sum.
    """
    args, now = pack.inputs(i, h, x)
    S, _, _, P, o, ph, _, C, x, _, B, smear, conf, own = args  # noqa: N806  the names of the loops
    e = pack.explainer()
    pool = int(pack.arrays["pool"][i])
    season, places = e.season(), e.parts(pool, now, h)
    usual_c, usual_x = e.reference(), pack.columns(np.tile(pack.arrays["last_x"][i].astype(float), (h, 1)), pool, now)
    shape = e.shape(pool, now, h)
    way, m, nc = min(row, loader.COUNT), int(conf[loader.SEASON]), int(conf[loader.CALENDAR])
    smeared = smear[row] if row < 3 else 1.0

    def predictor(step, driver):
        """The linear predictor of a step; with the inputs of `driver` as usual."""
        t, ly = o + 1 + step, np.zeros(3)
        loader.last_year(P, o, t, conf, own, ly)
        calendar, covariates, row_of = C[t].astype(float), x[t].copy(), np.zeros(B.shape[1])
        for j in range(nc):
            if places[step, j] == driver:
                calendar[j] = usual_c[j]
        for j in range(len(covariates) - 1):
            if e.covariates(pool)[0][j] == driver:
                covariates[j] = usual_x[step, j]
        covariates[-1] -= shape[step, driver] if driver is not None else 0.0
        if driver == mm_explain_v1.YEAR:
            ly[:] = 0.0
        loader.fill(row_of, S, way, ph[t], step + 1, calendar, covariates, ly, conf, own)
        if driver == season:
            row_of[nc + 7] = np.mean([season_feature(k, step, t) for k in range(m)])
        return (loader.log_mean(S) if way == loader.COUNT else 0.0) + float(row_of @ B[row])

    def season_feature(phase, step, t):
        row_of = np.zeros(B.shape[1])
        loader.fill(row_of, S, way, phase, step + 1, C[t].astype(float), x[t], np.zeros(3), conf, own)
        return row_of[nc + 7]

    drivers = [d for d in range(e.n) if d not in (mm_explain_v1.LEVEL, mm_explain_v1.RECENT)]
    out = np.zeros((h, e.n))
    for step in range(h):
        whole = predictor(step, None)
        added = np.array([whole - predictor(step, d) for d in drivers])
        along = whole - added.sum() * (np.arange(2000) + 0.5) / 2000  # from all to usual
        near = 1e-5
        slopes = [
            (loader.back_to_scale(v + near, way, smeared, own) - loader.back_to_scale(v - near, way, smeared, own))
            / (2 * near)
            for v in along
        ]
        out[step, drivers] = added * np.mean(slopes)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("row", range(4))
def test_linear_candidates_are_explained_as_the_slow_version_does(shop, row):
    model, future = shop
    pack = loader.Pack(model.index, model.arrays)
    if row == 3:  # the pooled fit is looked at where there is no fit of the series' own
        pack.arrays = {**pack.arrays, "coef": pack.arrays["coef"].copy()}
        pack.arrays["coef"][:, 2] = np.nan
    for name, _, x, _, _ in model.aligned(pack, None, future=future, horizon=28, series=["s0"]):
        i = pack.row[name]
        expected = slow(pack, i, 28, x, row)
        parts = pack.explainer().candidates(i, 28, x)[0][8 + row]
        places = [d for d in range(parts.shape[1]) if d > mm_explain_v1.RECENT and d != mm_explain_v1.BOUNDS]
        size = np.abs(parts).max()
        assert parts[:, places] == pytest.approx(expected[:, places], abs=1e-4 * size, rel=1e-4)
        assert np.abs(expected).max() > 0.1 * size


def test_paths_of_trees_give_each_split_to_its_driver():
    """One tree: promotion > 0.5, then, where it is on, week > 2; means 1 → 3 → 7."""
    feature = np.array([0, -1, 1, -1, -1])
    threshold = np.array([0.5, 0, 2.0, 0, 0])
    left, right = np.array([1, 0, 3, 0, 0]), np.array([2, 0, 4, 0, 0])
    value = np.array([1.0, 0.2, 3.0, 2.0, 7.0])
    part = np.array([5, 3])
    con = np.zeros(6)
    seen = np.array([1.0, 4.0])
    base = mm_explain_v1.path(seen, con, part, np.array([0]), feature, threshold, left, right, value)
    assert base == 1.0
    assert con.tolist() == [0, 0, 0, 4.0, 0, 2.0]
    total = np.zeros(1)
    loader.add_trees(seen[None], np.array([0]), feature, threshold, left, right, value, total)
    assert base + con.sum() == total[0]


def test_compiled_and_plain_loops_explain_alike(odd):
    plain, compiled = loader.Pack(odd.index, odd.arrays), odd.computing()
    for name, _, x, _, _ in odd.aligned(plain, None, horizon=7, series=["plain", "sparse", "shifted"]):
        i = plain.row[name]
        one, two = plain.explainer().explain(i, 7, x)[0], compiled.explainer().explain(i, 7, x)[0]
        assert one == pytest.approx(two, rel=1e-9, abs=1e-9 * np.abs(two).max())


def test_every_candidate_of_the_format_is_attributed(shop):
    """A candidate that is added to the loader and not to the explanation ends here, not in a silent remainder."""
    model, future = shop
    for name, parts, forecasts in all_candidates(model, future):
        for c, candidate in enumerate(model.index["candidates"]):
            assert np.abs(forecasts[c]).max() > 0, (name, candidate)
            assert parts[c].sum(-1) == pytest.approx(forecasts[c], rel=1e-6), (name, candidate)


# --- what people see --------------------------------------------------------------------------------------------------
def test_leaving_a_driver_out_agrees_in_sign(shop):
    model, future = shop
    off = future.set_column(2, "promotion", pa.array(np.zeros(future.num_rows)))
    without = model.predict(None, future=off)["y_hat"].to_numpy().reshape(-1, 28)
    on = future["promotion"].to_numpy().reshape(-1, 28) > 0
    for i, one in enumerate(ex.explanations(model, future=future)):
        change = one.y_hat - without[i]
        assert (np.sign(one.of("promotion")[on[i]]) == np.sign(change[on[i]])).all()
        assert one.of("promotion")[on[i]] == pytest.approx(change[on[i]], rel=0.4)


def test_covariates_and_holidays_are_told_by_name(shop):
    model, future = shop
    found = ex.explain(model, future=future, series=["s1"])
    told = {(row["kind"], row["driver"]) for row in found.select(["kind", "driver"]).to_pylist()}
    assert {("covariate", "promotion"), ("covariate", "price"), ("season", "day of week")} <= told
    assert ("holiday", "New Year's Day") in told or ("holiday", "Neujahr") in told
    assert found.schema == ex.SCHEMA
    assert set(found["series_id"].to_pylist()) == {"s1"}


def test_words_say_what_a_planner_would(shop):
    model, future = shop
    words = ex.explain_in_words(ex.explanations(model, future=future)[0])
    assert words[1].startswith("Promotion from 4 January to 7 January adds ")
    assert any("run" in sentence and "above the mean" in sentence for sentence in words)
    assert len(words) <= 4
    with pytest.raises(InputError, match="'xx': use en, de, fr"):
        ex.explain_in_words(ex.explanations(model, future=future)[0], "xx")


def test_words_of_constant_empty_and_closed_series(odd):
    for one in ex.explanations(odd):
        assert all(sentence.endswith(".") and "nan" not in sentence for sentence in ex.explain_in_words(one))


@pytest.mark.parametrize(("frequency", "periods"), [("h", 600), ("W-SUN", 160), ("MS", 60), ("QS", 24), ("B", 200)])
def test_other_frequencies_are_explained_too(frequency, periods):
    end = int(loader.step_number(np.array([AS_OF], "datetime64[us]"), frequency)[0]) - 1
    last = loader.stamps(np.array([end]), frequency)[0].astype(object)
    spec = Spec(frequency, 4, windows=2)
    model = train(rows_of({"a": sales(periods)}, spec, last), spec, last).model
    for _, parts, forecasts in all_candidates(model):
        assert close(parts, forecasts)
    assert ex.explain_in_words(ex.explanations(model)[0])[0].startswith("The forecast is ")


def test_one_poisoned_series_changes_no_explanation_of_the_others(odd):
    whole = ex.explain(odd)
    for name in ("plain", "gappy"):
        alone = ex.explain(odd, series=[name])
        assert alone.equals(whole.filter(pc.equal(whole["series_id"], name)).combine_chunks())


def test_a_pack_from_before_explanations_is_explained(shop):
    """Such a pack has no names of holidays, and no means in inner nodes of its trees."""
    model, future = shop
    index = {name: value for name, value in model.index.items() if name != "holidays"}
    inner = model.arrays["feature"] >= 0
    old = PackModel(index, {**model.arrays, "value": np.where(inner, 0, model.arrays["value"]).astype(np.float32)})
    assert old.predict(None, future=future).equals(model.predict(None, future=future))
    for name, parts, forecasts in all_candidates(old, future):
        assert close(parts, forecasts), name
    merged = PackModel.merge([old.select(["s0"]), model.select(["s1"])])
    assert merged.index["holidays"] == model.index["holidays"]


@pytest.mark.slow
def test_the_parts_come_from_a_client_without_this_package(shop, tmp_path):
    model, _ = shop
    for name, data in model.select(["s0"]).files().items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import sys, pandas as pd, mm_pack_v1\n"
        f"pack = mm_pack_v1._load_pyfunc({str(tmp_path)!r})\n"
        "ask = pd.DataFrame({'series_id': ['s0'] * 2, 'ds': pd.to_datetime(['2024-01-01', '2024-01-03'])})\n"
        "found = pack.predict(ask, {'explain': True})\n"
        "parts = found[[name for name in found if ': ' in name]]\n"
        "assert 'covariate: promotion' in parts\n"
        "assert (abs(parts.sum(axis=1) - found['y_hat']) <= 1e-6 * found['y_hat']).all()\n"
        "assert len(pack.predict(ask).columns) < len(found.columns)\n"
        "assert not {'numba', 'many_models', 'lightgbm', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})


def test_a_series_that_cannot_be_explained_has_its_forecast_and_the_others_their_drivers(monkeypatch, tmp_path) -> None:
    """What the warehouse is told of by driver never costs a forecast, and a forecast cut to bounds has no drivers."""
    from many_models import tasks
    from many_models.adapters.lake.memory import MemoryLake
    from many_models.data.pack_file import joined
    from many_models.errors import IntegrityError
    from many_models.ports import Chunk
    from many_models_tests.support.serving_parts import KNOWN, trained

    model = replace_names(trained(), "a")
    names = model.series
    (tmp_path / "a.pack").write_bytes(joined(model.files()))
    told = dict.fromkeys(names, ("a/1", str(tmp_path / "a.pack")))
    task = tasks.ScoreTask(MemoryLake(), replace(KNOWN, known=()), AS_OF, ("store", "item"), told, drivers=3)
    plain = task(Chunk(0, "a", tuple(names)))
    honest = ex.explain

    def failing(model, *args, series, **more):
        if names[1] in series:
            raise IntegrityError("an odd pack")
        return honest(model, *args, series=series, **more)

    monkeypatch.setattr(ex, "explain", failing)
    result = task(Chunk(0, "a", tuple(names)))
    assert result.failures == plain.failures == []
    assert result.tables["predictions"].equals(plain.tables["predictions"])
    assert set(result.tables["drivers"]["series_id"].to_pylist()) == {*names} - {names[1]}
    others = pc.not_equal(plain.tables["drivers"]["series_id"], names[1])
    assert result.tables["drivers"].equals(plain.tables["drivers"].filter(others))
    assert max(result.tables["drivers"]["step"].to_pylist()) == 3
    bounded = pa.table({"series_id": [names[0]], "fallback": ["out_of_bounds"]})
    assert names[0] not in tasks._of_models(result.tables["drivers"], bounded)["series_id"].to_pylist()


def replace_names(model, store: str):
    names = [f"{store}__{name}" for name in model.series]
    return PackModel({**model.index, "series": names}, model.arrays)
