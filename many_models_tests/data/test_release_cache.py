"""What batch scoring and the service keep of production: one format, verified, used while the registry is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from many_models.data.pack_folder import PackFolder
from many_models.data.release_cache import ReleaseCache
from many_models.data.release_index import PackId, ReleaseIndex
from many_models.errors import UnavailableError
from many_models_tests.support.serving_parts import Registry, pack

if TYPE_CHECKING:
    from pathlib import Path


def test_a_release_is_kept_whole_and_answers_while_production_is_away(tmp_path: Path) -> None:
    registry = Registry(pack("a%"), pack("b"))
    cache = ReleaseCache(registry, tmp_path)
    live = cache.live()
    assert live is not None
    assert cache.away == ""
    registry.away = True
    assert cache.live() == live
    assert live.release_id in cache.away
    registry.away = False
    cache.live()
    assert cache.away == ""


def test_a_pack_is_fetched_once_and_again_when_it_was_damaged(tmp_path: Path) -> None:
    registry = Registry(pack("a"))
    cache = ReleaseCache(registry, tmp_path)
    live = cache.live()
    assert live is not None
    champion = next(iter(live.champions.values()))
    known = PackId(champion.ref, champion.sha256)
    file = cache.packs.fetched_file(known)
    whole = file.read_bytes()
    assert cache.packs.fetched_file(known) == file
    assert registry.calls["files"] == 1
    file.write_bytes(whole[:-3])
    assert cache.packs.fetched_file(known).read_bytes() == whole
    assert registry.calls["files"] == 2


def test_packs_of_an_older_release_go_and_those_of_the_one_before_may_stay(tmp_path: Path) -> None:
    registry = Registry(pack("a"))
    cache = ReleaseCache(registry, tmp_path)
    first = registry.production.live()
    assert first is not None
    old = tmp_path / "packs" / "of_yesterday.pack"
    served = cache.packs.fetched_file(next(iter(ReleaseIndex.of(first).packs)))
    old.write_bytes(b"")
    cache.keep(ReleaseIndex.of(first), None)
    assert old.exists()
    second = ReleaseIndex.of(registry.publish(pack("b")))
    cache.keep(second, [ReleaseIndex.of(first)])
    assert served.exists()
    assert not old.exists()


def test_a_pack_that_the_disk_cannot_keep_fails_as_transient(tmp_path: Path) -> None:
    registry = Registry(pack("a"))
    live = registry.production.live()
    assert live is not None
    (tmp_path / "packs").write_bytes(b"")  # a file in the folder's place
    packs = PackFolder(tmp_path / "packs", registry, None, lambda _: None)
    with pytest.raises(UnavailableError, match="cannot be kept"):
        packs.fetched_file(next(iter(ReleaseIndex.of(live).packs)))
