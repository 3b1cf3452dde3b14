"""The promotion policy: its decision table, and what holds for any evidence."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.promotion.policy import ChampionEvidence, Evidence, Policy, decide

CHAMPION = ChampionEvidence("recipe-1", "p/1", wape=0.30, cutoff="2017-01-01", baseline_wape=0.40)
FIRST = Evidence(
    series_id="s1",
    staging="p/2",
    recipe="recipe-1",
    cutoff="2017-01-02",
    history=700,
    windows=3,
    wape=0.30,
    baseline_wape=0.40,
    bias=0.02,
    cover80=0.8,
    accuracy=0.70,
    fallback="",
    finite=True,
    champion=None,
)
REFRESH = replace(FIRST, champion=CHAMPION)
CHALLENGE = replace(REFRESH, recipe="recipe-2", champion_wape_now=0.30)
GONE = replace(CHALLENGE, champion=replace(CHAMPION, gone=True), champion_wape_now=None)
FALLBACK = replace(FIRST, fallback="constant", wape=nan, baseline_wape=nan, bias=nan, accuracy=nan, history=3)
UNMEASURED = replace(FIRST, wape=nan, baseline_wape=nan, bias=nan, accuracy=nan)
POLICY = Policy()

OUTDATED = replace(CHALLENGE, champion=replace(CHAMPION, outdated="horizon"), champion_wape_now=None)

TABLE = [
    # --- a champion that was trained with another horizon, frequency … ---
    ("a champion of another horizon is replaced, however good it was", OUTDATED, POLICY, "promote", "settings_changed"),
    ("even where it is pinned", OUTDATED, Policy(pinned=["s1"]), "promote", "settings_changed"),
    ("and leaves where its successor is broken", replace(OUTDATED, finite=False), POLICY, "reject", "not_finite"),
    ("a fallback replaces it, too", replace(OUTDATED, fallback="constant"), POLICY, "promote", "settings_changed"),
    # --- a series without a champion ---
    ("a sane first model goes live", FIRST, POLICY, "promote", "first"),
    ("a first model without finite forecasts", replace(FIRST, finite=False), POLICY, "reject", "not_finite"),
    ("a first model without a score", replace(FIRST, wape=nan), POLICY, "reject", "not_finite"),
    ("a first model with an infinite score", replace(FIRST, wape=inf), POLICY, "reject", "not_finite"),
    ("a first model without a bias", replace(FIRST, bias=nan), POLICY, "reject", "not_finite"),
    ("a baseline without a score", replace(FIRST, baseline_wape=nan), POLICY, "reject", "not_finite"),
    ("no sales in the windows", UNMEASURED, POLICY, "promote", "unmeasured"),
    ("much worse than the baseline", replace(FIRST, wape=0.60), POLICY, "reject", "worse_than_baseline"),
    ("worse within the noise of three windows", replace(FIRST, wape=0.45), POLICY, "promote", "first"),
    (
        "the same, over a hundred windows",
        replace(FIRST, wape=0.45, windows=100),
        POLICY,
        "reject",
        "worse_than_baseline",
    ),
    ("a perfect baseline, a close model", replace(FIRST, wape=0.01, baseline_wape=0.0), POLICY, "promote", "first"),
    ("a perfect baseline", replace(FIRST, wape=0.05, baseline_wape=0.0), POLICY, "reject", "worse_than_baseline"),
    ("a positive min_skill is meant", FIRST, Policy(min_skill=0.3), "reject", "worse_than_baseline"),
    ("and reached", FIRST, Policy(min_skill=0.25), "promote", "first"),
    ("sparse, sold less than usual", replace(FIRST, wape=4.0, baseline_wape=1.0, bias=3.5), POLICY, "promote", "first"),
    ("sparse, and absurd", replace(FIRST, wape=40.0, baseline_wape=1.0), POLICY, "reject", "worse_than_baseline"),
    ("biased upwards", replace(FIRST, bias=0.9), POLICY, "reject", "biased"),
    ("biased downwards", replace(FIRST, bias=-0.9), POLICY, "reject", "biased"),
    ("below 80 % accuracy", FIRST, Policy(min_accuracy=0.8), "reject", "below_accuracy"),
    ("at the accuracy asked for", FIRST, Policy(min_accuracy=0.7), "promote", "first"),
    ("too short a history", replace(FIRST, history=99), Policy(min_history=100), "reject", "short_history"),
    ("just long enough", replace(FIRST, history=100), Policy(min_history=100), "promote", "first"),
    ("coverage too small", replace(FIRST, cover80=0.3), Policy(min_cover80=0.5), "reject", "intervals_off"),
    ("coverage unknown", replace(FIRST, cover80=None), Policy(min_cover80=0.5), "reject", "intervals_off"),
    ("coverage unknown, none asked for", replace(FIRST, cover80=None), POLICY, "promote", "first"),
    ("excluded", FIRST, Policy(excluded=["s1"]), "reject", "excluded"),
    ("pinned, but nothing to keep", FIRST, Policy(pinned=["s1"]), "promote", "first"),
    ("a fallback serves where no model fits", FALLBACK, Policy(min_history=100), "promote", "fallback"),
    ("a fallback that is not finite", replace(FALLBACK, finite=False), POLICY, "reject", "not_finite"),
    # --- the champion's recipe on newer data ---
    ("a sane refresh goes live", REFRESH, POLICY, "promote", "refresh"),
    ("a refresh need not be better", replace(REFRESH, wape=0.35), POLICY, "promote", "refresh"),
    ("a refresh much worse than before", replace(REFRESH, wape=0.48), POLICY, "keep", "worse_than_before"),
    (
        "the same in times that are harder for all",
        replace(REFRESH, wape=0.48, baseline_wape=0.6),
        POLICY,
        "promote",
        "refresh",
    ),
    ("a tighter bound", replace(REFRESH, wape=0.35), Policy(max_worse=0.05), "keep", "worse_than_before"),
    ("a refresh worse than the baseline", replace(REFRESH, wape=0.60), POLICY, "keep", "worse_than_baseline"),
    ("a refresh with NaN", replace(REFRESH, finite=False), POLICY, "keep", "not_finite"),
    ("a refresh with nothing to measure by", replace(UNMEASURED, champion=CHAMPION), POLICY, "keep", "unmeasured"),
    (
        "the champion's own score is not known",
        replace(REFRESH, champion=replace(CHAMPION, wape=nan)),
        POLICY,
        "promote",
        "refresh",
    ),
    ("an older training", replace(REFRESH, cutoff="2016-12-31"), POLICY, "keep", "older"),
    ("the same day, written differently", replace(REFRESH, cutoff="2017-01-01T00:00:00"), POLICY, "promote", "refresh"),
    ("the version that is live", replace(REFRESH, staging="p/1"), POLICY, "keep", "already_live"),
    ("pinned", REFRESH, Policy(pinned=["s1"]), "keep", "pinned"),
    ("excluded while live", REFRESH, Policy(excluded=["s1"], pinned=["s1"]), "reject", "excluded"),
    ("a fallback against a model", replace(FALLBACK, champion=CHAMPION), POLICY, "keep", "fallback"),
    (
        "a fallback against a fallback",
        replace(FALLBACK, champion=replace(CHAMPION, fallback="zeros")),
        POLICY,
        "promote",
        "fallback",
    ),
    (
        "a fallback against no sane model",
        replace(FALLBACK, champion=replace(CHAMPION, wape=nan)),
        POLICY,
        "promote",
        "fallback",
    ),
    (
        "a model at last",
        replace(REFRESH, champion=replace(CHAMPION, fallback="short")),
        POLICY,
        "promote",
        "outgrew_fallback",
    ),
    # --- a new recipe ---
    ("a challenge won", replace(CHALLENGE, wape=0.28), POLICY, "promote", "challenge_won"),
    ("won by just the margin", replace(CHALLENGE, wape=0.27), Policy(margin=0.1), "promote", "challenge_won"),
    ("better, not by the margin", replace(CHALLENGE, wape=0.295), POLICY, "keep", "challenge_lost"),
    ("worse", replace(CHALLENGE, wape=0.31), POLICY, "keep", "challenge_lost"),
    ("a tie", CHALLENGE, POLICY, "keep", "tie"),
    ("a tie without a margin", CHALLENGE, Policy(margin=0.0), "keep", "tie"),
    ("no margin asked for", replace(CHALLENGE, wape=0.2999), Policy(margin=0.0), "promote", "challenge_won"),
    ("both perfect", replace(CHALLENGE, wape=0.0, champion_wape_now=0.0), POLICY, "keep", "tie"),
    (
        "the champion's recipe failed",
        replace(CHALLENGE, wape=0.1, champion_wape_now=nan),
        POLICY,
        "keep",
        "not_comparable",
    ),
    (
        "the champion's recipe was not refitted",
        replace(CHALLENGE, champion_wape_now=None),
        POLICY,
        "keep",
        "not_comparable",
    ),
    ("the champion's recipe is gone", GONE, POLICY, "promote", "replaced"),
    ("gone, and its successor is much worse", replace(GONE, wape=0.48), POLICY, "keep", "worse_than_before"),
    ("gone, in harder times", replace(GONE, wape=0.48, baseline_wape=0.6), POLICY, "promote", "replaced"),
    ("gone, but scored all the same", replace(GONE, champion_wape_now=0.2), POLICY, "keep", "challenge_lost"),
    (
        "gone, and its successor is no better than the baseline",
        replace(GONE, wape=0.6),
        POLICY,
        "keep",
        "worse_than_baseline",
    ),
    ("a challenge with NaN", replace(CHALLENGE, wape=nan), POLICY, "keep", "not_finite"),
    (
        "a winner below the accuracy asked for",
        replace(CHALLENGE, wape=0.2),
        Policy(min_accuracy=0.9),
        "keep",
        "below_accuracy",
    ),
]


@pytest.mark.parametrize(
    ("evidence", "policy", "action", "rule"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_decision_table(evidence, policy, action, rule):
    (decision,) = decide([evidence], policy)
    assert (decision.action, decision.rule) == (action, rule), decision.reason
    assert decision.reason
    assert decision.staging == evidence.staging
    assert decision.previous == (evidence.champion.staging if evidence.champion else "")


def test_a_challenge_is_scored_against_the_refitted_champion_and_a_refresh_against_the_recorded_one():
    won, refreshed, first = decide([replace(CHALLENGE, champion_wape_now=0.33), REFRESH, FIRST], POLICY)
    assert (won.challenger_score, won.champion_score) == (0.30, 0.33)
    assert (refreshed.challenger_score, refreshed.champion_score) == (0.30, 0.30)
    assert (first.challenger_score, first.champion_score) == (0.30, None)


def test_every_rule_of_the_module_is_in_the_table():
    import inspect
    import re

    from many_models.promotion import policy

    written = set(re.findall(r'return "(?:promote|keep|reject)", "(\w+)"|\("(\w+)", _', inspect.getsource(policy)))
    rules = {a or b for a, b in written}
    assert len(rules) > 15
    assert rules == {row[4] for row in TABLE}


# --- what holds for any evidence ---
scores = st.one_of(st.floats(0, 5), st.sampled_from([nan, inf, 0.0, 0.3]))
champions = st.none() | st.builds(
    ChampionEvidence,
    recipe=st.sampled_from(["recipe-1", "recipe-2"]),
    staging=st.sampled_from(["p/1", "p/2"]),
    wape=scores,
    cutoff=st.sampled_from(["2017-01-01", "2017-01-03", ""]),
    baseline_wape=st.none() | scores,
    fallback=st.sampled_from(["", "zeros"]),
    gone=st.booleans(),
)
evidences = st.builds(
    Evidence,
    series_id=st.sampled_from(["s1", "s2", "s3"]),
    staging=st.sampled_from(["p/2", "p/3"]),
    recipe=st.sampled_from(["recipe-1", "recipe-2"]),
    cutoff=st.sampled_from(["2017-01-01", "2017-01-02", ""]),
    history=st.integers(0, 1000),
    windows=st.integers(0, 9),
    wape=scores,
    baseline_wape=scores,
    bias=st.floats(-2, 2) | st.just(nan),
    cover80=st.none() | st.floats(0, 1),
    accuracy=st.floats(-4, 1) | st.just(nan),
    fallback=st.sampled_from(["", "constant"]),
    finite=st.booleans(),
    champion=champions,
    champion_wape_now=st.none() | scores,
)
policies = st.builds(
    Policy,
    min_skill=st.floats(-0.5, 0.5),
    min_accuracy=st.none() | st.floats(0, 1),
    margin=st.floats(0, 0.5),
    max_bias=st.floats(0.01, 2),
    max_worse=st.floats(0.01, 2),
    min_history=st.integers(0, 800),
    pinned=st.lists(st.sampled_from(["s1", "s2"])),
    excluded=st.lists(st.sampled_from(["s2", "s3"])),
    min_cover80=st.floats(0, 1),
)


@pytest.mark.slow
@given(st.lists(evidences, max_size=5), policies)
def test_each_series_gets_one_decision_in_order_that_fits_what_is_live(evidence, policy):
    decisions = decide(evidence, policy)
    assert [d.series_id for d in decisions] == [e.series_id for e in evidence]
    for e, d in zip(evidence, decisions, strict=True):
        if d.action == "keep":
            assert e.champion is not None
        if d.action == "reject":
            assert e.champion is None or d.rule == "excluded"


@given(evidences, policies)
def test_a_model_that_is_not_finite_is_never_promoted(evidence, policy):
    (decision,) = decide([replace(evidence, finite=False)], policy)
    assert decision.action != "promote"


@given(evidences, policies, st.sampled_from([nan, inf]))
def test_a_score_that_is_no_number_never_replaces_a_sane_champion(evidence, policy, score):
    (decision,) = decide([replace(evidence, wape=score, champion=CHAMPION)], policy)
    assert decision.action != "promote"


@given(evidences, policies)
def test_a_new_recipe_goes_live_only_when_it_beats_the_champion_at_the_same_cutoffs(evidence, policy):
    evidence = replace(evidence, recipe="recipe-9", champion=CHAMPION, fallback="")
    (decision,) = decide([evidence], policy)
    if decision.action == "promote":
        assert evidence.champion_wape_now is not None
        assert isfinite(evidence.champion_wape_now)
        assert evidence.wape < evidence.champion_wape_now
        assert evidence.wape <= evidence.champion_wape_now * (1 - policy.margin)


@given(evidences, policies)
def test_pinned_and_excluded_series_never_get_a_new_model(evidence, policy):
    held = replace(evidence, champion=CHAMPION)
    pinned, excluded = replace(policy, pinned={held.series_id}), replace(policy, excluded={held.series_id})
    assert decide([held], pinned)[0].action != "promote"
    assert decide([held], excluded)[0].action == "reject"


@given(evidences, policies, st.floats(0, 1))
def test_a_better_score_never_loses_what_a_worse_one_won(evidence, policy, share):
    better = replace(evidence, wape=evidence.wape * share, accuracy=1 - evidence.wape * share)
    worse = replace(evidence, accuracy=1 - evidence.wape)
    if decide([worse], policy)[0].rule in ("first", "refresh", "challenge_won", "outgrew_fallback"):
        assert decide([better], policy)[0].action == "promote"


def test_the_policy_is_named_as_in_the_settings():
    from many_models.settings import PromotionSettings

    policy = Policy(**PromotionSettings().rules())
    assert policy == Policy(pinned=[], excluded=[])
