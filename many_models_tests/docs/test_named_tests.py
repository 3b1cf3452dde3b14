"""Pages that name the test behind each claim: the tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
NAMED = re.compile(r"`(?!`)((?:[\w-]+/)+test_\w+\.py)?(?:::(test_\w+))?`")


def missing_tests(text: str) -> tuple[int, list[str]]:
    """How many tests `text` names, and those that are not there; `::test_x` alone is of the file named before."""
    found, missing, path = 0, list[str](), ""
    for match in NAMED.finditer(text):
        path = match[1] or path
        file = TESTS / path
        made = rf"(?m)^(async )?def {match[2]}\("
        there = file.is_file() and (not match[2] or re.search(made, file.read_text()))
        found += 1
        missing += [] if there else [f"{path}::{match[2]}" if match[2] else path]
    return found, missing


@pytest.mark.parametrize("page", ["security.md", "backup.md", "azure-rules.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    found, missing = missing_tests((DOCS / page).read_text())
    assert found >= 10
    assert missing == []


def test_a_test_that_is_not_there_is_found() -> None:
    named = "`docs/test_named_tests.py::test_a_test_that_is_not_there_is_found`, `::test_other`, `docs/test_none.py`"
    assert missing_tests(named) == (3, ["docs/test_named_tests.py::test_other", "docs/test_none.py"])


def test_every_claim_of_the_threat_model_names_a_test() -> None:
    table = (DOCS / "security.md").read_text().partition("## Claims and their tests")[2].partition("\n## ")[0]
    claims = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(claims) > 10
    assert [claim for claim in claims if not NAMED.search(claim.rpartition(" | ")[2])] == []
