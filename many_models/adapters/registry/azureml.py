"""Both registries on Azure ML: packs as model assets of a workspace, their files and one index in Azure storage.

Storage has what Azure ML lacks. The index is one blob that is replaced under its ETag, so a switch of the live release
is one write; a blob lease keeps other writers out. Layout below the registry's folder:

    packs/<model>/<version>/   an MLflow model folder, which the asset names
    releases/<id>/             the manifest of a release
    batches/<digest>/          parameters and metrics of a batch
    index.json                 staging: the versions; production: the releases and which one is live
    lock                       the lease
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from many_models.adapters.registry.azureml_assets import ModelAsset
from many_models.adapters.registry.mlflow_folder import model_folder, pack_files
from many_models.adapters.registry.rules import (
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
from many_models.keys import digest, files_sha256, slug, verified
from many_models.ports import Approval, PackVersion
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from many_models.adapters.azure.blob_folder import BlobFolder, State
    from many_models.adapters.registry.azureml_assets import ModelAssets
    from many_models.ports import PackUpload, Release, ReleaseDraft

INDEX, LOCK, MANIFEST, BATCH = "index.json", "lock", "manifest.json", "batch.json"
LOCK_SECONDS = 300.0
WRITTEN_AT_ONCE = 64 * 2**20  # bytes of packs that are in memory to be written side by side
WAITING = "waiting"


class _Packs:
    """Pack versions: files in storage, assets in the workspace, numbers in the index."""

    def __init__(self, folder: BlobFolder, assets: ModelAssets, prefix: str, stage: str) -> None:
        self.folder, self.assets, self._prefix, self._stage = folder, assets, prefix, stage

    @contextmanager
    def writing(self, what: str) -> Generator[Callable[[], None]]:
        """The lease, for as long as the block takes."""
        with self.folder.lease(LOCK, LOCK_SECONDS, what) as still_held:
            yield still_held

    def store(
        self, state: State, etag: str, packs: Sequence[PackUpload], tags: Mapping[str, str]
    ) -> tuple[list[PackVersion], str]:
        """Store `packs` under new numbers, which are written down first: a version that is there is never written
        again, and what a killed writer leaves is known as `pending`. Returns the versions and the index's new ETag.
        """
        versions = list[PackVersion]()
        numbers, pending = state.setdefault("numbers", {}), state.setdefault("pending", [])
        for upload in packs:
            name = f"{self._prefix}-{slug(upload.pack)}"
            numbers[name] = numbers.get(name, 0) + 1
            sha256 = files_sha256(upload.files)
            versions.append(
                PackVersion(name, str(numbers[name]), upload.pack, tuple(upload.series), sha256, dict(upload.tags))
            )
        pending += [version.ref for version in versions]
        etag = self.folder.write_state(INDEX, state, etag)
        made, written = list[ModelAsset](), dict[str, bytes]()
        for upload, version in zip(packs, versions, strict=True):
            if sum(map(len, written.values())) >= WRITTEN_AT_ONCE:
                self.folder.put(written)
                written = {}
            files = model_folder(upload, version.name, version.ref)
            written |= {f"packs/{version.ref}/{name}": data for name, data in files.items()}
            path = self.folder.storage.path(f"packs/{version.ref}")
            told = {**upload.tags, **tags, "pack": upload.pack, "series_count": str(len(upload.series))}
            kept = {"sha256": version.sha256}
            made.append(ModelAsset(version.name, version.version, path, told, kept, "MLmodel" in files, self._stage))
        self.folder.put(written)
        self.assets.create(made)
        done = {version.ref for version in versions}
        state["pending"] = [ref for ref in pending if ref not in done]
        return versions, etag

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """The pack's files. Raises InputError where there are none, IntegrityError where they are not `sha256`."""
        found = self.folder.get(f"packs/{ref}")
        if not found:
            raise InputError(f"there is no pack version {ref!r}: it was never stored, or has been pruned")
        return verified(pack_files(found), sha256, ref)

    def delete(self, state: State, refs: Sequence[str]) -> None:
        """Archive the assets, then delete their files. An asset that Azure ML does not find is asked for once more by
        the next call, with `unarchived`: what a killed writer registered a moment ago is found later.
        """
        asked_before = unarchived(state)
        versions = {ref: (name, version) for ref in refs for name, _, version in [ref.rpartition("/")]}
        missed = self.assets.archive(list(versions.values()))
        for ref in refs:
            self.folder.remove(f"packs/{ref}")
        state["unarchived"] = [ref for ref, one in versions.items() if one in missed and ref not in asked_before]


def unarchived(state: State) -> list[str]:
    """Versions whose files are deleted and whose assets were not found."""
    return list(state.get("unarchived", ()))


class AzureMLStaging:
    """A StagingRegistry on `assets`, with its files and its index in `folder`."""

    def __init__(
        self,
        folder: BlobFolder,
        assets: ModelAssets,
        prefix: str = "many_models",
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._packs = _Packs(folder, assets, prefix, "Development")
        self._clock = clock

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        """See StagingRegistry."""
        check_uploads(packs)
        if not packs:
            return []
        with self._packs.writing("registering packs") as still_held:
            state, etag = self._read()
            there = {(row["batch"], v.pack, v.series): v for row, v in _versions(state)}
            missing = [upload for upload in packs if (batch, upload.pack, tuple(upload.series)) not in there]
            if missing:
                tags = {"batch": batch, "registered_at": self._clock().isoformat()}
                made, etag = self._packs.store(state, etag, missing, tags)
                for version in made:
                    state.setdefault("versions", []).append({"batch": batch, **_row(version)})
                    there[batch, version.pack, version.series] = version
                still_held()
                self._packs.folder.write_state(INDEX, state, etag)
            return [there[batch, upload.pack, tuple(upload.series)] for upload in packs]

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """See StagingRegistry. Packs have their own metrics as tags; the batch's are in a file beside the index."""
        place = f"batches/{digest(batch)}"
        before = json.loads(self._packs.folder.get(place).get(BATCH, b"{}"))
        told = {
            "batch": batch,
            "title": title,
            "parameters": {**parameters, **before.get("parameters", {})},
            "metrics": {**before.get("metrics", {}), **finite(metrics)},
        }
        self._packs.folder.put({f"{place}/{BATCH}": json.dumps(told).encode()})

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        """See StagingRegistry. One read of the index."""
        return newest_per_series((version for _, version in _versions(self._read()[0])), series)

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        """See StagingRegistry."""
        return self._packs.files(version.ref, version.sha256)

    def prune(self, keep: int, also: Collection[str] = ()) -> Sequence[str]:
        """See StagingRegistry. What killed writers left goes, too."""
        with self._packs.writing("pruning") as still_held:
            state, etag = self._read()
            versions = [version for _, version in _versions(state)]
            everything = [series_id for version in versions for series_id in version.series]
            kept = {version.ref for version in newest_per_series(versions, everything).values()} | {*also}
            per_pack: dict[str, list[str]] = {}
            for version in versions:
                per_pack.setdefault(version.name, []).append(version.ref)
            for refs in per_pack.values():
                kept.update(refs[len(refs) - min(keep, len(refs)) :])
            gone = [version.ref for version in versions if version.ref not in kept]
            left = [*state.get("pending", ()), *unarchived(state)]
            if gone or left:
                state["versions"] = [row for row, version in _versions(state) if version.ref in kept]
                state["pending"] = [*left, *gone]  # until they are deleted
                still_held()
                etag = self._packs.folder.write_state(INDEX, state, etag)
                self._packs.delete(state, [*left, *gone])
                state["pending"] = []
                self._packs.folder.write_state(INDEX, state, etag)
            return gone

    def check(self) -> str:
        """See StagingRegistry."""
        versions = len(self._read()[0].get("versions", ()))
        return f"Azure ML models, {self._packs.assets.check()}, {versions} pack versions"

    def _read(self) -> tuple[State, str]:
        return self._packs.folder.read_state(INDEX)


class AzureMLProduction:
    """A ProductionRegistry on `assets`, with its files, its manifests and its index in `folder`.

    `failpoint` is called with the name of each step that publishing has finished.
    """

    def __init__(
        self,
        folder: BlobFolder,
        assets: ModelAssets,
        prefix: str = "many_models",
        *,
        clock: Callable[[], datetime] = utc_now,
        failpoint: Callable[[str], None] | None = None,
    ) -> None:
        self._packs = _Packs(folder, assets, prefix, "Production")
        self._clock = clock
        self._step = failpoint or _nothing

    # --- reading ------------------------------------------------------------------------------------------------
    def live(self) -> Release | None:
        """See ProductionRegistry."""
        state, _ = self._read()
        return self._release(state, state["live"]) if state.get("live") else None

    def live_id(self) -> str:
        """See ProductionRegistry. One small blob."""
        return str(self._read()[0].get("live", ""))

    def releases(self) -> Sequence[Release]:
        """See ProductionRegistry."""
        state, _ = self._read()
        return [self._release(state, row["id"]) for row in reversed(state.get("releases", ())) if row["activated"]]

    def waiting(self) -> Release | None:
        """See ProductionRegistry."""
        state, _ = self._read()
        found = _waiting_row(state)
        return self._release(state, found["id"]) if found else None

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        """See ProductionRegistry."""
        return self._packs.files(ref, sha256)

    def check(self) -> str:
        """See ProductionRegistry."""
        live = self.live_id() or "no release"
        return f"Azure ML models, {self._packs.assets.check()}, {live} is live"

    def _release(self, state: State, release_id: str) -> Release:
        row = _row_of(state, release_id)
        manifest = self._packs.folder.get(f"releases/{release_id}").get(MANIFEST)
        if row is None or manifest is None:
            raise IntegrityError(f"release {release_id} has lost its manifest: roll back to another release")
        release = release_of(manifest, row["sha256"], release_id)
        if not row.get("approval"):
            return release
        actor, reason, at = row["approval"]
        return replace(release, approval=Approval(actor, reason, datetime.fromisoformat(at)))

    # --- writing ------------------------------------------------------------------------------------------------
    def publish(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry. The switch is one write of the index, under its ETag."""
        with self._packs.writing("publishing a release") as still_held:
            release, row, state, etag = self._keep(draft)
            row["activated"] = True
            state["live"] = release.release_id
            still_held()
            self._write(state, etag)
            self._step("live")
            return release

    def propose(self, draft: ReleaseDraft) -> Release:
        """See ProductionRegistry."""
        with self._packs.writing("proposing a release") as still_held:
            release, row, state, etag = self._keep(draft)
            row["proposal"] = WAITING
            still_held()
            self._write(state, etag)
            return release

    def _keep(self, draft: ReleaseDraft) -> tuple[Release, dict[str, Any], State, str]:
        """Store and verify what `draft` makes of the live release; its row of the index is not written yet."""
        state, etag = self._read()
        base = self._release(state, state["live"]) if state.get("live") else None
        check_draft(base, draft)
        now = self._clock()
        release_id = new_release_id(now)
        made, etag = self._packs.store(state, etag, draft.packs, {"release_id": release_id})
        self._step("packs_registered")
        for version in made:
            self._packs.files(version.ref, version.sha256)
        self._step("packs_verified")
        release = new_release(release_id, now, base, draft, {version.pack: version for version in made})
        manifest = manifest_bytes(release)
        self._packs.folder.put({f"releases/{release_id}/{MANIFEST}": manifest})
        self._step("manifest_written")
        row = {
            "id": release_id,
            "sha256": hashlib.sha256(manifest).hexdigest(),
            "previous": release.previous,
            "activated": False,
        }
        state.setdefault("releases", []).append(row)
        state["packs"] = [*state.get("packs", ()), *(version.ref for version in made)]
        return release, row, state, etag

    def approve(self, release_id: str, actor: str, reason: str) -> Release:
        """See ProductionRegistry. Who, why and the switch are one write."""
        check_verdict(actor, reason)
        with self._packs.writing(f"approving proposal {release_id!r}") as still_held:
            state, etag = self._read()
            if state.get("live") == release_id:
                return self._release(state, release_id)
            row = _asked_for(state, release_id)
            release = self._release(state, release_id)
            base = self._release(state, state["live"]) if state.get("live") else None
            already = {c.ref for c in base.champions.values()} if base else set[str]()
            for ref, sha256 in {(c.ref, c.sha256) for c in release.champions.values() if c.ref not in already}:
                self._packs.files(ref, sha256)
            row |= {"approval": [actor, reason, self._clock().isoformat()], "activated": True, "proposal": "approved"}
            state["live"] = release_id
            still_held()
            self._write(state, etag)
            self._step("live")
            return self._release(state, release_id)

    def reject(self, release_id: str, actor: str, reason: str) -> None:
        """See ProductionRegistry."""
        check_verdict(actor, reason)
        with self._packs.writing(f"rejecting proposal {release_id!r}") as still_held:
            state, etag = self._read()
            _asked_for(state, release_id)["proposal"] = ["rejected", actor, reason, self._clock().isoformat()]
            still_held()
            self._write(state, etag)

    def activate(self, release_id: str) -> Release:
        """See ProductionRegistry. One write."""
        with self._packs.writing("rolling back") as still_held:
            state, etag = self._read()
            kept = [row["id"] for row in state.get("releases", ()) if row["activated"]]
            if release_id not in kept:
                raise InputError(f"there is no release {release_id!r}; kept are {', '.join(kept) or 'none'}")
            release = self._release(state, release_id)
            state["live"] = release_id
            still_held()
            self._write(state, etag)
            return release

    def prune(self, keep: int) -> Sequence[str]:
        """See ProductionRegistry. The index forgets first: a crash leaves files that the next call deletes."""
        with self._packs.writing("pruning") as still_held:
            state, etag = self._read()
            rows = state.get("releases", [])
            activated = [row["id"] for row in rows if row["activated"]]
            waiting = _waiting_row(state)
            kept = {*activated[len(activated) - min(keep, len(activated)) :], state.get("live", "")}
            kept |= {waiting["id"]} if waiting else set()
            gone = [row["id"] for row in rows if row["id"] not in kept]
            stay = [self._release(state, row["id"]) for row in rows if row["id"] in kept]
            refs = {c.ref for release in stay for c in release.champions.values()}
            packs = [ref for ref in state.get("packs", ()) if ref not in refs]
            left = [*state.get("pending", ()), *unarchived(state), *packs]
            old = [*state.get("pending_releases", ()), *gone]
            if left or old:
                state["releases"] = [row for row in rows if row["id"] in kept]
                state["packs"] = [ref for ref in state.get("packs", ()) if ref in refs]
                state |= {"pending": left, "pending_releases": old}
                still_held()
                etag = self._write(state, etag)
                self._packs.delete(state, left)
                for release_id in old:
                    self._packs.folder.remove(f"releases/{release_id}")
                self._write({**state, "pending": [], "pending_releases": []}, etag)
            return [*gone, *packs]

    def _read(self) -> tuple[State, str]:
        return self._packs.folder.read_state(INDEX)

    def _write(self, state: State, etag: str) -> str:
        return self._packs.folder.write_state(INDEX, state, etag)


def _row(version: PackVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "pack": version.pack,
        "series": list(version.series),
        "sha256": version.sha256,
        "tags": dict(version.tags),
    }


def _versions(state: State) -> list[tuple[dict[str, Any], PackVersion]]:
    """The rows of staging's index with their versions, oldest first."""
    return [
        (row, PackVersion(row["name"], row["version"], row["pack"], tuple(row["series"]), row["sha256"], row["tags"]))
        for row in state.get("versions", ())
    ]


def _row_of(state: State, release_id: str) -> dict[str, Any] | None:
    return next((row for row in state.get("releases", ()) if row["id"] == release_id), None)


def _waiting_row(state: State) -> dict[str, Any] | None:
    """The newest proposal, where it was made for the live release and no person has decided."""
    proposals = [row for row in state.get("releases", ()) if row.get("proposal")]
    if not proposals or proposals[-1]["proposal"] != WAITING:
        return None
    return proposals[-1] if proposals[-1]["previous"] == state.get("live", "") else None


def _asked_for(state: State, release_id: str) -> dict[str, Any]:
    found = _waiting_row(state)
    check_waiting(release_id, found["id"] if found else "")
    if found is None:
        raise ConflictError("no proposal waits")
    return found


def _nothing(step: str) -> None:
    """Never fail: the failpoint of production."""
