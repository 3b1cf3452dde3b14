"""What every registry agrees on: hashing and checking packs, the champions of a release, its manifest as bytes."""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections import Counter
from dataclasses import astuple, fields, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from many_models.errors import ConflictError, InputError, IntegrityError
from many_models.ports import Champion, PackUpload, PackVersion, Release

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from many_models.ports import ReleaseDraft

OWN_TAGS = "mm."
"""Tags that start so are the registries' own; callers' tags may not."""
MAX_TAG_KEY, MAX_TAG_VALUE = 250, 100_000  # MLflow's limits
MAX_ACTOR, MAX_REASON = 250, 5000
MANIFEST_FORMAT = 1
_TAG_KEY = re.compile(r"[\w./ -]+", re.ASCII)
_ROWS, _ROWS_BYTES = b'"champions":[', 1_000_000
_COLUMNS = [field.name for field in fields(Champion)]


def check_uploads(packs: Sequence[PackUpload]) -> None:
    """Raise InputError, naming the pack, for what a registry could not give back as it got it."""
    seen: set[str] = set()
    for upload in packs:
        if upload.pack in seen:
            raise InputError(f"pack {upload.pack!r} is there twice in one call: merge its series into one")
        seen.add(upload.pack)
        _check_upload(upload)


def _check_upload(upload: PackUpload) -> None:
    where = f"pack {upload.pack!r}"
    if not upload.series:
        raise InputError(f"{where} has no series")
    if twice := _twice(upload.series):
        raise InputError(f"{where} holds series twice: {', '.join(twice[:3])}")
    if not upload.files:
        raise InputError(f"{where} has no files")
    for name in upload.files:
        if not _is_plain(name) or re.search(r"[\\:\x00-\x1f]", name):
            raise InputError(f"{where}: {name!r} cannot name a file of a pack: use relative names like 'arrays/a.npy'")
    for key, value in upload.tags.items():
        if key.startswith(OWN_TAGS) or len(key) > MAX_TAG_KEY or not _TAG_KEY.fullmatch(key) or not _is_plain(key):
            raise InputError(
                f"{where}: tag {key[:60]!r} cannot be used: at most {MAX_TAG_KEY} letters, digits, '_', '-', '.', "
                f"' ' and '/', not starting with {OWN_TAGS!r}"
            )
        if len(value) > MAX_TAG_VALUE:
            raise InputError(
                f"{where} ({upload.series[0]} …): tag {key!r} has {len(value)} characters, at most {MAX_TAG_VALUE} "
                "are allowed: put it into a file of the pack"
            )


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return str(path) == name != "." and not path.is_absolute() and ".." not in path.parts


def _twice(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def check_draft(base: Release | None, draft: ReleaseDraft) -> None:
    """Raise ConflictError when `draft` was not made for `base`, InputError when it contradicts itself."""
    live = base.release_id if base else ""
    if draft.base != live:
        raise ConflictError(
            f"the live release is {live or 'none'}, the draft was made for {draft.base or 'none'}: "
            "someone else published or rolled back; decide again"
        )
    check_uploads(draft.packs)
    packed: dict[str, str] = {}
    for upload in draft.packs:
        for series_id in upload.series:
            if series_id in packed:
                raise InputError(f"series {series_id!r} is in packs {packed[series_id]!r} and {upload.pack!r}")
            packed[series_id] = upload.pack
    promoted = [p.series_id for p in draft.promoted]
    known = {*promoted, *(base.champions if base else ())}
    _refuse("promoted twice", _twice(promoted))
    _refuse("promoted, but in no pack of the draft", set(promoted) - packed.keys())
    _refuse("in a pack of the draft, but neither promoted nor live", packed.keys() - known)
    _refuse("removed, but in a pack of the draft", packed.keys() & set(draft.removed))


def check_verdict(actor: str, reason: str) -> None:
    """Raise InputError for what could not be written down whole."""
    if not actor.strip():
        raise InputError("say who approves or rejects: the name must not be empty")
    if len(actor) > MAX_ACTOR or len(reason) > MAX_REASON:
        raise InputError(f"a name has at most {MAX_ACTOR} characters and a reason {MAX_REASON}")


def check_waiting(asked: str, waiting: str) -> None:
    """Raise ConflictError when `asked` is not the proposal that is `waiting` ("" for none)."""
    if asked != waiting:
        raise ConflictError(
            f"proposal {asked!r} does not wait for approval: "
            + (f"{waiting} does" if waiting else "none does")
            + "; it was superseded, decided already, or made for another release than the live one"
        )


def _refuse(what: str, series: Iterable[str]) -> None:
    if found := sorted(series):
        raise InputError(f"{len(found)} series {what}: {', '.join(found[:3])}{' …' if len(found) > 3 else ''}")


def next_champions(
    base: Release | None, draft: ReleaseDraft, versions: Mapping[str, PackVersion]
) -> dict[str, Champion]:
    """Series → champion after `draft`, whose packs are stored as `versions` (by pack), sorted by series."""
    before = base.champions if base else {}
    removed = frozenset(draft.removed)
    promoted = {p.series_id: p for p in draft.promoted}
    champions = {series_id: c for series_id, c in before.items() if series_id not in removed}
    for upload in draft.packs:
        version = versions[upload.pack]
        for row, series_id in enumerate(upload.series):
            old, new = before.get(series_id), promoted.get(series_id)
            if new is None:
                kept = champions[series_id]
                champions[series_id] = replace(kept, ref=version.ref, row=row, sha256=version.sha256)
                continue
            previous = "" if old is None else old.previous if old.staging == new.staging else old.staging
            champions[series_id] = Champion(
                series_id, version.ref, row, version.sha256, new.staging, new.recipe, new.cutoff, previous, new.fallback
            )
    return dict(sorted(champions.items()))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """`metrics` without values that are not finite."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def new_release_id(created_at: datetime) -> str:
    """A new name for a release: its time for people, and chance, so that no two are the same."""
    return f"{created_at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def new_release(
    release_id: str,
    created_at: datetime,
    base: Release | None,
    draft: ReleaseDraft,
    versions: Mapping[str, PackVersion],
) -> Release:
    """The release that `draft` makes of `base`."""
    champions = next_champions(base, draft, versions)
    return Release(release_id, created_at, draft.actor, draft.reason, draft.base, champions)


def manifest_bytes(release: Release) -> bytes:
    """The release as JSON: its facts, and its champions as rows under named columns."""
    manifest = {
        "format": MANIFEST_FORMAT,
        "release_id": release.release_id,
        "created_at": release.created_at.isoformat(),
        "actor": release.actor,
        "reason": release.reason,
        "previous": release.previous,
        "columns": _COLUMNS,
        "champions": [astuple(champion) for champion in release.champions.values()],
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def release_of(manifest: bytes, sha256: str, where: str) -> Release:
    """The inverse of `manifest_bytes`. Raises IntegrityError when the bytes are not the ones that were written."""
    if (digest := hashlib.sha256(manifest).hexdigest()) != sha256:
        raise IntegrityError(f"manifest {where} is not what was written (sha256 {digest[:12]}, expected {sha256[:12]})")
    # the first is the one: within a text a quote has a backslash before it
    begin = manifest.find(_ROWS) + len(_ROWS) if _ROWS in manifest else len(manifest)
    found = json.loads(manifest[:begin] + (b"]}" if begin < len(manifest) else b""))
    if found["format"] > MANIFEST_FORMAT:
        got = found["format"]
        raise InputError(f"manifest {where} has format {got}, this version reads up to {MANIFEST_FORMAT}: upgrade")
    if found["columns"] != _COLUMNS:
        raise IntegrityError(f"manifest {where} has columns {found['columns']}, expected {_COLUMNS}")
    known: dict[Any, Any] = {}  # one copy of each text: every series of a pack repeats the pack's texts
    champions = {
        name: Champion(name, *[known.setdefault(value, value) for value in row])
        for name, *row in _rows(manifest, begin)
    }
    return Release(
        found["release_id"],
        datetime.fromisoformat(found["created_at"]),
        found["actor"],
        found["reason"],
        found["previous"],
        champions,
    )


def _rows(manifest: bytes, at: int) -> Iterator[Any]:
    """The rows of champions that begin at `at`, one after the other: all at once they take a gigabyte a million."""
    row_at = json.JSONDecoder().raw_decode
    while manifest[at : at + 1] != b"]":
        text = manifest[at : at + _ROWS_BYTES].decode("ascii")
        end = 0
        while text.startswith("[", end):
            try:
                row, end = row_at(text, end)
            except ValueError:  # the text ends within it
                break
            yield row
            end += text.startswith(",", end)
        if end == 0:
            raise IntegrityError(f"a manifest cannot be read at byte {at}")
        at += end
        at += manifest[at : at + 1] == b","


def newest_per_series(versions: Iterable[PackVersion], series: Sequence[str]) -> dict[str, PackVersion]:
    """For each of `series` the last of `versions` (oldest first) that holds it; series without one are absent."""
    wanted = frozenset(series)
    return {series_id: version for version in versions for series_id in version.series if series_id in wanted}
