"""A release before it is made: the evidence that decisions look at, what they change, and the draft with its packs.

`Drafting` reads packs through the registries' ports and keeps large drafts on disk; the rest is pure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from many_models.data.packs import packs_of
from many_models.errors import ManyModelsError, SeriesFailure, SettingsError
from many_models.ports import PackUpload, PackVersion, PromotedSeries, ReleaseDraft
from many_models.promotion import approval
from many_models.promotion.policy import ChampionEvidence, Decision, Evidence

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from many_models.data.spooled_files import Spool
    from many_models.forecasting import Spec
    from many_models.ports import Champion, ProductionRegistry, Release, StagingRegistry
    from many_models.settings import Settings

    Row = Mapping[str, object]

EVIDENCE = (
    "series_id", "staging", "recipe", "cutoff", "history", "windows", "wape", "baseline_wape", "bias", "cover80",
    "accuracy", "fallback", "finite", "champion_wape",
)  # fmt: skip
"""The columns of what training wrote that decisions look at."""

SHARED_SETTINGS = ("horizon", "frequency", "season", "known", "country", "holidays", "levels")
"""Those of a spec that all models of a pack share."""


# --- Evidence -------------------------------------------------------------------------------------------------------
def evidence_of(
    rows: Mapping[str, Row], champions: Mapping[str, Champion], recorded: Mapping[str, Row], spec: Spec
) -> list[Evidence]:
    """What training wrote of each series (`rows`), beside its champion and what was `recorded` at its promotion."""
    today = _Today(spec, spec.to_json(), spec.recipe)
    return [
        Evidence(
            series_id=name,
            staging=str(row["staging"]),
            recipe=str(row["recipe"]),
            cutoff=iso(row["cutoff"]),
            history=int(_number(row["history"])),
            windows=int(_number(row["windows"])),
            wape=_number(row["wape"]),
            baseline_wape=_number(row["baseline_wape"]),
            bias=_number(row["bias"]),
            cover80=None if row["cover80"] is None else _number(row["cover80"]),
            accuracy=_number(row["accuracy"]),
            fallback=str(row["fallback"] or ""),
            finite=bool(row["finite"]),
            champion=_champion(champions[name], recorded.get(name), today) if name in champions else None,
            champion_wape_now=None if row["champion_wape"] is None else _number(row["champion_wape"]),
        )
        for name, row in rows.items()
    ]


@dataclass(frozen=True, slots=True)
class _Today:
    """The spec that the settings ask for, with its text and its recipe, which are the same for all series."""

    spec: Spec
    text: str
    recipe: str


def _champion(champion: Champion, recorded: Row | None, today: _Today) -> ChampionEvidence:
    """What is known of a champion. The same options under an older version of our code are the same recipe: that code
    cannot be run again, so nothing could ever be measured against it.
    """
    same = recorded is not None and recorded["staging"] == champion.staging
    same_options = recorded is not None and same and recorded["spec"] == today.text
    differs = recorded is not None and same and not same_options
    wape = _number(recorded["wape"]) if recorded and same else float("nan")
    baseline = _number(recorded["baseline_wape"]) if recorded and same else float("nan")
    return ChampionEvidence(
        today.recipe if same_options else champion.recipe,
        champion.staging,
        wape,
        champion.cutoff,
        baseline if isfinite(baseline) else None,
        champion.fallback,
        gone=recorded is not None and differs and _is_gone(str(recorded["spec"] or ""), today.spec),
        outdated=", ".join(outdated_settings(str(recorded["spec"] or ""), today.spec)) if recorded and differs else "",
    )


@lru_cache(maxsize=64)
def outdated_settings(recipe: str, spec: Spec) -> tuple[str, ...]:
    """The settings that a pack's models share and in which a champion's spec (JSON) differs from `spec`."""
    from many_models.forecasting import Spec as SpecOf

    try:
        old = SpecOf.from_json(recipe)
    except SettingsError:
        return ()
    return tuple(name for name in SHARED_SETTINGS if getattr(old, name) != getattr(spec, name))


@lru_cache(maxsize=64)
def _is_gone(recipe: str, spec: Spec) -> bool:
    """Whether training cannot refit a champion's recipe: unknown, or of a candidate or covariate that is gone."""
    from many_models.forecasting import Spec as SpecOf

    try:
        return bool(set(SpecOf.from_json(recipe).known) - set(spec.known))
    except SettingsError:
        return True


# --- What changes ---------------------------------------------------------------------------------------------------
def decided_already(
    written: Sequence[Row], rows: Mapping[str, Row], releases: Collection[str], policy: str
) -> dict[str, Decision]:
    """The decisions among those `written` down about the same versions (`rows`) under the same policy, when the release
    that they made is one of `releases`: a run wrote them, and was cut off right before its end.
    """
    names = Decision.__dataclass_fields__
    return {
        str(row["series_id"]): Decision(**{name: row[name] for name in names})  # pyright: ignore[reportArgumentType]
        for row in written
        if row["series_id"] in rows
        and row["staging"] == rows[str(row["series_id"])]["staging"]
        and row["release_id"] in releases
        and row["policy"] == policy
    }


def ending(
    served: Collection[str],
    winners: Collection[str],
    ended: Collection[str],
    excluded: Collection[str],
    specs: Mapping[str, str],
    spec: Spec,
) -> list[str]:
    """Those of `served` that have ended, those that the settings exclude, and those that no new model replaces though
    theirs was trained with another horizon, frequency … (`specs`, as JSON) than the settings have now.
    """
    old = {recipe for recipe in {*specs.values()} if outdated_settings(recipe, spec)}
    outdated = {name for name, recipe in specs.items() if recipe in old}
    return sorted(({*ended, *excluded} | (outdated - {*winners})) & {*served})


@dataclass(frozen=True, slots=True)
class Change:
    """What the next release changes: the winners of now, those `carried` over from a proposal that waits, and the
    series that leave the live release. `wanted`: series → staging version, or `approval.LEAVES`.
    """

    winners: frozenset[str]
    carried: Mapping[str, Champion]
    leaving: Sequence[str]
    wanted: Mapping[str, str]

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Row],
        winners: Collection[str],
        leaving: Sequence[str],
        live: Release | None,
        waiting: Release | None,
    ) -> Change:
        """From the series that are decided (`rows`), those of them that win, and those that leave what is served."""
        carried = approval.carried_over(waiting, live, rows.keys(), leaving)
        gone = [name for name in leaving if live and name in live.champions]
        wanted = {name: str(rows[name]["staging"]) for name in winners}
        wanted |= {name: champion.staging for name, champion in carried.items()} | dict.fromkeys(gone, approval.LEAVES)
        return cls(frozenset(winners), carried, gone, wanted)

    def is_served_by(self, live: Release | None) -> bool:
        """Whether the live release is what is wanted: a run that was cut off has published it already."""
        champions = live.champions if live else {}
        return bool(self.wanted) and all(
            name in champions and champions[name].staging == staging for name, staging in self.wanted.items()
        )


def decisions_by_date(
    decisions: Sequence[Decision], rows: Mapping[str, Row], common: Row
) -> dict[str, list[dict[str, object]]]:
    """Cutoff date → the rows to write down of its decisions, each with what is `common` to all."""
    found = defaultdict[str, list[dict[str, object]]](list)
    for decision in decisions:
        cutoff = iso(rows[decision.series_id]["cutoff"])
        found[cutoff[:10]].append({**asdict(decision), **common, "cutoff": cutoff, "cutoff_date": cutoff[:10]})
    return dict(found)


# --- The draft ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Drafting:
    """What a release is made of: the winners' new models from staging, all others' from the live release.

    The draft's packs may wait in `spool`, so the draft lasts as long as that folder.
    """

    settings: Settings
    staging: StagingRegistry
    production: ProductionRegistry
    live: Release | None
    change: Change
    spool: Spool

    def draft(self, rows: Mapping[str, Row], actor: str) -> tuple[ReleaseDraft, list[SeriesFailure]]:
        """The release that would be: for each group that changed, a pack of exactly its champions.

        A pack that cannot be read or joined fails its own series; the other groups go on.
        """
        winners, leaving, all_carried = self.change.winners, self.change.leaving, self.change.carried
        versions = self.staging.newest(sorted(winners))
        champions = self.live.champions if self.live else {}
        groups = packs_of(self.settings, sorted({*winners, *leaving, *champions, *all_carried}))
        packs, promoted, failures = list[PackUpload](), list[PromotedSeries](), list[SeriesFailure]()
        for pack, names in groups.items():
            won = [name for name in names if name in winners]
            carried = [name for name in names if name in all_carried]
            stays = {*champions} - {*winners, *leaving, *carried}
            kept = [name for name in names if name in stays]
            if not won and not carried and len(kept) == len(names):
                continue
            try:
                if won or carried or kept:
                    packs.append(self._pack(pack, {name: versions[name] for name in won}, [*carried, *kept]))
                promoted += [_promoted(rows[name]) for name in won]
                promoted += [approval.promoted_of(all_carried[name]) for name in carried]
            except ManyModelsError as error:
                failures += [SeriesFailure.of(name, error) for name in (*won, *carried)]
        base = self.live.release_id if self.live else ""
        return ReleaseDraft(base, actor, self._reason(promoted, len(rows)), packs, promoted, leaving), failures

    def _reason(self, promoted: Sequence[PromotedSeries], decided: int) -> str:
        before = len(self.change.carried.keys() & {one.series_id for one in promoted})
        leaving = len(self.change.leaving)
        reason = f"{len(promoted) - before} of {decided} series promoted"
        reason += f", {leaving} left" if leaving else ""
        return reason + (f", {before} of the proposal before" if before else "")

    def _pack(self, pack: str, won: Mapping[str, PackVersion], kept: Sequence[str]) -> PackUpload:
        from many_models.forecasting import PackModel

        fresh, by_ref = defaultdict[str, list[str]](list), dict[str, PackVersion]()
        for name, version in won.items():
            fresh[version.ref].append(name)
            by_ref[version.ref] = version
        champions = {**(self.live.champions if self.live else {}), **self.change.carried}
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
        return PackUpload(pack, self.spool.keep(model.files()), model.series, tags)


def _promoted(row: Row) -> PromotedSeries:
    return PromotedSeries(
        str(row["series_id"]), str(row["staging"]), str(row["recipe"]), iso(row["cutoff"]), str(row["fallback"] or "")
    )


def iso(value: object) -> str:
    """A time as text: ISO 8601 for a datetime, and text as it is."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _number(value: object) -> float:
    return float(str(value)) if value is not None else float("nan")
