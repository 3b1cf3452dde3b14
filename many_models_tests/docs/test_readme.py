"""What the README and docs/ say is so: their commands are typed in a copy of the repository, their names looked up."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from many_models.data import lake_tables
from many_models.orchestration.automation import SENSORS
from many_models.orchestration.due import STAGES
from many_models.settings import Settings
from many_models_tests.support.ports import free_port
from many_models_tests.support.project import sales

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
}
PATIENCE = 900

# Every command of the README is one of these; what is none of them fails a test.
DRY = {  # make says what it would do: these install, or end only with the tests or with Ctrl-C
    "make install": "pip sync",
    "make test": '-m "not long"',
    "make test-all": "-m pytest",
    "make check": "pyright",
    "make demo": "many-models demo",  # at full size; the README's smaller one is run
    "make dev": "dagster dev",  # started by a test of its own
}
STARTED = {
    "make dev": ".",
    "DAGSTER_HOME=$PWD dg dev": ".",
    "DAGSTER_HOME=$PWD/var/dagster dagster dev -m many_models.definitions": "tea",
}
SERVED, SHOWN = "many-models serve --no-auth", "many-models board --no-auth"  # the same, by tests of their own
READY = {SERVED: "ready", SHOWN: "live"}  # what to ask whether they can answer
OF_STORES = {  # by test_stores_disagree.py and test_backup.py
    "many-models doctor",
    "many-models doctor --mend",
    "many-models backup /backups/2024-07-01",
    "many-models restore /backups/2024-07-01 /srv/forecasts-restored",
}
OWN = (
    "many-models backtest sales.parquet --keys store,item --timestamp date --target sales --freq D --horizon 7 "
    '--custom "weekdays=mine:WeekdayMeans {\\"weeks\\": 6}"'
)
RUN = {
    "make demo ARGS='--series 50 --days 200'",
    "source .venv/bin/activate",
    "rm -rf demo var",
    "many-models init sales.csv",
    "many-models init ../sales.csv",
    "many-models run",
    "mkdir tea && cd tea",
    "many-models --help",
    "many-models status",
    "MANY_MODELS__FORECAST__HORIZON=14 many-models status",
    "many-models backtest sales.parquet --keys store,item --timestamp date --target sales --freq D --horizon 7",
    OWN,
}
NO_SETTING = {"yaml", "toml", "run_id"}  # files, and an attribute of traces: dagster.run_id
ABSENT = ("pyodbc", "pyspark", "dagster_pyspark")  # a machine without libodbc and Java


def blocks(text: str) -> list[list[str]]:
    """The commands of each fenced bash block."""
    return [
        [line.strip() for line in block.splitlines() if line.strip()]
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


COMMANDS = [line for page in PAGES.values() for block in blocks(page) for line in block]


@dataclass(frozen=True)
class Clone:
    """A copy of the repository, with sales.csv and sales.parquet in it, and the environment of these tests as .venv."""

    root: Path
    env: dict[str, str]

    def bash(self, lines: list[str]) -> str:
        """The output of `lines` in one shell; fails at the first one that fails, with what it said."""
        script = "\n".join([
            "set -euo pipefail",
            'make() { command make --old-file=.venv/.installed "$@"; }  # the environment is there',
            *lines,
        ])  # fmt: skip
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{lines}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    root = tmp_path_factory.mktemp("clone") / "many_models"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "var", "demo", "node_modules")
    shutil.copytree(ROOT, root, ignore=left_out)
    (root / ".venv").symlink_to(sys.prefix)
    frame = sales(stores=2, items=2, days=230)
    frame.to_csv(root / "sales.csv", index=False)
    frame.assign(date=frame["date"].astype("datetime64[ns]")).to_parquet(root / "sales.parquet", index=False)
    absent = root.parent / "absent"
    absent.mkdir()
    for name in ABSENT:
        (absent / f"{name}.py").write_text(f"raise ImportError({name!r} + ' is not on this machine')\n")
    env = {**os.environ, "PYTHONPATH": str(absent), "JAVA_HOME": str(root / "no-java")}
    return Clone(root, env)


@pytest.fixture(scope="module")
def followed(clone: Clone) -> Clone:
    """The README followed from top to bottom, with fewer series in its demo."""
    for block in blocks(README):
        lines = [line.replace("--series 50", "--series 12") for line in block if line in RUN]
        clone.bash(["source .venv/bin/activate", *lines])
    return clone


def test_every_command_of_the_docs_is_run_or_said_to_be_tested_otherwise() -> None:
    assert len(COMMANDS) > 15
    assert set(COMMANDS) == RUN | OF_STORES | set(DRY) | set(STARTED) | {SERVED, SHOWN}


@pytest.mark.parametrize("command", sorted(DRY))
def test_make_would_do_what_the_readme_says(clone: Clone, command: str) -> None:
    done = subprocess.run(
        [*command.split(), "--dry-run", "--always-make"],
        cwd=clone.root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert DRY[command] in done.stdout


@pytest.mark.long(
    "docs/test_readme.py::test_make_would_do_what_the_readme_says",
    "days/test_day.py::test_the_first_day_carries_every_series_from_the_source_to_the_warehouse",
)
@pytest.mark.timeout(2 * PATIENCE)
def test_the_commands_of_the_readme_work_without_libodbc_and_java(followed: Clone) -> None:
    for folder in (followed.root, followed.root / "tea"):
        with closing(sqlite3.connect(folder / "var/warehouse.db")) as database:
            assert database.execute("SELECT count(*) FROM predictions").fetchall() == [(4 * 28,)]
        assert (folder / "many_models.toml").is_file()
    assert not (followed.root / "demo").exists()


@pytest.mark.long(
    "docs/test_readme.py::test_every_file_and_heading_that_the_docs_link_to_exists",
    "days/test_day.py::test_the_first_day_carries_every_series_from_the_source_to_the_warehouse",
)
@pytest.mark.timeout(2 * PATIENCE)
def test_things_are_where_the_readme_says(followed: Clone) -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+?) \|$", section("Where things are"), re.MULTILINE))
    var = followed.root / "var"
    named = set(re.findall(r"`(\w+)`", rows["lake, Delta tables"]))
    known = {table.name for table in vars(lake_tables).values() if isinstance(table, lake_tables.LakeTable)}
    assert named <= known
    assert {path.name for path in (var / "lake").iterdir()} >= named - {"series_status"}  # where a series has failed
    for path in re.findall(r"`(var/registry/[\w.]+)`", rows["registries, two MLflow stores"]):
        assert (followed.root / path).is_file()
        assert (followed.root / path).with_suffix("").is_dir()
    with closing(sqlite3.connect(var / "warehouse.db")) as database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    said = set(re.findall(r"`(\w+)`", rows["warehouse: SQLite, PostgreSQL, SQL Server or Synapse"]))
    assert said - {"accuracy_by_KEY"} | {"accuracy_by_store", "accuracy_by_item"} == there
    assert (var / "dagster/history").is_dir()
    assert (followed.root / "tea/var/dagster/dagster.yaml").is_file()


@pytest.mark.long("orchestration/test_freshness.py::test_dg_lists_the_definitions_and_finds_nothing_wrong")
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize(("command", "folder"), STARTED.items())
def test_the_ui_shows_what_was_made(followed: Clone, command: str, folder: str) -> None:
    port = free_port()
    address = f"--host 127.0.0.1 --port {port}"
    line = command.replace("make dev", f"make --old-file=.venv/.installed dev ARGS='{address}'")
    line = f"{line} {address}" if line == command else line
    log = (followed.root / f"{port}.log").open("w")
    process = subprocess.Popen(
        ["bash", "-c", f"source .venv/bin/activate; cd {folder}; {line}"],
        cwd=followed.root,
        env=followed.env,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        assert materialized(port, process) == {stage: stage for stage in STAGES}, Path(log.name).read_text()[-3000:]
    finally:
        end(process)


def materialized(port: int, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """The assets that the UI at `port` shows with a materialization; empty when it does not come up."""
    query = "{assetNodes {assetKey {path} assetMaterializations(limit: 1) {assetKey {path}}}}"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        body = json.dumps({"query": query}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                nodes = json.load(answer)["data"]["assetNodes"]
        except OSError:
            nodes = []
        if nodes:
            return {
                node["assetKey"]["path"][0]: made["assetKey"]["path"][0]
                for node in nodes
                for made in node["assetMaterializations"]
            }
        time.sleep(2)
    return {}


def end(process: subprocess.Popen[bytes]) -> None:
    """End the session of `process`: politely, then not."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.long("serving/test_serve_command.py::test_serve_that_has_answered_loads_neither_mlflow_nor_pandas")
@pytest.mark.timeout(2 * PATIENCE)
def test_the_service_answers_from_what_was_made(followed: Clone) -> None:
    body = json.dumps({"series": [{"series_id": "s1__i1"}], "observations_from": "lake"}).encode()
    with started(followed, SERVED) as url:
        asked = urllib.request.Request(f"{url}/v1/forecasts", body, {"Content-Type": "application/json"})
        (forecast,) = json.loads(answer_of(asked))["forecasts"]
    assert len(forecast["y_hat"]) == 28, forecast


@pytest.mark.long("board/test_board_pages.py::test_every_page_has_its_charts_and_is_no_wider_than_a_phone")
def test_the_board_shows_what_was_made(followed: Clone) -> None:
    with started(followed, SHOWN) as url:
        assert "s1 · i1" in answer_of(urllib.request.Request(f"{url}/items")).decode()
        assert "History and forecast" in answer_of(urllib.request.Request(f"{url}/items/s1__i1")).decode()


@contextmanager
def started(clone: Clone, command: str) -> Iterator[str]:
    """The address of what `command` starts on a free port, once it answers."""
    port = free_port()
    log = clone.root / f"{port}.log"
    script = f"source .venv/bin/activate; exec {command} --port {port}"
    with log.open("w") as out:
        process = subprocess.Popen(["bash", "-c", script], cwd=clone.root, env=clone.env, stdout=out, stderr=out)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                answer_of(urllib.request.Request(f"http://127.0.0.1:{port}/health/{READY[command]}"))
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(PATIENCE) in {0, -signal.SIGTERM}


def answer_of(asked: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.read()


# --- names ----------------------------------------------------------------------------------------------------------
def section(title: str) -> str:
    """The text under a heading of the README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def leads_somewhere(folder: Path, link: str) -> bool:
    """Whether the file is there, and the heading in it."""
    name, _, anchor = link.partition("#")
    if not (folder / name).exists():
        return False
    headings = re.findall(r"^#+ (.+)$", (folder / name).read_text(), re.MULTILINE) if anchor else []
    return not anchor or anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}


def test_every_file_and_heading_that_the_docs_link_to_exists() -> None:
    assert not leads_somewhere(ROOT, "README.md#no-such-heading")
    for page, text in PAGES.items():
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
        assert [link for link in links if not leads_somewhere((ROOT / page).parent, link)] == []
    for name in ("docs/lineage.png", "docs/settings.md", "LICENSE", "CHANGELOG.md", "examples"):
        assert f"({name}" in README


def test_every_setting_that_the_docs_name_exists() -> None:
    sections = {name: set(values) for name, values in Settings().model_dump(exclude={"root"}).items()}
    named = set[tuple[str, str]]()
    for text in PAGES.values():
        named |= {(s, n) for s, n in re.findall(r"`(\w+)\.(\w+)`", text) if s in sections and n not in NO_SETTING}
        named |= {
            (s.lower(), n.lower()) for s, n in re.findall(r"MANY_MODELS__([A-Z]+)__([A-Z_]+)\b", text) if s != "SECTION"
        }
    assert len(named) > 3
    assert {(s, n) for s, n in named if n not in sections.get(s, ())} == set()


def test_the_settings_page_has_every_setting_with_its_default() -> None:
    page = PAGES["docs/settings.md"]
    written = {}
    for title, body in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE):
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", body, re.MULTILINE)
        written[title] = {name: default.strip("`") for name, default, _ in rows}
    defaults = json.loads(Settings().model_dump_json(exclude={"root"}))
    assert written == {
        title: {name: as_toml(value) for name, value in values.items()} for title, values in defaults.items()
    }


def as_toml(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return value
    return json.dumps(value)


def test_the_readme_has_the_assets_and_sensors_that_there_are() -> None:
    row = r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| (?:sensor|schedule) `(\w+)`[^|]* \|$"
    rows = re.findall(row, section("What happens each day"), re.MULTILINE)
    assert rows == [("raw_sales", "daily"), *SENSORS.items()]
    assert [asset for asset, _ in rows] == list(STAGES)


def test_the_fallbacks_that_the_readme_names_are_the_codes() -> None:
    named = re.search(r"of its forecast names it:\n\n((?:- .+\n)+)", section("What happens each day"))
    assert named is not None
    names = {name for line in named[1].splitlines() for name in re.findall(r"`(\w+)(?::KEY)?`", line)}
    assert names == {"short_history", "constant", "zero", "prior", "no_champion", "drift", "out_of_bounds"}


def test_the_help_lists_the_commands_of_the_readme() -> None:
    listed = re.findall(r"^  ([\w-]+) +[A-Z]", command("--help").split("Commands:")[1], re.MULTILINE)
    documented = re.findall(r"^\| `many-models ([\w-]+)", section("Commands"), re.MULTILINE)
    assert sorted(documented) == sorted(listed)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("init", ["--into", "--keys", "--known"]),
        ("demo", ["--series", "--days"]),
        ("run", ["--until", "--json", "--config"]),
        ("status", ["--check", "--json"]),
        ("backtest", ["--json", "--horizon", "--windows"]),
        ("rollback", ["RELEASE"]),
        ("serve", ["--no-auth", "--config"]),
    ],
)
def test_commands_take_the_flags_that_the_readme_names(name: str, flags: list[str]) -> None:
    told = command(name, "--help")
    assert [flag for flag in flags if flag not in told] == []


def test_help_takes_less_than_a_second() -> None:
    best = 1e9
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 1


def command(*words: str) -> str:
    script = "from many_models.cli.main import main; main(prog_name='many-models')"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
