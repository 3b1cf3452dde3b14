"""The registries: packs of models as training made them (staging), and releases of what serves (production)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class PackUpload:
    """A pack about to be registered: its files, its series in row order, and its tags.

    The registry does not look into the files; `recipe`, `cutoff` and the rest of what identifies it are tags.
    """

    pack: str
    files: Mapping[str, bytes]
    series: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class PackVersion:
    """A registered pack: model name and version, its tags, its series in row order, and a sha256 over its files."""

    name: str
    version: str
    pack: str
    series: tuple[str, ...]
    sha256: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def ref(self) -> str:
        """`name/version`, the way manifests and tables name a pack version."""
        return f"{self.name}/{self.version}"


@runtime_checkable
class StagingRegistry(Protocol):
    """Where training registers packs. A version holds what one training run produced of one pack."""

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        """Register `packs`, in order. Registering a (batch, pack) again with the same series replaces nothing and
        returns the version that is there, so that a run that is repeated leaves one version.
        """
        ...

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Record with what a batch was trained and what it reached, for people who compare batches, under `title`.

        Values that are not finite are left out. Called again, it replaces metrics and keeps parameters.
        """
        ...

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        """The newest version that holds each series, found by tags; series without one are absent.

        A few calls, whatever the number of series and of versions.
        """
        ...

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        """The version's files. Raises IntegrityError, naming pack and version, when they are not `version.sha256`."""
        ...

    def prune(self, keep: int, also: Collection[str] = ()) -> Sequence[str]:
        """Delete versions for good; kept are the newest of every series, the `keep` newest of each pack, and `also`
        (refs). Returns the deleted refs.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


@dataclass(frozen=True, slots=True)
class Champion:
    """One series in production: which row of which pack version serves it, and what came before."""

    series_id: str
    ref: str
    row: int
    sha256: str
    staging: str
    recipe: str
    cutoff: str
    previous: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a proposal go live, why and when (UTC, no zone)."""

    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable promoted state of production: every series' champion; `approval` where a human was asked."""

    release_id: str
    created_at: datetime
    actor: str
    reason: str
    previous: str
    champions: Mapping[str, Champion]
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class PromotedSeries:
    """What a promotion says of one series: where it comes from and why."""

    series_id: str
    staging: str
    recipe: str
    cutoff: str
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseDraft:
    """A release about to be published: the new packs (whole: exactly the champions of each group that changed), the
    promoted series, and the series that leave. Every other champion of `base` stays as it is.
    """

    base: str
    actor: str
    reason: str
    packs: Sequence[PackUpload]
    promoted: Sequence[PromotedSeries]
    removed: Sequence[str] = ()


@runtime_checkable
class ProductionRegistry(Protocol):
    """The separate registry that serves. Its truth is one release; readers see the old or the new, never a mixture."""

    def live(self) -> Release | None:
        """The live release, or None before the first one."""
        ...

    def live_id(self) -> str:
        """The live release's id, "" before the first one: cheap enough to be asked every second, as `live` is not."""
        ...

    def releases(self) -> Sequence[Release]:
        """Every kept release, newest first."""
        ...

    def publish(self, draft: ReleaseDraft) -> Release:
        """Store the packs, verify them, write the manifest, then make it live with one step.

        Raises ConflictError when the live release is not `draft.base` ("" for none) any more; then nothing changed.
        A crash at any point leaves the old release live.
        """
        ...

    def propose(self, draft: ReleaseDraft) -> Release:
        """Store and verify as `publish` does, but leave what is live: the release waits for `approve`.

        It takes the place of whatever waited before. Raises ConflictError as `publish` does.
        """
        ...

    def waiting(self) -> Release | None:
        """The newest proposal, when it was made for the release that is live now and no person has said yes or no."""
        ...

    def approve(self, release_id: str, actor: str, reason: str) -> Release:
        """Verify the waiting proposal's packs once more, and make it live with one step; who and why stay with it.

        Where it is live already nothing changes. Raises ConflictError when another proposal waits, or none.
        """
        ...

    def reject(self, release_id: str, actor: str, reason: str) -> None:
        """Have the waiting proposal wait no more. Raises ConflictError when another one waits, or none."""
        ...

    def activate(self, release_id: str) -> Release:
        """Make a kept release live again (rollback). Raises InputError when it is not kept."""
        ...

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """The files of a production pack version. Raises IntegrityError when they are not `sha256`."""
        ...

    def prune(self, keep: int) -> Sequence[str]:
        """Delete releases, and the packs that no kept one names, for good; kept are the live release, the `keep`
        newest, and what waits for approval. Returns the deleted releases' ids and packs' refs.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...
