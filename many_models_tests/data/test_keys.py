"""Names of series: exact there and back, safe as partition keys, paths and model names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.adapters.lake.delta import DeltaLake
from many_models.errors import InputError
from many_models.keys import SeriesKey, names_are_escaped, pack_of, slug
from many_models.ports import Filter

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.lists(
    st.text(alphabet=st.characters(), max_size=8) | st.text("_.% a/\\'\"é🍓,", max_size=6), min_size=1, max_size=3
)
NOT_IN_A_DAGSTER_PARTITION = ["...", "\a", "\b", "\f", "\n", "\r", "\t", "\v", "\0"]


@given(PARTS)
def test_any_characters_come_back_from_a_series_id(parts: list[str]) -> None:
    key = SeriesKey(tuple(parts))
    assert SeriesKey.parse(key.series_id, len(parts)) == key


@given(PARTS, PARTS)
def test_different_keys_have_different_ids_and_slugs(one: list[str], other: list[str]) -> None:
    first, second = SeriesKey(tuple(one)).series_id, SeriesKey(tuple(other)).series_id
    assert (first == second) == (one == other)
    assert (slug(first) == slug(second)) == (one == other)


@given(PARTS)
def test_a_series_id_is_a_valid_partition_key_and_never_empty(parts: list[str]) -> None:
    name = SeriesKey(tuple(parts)).series_id
    assert name
    assert not any(bad in name for bad in NOT_IN_A_DAGSTER_PARTITION)
    assert not set(name) & set('/\\"[]*|')
    assert name == name.strip()


@given(PARTS)
def test_a_name_of_earlier_versions_is_still_read(parts: list[str]) -> None:
    key = SeriesKey(tuple(parts))
    assert SeriesKey.parse(key.escaped_id, len(parts)) == key
    assert names_are_escaped([key.escaped_id]) == (key.escaped_id != key.series_id)
    assert not names_are_escaped([key.series_id])


@pytest.mark.parametrize(
    "name", ["Baker's yeast", "milk, 3.5% fat", "(5) pens & pencils", "15° beer; half a litre", "50 % off!", "crème 🍓"]
)
def test_names_are_shown_as_they_are_and_only_what_must_be_is_escaped(name: str) -> None:
    assert SeriesKey((name, "s1")).series_id == f"{name}__s1"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/b", "a%2Fb"), ('15" pan', "15%22 pan"), ("[a]*", "%5Ba%5D%2A"), ("a%2Cb", "a%252Cb"), ("%", "%25"),
     ("a\u202eb", "a%E2%80%AEb"), ("a\xa0b", "a%C2%A0b")],
)  # fmt: skip
def test_what_a_partition_key_cannot_hold_is_escaped(name: str, shown: str) -> None:
    assert SeriesKey((name,)).series_id == shown


def test_a_project_with_names_of_earlier_versions_goes_on_with_them() -> None:
    assert names_are_escaped(["s1__i1", "s1__Baker%27s"])
    assert not names_are_escaped(["s1__i1", "s1__a%2Fb"])  # both ways write it so
    assert not names_are_escaped([])


@given(st.text())
def test_a_slug_is_short_and_safe_for_paths_and_model_names(name: str) -> None:
    made = slug(name)
    assert len(made) <= 51
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_readable_names_stay_readable() -> None:
    assert SeriesKey(("München Schwabing", "Whole milk 1 l")).series_id == "München Schwabing__Whole milk 1 l"


@pytest.mark.parametrize("text", ["a___b", "_a__b", "a/b", "..", "a__b__"])
def test_text_that_is_no_series_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a series_id"):
        SeriesKey.parse(text)


def test_an_id_with_other_parts_than_the_settings_is_refused() -> None:
    with pytest.raises(InputError, match="has 2 key parts, the settings name 3"):
        SeriesKey.parse("a__b", 3)


def test_packs_are_stores_unless_the_settings_say_otherwise() -> None:
    key = SeriesKey(("s1", "i1"))
    assert pack_of(key, ["store", "item"], [], 16) == "s1"
    assert pack_of(key, ["store", "item"], ["item"], 16) == "i1"
    assert pack_of(key, ["store", "item"], ["store", "item"], 16) == key.series_id
    assert pack_of(SeriesKey(("w1",)), ["well"], [], 16).startswith("bucket-")


@pytest.mark.parametrize("store", ["ж" * 51, "a" * 300, "世" * 40, "%" * 100, "a " * 150 + "b", "." * 200])
def test_a_store_with_a_long_name_has_a_folder_in_the_lake(tmp_path: Path, store: str) -> None:
    """A folder's name has 255 bytes; delta-rs writes `pack=…` with every byte of other scripts as three."""
    keys = [SeriesKey((name, "i1")) for name in (store, store + "x", "s1")]
    packs = [pack_of(key, ["store", "item"], [], 16) for key in keys]
    assert len(set(packs)) == 3
    assert packs[2] == "s1"  # names that fit stay as they are
    rows = pa.table({"series_id": [key.series_id for key in keys], "pack": packs})
    lake = DeltaLake(tmp_path)
    lake.replace("t", rows, Filter(), ["pack"])
    assert lake.read("t", Filter(among={"pack": packs[:1]}))["series_id"].to_pylist() == [keys[0].series_id]
