"""The promotion policy: a pure function from what training measured to what goes live, series by series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    _Flaw = Callable[["Evidence", "Policy"], str]

Action = Literal["promote", "keep", "reject"]
_Verdict = tuple[Action, str, str]

WINDOW_NOISE = 0.25
"""Standard deviation of one window's skill about a series' own mean: 0.21 to 0.31 (median over series) on five retail
tables, daily, weekly and monthly, dense and sparse."""
CLOSE = 0.02
"""WAPEs that differ by less than this share of the sales are equally good, whatever their ratio."""
ABSURD = 25.0
"""A sparse series may score this many times its baseline's WAPE: it forecasts its usual rate, and sold that many
times less. More is hardly chance (Poisson: e^-25)."""


@dataclass(frozen=True, slots=True)
class ChampionEvidence:
    """What is known of the model that serves a series now.

    `wape` is the score recorded at its promotion, `baseline_wape` the baseline's at the same cutoffs (None: not
    recorded); `staging` its staging version (`name/version`), `fallback` not empty for a stand-in. `gone`
    says that its recipe cannot be run any more: a candidate or a covariate of it is not there. `outdated` names the
    settings (horizon, frequency …) that differ from those it was trained with: it cannot serve what they ask for.
    """

    recipe: str
    staging: str
    wape: float
    cutoff: str
    baseline_wape: float | None = None
    fallback: str = ""
    gone: bool = False
    outdated: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What training measured of one series.

    `staging` is the staging version that holds the new model (`name/version`), `cutoff` its last `ds` (ISO 8601),
    `history` its number of observations, `windows` the number of backtest windows. `wape`, `baseline_wape` and `bias`
    are shares of the sales in the windows, over all windows (bias > 0: too high); NaN where the windows hold no
    sales. `cover80` is the share of actuals inside the 80 % interval, `accuracy` is 1 - wape. `fallback` names what
    stands in for a fitted model (empty: nothing), `finite` says that all forecasts and parameters are finite.
    `champion_wape_now` is the score of the champion's recipe refitted at the same cutoffs; None when it is the same
    recipe.
    """

    series_id: str
    staging: str
    recipe: str
    cutoff: str
    history: int
    windows: int
    wape: float
    baseline_wape: float
    bias: float
    cover80: float | None
    accuracy: float
    fallback: str
    finite: bool
    champion: ChampionEvidence | None
    champion_wape_now: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The thresholds, named and meant as in the settings' `[promotion]`.

    `min_skill`: a positive value is taken at its word; 0 rejects only what is worse than the baseline by more than
    the noise of so few windows. `min_accuracy`: bound on 1 - WAPE. `margin`: share by which a new recipe must beat
    the champion's. `max_bias`: bound on |bias|. `max_worse`: share by which a refresh may be worse than its recipe
    scored before. `min_history`: observations that a fitted model needs. `min_cover80`: least coverage of the 80 %
    interval. `pinned` series keep their champion, `excluded` ones are not served.
    """

    min_skill: float = 0.0
    min_accuracy: float | None = None
    margin: float = 0.02
    max_bias: float = 0.5
    max_worse: float = 0.5
    min_history: int = 0
    pinned: Collection[str] = ()
    excluded: Collection[str] = ()
    min_cover80: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one series: `promote` the new model, `keep` the champion, or `reject`: nothing serves it.

    `rule` is a short word for machines, `reason` a sentence for people. `challenger_score` and `champion_score` are
    WAPEs (the champion's at the same cutoffs where that was measured, else as recorded; None without a champion).
    `staging` is the version decided upon, `previous` the champion's ("" for none).
    """

    series_id: str
    action: Action
    rule: str
    reason: str
    challenger_score: float
    champion_score: float | None
    staging: str
    previous: str


def decide(evidence: Sequence[Evidence], policy: Policy) -> list[Decision]:
    """One decision per piece of evidence, in the same order.

    A series without a champion gets its first model unless that is broken or worse than the baseline beyond the noise
    of its windows: a series that cannot be trusted with a model is better missing, with its reason, than wrong.
    Sparse series (the baseline's WAPE is 1 or more, so that forecasting zero beats it) are not held to skill and bias:
    absolute errors cannot tell a good rate forecast from a bad one there. Ties and NaN keep the champion.
    """
    quick = replace(policy, pinned=frozenset(policy.pinned), excluded=frozenset(policy.excluded))
    return [_decision(e, *_verdict(e, quick)) for e in evidence]


def _verdict(e: Evidence, policy: Policy) -> _Verdict:
    for rule in (_excluded, _already_live, _pinned, _older):
        if verdict := rule(e, policy):
            return verdict
    for name, flaw in _flaws(e):
        if reason := flaw(e, policy):
            return ("reject" if e.champion is None or e.champion.outdated else "keep"), name, reason
    return _compete(e, policy)


# --- what decides whatever the model is ---
def _excluded(e: Evidence, policy: Policy) -> _Verdict | None:
    if e.series_id in policy.excluded:
        return "reject", "excluded", "excluded by the settings: it is not served"
    return None


def _already_live(e: Evidence, _: Policy) -> _Verdict | None:
    if e.champion and e.champion.staging == e.staging:
        return "keep", "already_live", f"{e.staging} is live already"
    return None


def _pinned(e: Evidence, policy: Policy) -> _Verdict | None:
    if e.champion and e.series_id in policy.pinned and not e.champion.outdated:
        return "keep", "pinned", f"pinned by the settings to {e.champion.staging}"
    return None


def _older(e: Evidence, _: Policy) -> _Verdict | None:
    if e.champion and _is_before(e.cutoff, e.champion.cutoff):
        return "keep", "older", f"its cutoff {e.cutoff} is before the champion's {e.champion.cutoff}"
    return None


# --- why a model is not good enough by itself ---
def _flaws(e: Evidence) -> list[tuple[str, _Flaw]]:
    """What a model is examined for, in order: a fallback was not fitted; without sales nothing was measured."""
    found: list[tuple[str, _Flaw]] = [("not_finite", _not_finite)]
    if not e.fallback:
        found.append(("short_history", _short_history))
        if isfinite(e.wape) or isfinite(e.baseline_wape):
            found += [
                ("not_finite", _scores_not_finite),
                ("below_accuracy", _below_accuracy),
                ("worse_than_baseline", _worse_than_baseline),
                ("biased", _biased),
                ("intervals_off", _intervals_off),
            ]
    return found


def _not_finite(e: Evidence, _: Policy) -> str:
    return "" if e.finite else "forecasts or parameters are not finite numbers"


def _short_history(e: Evidence, policy: Policy) -> str:
    return "" if e.history >= policy.min_history else f"{e.history} observations, {policy.min_history} are needed"


def _scores_not_finite(e: Evidence, _: Policy) -> str:
    if isfinite(e.wape) and isfinite(e.baseline_wape) and isfinite(e.bias):
        return ""
    return f"WAPE {e.wape:.3g}, baseline {e.baseline_wape:.3g}, bias {e.bias:.3g}: not all are finite"


def _below_accuracy(e: Evidence, policy: Policy) -> str:
    if policy.min_accuracy is None or e.accuracy >= policy.min_accuracy:
        return ""
    return f"accuracy {e.accuracy:.1%}, at least {policy.min_accuracy:.1%} is needed"


def _worse_than_baseline(e: Evidence, policy: Policy) -> str:
    if policy.min_skill > 0:
        bound = policy.min_skill
    elif _is_sparse(e):
        bound = 1 - ABSURD
    elif e.wape - e.baseline_wape < CLOSE:
        return ""
    else:
        bound = min(policy.min_skill, -_noise(e))
    if e.wape <= e.baseline_wape * (1 - bound):
        return ""
    scores = f"WAPE {e.wape:.3f} against the baseline's {e.baseline_wape:.3f}"
    return f"{scores}: skill {_skill(e):.3f}, at least {bound:.3f} is needed"


def _biased(e: Evidence, policy: Policy) -> str:
    if _is_sparse(e) or abs(e.bias) <= policy.max_bias + _noise(e) * e.wape:
        return ""
    return f"bias {e.bias:+.1%} is beyond ±{policy.max_bias:.1%} and what so few windows explain"


def _intervals_off(e: Evidence, policy: Policy) -> str:
    if policy.min_cover80 <= 0 or (e.cover80 is not None and e.cover80 >= policy.min_cover80):
        return ""
    got = "was not measured" if e.cover80 is None else f"is {e.cover80:.1%}"
    return f"coverage of the 80 % interval {got}, at least {policy.min_cover80:.1%} is needed"


# --- which of two sane models ---
def _compete(e: Evidence, policy: Policy) -> _Verdict:
    champion = e.champion
    if champion and champion.outdated:
        return "promote", "settings_changed", f"the champion was trained with another {champion.outdated}: {_score(e)}"
    if e.fallback:
        return _fallback(e)
    if not isfinite(e.wape):
        return _unmeasured(e)
    if champion is None:
        return "promote", "first", f"first model: {_score(e)}"
    if champion.fallback:
        return "promote", "outgrew_fallback", f"replaces the fallback {champion.fallback!r}: {_score(e)}"
    if e.recipe == champion.recipe:
        return _refresh(e, champion, policy)
    return _replace(e, champion, policy) if champion.gone and e.champion_wape_now is None else _challenge(e, policy)


def _fallback(e: Evidence) -> _Verdict:
    champion = e.champion
    if champion is None or champion.fallback or not isfinite(champion.wape):
        return "promote", "fallback", f"no model fits it: served by the fallback {e.fallback!r}"
    return "keep", "fallback", f"only the fallback {e.fallback!r} is on offer; the champion's model stays"


def _unmeasured(e: Evidence) -> _Verdict:
    if e.champion is None:
        return "promote", "unmeasured", "first model; no sales in the windows to measure it by"
    return "keep", "unmeasured", "no sales in the windows to measure it by: the champion stays"


def _refresh(e: Evidence, champion: ChampionEvidence, policy: Policy) -> _Verdict:
    if reason := _worse_than_before(e, champion, policy):
        return "keep", "worse_than_before", reason
    return "promote", "refresh", f"the champion's recipe on newer data: {_score(e)}"


def _replace(e: Evidence, champion: ChampionEvidence, policy: Policy) -> _Verdict:
    """Nothing can be measured against a recipe that is gone: what a refresh may be is asked of its successor."""
    if reason := _worse_than_before(e, champion, policy):
        return "keep", "worse_than_before", reason
    return "promote", "replaced", f"the champion's recipe cannot be run any more: {_score(e)}"


def _worse_than_before(e: Evidence, champion: ChampionEvidence, policy: Policy) -> str:
    """It may be worse than recorded by `max_worse`, after allowing for times that are harder for the baseline."""
    if not isfinite(champion.wape):
        return ""
    harder = 1.0
    if champion.baseline_wape is not None and isfinite(champion.baseline_wape) and champion.baseline_wape > 0:
        harder = max(1.0, e.baseline_wape / champion.baseline_wape)
    if e.wape <= champion.wape * harder * (1 + policy.max_worse) + CLOSE:
        return ""
    return f"WAPE {e.wape:.3f} is more than {policy.max_worse:.0%} above the {champion.wape:.3f} of before"


def _challenge(e: Evidence, policy: Policy) -> _Verdict:
    rival = e.champion_wape_now
    if rival is None or not isfinite(rival):
        reason = "the champion's recipe has no score at the same cutoffs: it stays"
        return "keep", "not_comparable", reason
    scores = f"WAPE {e.wape:.3f} against the champion's {rival:.3f} at the same cutoffs"
    if e.wape == rival:
        return "keep", "tie", f"{scores}: a tie keeps the champion"
    if e.wape < rival and e.wape <= rival * (1 - policy.margin):
        return "promote", "challenge_won", f"{scores}: better by the margin of {policy.margin:.1%}"
    return "keep", "challenge_lost", f"{scores}: not better by the margin of {policy.margin:.1%}"


def _is_sparse(e: Evidence) -> bool:
    return e.baseline_wape >= 1


def _noise(e: Evidence) -> float:
    """Two standard deviations of a skill over `windows` windows."""
    return 2 * WINDOW_NOISE / sqrt(max(e.windows, 1))


def _skill(e: Evidence) -> float:
    return 1 - e.wape / e.baseline_wape if e.baseline_wape else (0.0 if e.wape == 0 else float("-inf"))


def _score(e: Evidence) -> str:
    return f"WAPE {e.wape:.3f}, skill {_skill(e):.3f} over the baseline"


def _is_before(cutoff: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(cutoff) < datetime.fromisoformat(other)
    except (ValueError, TypeError):
        return False  # a fallback may have no cutoff; a zone on one side only cannot be compared


def _decision(e: Evidence, action: Action, rule: str, reason: str) -> Decision:
    champion = e.champion
    now = e.champion_wape_now
    champion_score = None if champion is None else champion.wape if now is None else now
    previous = "" if champion is None else champion.staging
    return Decision(e.series_id, action, rule, reason, e.wape, champion_score, e.staging, previous)
