"""The planners' guide: its numbers are those of the blocks in it, which are run."""

from __future__ import annotations

import doctest
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs/decisions-guide.md"


def test_the_numbers_of_the_guide_are_what_its_blocks_print() -> None:
    failed, tried = doctest.testfile(str(GUIDE), module_relative=False)
    assert failed == 0
    assert tried >= 20
    assert GUIDE.read_text().count("```pycon") == 4  # one a page: sums, stock, changes, drift
