"""promoted_models: decides per series, and publishes what won as one release of the production registry, or proposes it
where a human is asked.
"""

import getpass
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.packs import packs_of
from many_models.data.spooled_files import Spool
from many_models.errors import SeriesFailure
from many_models.keys import digest
from many_models.orchestration import approval_check, metadata, stage_state
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.live_release import told_release
from many_models.orchestration.losses import ended_at_once
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import STORE_ITEMS, KeySet, SeriesResult, finish
from many_models.orchestration.upstream import Upstream
from many_models.ports import Filter, Lake, ProductionRegistry, Release, ReleaseDraft, StagingRegistry
from many_models.promotion import approval
from many_models.promotion.drafting import (
    EVIDENCE,
    Change,
    Drafting,
    decided_already,
    decisions_by_date,
    ending,
    evidence_of,
    iso,
)
from many_models.promotion.policy import Decision, Policy, decide
from many_models.settings import Settings
from many_models.system import utc_now


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
        before = _decided_already(settings, lake, rows, [r.release_id for r in (live, waiting) if r])
        undecided = {name: row for name, row in rows.items() if name not in before}
        base = decided_before(production, live, lake)
        champions, recorded = base.champions if base else {}, approval.recorded_scores(lake)
        decisions = decide(evidence_of(undecided, champions, recorded, spec_of(settings)), policy_of(settings))
        decider = _Decider(settings, lake, staging, production, live, waiting, _actor(context), staying)
        release, broken = decider.release(undecided, decisions)
        failures += broken
        bad = {failure.series_id for failure in failures}
        decided = [decision for decision in decisions if decision.series_id not in bad]
        _write_decisions(settings, lake, rows, decided, release, decider.actor)
        waiting, live = decider.waiting, decider.live
        _tell_lake(lake, live, release)
        decided += before.values()
        shown = not settings.partitions.by
        done |= {d.series_id: _done(d, upstream, release, shown=shown) for d in decided}
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
    rows, damaged = lake_tables.records_by_pack(lake, lake_tables.TRAINED, packs, EVIDENCE)
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
    """The decisions that a run which was cut off wrote down: see `drafting.decided_already`."""
    dates = sorted({iso(row["cutoff"])[:10] for row in rows.values()})
    written = lake_tables.read_if_there(lake, lake_tables.DECISIONS, Filter(among={"cutoff_date": dates}))
    if not releases or written is None:
        return {}
    return decided_already(written.to_pylist(), rows, releases, _policy_version(settings))


def _policy_version(settings: Settings) -> str:
    return digest("policy", sorted(settings.promotion.rules().items()))


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
        change = Change.of(rows, winners, self._leaving(winners), self.live, self.waiting)
        if not change.wanted:
            self._withdraw()
            return self.live, []
        if self.waiting is not None and change.wanted == approval.changes(self.waiting, self.live):
            return self.waiting, []  # a run that was cut off has proposed this already
        if change.is_served_by(self.live):
            return self.live, []
        with TemporaryDirectory(prefix="many-models-") as folder:
            drafting = Drafting(self.settings, self.staging, self.production, self.live, change, Spool(Path(folder)))
            return self._made(*drafting.draft(rows, self.actor))

    def _made(self, draft: ReleaseDraft, broken: list[SeriesFailure]) -> tuple[Release | None, list[SeriesFailure]]:
        """The release of `draft`, live or waiting for a human; what is live where the draft is empty."""
        if not draft.packs and not draft.removed:
            self._withdraw()
            return self.live, broken
        if self.settings.promotion.approval:
            self.waiting = self.production.propose(draft)
            return self.waiting, broken
        self.live, self.waiting = self.production.publish(draft), None
        return self.live, broken

    def _leaving(self, winners: Collection[str]) -> list[str]:
        """The series that nothing serves any longer, but for those that stay."""
        served = {*(self.live.champions if self.live else ()), *(self.waiting.champions if self.waiting else ())}
        rows = lake_tables.records(self.lake, lake_tables.SERIES, columns=["series_id", "active"])
        ended = [row["series_id"] for row in rows if not row["active"]]
        recorded = lake_tables.records(self.lake, lake_tables.CHAMPIONS, columns=["series_id", "spec"])
        specs = {row["series_id"]: str(row["spec"] or "") for row in recorded}
        leaving = ending(served, winners, ended, self.settings.promotion.excluded, specs, spec_of(self.settings))
        return [name for name in leaving if name not in self.staying]

    def _withdraw(self) -> None:
        if self.waiting is not None:
            self.production.reject(self.waiting.release_id, self.actor, "its series were decided again")
            self.waiting = None


def _tell_lake(lake: Lake, live: Release | None, release: Release | None) -> None:
    """Publish the champions, and log what was published or proposed."""
    if live is not None:
        approval.publish_champions(lake, live)
    if release is not None and release.approval is None:
        event = "published" if release is live else "proposed"
        approval.log(lake, release, event, release.actor, release.reason, release.created_at)


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
    for date, found in decisions_by_date(decisions, rows, common).items():
        names = [str(row["series_id"]) for row in found]
        table = pa.Table.from_pylist(found, lake_tables.DECISIONS.schema)
        lake_tables.upsert(lake, lake_tables.DECISIONS, table, names, {"cutoff_date": [date]})


def _done(decision: Decision, upstream: Mapping[str, str], release: Release | None, *, shown: bool) -> SeriesResult:
    """The outcome of one series, with what its event shows where each series has an event (`shown`)."""
    name = decision.series_id
    version = digest(upstream[name], decision.action, decision.staging)
    if not shown:
        return SeriesResult(upstream[name], version)
    values = metadata.plain(asdict(decision) | {"release": release.release_id if release else "none"})
    values.pop("series_id", None)
    return SeriesResult(upstream[name], version, values)


def _actor(context: dg.AssetExecutionContext) -> str:
    """Who releases: the user whom Dagster knows, else the run and the account that it runs under."""
    return context.run.tags.get("dagster/user") or f"run {context.run.run_id[:8]} ({getpass.getuser()})"
