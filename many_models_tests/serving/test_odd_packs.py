"""Packs that change under a running server, and packs whose hash is right and whose content is odd."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from many_models.data import pack_file
from many_models.data.pack_folder import PackFolder
from many_models.data.release_index import PackId
from many_models.errors import IntegrityError
from many_models.forecasting import PackModel
from many_models.ports import PackUpload
from many_models.serving.loaded_pack import LoadedPack
from many_models_tests.support.serving_parts import ITEMS, Registry, asked, forecasts, pack, trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# --- files that change ------------------------------------------------------------------------------------------------
def overwrite(path: Path) -> None:
    """Zeros in the same place: the file that is mapped, not another of its name."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\0" * size)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize("spoil", [overwrite, cut])
def test_what_was_verified_is_what_answers_whatever_happens_to_the_file(tmp_path: Path, spoil) -> None:
    """A cut file ends the process of whoever reads it where it is mapped."""

    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path) as client:
            before = await forecasts(client, *[{"series_id": f"a__{item}", "horizon": 5} for item in ITEMS])
            (path,) = (tmp_path / "var" / "cache" / "serving" / "packs").glob("*.pack")
            assert not mappings_of(path)
            spoil(path)
            after = await forecasts(client, *[{"series_id": f"a__{item}", "horizon": 5} for item in ITEMS])
            assert after == before
        async with asked(Registry(pack("a")), tmp_path) as client:  # and a new server fetches it again
            again = await forecasts(client, *[{"series_id": f"a__{item}", "horizon": 5} for item in ITEMS])
            assert again == before

    asyncio.run(ask())


def mappings_of(path: Path) -> list[str]:
    """Where this process has the file mapped: reading it there after it was cut would end the tests."""
    from pathlib import Path as AnyPath

    return [line for line in AnyPath("/proc/self/maps").read_text().splitlines() if str(path) in line]


@pytest.mark.parametrize("how", ["a folder in its place", "a file in the folder's place", "cut", "empty", "odd table"])
def test_a_local_disk_of_any_kind_costs_a_fetch_and_no_forecast(tmp_path: Path, how: str) -> None:
    registry = Registry(pack("a"))
    release = registry.production.live()
    assert release is not None
    champion = release.champions["a__tea"]
    known, folder = PackId(champion.ref, champion.sha256), tmp_path / "packs"
    path = folder / f"{known.sha256}.pack"
    if how == "a folder in its place":
        path.mkdir(parents=True)
    elif how == "a file in the folder's place":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        whole = pack_file.joined(registry.production.files(known.ref, known.sha256))
        odd = pack_file.MAGIC + (20).to_bytes(8, "little") + b'{"a": 1e999, "b": 1}'
        path.write_bytes({"cut": whole[:-1000], "empty": b"", "odd table": odd}[how])
    shelf = PackFolder(folder, registry, 10**9, lambda _: None)
    block, files = shelf.open(known)
    assert LoadedPack(known, block, files).series == tuple(f"a__{item}" for item in ITEMS)


# --- content that is odd ----------------------------------------------------------------------------------------------
def with_index(**changes: object) -> Callable[[PackModel], dict[str, bytes]]:
    return lambda model: PackModel({**model.index, **changes}, model.arrays).files()


def with_array(name: str, place: object, value: float) -> Callable[[PackModel], dict[str, bytes]]:
    def files(model: PackModel) -> dict[str, bytes]:
        array = np.array(model.arrays[name])
        array[place] = value  # type: ignore[call-overload]
        return PackModel(model.index, {**model.arrays, name: array}).files()

    return files


def raw_index(content: bytes) -> Callable[[PackModel], dict[str, bytes]]:
    return lambda model: {**model.files(), "index.json": content}


ODD = {
    "horizon": with_index(horizon="seven"),
    "frequency": with_index(frequency=None),
    "levels": with_index(levels=[[80], 95]),
    "levels_of": with_index(levels_of=["many"]),
    "fallback": with_index(fallback=7),
    "known": with_index(known=3),
    "slots": with_index(slots=[1]),
    "fitted": with_index(fitted={"a__tea": 1}),
    "no list": raw_index(b"[]"),
    "null": raw_index(b"null"),
    "nested": raw_index(b"[" * 100_000),
    "no text": raw_index(b"\xff\xfe"),
    "circle": with_array("conf", 14, 0.0),
    "outside": with_array("pool", 0, 2**30),
    "time": with_array("cutoff", 0, 2**60),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ODD)
def test_an_odd_pack_is_an_error_of_its_series_and_of_no_other(tmp_path: Path, what: str) -> None:
    names = tuple(f"a__{item}" for item in ITEMS)
    model = trained()
    files = ODD[what](PackModel({**model.index, "series": list(names)}, model.arrays))

    async def ask() -> None:
        async with asked(Registry(pack("b")), tmp_path / "alone") as client:
            (alone,) = await forecasts(client, "b__tea")
        async with asked(Registry(PackUpload("a", files, names), pack("b")), tmp_path / "both") as client:
            odd, good, again = await forecasts(client, "a__tea", "b__tea", "a__milk")
        assert good == alone
        for answer in (odd, again):
            assert answer["error"]["kind"] == "Integrity"
            assert "promote it again" in answer["error"]["reason"]

    asyncio.run(ask())


def test_a_model_that_cannot_be_computed_is_an_error_of_its_series(tmp_path: Path, monkeypatch) -> None:
    """Whatever the loops raise, the other series of the request have their forecasts."""
    compute = LoadedPack._answer

    def odd(self: LoadedPack, question, row: int) -> bytes:
        if question.series_id == "a__tea":
            raise ZeroDivisionError
        return compute(self, question, row)

    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path) as client:
            whole = await forecasts(client, {"series_id": "a__salt", "horizon": 3})
            monkeypatch.setattr(LoadedPack, "_answer", odd)
            failed, good = await forecasts(client, "a__tea", {"series_id": "a__salt", "horizon": 3})
            assert "ZeroDivisionError" in failed["error"]["reason"]
            assert [good] == whole

    asyncio.run(ask())


def test_a_lake_that_fails_oddly_is_an_error_of_the_series_asked_from_it(tmp_path: Path) -> None:
    class Lake:
        def read(self, *_: object) -> None:
            raise RuntimeError("a driver's own")

    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path, Lake()) as client:
            (answer,) = await forecasts(client, "a__tea", observations_from="lake")
            assert answer["error"]["permanent"] is False
            assert "driver" not in json.dumps(answer)

    asyncio.run(ask())


def test_promotion_refuses_a_pack_whose_trees_run_in_a_circle() -> None:
    """As `promoted_models` reads what staging has."""
    model = trained()
    circle = np.array([0, 1], np.int32)
    arrays = {**model.arrays, "root": np.array([0], np.int32), "root_count": np.array([1]), "tree_count": np.array([2]),
              "feature": np.array([0, 0], np.int16), "threshold": np.zeros(2, np.float32), "left": circle,
              "right": circle, "value": np.zeros(2, np.float32)}  # fmt: skip
    with pytest.raises(IntegrityError, match=r"left\.npy: a child is before its parent"):
        PackModel.from_files(PackModel(model.index, arrays).files(), "pack s0/1")
