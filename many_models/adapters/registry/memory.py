"""Both registries in memory: for tests, notebooks and trying things out; nothing outlives the process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from many_models.adapters.registry.rules import (
    check_draft,
    check_uploads,
    check_verdict,
    check_waiting,
    finite,
    new_release,
    new_release_id,
    newest_per_series,
)
from many_models.errors import ConflictError, InputError
from many_models.keys import files_sha256, slug, verified
from many_models.ports import Approval, PackVersion
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from many_models.ports import PackUpload, Release, ReleaseDraft


@dataclass
class _Versions:
    """Pack versions, oldest first, with their files. Numbers of deleted versions are not used again."""

    prefix: str
    stored: dict[str, tuple[PackVersion, Mapping[str, bytes]]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, upload: PackUpload) -> PackVersion:
        name = f"{self.prefix}-{slug(upload.pack)}"
        number = self.numbers[name] = self.numbers.get(name, 0) + 1
        sha256 = files_sha256(upload.files)
        version = PackVersion(name, str(number), upload.pack, tuple(upload.series), sha256, dict(upload.tags))
        self.stored[version.ref] = (version, dict(upload.files))
        return version

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        if ref not in self.stored:
            raise InputError(f"there is no pack version {ref!r}: it was never stored, or has been pruned")
        return verified(dict(self.stored[ref][1]), sha256, ref)

    def delete_others(self, keep: Collection[str]) -> list[str]:
        gone = [ref for ref in self.stored if ref not in keep]
        for ref in gone:
            del self.stored[ref]
        return gone


class MemoryStaging:
    """A StagingRegistry in memory."""

    def __init__(self, prefix: str = "many_models") -> None:
        self._versions = _Versions(prefix)
        self._batches: dict[tuple[str, str, tuple[str, ...]], str] = {}
        self.logged: dict[str, tuple[dict[str, str], dict[str, float]]] = {}
        self.titles: dict[str, str] = {}
        self._lock = threading.Lock()

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        """See StagingRegistry."""
        check_uploads(packs)
        with self._lock:
            return [self._register_one(batch, upload) for upload in packs]

    def _register_one(self, batch: str, upload: PackUpload) -> PackVersion:
        key = (batch, upload.pack, tuple(upload.series))
        if (ref := self._batches.get(key)) and ref in self._versions.stored:
            return self._versions.stored[ref][0]
        version = self._versions.add(upload)
        self._batches[key] = version.ref
        return version

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """See StagingRegistry."""
        before, measured = self.logged.get(batch, ({}, {}))
        self.titles[batch] = title
        self.logged[batch] = {**parameters, **before}, measured | finite(metrics)

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        """See StagingRegistry."""
        return newest_per_series((version for version, _ in self._versions.stored.values()), series)

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        """See StagingRegistry."""
        return self._versions.files(version.ref, version.sha256)

    def prune(self, keep: int, also: Collection[str] = ()) -> Sequence[str]:
        """See StagingRegistry."""
        with self._lock:
            versions = [version for version, _ in self._versions.stored.values()]
            everything = [series_id for version in versions for series_id in version.series]
            newest = {version.ref for version in newest_per_series(versions, everything).values()}
            per_pack: dict[str, list[str]] = {}
            for version in versions:
                per_pack.setdefault(version.name, []).append(version.ref)
            last = {ref for refs in per_pack.values() for ref in refs[len(refs) - min(keep, len(refs)) :]}
            return self._versions.delete_others({*newest, *last, *also})

    def check(self) -> str:
        """See StagingRegistry."""
        return f"staging registry in memory: {len(self._versions.stored)} pack versions"


class MemoryProduction:
    """A ProductionRegistry in memory. `clock` gives the time in UTC, without a zone."""

    def __init__(self, prefix: str = "many_models", clock: Callable[[], datetime] = utc_now) -> None:
        self._versions = _Versions(prefix)
        self._releases: dict[str, Release] = {}
        self._made: list[str] = []
        self._live: Release | None = None
        self._proposal: Release | None = None
        self._clock = clock
        self._lock = threading.Lock()

    def live(self) -> Release | None:
        """See ProductionRegistry."""
        return self._live

    def live_id(self) -> str:
        """See ProductionRegistry."""
        live = self._live
        return live.release_id if live else ""

    def releases(self) -> Sequence[Release]:
        """See ProductionRegistry."""
        return [self._releases[name] for name in reversed(self._made) if name in self._releases]

    def publish(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry."""
        with self._lock:
            release = self._store(draft)
            self._releases[release.release_id] = release
            self._live = release
            return release

    def _store(self, draft: ReleaseDraft) -> Release:
        check_draft(self._live, draft)
        versions = {upload.pack: self._versions.add(upload) for upload in draft.packs}
        now = self._clock()
        release = new_release(new_release_id(now), now, self._live, draft, versions)
        self._made.append(release.release_id)
        return release

    def propose(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry."""
        with self._lock:
            self._proposal = self._store(draft)
            return self._proposal

    def waiting(self) -> Release | None:
        """See ProductionRegistry."""
        live = self._live.release_id if self._live else ""
        return self._proposal if self._proposal and self._proposal.previous == live else None

    def approve(self, release_id: str, actor: str, reason: str) -> Release:
        """See ProductionRegistry."""
        check_verdict(actor, reason)
        with self._lock:
            if self._live and self._live.release_id == release_id:
                return self._live
            proposal = self._asked_for(release_id)
            for ref, sha256 in {(c.ref, c.sha256) for c in proposal.champions.values()}:
                self._versions.files(ref, sha256)
            self._live = replace(proposal, approval=Approval(actor, reason, self._clock()))
            self._releases[release_id] = self._live
            self._proposal = None
            return self._live

    def reject(self, release_id: str, actor: str, reason: str) -> None:
        """See ProductionRegistry."""
        check_verdict(actor, reason)
        with self._lock:
            self._asked_for(release_id)
            self._proposal = None

    def _asked_for(self, release_id: str) -> Release:
        waiting = self.waiting()
        check_waiting(release_id, waiting.release_id if waiting else "")
        if waiting is None:
            raise ConflictError("no proposal waits")
        return waiting

    def activate(self, release_id: str) -> Release:
        """See ProductionRegistry."""
        with self._lock:
            if release_id not in self._releases:
                raise InputError(f"there is no release {release_id!r}; kept are {', '.join(self._releases) or 'none'}")
            self._live = self._releases[release_id]
            return self._live

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """See ProductionRegistry."""
        return self._versions.files(ref, sha256)

    def prune(self, keep: int) -> Sequence[str]:
        """See ProductionRegistry."""
        with self._lock:
            ids = [name for name in self._made if name in self._releases]
            kept = set(ids[len(ids) - min(keep, len(ids)) :])
            if self._live:
                kept.add(self._live.release_id)
            gone = [release_id for release_id in ids if release_id not in kept]
            for release_id in gone:
                del self._releases[release_id]
                self._made.remove(release_id)
            if self.waiting() is None:
                self._proposal = None
            waiting = [self._proposal] if self._proposal else []
            refs = {c.ref for release in (*self._releases.values(), *waiting) for c in release.champions.values()}
            return [*gone, *self._versions.delete_others(refs)]

    def check(self) -> str:
        """See ProductionRegistry."""
        return f"production registry in memory: {len(self._releases)} releases"
