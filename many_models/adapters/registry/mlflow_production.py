"""Both registries on MLflow: packs as model versions of one run a batch, a release as one manifest under one alias."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from many_models.adapters.registry.mlflow_folder import pack_files
from many_models.adapters.registry.mlflow_store import MlflowStore, by_age
from many_models.adapters.registry.rules import (
    OWN_TAGS,
    check_draft,
    check_uploads,
    check_verdict,
    check_waiting,
    finite,
    manifest_bytes,
    new_release,
    new_release_id,
    newest_per_series,
    release_of,
)
from many_models.errors import ConflictError, InputError, IntegrityError
from many_models.keys import verified
from many_models.ports import Approval
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from many_models.adapters.registry.mlflow_store import Version
    from many_models.ports import PackUpload, PackVersion, Release, ReleaseDraft

SEARCH_INDIVIDUALLY_BELOW = 20
"""Up to this number, packs are searched one by one."""
CURRENT = f"{OWN_TAGS}current"
LIVE = f"{OWN_TAGS}live"
RELEASE_ID = f"{OWN_TAGS}release_id"
MANIFEST = "manifest.json"
MANIFEST_SHA256 = f"{OWN_TAGS}manifest_sha256"
ALIASES_SET = f"{OWN_TAGS}aliases_set"
PREVIOUS = f"{OWN_TAGS}previous"
PROPOSAL, WAITING = f"{OWN_TAGS}proposal", "waiting"
APPROVED = f"{OWN_TAGS}approved"


class MlflowStaging:
    """A StagingRegistry on MLflow: `tracking_uri` its store, `artifacts` its folder ("": the server's), names begin
    with `prefix`. A version that is the newest of any series has the tag `mm.current`: finding reads those only.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifacts: str = "",
        prefix: str = "many_models",
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = MlflowStore(tracking_uri, artifacts, prefix, "staging")
        self._clock = clock

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        """See StagingRegistry."""
        check_uploads(packs)
        if not packs:
            return []
        store = self._store
        with store.errors(f"registering batch {batch!r}"):
            run = store.find_run(batch)
            there = self._versions_of(run, packs) if run else {}
            missing = [upload for upload in packs if (upload.pack, tuple(upload.series)) not in there]
            if missing:
                run = run or store.start_run(batch)
                tags = {"batch": batch, "registered_at": self._clock().isoformat(), "current": store.owner}
                for version in store.register_packs(run, missing, tags).values():
                    there[version.pack, version.series] = version
                self._retire(missing)
                store.client.set_terminated(run.info.run_id, "FINISHED")
            return [there[upload.pack, tuple(upload.series)] for upload in packs]

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """See StagingRegistry. They are the batch's run's: MLflow's UI compares them over nights."""
        store = self._store
        with store.errors(f"recording metrics of batch {batch!r}"):
            run = store.find_run(batch) or store.start_run(batch)
            there = run.data.params
            store.log(run, {key: text for key, text in parameters.items() if key not in there}, finite(metrics))
            store.client.update_run(run.info.run_id, name=title[:250])
            store.client.set_terminated(run.info.run_id, "FINISHED")

    def _versions_of(self, run: Run, packs: Sequence[PackUpload]) -> dict[tuple[str, tuple[str, ...]], PackVersion]:
        """Those of `packs` that an earlier, broken-off or repeated call has registered."""
        found = [self._store.pack_version(v) for v in self._search(f"run_id = '{run.info.run_id}'", packs)]
        return {(version.pack, version.series): version for version in found}

    def _search(self, query: str, packs: Sequence[PackUpload] = ()) -> list[ModelVersion]:
        """The versions that `query` names; by pack when they are few, since a search of all has to read all."""
        if not 0 < len(packs) <= SEARCH_INDIVIDUALLY_BELOW:
            return self._store.search(query)
        names = [self._store.name(upload.pack) for upload in packs]
        return by_age(v for name in names for v in self._store.search(f"name = '{name}' AND {query}"))

    @property
    def _current(self) -> str:
        return f"tags.`{CURRENT}` = '{self._store.owner}'"

    def _retire(self, packs: Sequence[PackUpload] = ()) -> None:
        """Take the tag off versions whose series all have a newer one. New versions have got it before."""
        seen: set[str] = set()
        for found in reversed(self._search(self._current, packs)):
            series = self._store.pack_version(found).series
            if seen.issuperset(series):
                self._store.registry.delete_model_version_tag(found.name, str(found.version), CURRENT)
            seen.update(series)

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        """See StagingRegistry. One search, whose size is the number of packs that are current."""
        with self._store.errors("finding the newest versions"):
            return newest_per_series(map(self._store.pack_version, self._search(self._current)), series)

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        """See StagingRegistry."""
        return _files(self._store, version.ref, version.sha256)

    def prune(self, keep: int, also: Collection[str] = ()) -> Sequence[str]:
        """See StagingRegistry."""
        store = self._store
        with store.writing("pruning"):
            self._retire()
            found = store.mine()
            versions = [store.pack_version(v) for v in found]
            everything = [series_id for version in versions for series_id in version.series]
            kept = {version.ref for version in newest_per_series(versions, everything).values()} | set(also)
            per_pack: dict[str, list[str]] = {}
            for version in versions:
                per_pack.setdefault(version.name, []).append(version.ref)
            for refs in per_pack.values():
                kept.update(refs[len(refs) - min(keep, len(refs)) :])
            gone = [v for v in found if _ref(v) not in kept]
            store.delete(gone, [v for v in found if _ref(v) in kept])
            return [_ref(v) for v in gone]

    def check(self) -> str:
        """See StagingRegistry."""
        return _check(self._store)


class MlflowProduction:
    """A ProductionRegistry on MLflow: arguments as for MlflowStaging.

    Every release is a version of the registered model `<prefix>-release` whose folder holds its manifest. The live
    one has the alias `live`, and of all versions the highest number in its tag `mm.live`, which is all there is
    where `aliases` are not to be had. Packs carry the alias `champion` as a courtesy to other clients; it is no truth.

    Publishing, approving, rolling back and pruning hold one lock, on a server one that other machines see.
    `light` reads without importing MLflow where mlflow_reader.py can, for services; what writes imports it.
    `failpoint` is called with the name of each step that publishing has finished.
    """

    def __init__(  # noqa: PLR0913  all but the first have a default
        self,
        tracking_uri: str,
        artifacts: str = "",
        prefix: str = "many_models",
        *,
        clock: Callable[[], datetime] = utc_now,
        aliases: bool = True,
        light: bool = False,
        failpoint: Callable[[str], None] | None = None,
    ) -> None:
        self._store = MlflowStore(tracking_uri, artifacts, prefix, "production", light)
        self._clock = clock
        self._aliases = aliases
        self._step = failpoint or _nothing

    @property
    def needs_mlflow(self) -> bool:
        """Whether reading imports MLflow."""
        return self._store.reader is None

    @property
    def _release_model(self) -> str:
        return f"{self._store.prefix}-release"

    # --- reading ------------------------------------------------------------------------------------------------
    def live(self) -> Release | None:
        """See ProductionRegistry."""
        with self._store.errors("reading the live release"):
            found = self._live_version()
            return self._release(found) if found else None

    def live_id(self) -> str:
        """See ProductionRegistry. One row: no manifest is read."""
        with self._store.errors("reading the live release's id"):
            found = self._live_version()
            return str(found.tags.get(RELEASE_ID, "")) if found else ""

    def releases(self) -> Sequence[Release]:
        """See ProductionRegistry."""
        with self._store.errors("reading the releases"):
            return [self._release(found) for found in reversed(self._kept())]

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """See ProductionRegistry."""
        return _files(self._store, ref, sha256)

    def check(self) -> str:
        """See ProductionRegistry."""
        return _check(self._store)

    def _live_version(self) -> Version | None:
        if self._aliases and (found := self._store.by_alias(self._release_model, "live")):
            return found
        activated = self._activated()
        return max(activated, key=lambda v: int(v.tags[LIVE])) if activated else None

    def _with_tag(self, key: str) -> list[Version]:
        """The releases' versions that have the tag, oldest first. Read by name: by tag, MLflow looks through the tags
        of all models, and of releases there are few.
        """
        return [v for v in self._store.versions(self._release_model) if key in v.tags]

    def _activated(self) -> list[Version]:
        return self._with_tag(LIVE)

    def _kept(self) -> list[Version]:
        """The releases that have been live, oldest first."""
        found = {int(v.version): v for v in self._activated()}
        if live := self._live_version():
            found.setdefault(int(live.version), live)
        return [found[number] for number in sorted(found)]

    def _release(self, found: Version) -> Release:
        manifest = self._store.read(str(found.source)).get(MANIFEST)
        if manifest is None or MANIFEST_SHA256 not in found.tags:
            raise IntegrityError(f"release {_ref(found)} has lost its manifest: roll back to another release")
        release = release_of(manifest, found.tags[MANIFEST_SHA256], _ref(found))
        if APPROVED not in found.tags:
            return release
        actor, reason, at = json.loads(found.tags[APPROVED])
        return replace(release, approval=Approval(actor, reason, datetime.fromisoformat(at)))

    # --- writing ------------------------------------------------------------------------------------------------
    def publish(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry."""
        with self._store.writing("publishing a release") as still_locked:
            before = self._live_version()
            base = self._release(before) if before else None
            made, release = self._keep(draft, base)
            still_locked()
            self._make_live(made, before)
            self._set_champions(made, release, before, base)
            return release

    def propose(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry. The proposal is one write: the manifest's version with its tag `mm.proposal`."""
        with self._store.writing("proposing a release"):
            before = self._live_version()
            return self._keep(draft, self._release(before) if before else None, {PROPOSAL: WAITING})[1]

    def _keep(
        self, draft: ReleaseDraft, base: Release | None, tags: Mapping[str, str] | None = None
    ) -> tuple[Version, Release]:
        """Store and verify what `draft` makes of `base`, its manifest last and with `tags`; nothing goes live."""
        store = self._store
        check_draft(base, draft)
        now = self._clock()
        release_id = new_release_id(now)
        run = store.start_run(release_id)
        versions = store.register_packs(run, draft.packs, {"release_id": release_id})
        self._step("packs_registered")
        for version in versions.values():
            _files(store, version.ref, version.sha256)
        self._step("packs_verified")
        release = new_release(release_id, now, base, draft, versions)
        made = self._write_manifest(run, release, tags or {})
        store.client.set_terminated(run.info.run_id, "FINISHED")
        self._step("manifest_registered")
        return made, release

    def waiting(self) -> Release | None:
        """See ProductionRegistry."""
        with self._store.errors("reading the waiting proposal"):
            found = self._waiting_version(self._live_version())
            return replace(self._release(found), approval=None) if found else None  # a yes may have broken off

    def _waiting_version(self, live: Version | None) -> Version | None:
        """The newest proposal, whatever became of it; None when it waits no more."""
        newest = next(reversed(self._with_tag(PROPOSAL)), None)
        if newest is None or newest.tags[PROPOSAL] != WAITING or LIVE in newest.tags:
            return None
        if live and live.version == newest.version:
            return None
        return newest if newest.tags[PREVIOUS] == (live.tags[RELEASE_ID] if live else "") else None

    def approve(self, release_id: str, actor: str, reason: str) -> Release:
        """See ProductionRegistry. Who and why are written before the switch: a crash between leaves it waiting."""
        check_verdict(actor, reason)
        with self._store.writing(f"approving proposal {release_id!r}") as still_locked:
            before = self._live_version()
            base = self._release_or_none(before)
            if before and before.tags.get(RELEASE_ID) == release_id:
                return self._release(before)
            found = self._asked_for(release_id, before)
            release = self._release(found)
            already = {c.ref for c in base.champions.values()} if base else set[str]()
            for ref, sha256 in {(c.ref, c.sha256) for c in release.champions.values() if c.ref not in already}:
                _files(self._store, ref, sha256)
            approval = Approval(actor, reason, self._clock())
            self._tag(found, APPROVED, json.dumps([actor, reason, approval.at.isoformat()]))
            self._step("approval_written")
            still_locked()
            self._make_live(found, before)
            self._set_champions(found, release, before, base)
            return replace(release, approval=approval)

    def reject(self, release_id: str, actor: str, reason: str) -> None:
        """See ProductionRegistry."""
        check_verdict(actor, reason)
        with self._store.writing(f"rejecting proposal {release_id!r}"):
            found = self._asked_for(release_id, self._live_version())
            self._tag(found, PROPOSAL, json.dumps(["rejected", actor, reason, self._clock().isoformat()]))

    def _asked_for(self, release_id: str, live: Version | None) -> Version:
        found = self._waiting_version(live)
        check_waiting(release_id, found.tags[RELEASE_ID] if found else "")
        if found is None:
            raise ConflictError("no proposal waits")
        return found

    def activate(self, release_id: str) -> Release:
        """See ProductionRegistry."""
        with self._store.writing(f"activating release {release_id!r}"):
            kept = {v.tags.get(RELEASE_ID, ""): v for v in self._kept()}
            if release_id not in kept:
                raise InputError(f"there is no release {release_id!r}; kept are {', '.join(kept) or 'none'}")
            before = self._live_version()
            release = self._release(kept[release_id])
            self._make_live(kept[release_id], before)
            base = self._release_or_none(before)
            self._set_champions(kept[release_id], release, before, base)
            return release

    def _release_or_none(self, found: Version | None) -> Release | None:
        """A release that is left: a damaged one must not stop the way back to a good one."""
        try:
            return self._release(found) if found else None
        except IntegrityError:
            return None

    def _write_manifest(self, run: Run, release: Release, more: Mapping[str, str]) -> Version:
        manifest = manifest_bytes(release)
        sha256 = hashlib.sha256(manifest).hexdigest()
        source = f"{self._store.write(run, [('release', {MANIFEST: manifest})])}/release"
        self._step("manifest_written")
        release_of(self._store.read(source)[MANIFEST], sha256, release.release_id)
        tags = {
            f"{OWN_TAGS}owner": self._store.owner,
            RELEASE_ID: release.release_id,
            MANIFEST_SHA256: sha256,
            f"{OWN_TAGS}created_at": release.created_at.isoformat(),
            f"{OWN_TAGS}actor": release.actor,
            f"{OWN_TAGS}reason": release.reason[:1000],
            PREVIOUS: release.previous,
            **more,
        }
        return self._store.create_version(self._release_model, source, run, tags)

    def _make_live(self, found: Version, before: Version | None) -> None:
        """Switch with one write: the alias, or the tag where there are none. The other follows."""
        activated = self._activated()
        number = max((int(v.tags[LIVE]) for v in activated), default=0)
        if self._aliases:
            if before and before.version not in {v.version for v in activated}:  # the last switch broke off half-way
                number += 1
                self._tag(before, LIVE, str(number))
            self._store.registry.set_registered_model_alias(self._release_model, "live", str(found.version))
            self._step("alias_moved")
        self._tag(found, LIVE, str(number + 1))
        self._step("live")

    def _set_champions(self, found: Version, release: Release, before: Version | None, base: Release | None) -> None:
        """Move the packs' courtesy aliases from `base` to `release`: all of them when `before`'s were not finished."""
        if not self._aliases:
            return
        finished = before is not None and base is not None and ALIASES_SET in before.tags
        was = _pack_versions(base) if base else {}
        now = _pack_versions(release)
        self._store.set_aliases(
            "champion", {name: version for name, version in now.items() if not finished or was.get(name) != version}
        )
        for name in was.keys() - now.keys():
            self._store.registry.delete_registered_model_alias(name, "champion")
        self._tag(found, ALIASES_SET, "true")
        self._step("champions_set")

    def _tag(self, found: Version, key: str, value: str) -> None:
        self._store.registry.set_model_version_tag(found.name, str(found.version), key, value)

    def prune(self, keep: int) -> Sequence[str]:
        """See ProductionRegistry. What a broken-off publication or a superseded proposal left goes too."""
        store = self._store
        with store.writing("pruning"):
            activated = self._kept()
            live = self._live_version()
            kept = activated[len(activated) - min(keep, len(activated)) :]
            if live and live.version not in {v.version for v in kept}:
                kept.append(live)
            if (waiting := self._waiting_version(live)) is not None:
                kept.append(waiting)
            refs = {_ref(v) for v in kept} | {c.ref for v in kept for c in self._release(v).champions.values()}
            mine = store.mine()
            gone = [v for v in mine if _ref(v) not in refs]
            store.delete(gone, [v for v in mine if _ref(v) in refs])
            return [v.tags.get(RELEASE_ID, "") if v.name == self._release_model else _ref(v) for v in gone]


def _pack_versions(release: Release) -> dict[str, str]:
    """Registered model → the highest version that serves a series."""
    found: dict[str, int] = {}
    for ref in {champion.ref for champion in release.champions.values()}:
        name, _, version = ref.rpartition("/")
        found[name] = max(found.get(name, 0), int(version))
    return {name: str(version) for name, version in sorted(found.items())}


def _files(store: MlflowStore, ref: str, sha256: str) -> Mapping[str, bytes]:
    with store.errors(f"reading pack {ref}"):
        return verified(pack_files(store.read(str(store.find(ref).source))), sha256, ref)


def _check(store: MlflowStore) -> str:
    with store.errors("checking"):
        store.experiment()
        return f"MLflow at {store.shown}, experiment {store.owner}"


def _ref(found: Version) -> str:
    return f"{found.name}/{found.version}"


def _nothing(step: str) -> None:
    """Never fail: the failpoint of production."""
