"""The code location as Dagster and people see it: names, groups, owners, kinds; quick to load, and quiet at import."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import pytest
import yaml

import many_models
from many_models.definitions import build, build_assets, outside
from many_models.operations.day import open_instance
from many_models.orchestration import due
from many_models.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

# asset: group, kinds, partitions, upstream assets, checks
ASSETS = {
    "raw_sales": (
        "data",
        {"deltalake", "table"},
        "time",
        set(),
        {"quarantine", "duplicates", "volume", "freshness", "schema"},
    ),
    "raw_covariates": ("data", {"deltalake", "table"}, "", set(), set()),
    "store_item_datasets": ("data", {"deltalake", "table"}, "store_items", {"raw_sales", "raw_covariates"}, set()),
    "pooled_models": ("models", {"lightgbm", "numpy"}, "", {"store_item_datasets"}, set()),
    "trained_models": ("models", {"mlflow", "numpy"}, "store_items", {"store_item_datasets", "pooled_models"}, set()),
    "promoted_models": ("models", {"mlflow"}, "store_items", {"trained_models"}, {"approved"}),
    "predictions": (
        "serving",
        {"deltalake", "table"},
        "store_items",
        {"promoted_models", "store_item_datasets", "raw_covariates"},
        {"every_active_series", "no_missing_values", "ordered_intervals", "set_aside"},
    ),
    "warehouse_predictions": ("serving", {"sql"}, "cutoffs", {"predictions"}, set()),
}
JOBS = {
    "ingest_sales": "raw_sales",
    "ingest_covariates": "raw_covariates",
    "prepare_datasets": "store_item_datasets",
    "pool_models": "pooled_models",
    "train_models": "trained_models",
    "promote_models": "promoted_models",
    "predict": "predictions",
    "load_warehouse": "warehouse_predictions",
}
SENSORS = {
    "new_days_to_covariates": "ingest_covariates",
    "new_days_to_datasets": "prepare_datasets",
    "datasets_to_pooling": "pool_models",
    "datasets_to_training": "train_models",
    "trained_to_promotion": "promote_models",
    "promoted_to_predictions": "predict",
    "predicted_to_warehouse": "load_warehouse",
}
SCHEDULES = {"daily": "ingest_sales", "upkeep": "upkeep"}
HEAVY = ("mlflow", "deltalake", "pyodbc", "sklearn", "lightgbm", "numba", "pyspark", "dagster_azure", "matplotlib")

# Imports the modules it is given; what one of them does besides, itself or through the standard library, ends it.
TRAP = """
import builtins, importlib, os, sys, sysconfig
STANDARD = sysconfig.get_path("stdlib")
def ours(depth):
    frame = sys._getframe(depth)
    while frame:
        file = frame.f_code.co_filename
        standard = file.startswith(("<frozen", STANDARD)) and "site-packages" not in file
        if not standard and file != "<string>":
            return "/many_models/" in file and "site-packages" not in file
        frame = frame.f_back
    return False
class Trapped(type(os.environ)):
    def __getitem__(self, key):
        if ours(2):
            raise SystemExit(f"reads {key} of the environment")
        return super().__getitem__(key)
coders = [getattr(os.environ, f"{how}{what}") for what in ("key", "value") for how in ("encode", "decode")]
os.environ = Trapped(os.environ._data, *coders)
def audit(event, arguments):
    if event in ("sqlite3.connect", "socket.connect", "subprocess.Popen", "os.mkdir", "open") and ours(2):
        if event != "open" or "importlib" not in sys._getframe(1).f_code.co_filename:
            raise SystemExit(f"{event} {arguments[:1]}")
sys.addaudithook(audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build(Settings()).get_repository_def()


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_assets_are_the_documented_ones(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    found = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        partitions = node.partitions_def
        found[key.to_user_string()] = (
            node.group_name,
            set(node.kinds),
            ("time" if isinstance(partitions, dg.TimeWindowPartitionsDefinition) else partitions.name)
            if partitions
            else "",
            {parent.to_user_string() for parent in node.parent_keys},
            {check.name for check in node.check_keys},
        )
    assert found == ASSETS


def test_every_asset_and_every_check_says_what_it_is_and_whose(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert len(node.description or "") > 40, key
        assert list(node.owners) == ["team:forecasting"], key
        for check in node.check_keys:
            assert graph.get_check_spec(check).description, check


def test_jobs_sensors_and_schedules_are_the_documented_ones_and_run_from_the_start(
    repository: dg.RepositoryDefinition,
) -> None:
    jobs = {job.name: job for job in repository.get_all_jobs() if job.name in JOBS}
    selected = {name: {k.to_user_string() for k in job.asset_layer.executable_asset_keys} for name, job in jobs.items()}
    assert selected == {name: {asset} for name, asset in JOBS.items()}
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {*JOBS, "upkeep"}
    assert {sensor.name: sensor.job_name for sensor in repository.sensor_defs} == SENSORS
    assert {schedule.name: schedule.job_name for schedule in repository.schedule_defs} == SCHEDULES
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING, sensor.name
        assert sensor.description, sensor.name
    for schedule in repository.schedule_defs:
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING, schedule.name
        assert schedule.description, schedule.name


def test_no_two_stages_share_a_backfill_run(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    partitioned = [key for key in graph.get_all_asset_keys() if graph.get(key).partitions_def]
    policies = [graph.get(key).backfill_policy for key in partitioned]
    assert all(policies)
    assert len({policy.max_partitions_per_run for policy in policies if policy}) == len(partitioned)


def test_workers_stay_until_the_last_stage_that_asks_for_them() -> None:
    settings = Settings.model_validate({
        "stock": {"lead_time": 3}, "overrides": {"table": "changes"}, "hierarchy": {"levels": [["store"]]},
        "drift": {"watch": True},
    })  # fmt: skip
    assets = build_assets(settings)
    assert [*assets] == [*due.ALL_STAGES]
    asking = [stage for stage, asset in assets.items() if "compute" in asset.required_resource_keys]
    assert {*asking} == due.FANNING_OUT
    last = due.ALL_STAGES.index(asking[-1])
    assert [due.needs_workers(stage) for stage in assets] == [at <= last for at in range(len(assets))]


def test_the_checkout_and_a_new_folder_use_one_dagster_yaml(tmp_path) -> None:
    """The checkout's file is a link to the template; a new instance gets its content, with folders that may move."""
    template = ROOT / "many_models/templates/dagster.yaml"
    assert (ROOT / "dagster.yaml").resolve() == template
    with open_instance(tmp_path / "home"):
        written = yaml.safe_load((tmp_path / "home/dagster.yaml").read_text())
    expected = yaml.safe_load(template.read_text())
    assert expected["storage"]["custom"]["config"] == {"base_dir": "var/dagster"}
    expected["storage"]["custom"]["config"] = {"base_dir": "."}
    expected["compute_logs"]["config"] = {"base_dir": "storage"}
    assert written == expected


def test_all_parts_of_dagster_are_of_one_version() -> None:
    assert version("dagster") == version("dagster-webserver") == version("dagster-graphql")


@pytest.mark.slow
def test_definitions_import_nothing_heavy() -> None:
    done = python(
        "-c",
        f"import many_models.definitions, sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.slow
def test_the_code_location_loads_in_five_seconds() -> None:
    best = 1e9
    script = (
        "import time, resource; from many_models.definitions import build; from many_models.settings import Settings;"
        "build(Settings()).get_repository_def(); print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"
    )
    for _ in range(3):
        began = time.monotonic()
        done = python("-c", script)
        assert done.returncode == 0, done.stderr
        best = min(best, time.monotonic() - began, float(done.stdout))
        if best < 5:
            return
    pytest.fail(f"the code location took {best:.1f} s to load, the best of three")


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(many_models.__path__, "many_models.")
    if not module.name.endswith("__main__")
)


@pytest.mark.slow
def test_importing_any_module_reads_no_setting_and_opens_nothing() -> None:
    assert len(MODULES) > 40
    done = python("-B", "-c", TRAP, *MODULES)  # the interpreter itself would write bytecode on a fresh machine
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "import os; os.environ.get('MANY_MODELS_CONFIG')",
        "import os; os.getenv('DAGSTER_HOME')",
        "import sqlite3; sqlite3.connect('x.db')",
        "from pathlib import Path; Path('x.txt').write_text('')",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
    ],
)
def test_the_trap_catches_a_module_that_does_something_at_import(tmp_path: Path, line: str) -> None:
    package = tmp_path / "many_models"
    package.mkdir()
    (package / "quiet.py").write_text("import os, json\nFOUND = 1\n")
    (package / "loud.py").write_text(line)
    codes = [
        subprocess.run(
            [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(package)!r})\n{TRAP}", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for name in ("quiet", "loud")
    ]
    assert codes[0].returncode == 0, codes[0].stderr
    assert codes[1].returncode == 1
    assert "Traceback" not in codes[1].stderr


def test_the_sensors_ask_the_stores_that_were_given_also_as_resources_of_dagster():
    production, warehouse = object(), object()
    found = outside(Settings(), {"production": dg.ResourceDefinition(lambda _: production), "warehouse": warehouse})
    assert found.production() is production
    assert found.warehouse() is warehouse
