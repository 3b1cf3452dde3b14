"""What every staging registry does, and what the contracts of both registries share."""

from __future__ import annotations

import json
import os
import pickle
from collections import defaultdict
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from many_models.errors import InputError, IntegrityError
from many_models.ports import (
    PackUpload,
    ProductionRegistry,
    Release,
    StagingRegistry,
)
from many_models_tests.contracts import Contract

ODD_PACKS = [
    "store_1",
    "Store_1",
    "store-1",
    "a/b",
    "a:b",
    "..",
    ".",
    "",
    "ü😀",
    "a'b",
    'a"b',
    "%2F",
    "x" * 300,
    "release",
    "a`b",
    "a b",
]
SOME = settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
NOW = datetime(2017, 6, 1, 12, 30)


def upload(pack: str, values: dict[str, str], **tags: str) -> PackUpload:
    """A pack whose files say which value each row holds, so that a mixture shows."""
    files = {"rows.json": json.dumps(list(values.values())).encode(), "sub/raw.bin": bytes(range(256)), "empty": b""}
    return PackUpload(pack, files, tuple(values), tags)


def served(registry: ProductionRegistry, release: Release | None) -> dict[str, str]:
    """Series → the value that the files of its champion hold in its row."""
    if release is None:
        return {}
    rows = {c.ref: json.loads(registry.files(c.ref, c.sha256)["rows.json"]) for c in release.champions.values()}
    return {name: rows[c.ref][c.row] for name, c in release.champions.items()}


class Spy:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def spoil(files, kind: str, mark: str = "unused") -> None:
    """Does to stored files (a mutable mapping) what disks and people do to them."""
    match kind:
        case "changed":
            files["sub/raw.bin"] = files["sub/raw.bin"][:-1] + b"\x00"
        case "truncated":
            files["rows.json"] = files["rows.json"][:-1]
        case "missing":
            del files["rows.json"]
        case "renamed":
            files["row.json"] = files.pop("rows.json")
        case "planted pickle":
            files["model.pkl"] = pickle.dumps(Spy(mark))
        case "replaced by a pickle":
            files["rows.json"] = pickle.dumps(Spy(mark))


KINDS = ["changed", "truncated", "missing", "renamed", "planted pickle", "replaced by a pickle"]
BAD_UPLOADS = {
    "no series": PackUpload("p", {"a": b""}, ()),
    "a series twice": PackUpload("p", {"a": b""}, ("s", "s")),
    "no files": PackUpload("p", {}, ("s",)),
    "an absolute file": PackUpload("p", {"/a": b""}, ("s",)),
    "a file above": PackUpload("p", {"../a": b""}, ("s",)),
    "a file above, inside": PackUpload("p", {"a/../../b": b""}, ("s",)),
    "a backslash": PackUpload("p", {"a\\b": b""}, ("s",)),
    "a drive": PackUpload("p", {"c:b": b""}, ("s",)),
    "an empty name": PackUpload("p", {"": b""}, ("s",)),
    "a dot": PackUpload("p", {".": b""}, ("s",)),
    "a folder": PackUpload("p", {"a/": b""}, ("s",)),
    "a tag of ours": PackUpload("p", {"a": b""}, ("s",), {"mm.current": "x"}),
    "an odd tag": PackUpload("p", {"a": b""}, ("s",), {"a=b": "x"}),
    "an empty tag": PackUpload("p", {"a": b""}, ("s",), {"": "x"}),
    "a long tag": PackUpload("p", {"a": b""}, ("s",), {"k" * 251: "x"}),
    "a long value": PackUpload("p", {"a": b""}, ("s",), {"k": "x" * 100_001}),
}


class RegistryContract(Contract):
    """`make` makes a new, empty registry; `again` opens the same one once more; `stored` gives a version's files."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    @pytest.fixture
    def again(self):
        raise NotImplementedError

    @pytest.fixture
    def stored(self):
        raise NotImplementedError


class StagingContract(RegistryContract):
    """What every staging registry does."""

    def test_it_is_a_staging_registry_that_says_what_it_reaches(self, make):
        assert isinstance(make(), StagingRegistry)
        assert len(make().check().splitlines()) == 1

    def test_what_is_registered_comes_back(self, make, again):
        staging = make()
        packs = [
            upload("b", {"s2": "x", "s1": "y"}, recipe="r", wape="0.3", note="ü 'quoted' \"too\""),
            upload("a", {"s3": "z"}),
        ]
        versions = staging.register("batch", packs)
        assert [v.pack for v in versions] == ["b", "a"]
        assert [v.series for v in versions] == [("s2", "s1"), ("s3",)]
        assert [v.tags for v in versions] == [p.tags for p in packs]
        assert len({v.sha256 for v in versions}) == 2
        for reader in (staging, again(staging)):
            assert [reader.files(v) for v in versions] == [p.files for p in packs]
            assert reader.newest(["s1", "s2", "s3", "nope"]) == {
                "s1": versions[0],
                "s2": versions[0],
                "s3": versions[1],
            }

    @pytest.fixture
    def logged(self):
        """Gives the title, the parameters and the metrics that a registry has of a batch."""
        raise NotImplementedError

    def test_what_a_batch_reached_is_recorded_with_what_it_was_trained_with(self, make, again, logged):
        staging = make()
        staging.register("it's `one`", [upload("a", {"s1": "x"})])
        parameters = {"horizon": "28", "long": "x" * 9000}
        staging.log_batch("it's `one`", "the first night", parameters, {"wape": 0.25, "skill": float("nan")})
        title, parameters, metrics = logged(again(staging), "it's `one`")
        assert (title, parameters["horizon"], metrics) == ("the first night", "28", {"wape": 0.25})
        assert parameters["long"].startswith("x" * 500)
        again(staging).log_batch("it's `one`", "the first night", {"horizon": "7"}, {"wape": 0.2, "packs/a/wape": 0.2})
        _, parameters, metrics = logged(staging, "it's `one`")
        assert (parameters["horizon"], metrics) == ("28", {"wape": 0.2, "packs/a/wape": 0.2})
        staging.log_batch("many", "a large night", {}, {f"packs/{i}/wape": float(i) for i in range(2500)})
        assert len(logged(staging, "many")[2]) == 2500

    def test_an_empty_registry_has_no_versions(self, make):
        assert make().newest(["s1"]) == {}
        assert make().register("batch", []) == []

    def test_any_pack_name_keeps_apart_from_every_other(self, make):
        staging = make()
        packs = [upload(pack, {f"s{i}": str(i)}) for i, pack in enumerate(ODD_PACKS)]
        versions = staging.register("batch", packs)
        assert len({v.ref for v in versions}) == len({v.name.lower() for v in versions}) == len(packs)
        assert all("/" not in v.name and ":" not in v.name for v in versions)
        assert staging.newest([f"s{i}" for i in range(len(packs))]) == {f"s{i}": v for i, v in enumerate(versions)}

    def test_a_batch_that_is_repeated_leaves_one_version(self, make, again):
        staging = make()
        first = staging.register("it's `one`", [upload("a", {"s1": "x"}, k="1")])
        assert again(staging).register("it's `one`", [upload("a", {"s1": "other"}, k="2")]) == first
        assert staging.files(first[0])["rows.json"] == b'["x"]'
        both = staging.register("it's `one`", [upload("b", {"s2": "y"}), upload("a", {"s1": "x"})])
        assert both[1] == first[0]
        assert both[0].version == "1"

    def test_other_series_or_another_batch_make_another_version(self, make):
        staging = make()
        refs = [
            staging.register("one", [upload("a", {"s1": "x", "s2": "y"})])[0].version,
            staging.register("one", [upload("a", {"s1": "x"})])[0].version,
            staging.register("two", [upload("a", {"s1": "x", "s2": "y"})])[0].version,
        ]
        assert refs == ["1", "2", "3"]

    def test_a_series_that_failed_in_the_newest_batch_keeps_its_older_version(self, make):
        staging = make()
        old = staging.register("one", [upload("a", {"s1": "x", "s2": "y"})])[0]
        new = staging.register("two", [upload("a", {"s1": "z"})])[0]
        assert staging.newest(["s1", "s2"]) == {"s1": new, "s2": old}

    def test_a_series_that_moved_to_another_pack_is_found_there(self, make):
        staging = make()
        staging.register("one", [upload("a", {"s1": "x", "s2": "y"})])
        moved = staging.register("two", [upload("b", {"s1": "x"}), upload("c", {"s2": "y"})])
        back = staging.register("three", [upload("a", {"s2": "y"})])[0]
        assert staging.newest(["s1", "s2"]) == {"s1": moved[0], "s2": back}

    def test_a_long_list_of_series_is_no_problem(self, make, again):
        staging = make()
        names = {f"store-{'x' * 40}__{i}": str(i) for i in range(3000)}
        version = staging.register("batch", [upload("a", names)])[0]
        assert again(staging).newest(list(names)[-1:]) == {list(names)[-1]: version}
        assert staging.files(version) == upload("a", names).files

    @pytest.mark.parametrize("bad", BAD_UPLOADS.values(), ids=BAD_UPLOADS)
    def test_a_pack_that_could_not_come_back_is_refused_by_name_before_anything_is_written(self, make, bad):
        staging = make()
        with pytest.raises(InputError, match="'p'"):
            staging.register("batch", [upload("good", {"s1": "x"}), bad])
        assert staging.newest(["s", "s1"]) == {}

    def test_a_pack_twice_in_a_call_is_refused(self, make):
        with pytest.raises(InputError, match=r"'a'.*twice"):
            make().register("batch", [upload("a", {"s1": "x"}), upload("a", {"s2": "x"})])

    @pytest.mark.parametrize("kind", KINDS)
    def test_damaged_files_are_refused_and_pickles_never_loaded(self, make, stored, kind, tmp_path):
        staging = make()
        good, bad = staging.register("batch", [upload("a", {"s1": "x"}), upload("b", {"s2": "x"})])
        spoil(stored(staging, bad.ref), kind, str(tmp_path / "mark"))
        with pytest.raises(IntegrityError, match=bad.ref):
            staging.files(bad)
        assert staging.files(good)["rows.json"] == b'["x"]'
        assert not (tmp_path / "mark").exists()

    def test_a_version_that_was_never_stored_is_named(self, make):
        staging = make()
        version = staging.register("batch", [upload("a", {"s1": "x"})])[0]
        with pytest.raises(InputError, match=version.name):
            make().files(version)

    def test_pruning_keeps_what_is_newest_anywhere_and_the_last_of_each_pack(self, make, again):
        staging = make()
        both = staging.register("0", [upload("a", {"s1": "0", "s2": "0"})])[0]
        ones = [staging.register(str(i), [upload("a", {"s1": str(i)})])[0] for i in range(1, 6)]
        other = staging.register("b", [upload("b", {"s3": "x"})])[0]
        gone = again(staging).prune(2, also=[ones[0].ref])
        assert set(gone) == {ones[1].ref, ones[2].ref}
        assert staging.newest(["s1", "s2", "s3"]) == {"s1": ones[4], "s2": both, "s3": other}
        for version in (both, ones[0], ones[3], ones[4], other):
            assert staging.files(version)
        for version in ones[1:3]:
            with pytest.raises(InputError, match=version.ref):
                staging.files(version)
        assert staging.prune(2, also=[ones[0].ref]) == []
        assert staging.register("next", [upload("a", {"s1": "next"})])[0].version == "7"

    @SOME
    @given(data=st.data())
    @pytest.mark.slow
    def test_the_newest_version_of_any_series_is_found_after_any_history(self, make, again, data):
        check_staging_history(make(), again, data, steps=5)


def check_staging_history(staging, again, data, steps: int) -> None:
    """Registers and prunes at random; what is newest is known from a dictionary."""
    expected = {}
    for batch in range(data.draw(st.integers(1, steps))):
        if data.draw(st.integers(0, 4)) == 4:
            staging.prune(data.draw(st.integers(0, 2)))
        names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
        groups = defaultdict(dict)
        for name in names:
            groups[data.draw(st.sampled_from(["p", "q"]))][name] = f"{batch}"
        versions = staging.register(f"batch {batch}", [upload(pack, rows) for pack, rows in groups.items()])
        expected |= {name: version for version in versions for name in version.series}
        assert staging.newest(list("abcdefg")) == expected
    assert again(staging).newest(list("abcdefg")) == expected
    assert all(staging.files(version) for version in expected.values())
