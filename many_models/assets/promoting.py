"""promoted_models: decides per series, and publishes what won as one release of the production registry."""

import getpass
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from math import isfinite
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models import tables
from many_models.assets import display, state
from many_models.assets.chunks import packs_of
from many_models.assets.spec import spec_of
from many_models.assets.stage import STORE_ITEMS, Done, KeySet, backfill_policy, begin, finish
from many_models.errors import ManyModelsError, SeriesFailure
from many_models.keys import digest
from many_models.ports import (
    Champion,
    Lake,
    PackUpload,
    PackVersion,
    ProductionRegistry,
    PromotedSeries,
    Release,
    ReleaseDraft,
    StagingRegistry,
    Where,
)
from many_models.promotion import ChampionEvidence, Decision, Evidence, Policy, decide
from many_models.settings import Settings

if TYPE_CHECKING:
    from many_models.forecasting import Spec


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset promoted_models."""

    @dg.asset(
        partitions_def=STORE_ITEMS,
        deps=["trained_models"],
        backfill_policy=backfill_policy("promoted_models"),
        output_required=False,
        group_name="models",
        kinds={"mlflow"},
        owners=[settings.dagster.owner],
        pool="promoted_models",
        description=(
            "The promotion decision of every series, with its rule and both scores. What is promoted becomes one "
            "release in the production registry; readers see the old release or the new one, never a mixture."
        ),
    )
    def promoted_models(
        context: dg.AssetExecutionContext,
        config: KeySet,
        lake: dg.ResourceParam[Lake],
        staging: dg.ResourceParam[StagingRegistry],
        production: dg.ResourceParam[ProductionRegistry],
    ) -> Iterator[None]:
        keys = begin(context, config)
        made = state.made_versions(context.instance, "trained_models")
        upstream = {key: state.promoted_upstream(settings, made.get(key, "")) for key in keys}
        rows, absent = _trained(settings, lake, keys)
        done = {
            k: Done(upstream[k], state.INACTIVE, {"inactive": "no model"})
            for k in keys
            if made.get(k) == state.INACTIVE
        }
        failures = [SeriesFailure(k, "NoModel", why, permanent=True) for k, why in absent.items() if k not in done]
        live = production.live()
        standing = _decided_already(settings, lake, rows, live)
        undecided = {name: row for name, row in rows.items() if name not in standing}
        base = decided_before(production, live, lake)
        decisions = decide(_evidence(undecided, base, lake, spec_of(settings)), policy_of(settings))
        winners = {decision.series_id for decision in decisions if decision.action == "promote"}
        release, broken = live, list[SeriesFailure]()
        leaving = _leaving(settings, lake, live)
        if _serves(live, rows, winners) and not leaving:
            context.log.info("a run that was cut off has published this already")
        elif winners or leaving:
            drafting = _Drafting(settings, staging, production, live)
            draft, broken = drafting.draft(rows, winners, leaving, _actor(context))
            release = production.publish(draft) if draft.packs or draft.removed else live
        failures += broken
        bad = {failure.series_id for failure in failures}
        decided = [decision for decision in decisions if decision.series_id not in bad]
        _publish_to_lake(settings, lake, rows, decided, release)
        decided += standing.values()
        done |= {d.series_id: _done(d, upstream, release) for d in decided}
        summary = display.promotion_summary(decided, release)
        finish(context, lake, keys, done, failures, upstream, summary)
        yield from ()

    return promoted_models


def policy_of(settings: Settings) -> Policy:
    """The rules of promotion as the settings give them."""
    return Policy(**settings.promotion.rules())


def _trained(
    settings: Settings, lake: Lake, keys: Sequence[str]
) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """What training wrote of each key, and the keys of which it wrote nothing, with what to do."""
    packs = list(packs_of(settings, keys))
    rows = tables.records(lake, tables.TRAINED, Where(among={"pack": packs}))
    asked = set(keys)
    found = {row["series_id"]: row for row in rows if row["series_id"] in asked}
    why = "it has no trained model yet: materialize trained_models for it first"
    return found, {key: why for key in keys if key not in found}


def decided_before(production: ProductionRegistry, live: Release | None, lake: Lake) -> Release | None:
    """The release that decisions start from: the live one, but the one before it when a run was cut off between
    publishing it and writing its decisions down.
    """
    if live is None:
        return None
    rows = tables.read_if_there(lake, tables.CHAMPIONS, columns=["release_id"])
    told = rows["release_id"][0].as_py() if rows is not None and rows.num_rows else ""
    if live.release_id == told or live.previous != told:
        return live
    return next((release for release in production.releases() if release.release_id == told), None)


def _decided_already(
    settings: Settings, lake: Lake, rows: Mapping[str, Mapping[str, object]], live: Release | None
) -> dict[str, Decision]:
    """The decisions that a run wrote down for the same versions under the same rules, when the release that they made
    is live still: that run was cut off right before its end.
    """
    dates = sorted({_iso(row["cutoff"])[:10] for row in rows.values()})
    written = tables.read_if_there(lake, tables.DECISIONS, Where(among={"cutoff_date": dates}))
    if live is None or written is None:
        return {}
    policy, names = _policy_version(settings), Decision.__dataclass_fields__
    return {
        row["series_id"]: Decision(**{name: row[name] for name in names})
        for row in written.to_pylist()
        if row["series_id"] in rows
        and row["staging"] == rows[row["series_id"]]["staging"]
        and row["release_id"] == live.release_id
        and row["policy"] == policy
    }


def _policy_version(settings: Settings) -> str:
    return digest("policy", sorted(settings.promotion.rules().items()))


def _serves(live: Release | None, rows: Mapping[str, Mapping[str, object]], winners: set[str]) -> bool:
    """Whether the live release serves all winners already with the versions that won."""
    champions = live.champions if live else {}
    return bool(winners) and all(n in champions and champions[n].staging == rows[n]["staging"] for n in winners)


def _evidence(
    rows: Mapping[str, Mapping[str, object]], live: Release | None, lake: Lake, spec: "Spec"
) -> list[Evidence]:
    recorded = _recorded_scores(lake)
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
    )


def _recorded_scores(lake: Lake) -> dict[str, dict[str, object]]:
    return {row["series_id"]: row for row in tables.records(lake, tables.CHAMPIONS)}


def _leaving(settings: Settings, lake: Lake, live: Release | None) -> list[str]:
    """Champions of series that have ended, and of those that the settings exclude."""
    if live is None:
        return []
    rows = tables.records(lake, tables.SERIES, columns=["series_id", "active"])
    ended = {row["series_id"] for row in rows if not row["active"]}
    return sorted((ended | set(settings.promotion.excluded)) & set(live.champions))


@dataclass(frozen=True, slots=True)
class _Drafting:
    """What a release is made of: the winners' new models from staging, everybody else's from the live release."""

    settings: Settings
    staging: StagingRegistry
    production: ProductionRegistry
    live: Release | None

    def draft(
        self, rows: Mapping[str, Mapping[str, object]], winners: set[str], leaving: Sequence[str], actor: str
    ) -> tuple[ReleaseDraft, list[SeriesFailure]]:
        """The release that would be: for each group that changed, a pack of exactly its champions.

        A pack that cannot be read or joined fails its own series; the other groups go on.
        """
        versions = self.staging.newest(sorted(winners))
        champions = self.live.champions if self.live else {}
        groups = packs_of(self.settings, sorted({*winners, *leaving, *champions}))
        packs, promoted, failures = list[PackUpload](), list[PromotedSeries](), list[SeriesFailure]()
        for pack, names in groups.items():
            won = [name for name in names if name in winners]
            kept = [name for name in names if name in champions and name not in winners and name not in leaving]
            if not won and len(kept) == len(names):
                continue
            try:
                if won or kept:
                    packs.append(self._pack(pack, {name: versions[name] for name in won}, kept))
                promoted += [_promoted(rows[name]) for name in won]
            except ManyModelsError as error:
                failures += [SeriesFailure.of(name, error) for name in won]
        reason = f"{len(promoted)} of {len(rows)} series promoted" + (f", {len(leaving)} left" if leaving else "")
        base = self.live.release_id if self.live else ""
        return ReleaseDraft(base, actor, reason, packs, promoted, leaving), failures

    def _pack(self, pack: str, won: Mapping[str, PackVersion], kept: Sequence[str]) -> PackUpload:
        from many_models.forecasting import PackModel

        fresh, by_ref = defaultdict[str, list[str]](list), dict[str, PackVersion]()
        for name, version in won.items():
            fresh[version.ref].append(name)
            by_ref[version.ref] = version
        champions = self.live.champions if self.live else {}
        old = defaultdict[tuple[str, str], list[str]](list)
        for name in kept:
            old[champions[name].ref, champions[name].sha256].append(name)
        parts = [PackModel.from_files(self.staging.files(by_ref[ref])).select(names) for ref, names in fresh.items()]
        parts += [PackModel.from_files(self.production.files(*ref)).select(names) for ref, names in old.items()]
        model = PackModel.merge(parts).select(sorted([*won, *kept])) if len(parts) > 1 else parts[0]
        tags = dict(next(iter(by_ref.values())).tags) if by_ref else {}
        return PackUpload(pack, model.files(), model.series, tags)


def _promoted(row: Mapping[str, object]) -> PromotedSeries:
    return PromotedSeries(
        str(row["series_id"]), str(row["staging"]), str(row["recipe"]), _iso(row["cutoff"]), str(row["fallback"] or "")
    )


def _publish_to_lake(
    settings: Settings,
    lake: Lake,
    rows: Mapping[str, Mapping[str, object]],
    decisions: Sequence[Decision],
    release: Release | None,
) -> None:
    """Write every decision, and the champions with their recipes and scores, which training may read."""
    common = {
        "policy": _policy_version(settings),
        "release_id": release.release_id if release else "",
        "actor": release.actor if release else "",
        "decided_at": release.created_at.isoformat() if release else "",
    }
    of_cutoff = defaultdict[str, list[Mapping[str, object]]](list)
    for decision in decisions:
        cutoff = _iso(rows[decision.series_id]["cutoff"])
        of_cutoff[cutoff[:10]].append(asdict(decision) | common | {"cutoff": cutoff, "cutoff_date": cutoff[:10]})
    for date, found in of_cutoff.items():
        names = [str(row["series_id"]) for row in found]
        table = pa.Table.from_pylist(found, _decision_schema())
        tables.upsert(lake, tables.DECISIONS, table, names, {"cutoff_date": date})
    if release is not None:
        lake.replace(tables.CHAMPIONS.name, champions_table(lake, release), Where())


def champions_table(lake: Lake, release: Release) -> pa.Table:
    """The champions of `release` for the lake, with the specs and scores that are known of their staging versions."""
    known = _recorded_scores(lake)
    specs = {row["recipe"]: str(row["spec"]) for row in tables.records(lake, tables.RECIPES)}
    measured = {(row["series_id"], row["staging"]): row for row in tables.records(lake, tables.TRAINED)}
    found = list[Mapping[str, object]]()
    for name, champion in sorted(release.champions.items()):
        before = known.get(name, {})
        if before.get("staging") != champion.staging:
            before = dict[str, object]()
        row = measured.get((name, champion.staging), before)
        found.append({
            **asdict(champion), "release_id": release.release_id, "spec": specs.get(champion.recipe, ""),
            "wape": row.get("wape"), "baseline_wape": row.get("baseline_wape"),
        })  # fmt: skip
    return pa.Table.from_pylist(found, _champion_schema())


def _decision_schema() -> pa.Schema:
    text = "series_id action rule reason staging previous cutoff cutoff_date release_id actor policy decided_at".split()
    return _schema(text, {name: pa.float64() for name in ("challenger_score", "champion_score")})


def _champion_schema() -> pa.Schema:
    text = "series_id ref sha256 staging recipe cutoff previous fallback release_id spec".split()
    return _schema(text, {"row": pa.int64(), "wape": pa.float64(), "baseline_wape": pa.float64()})


def _schema(text: Sequence[str], others: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*((name, pa.string()) for name in text), *others.items()])


def _done(decision: Decision, upstream: Mapping[str, str], release: Release | None) -> Done:
    name = decision.series_id
    metadata = display.plain(asdict(decision) | {"release": release.release_id if release else "none"})
    metadata.pop("series_id", None)
    return Done(upstream[name], digest(upstream[name], decision.action, decision.staging), metadata)


def _actor(context: dg.AssetExecutionContext) -> str:
    """Who releases: the user whom Dagster knows, else the run and the account that it runs under."""
    return context.run.tags.get("dagster/user") or f"run {context.run.run_id[:8]} ({getpass.getuser()})"


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _number(value: object) -> float:
    return float(str(value)) if value is not None else float("nan")
