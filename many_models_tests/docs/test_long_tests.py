"""`make test` leaves out the long tests and nothing else; each of them names the quicker tests that hold its rule."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from many_models_tests import conftest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "many_models_tests"
TWO_TESTS = """
import pytest

@pytest.mark.long("days/test_day.py::test_quick")
@pytest.mark.parametrize("at", [1, 2])
def test_of_minutes(at):
    raise AssertionError("make test leaves it out")

def test_of_a_moment():
    pass
"""


def is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "long" and ast.unparse(node) == "pytest.mark.long"


def is_long(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and is_mark(node.func)


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def wholly_long(tree: ast.Module) -> set[str]:
    """The tests of which no part is left when the long ones are; one with a long case is not among them."""
    of_all = [node.value for node in tree.body if isinstance(node, ast.Assign) and names(node) == ["pytestmark"]]
    if any(is_long(mark) for value in of_all for mark in ast.walk(value)):
        return {function.name for function in functions(tree)}
    return {function.name for function in functions(tree) if any(map(is_long, function.decorator_list))}


def names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def problems(trees: dict[str, ast.Module]) -> list[str]:
    """What is wrong with the marks of `trees`, by file."""
    quick = set[str]()
    for file, tree in trees.items():
        tests = {function.name for function in functions(tree) if function.name.startswith("test_")}
        quick |= {f"{file}::{name}" for name in tests - wholly_long(tree)}
    found = list[str]()
    for file, tree in trees.items():
        marks = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_mark(node.func)]
        for mark in marks:
            named = [ast.literal_eval(argument) for argument in mark.args]
            found += [f"{file}:{mark.lineno} names no quicker test"] * (not named)
            found += [f"{file}:{mark.lineno} names {name}" for name in named if name not in quick]
        found += [f"{file}: a mark without a call"] * (sum(map(is_mark, ast.walk(tree))) - len(marks))
    return found


def test_every_long_test_names_quicker_tests_that_make_test_runs() -> None:
    texts = {path.relative_to(TESTS).as_posix(): path.read_text() for path in TESTS.rglob("*.py")}
    marked = "".join(text for text in texts.values() if "pytest.mark.long" in text)
    looked_at = {file: text for file, text in texts.items() if "pytest.mark.long" in text or f'"{file}::' in marked}
    trees = {file: ast.parse(text) for file, text in looked_at.items()}
    assert sum(is_long(node) for tree in trees.values() for node in ast.walk(tree)) > 30
    assert problems(trees) == []


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ('@pytest.mark.long("a.py::test_quick")', []),
        ('@pytest.mark.long("a.py::test_gone")', ["a.py:1 names a.py::test_gone"]),
        ('@pytest.mark.long("a.py::test_long")', ["a.py:1 names a.py::test_long"]),
        ("@pytest.mark.long()", ["a.py:1 names no quicker test"]),
        ("@pytest.mark.long", ["a.py: a mark without a call"]),
    ],
)
def test_a_mark_without_a_quicker_test_is_found(marks: str, says: list[str]) -> None:
    text = f"{marks}\ndef test_long(): pass\ndef test_quick(): pass\n"
    assert problems({"a.py": ast.parse(text)}) == says


@pytest.mark.parametrize(
    ("target", "marks"),
    [("fast", [conftest.FAST]), ("test", ["not long"]), ("test-all", [])],
)
def test_each_target_leaves_out_what_it_says(target: str, marks: list[str]) -> None:
    said = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/.installed", target, "ARGS="],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (command,) = [line for line in said.splitlines() if "-m pytest" in line]
    assert re.findall(r'-m "(.+?)"', command) == marks
    for option in ("-k", "--deselect", "--ignore", "--last-failed", "many_models_tests"):
        assert option not in command.split()


@pytest.mark.parametrize(
    ("text", "marks", "left_out"),
    [
        ("pytestmark = pytest.mark.slow\n", conftest.FAST, True),
        ("pytestmark = pytest.mark.slow  # a day\n", conftest.FAST, True),
        ('import pytest\n\npytestmark = [\n    pytest.mark.long("a.py::test_b"),\n]\n', conftest.FAST, True),
        ("pytestmark = [pytest.mark.public_tables]\n", conftest.FAST, None),
        ("@pytest.mark.slow\ndef test_a(): pass\n\n\ndef test_b(): pass\n", conftest.FAST, None),
        ("pytestmark = pytest.mark.slow\n", "not long", None),
        ("pytestmark = pytest.mark.slow\n", "", None),
    ],
)
def test_a_file_without_a_fast_test_is_not_read_for_the_fast_ones(
    tmp_path: Path, text: str, marks: str, left_out: bool | None
) -> None:
    (file := tmp_path / "test_it.py").write_text(text)
    config = argparse.Namespace(getoption={"markexpr": marks}.get)
    assert conftest.pytest_ignore_collect(file, config) is left_out


def test_ci_leaves_out_nothing() -> None:
    commands = re.findall(r"^make .*?(?= *#|$)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert commands == ["make lint types imports", "make test-all"]
    assert "- run: .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "1"])
def test_the_last_lines_say_how_many_long_tests_were_left_out(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_two.py").write_text(TWO_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "many_models_tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "no:cacheprovider", "-n", processes, "-m", "not long", str(tmp_path)]
    apart = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=apart, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "2 long tests left out: `make test-all` runs them\n" in done.stdout
    assert "skipped" not in done.stdout
