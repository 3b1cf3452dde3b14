"""Files of packs that wait on disk: the same files, of which memory holds no more than was allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.data.spooled_files import Spool, SpooledFiles
from many_models.errors import UnavailableError
from many_models.keys import files_sha256

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.sampled_from(["index.json", "arrays/y.npy", "code/loader.py", "größe", "a b"])
PACKS = st.lists(st.dictionaries(NAMES, st.binary(max_size=50), min_size=1), max_size=6)


@pytest.mark.slow
@given(PACKS, st.integers(0, 200))
def test_spooled_files_are_the_same_files_and_few_are_in_memory(tmp_path_factory, packs, held):
    spool = Spool(tmp_path_factory.mktemp("spool"), held)
    kept = [spool.keep(files) for files in packs]
    assert [dict(files) for files in kept] == packs
    assert [files_sha256(files) for files in kept] == [files_sha256(files) for files in packs]
    in_memory = [files for files in kept if not isinstance(files, SpooledFiles)]
    assert sum(len(data) for files in in_memory for data in files.values()) <= held
    assert kept[: len(in_memory)] == packs[: len(in_memory)], "the first ones, as many as there is room for"


def test_spooled_files_are_a_mapping_that_reads_what_is_asked_for(tmp_path: Path) -> None:
    files = SpooledFiles(tmp_path / "pack", {"a/b.npy": b"1", "c.py": b"22"})
    assert list(files) == ["a/b.npy", "c.py"]
    assert "c.py" in files
    assert "d.py" not in files
    for path in (tmp_path / "pack").iterdir():
        path.unlink()
    assert len(files) == 2, "names are known without the files"


def test_a_disk_that_does_not_take_them_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"not a folder")
    with pytest.raises(
        UnavailableError, match=r"could not wait in .*full.*Make room there, or name another folder in TMPDIR"
    ):
        Spool(tmp_path / "full", 0).keep({"a.npy": b"1"})
