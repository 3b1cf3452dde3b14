"""promoted_models: decides per series, and publishes what won as one release of the production registry, or proposes it
where a human is asked.
"""

import getpass
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.packs import packs_of
from many_models.errors import ManyModelsError, SeriesFailure, SettingsError
from many_models.keys import digest
from many_models.orchestration import approval_check, metadata, stage_state
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.live_release import told_release
from many_models.orchestration.losses import ended_at_once
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import STORE_ITEMS, KeySet, SeriesResult, finish
from many_models.orchestration.upstream import Upstream
from many_models.ports import (
    Champion,
    Filter,
    Lake,
    PackUpload,
    PackVersion,
    ProductionRegistry,
    PromotedSeries,
    Release,
    ReleaseDraft,
    StagingRegistry,
)
from many_models.promotion import approval
from many_models.promotion.policy import ChampionEvidence, Decision, Evidence, Policy, decide
from many_models.settings import Settings
from many_models.system import utc_now

if TYPE_CHECKING:
    from many_models.forecasting import Spec


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset promoted_models."""

    @stage_asset(
        settings,
        partitions=STORE_ITEMS,
        deps=["trained_models"],
        group="models",
        kinds={"mlflow"},
        checks={approval_check.CHECK: approval_check.DESCRIPTION},
        description=(
            "The promotion decision of every series, with its rule and both scores. What is promoted becomes one "
            "release in the production registry; readers see the old release or the new one, never a mixture. Where "
            "the settings ask for it, the release waits for `many-models approve`."
        ),
    )
    def promoted_models(
        context: dg.AssetExecutionContext,
        config: KeySet,
        lake: dg.ResourceParam[Lake],
        staging: dg.ResourceParam[StagingRegistry],
        production: dg.ResourceParam[ProductionRegistry],
    ) -> Iterator[dg.AssetCheckResult]:
        keys = stage_state.begin_series(context, config, settings, lake)
        made = stage_state.made_versions(context.instance, "trained_models")
        of = Upstream(settings)
        upstream = {key: of.promoted(made.get(key, "")) for key in keys}
        rows, failed = _trained(settings, lake, keys)
        done = {
            k: SeriesResult(upstream[k], stage_state.INACTIVE, {"inactive": "no model"})
            for k in keys
            if made.get(k) == stage_state.INACTIVE
        }
        failures = [failure for failure in failed if failure.series_id not in done]
        live, waiting = production.live(), production.waiting()
        staying, refused = ended_at_once(settings, lake, live, keys, "They were kept in the release.")
        failures += refused
        standing = _decided_already(settings, lake, rows, [r.release_id for r in (live, waiting) if r])
        undecided = {name: row for name, row in rows.items() if name not in standing}
        base = decided_before(production, live, lake)
        decisions = decide(_evidence(undecided, base, lake, spec_of(settings)), policy_of(settings))
        decider = _Decider(settings, lake, staging, production, live, waiting, _actor(context), staying)
        release, broken = decider.release(undecided, decisions)
        failures += broken
        bad = {failure.series_id for failure in failures}
        decided = [decision for decision in decisions if decision.series_id not in bad]
        _write_decisions(settings, lake, rows, decided, release, decider.actor)
        waiting, live = decider.waiting, decider.live
        if live is not None:
            approval.publish_champions(lake, live)
        if release is not None:
            event = "published" if release is live else "proposed"
            if release.approval is None:
                approval.log(lake, release, event, release.actor, release.reason, release.created_at)
        decided += standing.values()
        done |= {d.series_id: _done(d, upstream, release) for d in decided}
        yield approval_check.check_result(waiting, live)
        summary = metadata.promotion_summary(decided, release) | approval.proposal_summary(waiting, live)
        finish(context, settings, lake, keys, done, failures, upstream, summary)

    return promoted_models


def policy_of(settings: Settings) -> Policy:
    """The rules of promotion as the settings give them."""
    return Policy(**settings.promotion.rules())


def _trained(
    settings: Settings, lake: Lake, keys: Sequence[str]
) -> tuple[dict[str, dict[str, object]], list[SeriesFailure]]:
    """What training wrote of each key, and the keys of which nothing can be read, with what to do."""
    packs = packs_of(settings, keys)
    rows, damaged = lake_tables.records_by_pack(lake, lake_tables.TRAINED, packs)
    asked = set(keys)
    found = {row["series_id"]: row for row in rows if row["series_id"] in asked}
    failures = [SeriesFailure.of(key, error) for pack, error in damaged.items() for key in packs[pack]]
    unread = {failure.series_id for failure in failures}
    why = "it has no trained model yet: materialize trained_models for it first"
    absent = [key for key in keys if key not in found and key not in unread]
    return found, failures + [SeriesFailure(key, "NoModel", why, permanent=True) for key in absent]


def decided_before(production: ProductionRegistry, live: Release | None, lake: Lake) -> Release | None:
    """The release that decisions start from: the live one, but the one before it when a run was cut off between
    publishing it and writing its decisions down.
    """
    if live is None or live.approval is not None:  # a proposal's decisions are written down before it is approved
        return live
    told = told_release(lake)
    if live.release_id == told or live.previous != told:
        return live
    return next((release for release in production.releases() if release.release_id == told), None)


def _decided_already(
    settings: Settings, lake: Lake, rows: Mapping[str, Mapping[str, object]], releases: Sequence[str]
) -> dict[str, Decision]:
    """The decisions that a run wrote down for the same versions under the same rules, when the release that they made
    is one of `releases`, live still or waiting: that run was cut off right before its end.
    """
    dates = sorted({_iso(row["cutoff"])[:10] for row in rows.values()})
    written = lake_tables.read_if_there(lake, lake_tables.DECISIONS, Filter(among={"cutoff_date": dates}))
    if not releases or written is None:
        return {}
    policy, names = _policy_version(settings), Decision.__dataclass_fields__
    return {
        row["series_id"]: Decision(**{name: row[name] for name in names})
        for row in written.to_pylist()
        if row["series_id"] in rows
        and row["staging"] == rows[row["series_id"]]["staging"]
        and row["release_id"] in releases
        and row["policy"] == policy
    }


def _policy_version(settings: Settings) -> str:
    return digest("policy", sorted(settings.promotion.rules().items()))


def _evidence(
    rows: Mapping[str, Mapping[str, object]], live: Release | None, lake: Lake, spec: "Spec"
) -> list[Evidence]:
    recorded = approval.recorded_scores(lake)
    champions = live.champions if live else {}
    return [
        Evidence(
            series_id=name,
            staging=str(row["staging"]),
            recipe=str(row["recipe"]),
            cutoff=_iso(row["cutoff"]),
            history=int(_number(row["history"])),
            windows=int(_number(row["windows"])),
            wape=_number(row["wape"]),
            baseline_wape=_number(row["baseline_wape"]),
            bias=_number(row["bias"]),
            cover80=None if row["cover80"] is None else _number(row["cover80"]),
            accuracy=_number(row["accuracy"]),
            fallback=str(row["fallback"] or ""),
            finite=bool(row["finite"]),
            champion=_champion(champions[name], recorded.get(name), spec) if name in champions else None,
            champion_wape_now=None if row["champion_wape"] is None else _number(row["champion_wape"]),
        )
        for name, row in rows.items()
    ]


def _champion(champion: Champion, recorded: Mapping[str, object] | None, spec: "Spec") -> ChampionEvidence:
    """What is known of a champion. The same options under an older version of our code count as the same recipe: that
    code cannot be run again, so nothing could ever be measured against it.
    """
    same = recorded is not None and recorded["staging"] == champion.staging
    same_options = recorded is not None and same and recorded["spec"] == spec.to_json()
    wape = _number(recorded["wape"]) if recorded and same else float("nan")
    baseline = _number(recorded["baseline_wape"]) if recorded and same else float("nan")
    return ChampionEvidence(
        spec.recipe if same_options else champion.recipe,
        champion.staging,
        wape,
        champion.cutoff,
        baseline if isfinite(baseline) else None,
        champion.fallback,
        gone=recorded is not None and same and _is_gone(str(recorded["spec"] or ""), spec),
        outdated=", ".join(outdated_settings(str(recorded["spec"] or ""), spec)) if recorded and same else "",
    )


@lru_cache(maxsize=64)
def outdated_settings(recipe: str, spec: "Spec") -> tuple[str, ...]:
    """The settings that a pack's models share and in which a champion's spec (JSON) differs from `spec`."""
    from many_models.forecasting import Spec as SpecOf

    try:
        old = SpecOf.from_json(recipe)
    except SettingsError:
        return ()
    return tuple(name for name in SHARED_SETTINGS if getattr(old, name) != getattr(spec, name))


@lru_cache(maxsize=64)
def _is_gone(recipe: str, spec: "Spec") -> bool:
    """Whether training cannot refit a champion's recipe: unknown, or of a candidate or covariate that is gone."""
    from many_models.forecasting import Spec as SpecOf

    try:
        return bool(set(SpecOf.from_json(recipe).known) - set(spec.known))
    except SettingsError:
        return True


def _leaving(settings: Settings, lake: Lake, served: Collection[str], winners: Collection[str]) -> list[str]:
    """Those of `served` that have ended, those that the settings exclude, and those that no new model replaces though
    theirs was trained with another horizon, frequency … than the settings have now.
    """
    rows = lake_tables.records(lake, lake_tables.SERIES, columns=["series_id", "active"])
    ended = {row["series_id"] for row in rows if not row["active"]}
    spec = spec_of(settings)
    recorded = lake_tables.records(lake, lake_tables.CHAMPIONS, columns=["series_id", "spec"])
    outdated = {row["series_id"] for row in recorded if outdated_settings(str(row["spec"] or ""), spec)}
    return sorted((ended | set(settings.promotion.excluded) | (outdated - set(winners))) & set(served))


SHARED_SETTINGS = ("horizon", "frequency", "season", "known", "country", "holidays", "levels")


@dataclass(slots=True)
class _Decider:
    """Turns decisions into what is live, or into what waits for a human. `live` and `waiting` are kept up to date.
    `staying` are series that have ended and do not leave yet (see `ended_at_once`).
    """

    settings: Settings
    lake: Lake
    staging: StagingRegistry
    production: ProductionRegistry
    live: Release | None
    waiting: Release | None
    actor: str
    staying: frozenset[str] = frozenset()

    def release(
        self, rows: Mapping[str, Mapping[str, object]], decisions: Sequence[Decision]
    ) -> tuple[Release | None, list[SeriesFailure]]:
        """The release that `decisions` about `rows` are part of, made where there is none yet; and what failed in it.

        A proposal that waited is superseded: its winners that are not decided again are carried over.
        """
        winners = {decision.series_id for decision in decisions if decision.action == "promote"}
        served = {*(self.live.champions if self.live else ()), *(self.waiting.champions if self.waiting else ())}
        leaving = [n for n in _leaving(self.settings, self.lake, served, winners) if n not in self.staying]
        carried = approval.carried_over(self.waiting, self.live, rows.keys(), leaving)
        gone = [name for name in leaving if self.live and name in self.live.champions]
        wanted = {name: str(rows[name]["staging"]) for name in winners}
        wanted |= {name: champion.staging for name, champion in carried.items()} | dict.fromkeys(gone, approval.LEAVES)
        if not wanted:
            self._withdraw()
            return self.live, []
        if self.waiting is not None and wanted == approval.changes(self.waiting, self.live):
            return self.waiting, []  # a run that was cut off has proposed this already
        if self._serves(wanted):
            return self.live, []
        drafting = _Drafting(self.settings, self.staging, self.production, self.live, carried)
        draft, broken = drafting.draft(rows, winners, gone, self.actor)
        if not draft.packs and not draft.removed:
            self._withdraw()
            return self.live, broken
        if self.settings.promotion.approval:
            self.waiting = self.production.propose(draft)
            return self.waiting, broken
        self.live, self.waiting = self.production.publish(draft), None
        return self.live, broken

    def _serves(self, wanted: Mapping[str, str]) -> bool:
        """Whether the live release is what is wanted: a run that was cut off has published it already."""
        champions = self.live.champions if self.live else {}
        return bool(wanted) and all(
            name in champions and champions[name].staging == staging for name, staging in wanted.items()
        )

    def _withdraw(self) -> None:
        if self.waiting is not None:
            self.production.reject(self.waiting.release_id, self.actor, "its series were decided again")
            self.waiting = None


@dataclass(frozen=True, slots=True)
class _Drafting:
    """What a release is made of: the winners' new models from staging, everybody else's from the live release."""

    settings: Settings
    staging: StagingRegistry
    production: ProductionRegistry
    live: Release | None
    carried: Mapping[str, Champion]

    def draft(
        self, rows: Mapping[str, Mapping[str, object]], winners: set[str], leaving: Sequence[str], actor: str
    ) -> tuple[ReleaseDraft, list[SeriesFailure]]:
        """The release that would be: for each group that changed, a pack of exactly its champions.

        A pack that cannot be read or joined fails its own series; the other groups go on.
        """
        versions = self.staging.newest(sorted(winners))
        champions = self.live.champions if self.live else {}
        groups = packs_of(self.settings, sorted({*winners, *leaving, *champions, *self.carried}))
        packs, promoted, failures = list[PackUpload](), list[PromotedSeries](), list[SeriesFailure]()
        for pack, names in groups.items():
            won = [name for name in names if name in winners]
            carried = [name for name in names if name in self.carried]
            stays = {*champions} - {*winners, *leaving, *carried}
            kept = [name for name in names if name in stays]
            if not won and not carried and len(kept) == len(names):
                continue
            try:
                if won or carried or kept:
                    packs.append(self._pack(pack, {name: versions[name] for name in won}, [*carried, *kept]))
                promoted += [_promoted(rows[name]) for name in won]
                promoted += [approval.promoted_of(self.carried[name]) for name in carried]
            except ManyModelsError as error:
                failures += [SeriesFailure.of(name, error) for name in (*won, *carried)]
        before = len(self.carried.keys() & {p.series_id for p in promoted})
        reason = f"{len(promoted) - before} of {len(rows)} series promoted"
        reason += f", {len(leaving)} left" if leaving else ""
        reason += f", {before} of the proposal before" if before else ""
        base = self.live.release_id if self.live else ""
        return ReleaseDraft(base, actor, reason, packs, promoted, leaving), failures

    def _pack(self, pack: str, won: Mapping[str, PackVersion], kept: Sequence[str]) -> PackUpload:
        from many_models.forecasting import PackModel

        fresh, by_ref = defaultdict[str, list[str]](list), dict[str, PackVersion]()
        for name, version in won.items():
            fresh[version.ref].append(name)
            by_ref[version.ref] = version
        champions = {**(self.live.champions if self.live else {}), **self.carried}
        old = defaultdict[tuple[str, str], list[str]](list)
        for name in kept:
            old[champions[name].ref, champions[name].sha256].append(name)
        parts = [
            PackModel.from_files(self.staging.files(by_ref[ref]), f"pack {ref}").select(names).verified(f"pack {ref}")
            for ref, names in fresh.items()
        ]
        parts += [
            PackModel.from_files(self.production.files(*ref), f"pack {ref[0]}").select(names)
            for ref, names in old.items()
        ]
        model = PackModel.merge(parts).select(sorted([*won, *kept])) if len(parts) > 1 else parts[0]
        tags = dict(next(iter(by_ref.values())).tags) if by_ref else {}
        return PackUpload(pack, model.files(), model.series, tags)


def _promoted(row: Mapping[str, object]) -> PromotedSeries:
    return PromotedSeries(
        str(row["series_id"]), str(row["staging"]), str(row["recipe"]), _iso(row["cutoff"]), str(row["fallback"] or "")
    )


def _write_decisions(
    settings: Settings,
    lake: Lake,
    rows: Mapping[str, Mapping[str, object]],
    decisions: Sequence[Decision],
    release: Release | None,
    actor: str,
) -> None:
    """Write down every decision, kept ones too: both scores, rule, versions, when, by whom, for which release."""
    common = {
        "policy": _policy_version(settings),
        "release_id": release.release_id if release else "",
        "actor": actor,
        "decided_at": utc_now().isoformat(timespec="seconds"),
    }
    of_cutoff = defaultdict[str, list[Mapping[str, object]]](list)
    for decision in decisions:
        cutoff = _iso(rows[decision.series_id]["cutoff"])
        of_cutoff[cutoff[:10]].append(asdict(decision) | common | {"cutoff": cutoff, "cutoff_date": cutoff[:10]})
    for date, found in of_cutoff.items():
        names = [str(row["series_id"]) for row in found]
        table = pa.Table.from_pylist(found, lake_tables.DECISIONS.schema)
        lake_tables.upsert(lake, lake_tables.DECISIONS, table, names, {"cutoff_date": [date]})


def _done(decision: Decision, upstream: Mapping[str, str], release: Release | None) -> SeriesResult:
    name = decision.series_id
    shown = metadata.plain(asdict(decision) | {"release": release.release_id if release else "none"})
    shown.pop("series_id", None)
    return SeriesResult(upstream[name], digest(upstream[name], decision.action, decision.staging), shown)


def _actor(context: dg.AssetExecutionContext) -> str:
    """Who releases: the user whom Dagster knows, else the run and the account that it runs under."""
    return context.run.tags.get("dagster/user") or f"run {context.run.run_id[:8]} ({getpass.getuser()})"


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _number(value: object) -> float:
    return float(str(value)) if value is not None else float("nan")
