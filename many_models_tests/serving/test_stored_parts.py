"""What the service keeps and sends: the index of a release, its manifest, a pack as one file, rounded numbers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from many_models.adapters.registry import rules
from many_models.data.pack_file import joined, parted
from many_models.data.release_index import ReleaseIndex
from many_models.errors import IntegrityError
from many_models.ports import Champion, PackUpload, Release
from many_models.serving.loaded_pack import rounded
from many_models_tests.support.serving_parts import Registry, draft, pack

if TYPE_CHECKING:
    from pathlib import Path


def test_a_catalogue_finds_every_series_of_a_release_and_no_other(tmp_path: Path) -> None:
    odd = ["", "ü😀", "\ud800", "a__b", "a__b ", "'", "\x00", "x" * 3000]
    uploads = [PackUpload(f"p{i}", {"a": b"x"}, tuple(f"{name}{i}" for name in odd)) for i in range(3)]
    registry = Registry()
    release = registry.production.publish(draft(None, uploads))
    for catalogue in (ReleaseIndex.of(release), _stored(ReleaseIndex.of(release), tmp_path)):
        names = list(release.champions)
        found = catalogue.find(names)
        assert [catalogue.champion(number) for number in found] == list(release.champions.values())
        assert catalogue.find(["nobody", names[3], "", "ü😀"]) == [-1, found[3], -1, -1]
        assert (catalogue.release_id, catalogue.created_at) == (release.release_id, release.created_at)


def _stored(catalogue: ReleaseIndex, folder: Path) -> ReleaseIndex:
    catalogue.save(folder / "release.npz")
    return ReleaseIndex.load(folder / "release.npz")


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_damaged_catalogue_is_told_from_a_missing_one(tmp_path: Path, cut: int) -> None:
    registry = Registry(pack("a"))
    path = tmp_path / "release.npz"
    with pytest.raises(FileNotFoundError):
        ReleaseIndex.load(path)
    ReleaseIndex.of(registry.production.live()).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match="delete it"):
        ReleaseIndex.load(path)


def test_a_manifest_is_the_same_whatever_the_pieces_are_that_it_is_read_in(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a__tea", "ü😀", '],["', '"champions":[', "x" * 300]
    champions = {n: Champion(n, f"p/{i}", i, "f" * 64, "s/1", "r", "2024-06-30") for i, n in enumerate(names)}
    release = Release("r1", datetime(2024, 7, 1), "Ada", 'why: "champions":[[', "", champions)
    for one in (release, replace(release, champions={})):
        manifest = rules.manifest_bytes(one)
        sha256 = hashlib.sha256(manifest).hexdigest()
        for size in (*range(600, 700), 1_000_000):
            monkeypatch.setattr(rules, "_ROWS_BYTES", size)
            assert rules.release_of(manifest, sha256, "here") == one


def test_a_manifest_that_ends_early_is_damaged() -> None:
    release = Release("r1", datetime(2024, 7, 1), "Ada", "why", "", {"a": Champion("a", "p/1", 0, "f", "s", "r", "c")})
    for cut in (2, 10, 30):
        manifest = rules.manifest_bytes(release)[:-cut]
        with pytest.raises(IntegrityError):
            rules.release_of(manifest, hashlib.sha256(manifest).hexdigest(), "here")


def test_series_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from many_models.data import release_index

    monkeypatch.setattr(release_index, "hash", lambda _: 7, raising=False)
    found = release_index.ReleaseIndex.of(Registry(pack("a"), pack("b")).production.live())
    assert [found.name(number) for number in found.find(["b__tea", "a__salt"])] == ["b__tea", "a__salt"]
    assert found.find(["c__tea"]) == [-1]


def test_joined_files_come_back_and_are_aligned() -> None:
    files = {"b": b"", "a.npy": bytes(range(256)), "c/d": b"x" * 1000}
    content = joined(files)
    found = parted(memoryview(content))
    assert {name: bytes(view) for name, view in found.items()} == files
    assert content.index(bytes(range(256))) % 64 == 0
    for end in range(0, len(content), 97):
        with pytest.raises(IntegrityError):
            parted(memoryview(content[:end]))


@pytest.mark.parametrize("x", [0.0, 1.0, -123.456789012, 1e-9, 9.99999999e7, 1e15, 1e-300, 1e300])
def test_numbers_are_rounded_to_eight_digits(x: float) -> None:
    (found,) = rounded(np.array([[x, -x]]))
    assert found == pytest.approx([float(f"{x:.8g}"), -float(f"{x:.8g}")], rel=1e-7 if abs(x) > 1e200 else 1e-12)


def test_nan_and_infinity_stay() -> None:
    assert np.array_equal(rounded(np.array([[np.nan, np.inf, -np.inf]])), [[np.nan, np.inf, -np.inf]], equal_nan=True)
