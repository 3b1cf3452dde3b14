"""A release that waits for a human: shown, superseded, approved, rejected; scoring goes on with what is live."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from many_models.cli.main import main
from many_models.errors import ConflictError
from many_models.operations.day import open_instance
from many_models.operations.status import status_of
from many_models.promotion import approval
from many_models.wiring import build_lake, build_production
from many_models_tests.stand_ins.azure_devops import Run
from many_models_tests.support.project import END, Project, make_project, sales

pytestmark = pytest.mark.slow
DAY_BEFORE = END - timedelta(days=3)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The first day of a project that asks a human: four series in two packs."""
    root = tmp_path_factory.mktemp("approval") / "p"
    project = make_project(root, sales(items=2), promotion={"approval": True})
    project.run(DAY_BEFORE)
    return project


@pytest.fixture
def project(first_day: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(first_day.root, tmp_path / "p")
    moved = Project(tmp_path / "p")
    move_files(moved, str(first_day.root))
    monkeypatch.setenv("DAGSTER_HOME", str(moved.home))
    return moved


def move_files(project: Project, before: str) -> None:
    """MLflow keeps absolute paths: those of a copied store are turned to the copy."""
    import sqlite3

    for name in ("staging", "production"):
        with sqlite3.connect(project.root / "var" / "registry" / f"{name}.db") as connection:
            for table, column in (
                ("runs", "artifact_uri"),
                ("experiments", "artifact_location"),
                ("model_versions", "source"),
                ("model_versions", "storage_location"),
            ):
                connection.execute(
                    f"update {table} set {column} = replace({column}, ?, ?)", (before, str(project.root))
                )


def many_models(project: Project, *words: str) -> str:
    done = CliRunner().invoke(
        main, [*words, "--config", str(project.root / "many_models.toml")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def approved_check(project: Project) -> tuple[bool, dict[str, object]]:
    """What the UI shows: whether the newest evaluation of the check passed, and its metadata."""
    with open_instance(project.home) as instance:
        key = dg.AssetCheckKey(dg.AssetKey("promoted_models"), "approved")
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
        event = record.event.dagster_event
        assert event is not None
        evaluation = event.event_specific_data
        return evaluation.passed, {name: value.value for name, value in evaluation.metadata.items()}


def models(project: Project, cutoff=DAY_BEFORE) -> set[str]:
    rows = project.table("predictions")
    return set(rows[rows["cutoff_date"] == cutoff.isoformat()]["model"])


def test_a_release_waits_where_everybody_sees_it_and_scoring_goes_on_without(first_day: Project) -> None:
    production = build_production(first_day.settings())
    waiting = production.waiting()
    assert production.live() is None
    assert waiting is not None
    assert len(waiting.champions) == 4
    assert models(first_day) == {""}  # every series has its seasonal naive meanwhile
    passed, told = approved_check(first_day)
    assert not passed
    assert told["proposal"] == waiting.release_id
    assert told["series_changed"] == 4
    decisions = first_day.table("decisions")
    assert set(decisions["action"]) == {"promote"}
    assert set(decisions["release_id"]) == {waiting.release_id}
    assert (decisions["decided_at"] != "").all()
    assert decisions["actor"].str.contains("run ").all()
    assert list(first_day.table("release_log")["event"]) == ["proposed"]


def test_status_names_what_waits_and_the_command_that_it_names_makes_it_live(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = project.settings(DAY_BEFORE)
    waits = status_of(settings)["waiting"]
    assert isinstance(waits, dict)
    command = str(waits["approve"]).replace("'…'", "'seen, good'")
    assert command.startswith(f"many-models approve {waits['proposal']} --why ")
    told = json.loads(
        many_models(project, "approve", str(waits["proposal"]), "--by", "Ada", "--why", "seen, good", "--json")
    )
    assert told == {"proposal": waits["proposal"], "approved": True, "actor": "Ada", "live": waits["proposal"]}
    live = build_production(settings).live()
    assert live is not None
    assert live.approval is not None
    assert (live.release_id, live.approval.actor, live.approval.reason) == (waits["proposal"], "Ada", "seen, good")
    passed, shown = approved_check(project)
    assert passed
    assert (shown["approved_by"], shown["live"]) == ("Ada", live.release_id)
    assert status_of(settings)["waiting"] == {}
    stages = {report.stage: report.done for report in project.run(DAY_BEFORE)}
    assert stages == {"predictions": 4, "warehouse_predictions": 1}
    assert "" not in models(project)
    log = project.table("release_log").sort_values("decided_at")
    assert list(log["event"]) == ["proposed", "approved"]
    assert list(log["reason"])[1] == "seen, good"
    many_models(project, "approve", str(waits["proposal"]), "--by", "Bob")  # twice is once
    assert build_production(settings).live() == live
    assert len(project.table("release_log")) == 2


def test_the_next_day_supersedes_what_waits_and_loses_nothing_of_it(project: Project) -> None:
    production = build_production(project.settings())
    older = production.waiting()
    assert older is not None
    project.source(
        "UPDATE sales SET sales = sales + 40 WHERE store = 's1' AND item = 'i1' AND date = ?",
        [((DAY_BEFORE - timedelta(days=2)).isoformat(),)],
    )
    project.run(DAY_BEFORE)  # one series is trained and decided anew, the three others are carried over
    newer = production.waiting()
    assert newer is not None
    assert newer.release_id != older.release_id
    assert newer.champions.keys() == older.champions.keys()
    changed = {n for n in newer.champions if newer.champions[n].staging != older.champions[n].staging}
    assert changed == {"s1__i1"}
    assert "3 of the proposal before" in newer.reason
    with pytest.raises(ConflictError, match=newer.release_id):
        approval.Approver(build_lake(project.settings()), production, "Ada", "").approve(older.release_id)
    many_models(project, "approve")
    live = production.live()
    assert live is not None
    assert live.release_id == newer.release_id
    for champion in live.champions.values():
        assert production.files(champion.ref, champion.sha256)


def test_a_no_leaves_what_is_live_and_the_next_training_asks_again(project: Project) -> None:
    production = build_production(project.settings())
    many_models(project, "approve")
    live = production.live()
    day = DAY_BEFORE + timedelta(days=1)
    project.run(day)
    waiting = production.waiting()
    assert live is not None
    assert waiting is not None
    assert production.live() == live
    assert models(project, day) == {c.ref for c in live.champions.values()}  # yesterday's models, today's history
    many_models(project, "approve", waiting.release_id, "--reject", "--why", "not today")
    assert production.waiting() is None
    assert production.live() == live
    assert approved_check(project)[0]
    with open_instance(project.home) as instance:
        from many_models.operations.day import Day

        assert Day(project.settings(day), instance).run() == []  # a no is no reason to decide again
    project.run(day + timedelta(days=1))
    assert production.waiting() is not None
    assert set(project.table("release_log")["event"]) == {"proposed", "approved", "rejected"}


def test_a_run_cut_off_after_its_proposal_makes_no_second_one(project: Project) -> None:
    """Its decisions are not written down, so it cannot be approved; the repeated run finds the same proposal."""
    settings = project.settings(DAY_BEFORE)
    lake, production = build_lake(settings), build_production(settings)
    waiting = production.waiting()
    assert waiting is not None
    from many_models.ports import Filter

    lake.replace("decisions", lake.read("decisions").slice(0, 0), Filter())
    with pytest.raises(ConflictError, match="cut off"):
        approval.Approver(lake, production, "Ada", "").approve(waiting.release_id)
    with open_instance(project.home) as instance:
        from many_models.definitions import build, build_assets

        asset = build_assets(settings)["promoted_models"]
        keys = instance.get_dynamic_partitions("store_items")
        from many_models.orchestration import automation, due

        state = due.StageState("promoted_models", dict.fromkeys(keys, "x"), {})
        work = due.Work("promoted_models", tuple(keys))
        request = automation.request_of(settings, instance, asset, work, state, {})
        job = build(settings).resolve_job_def(automation.JOBS["promoted_models"])
        done = job.execute_in_process(
            run_config=request.run_config, instance=instance, tags=request.tags, raise_on_error=True
        )
        assert done.success
    assert production.waiting() == waiting
    assert len(lake.read("decisions")) == 4
    assert approval.Approver(lake, production, "Ada", "").approve(waiting.release_id).champions == waiting.champions


def test_nothing_to_approve_is_one_line(project: Project) -> None:
    many_models(project, "approve")
    told = CliRunner().invoke(main, ["approve", "nope", "--config", str(project.root / "many_models.toml")])
    assert told.exit_code == 1
    assert told.stderr.startswith("error: no proposal waits for approval, nope neither")
    assert len(told.stderr.splitlines()) == 1


# --- Azure DevOps ---------------------------------------------------------------------------------------------------
PIPELINE = Path(__file__).resolve().parents[2] / "deploy" / "azure-pipelines.yml"


def stages() -> dict[str, dict[str, object]]:
    return {stage["stage"]: stage for stage in yaml.safe_load(PIPELINE.read_text())["stages"]}


def steps(stage: str) -> list[dict[str, object]]:
    (job,) = stages()[stage]["jobs"]
    return job["strategy"]["runOnce"]["deploy"]["steps"] if "deployment" in job else job["steps"]


def script(stage: str, word: str) -> dict[str, object]:
    """The one step of `stage` whose script says `word`, by itself or in Azure's command line; its `script`."""
    texts = [(step, str(step.get("script", step.get("inputs", {}).get("inlineScript", "")))) for step in steps(stage)]
    ((found, text),) = [(step, text) for step, text in texts if word in text]
    return {**found, "script": text}


def bash(step: dict[str, object], cwd: Path, **env: str) -> str:
    """The output of a step's script where its $(macros) are already in its environment; fails as the agent would."""
    assert "$(" not in str(step["script"]).replace("$(many-models", "")  # Azure would replace it before bash sees it
    done = subprocess.run(
        ["bash", "-e", "-c", str(step["script"])],
        cwd=cwd,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_pipelines_stages_are_in_order_and_approval_cannot_be_skipped() -> None:
    found = stages()
    assert list(found) == ["test", "package", "look", "promote", "images"]
    assert [found[name].get("dependsOn") for name in list(found)[1:]] == ["test", "package", "look", "package"]
    (job,) = found["promote"]["jobs"]
    assert job["environment"] == "many-models-production"
    writers = [name for name in found if any('approve "$PROPOSAL"' in str(step) for step in steps(name))]
    assert writers == ["promote"]
    assert "look.waiting.proposal" in str(found["promote"]["condition"])
    assert script("look", "setvariable")["name"] == "waiting"
    assert "staging" not in PIPELINE.read_text().lower()  # promotion's credentials alone
    run = PIPELINE.parents[1] / str(script("test", ".ci")["script"])
    assert os.access(run, os.X_OK)


def test_what_asks_azure_signs_in_by_a_federated_connection() -> None:
    """On a hosted agent nothing else has an identity; promotion's connection is not that of the images."""
    used = {name: step["inputs"]["azureSubscription"] for name in stages() for step in steps(name)
            if step.get("task") == "AzureCLI@2"}  # fmt: skip
    assert used == {"look": "many-models-promote", "promote": "many-models-promote", "images": "many-models-images"}
    for name in ("look", "promote"):
        assert [step for step in steps(name) if "many-models approve" in str(step) and "task" not in step] == []
        installed = script(name, "pip install")["script"]
        assert '--require-hashes -r "$WHEELS"/requirements.lock' in installed


def test_the_images_are_built_of_the_runs_own_wheel() -> None:
    built = re.findall(r"^build (\S+) (\S+)$", script("images", "docker build")["script"], re.MULTILINE)
    root = PIPELINE.parents[1]
    assert {file for file, _ in built} == {
        path.relative_to(root).as_posix() for path in root.glob("deploy/**/Dockerfile")
    }
    for file, _ in built:
        assert "dist/many_models-*.whl" in (root / file).read_text()
    subprocess.run(["bash", "-n", "-c", script("images", "docker build")["script"]], check=True)
    (download,) = [step for step in steps("images") if step.get("task") == "DownloadPipelineArtifact@2"]
    assert download["inputs"]["path"].endswith("/dist")


def test_what_the_pipeline_installs_can_ask_azure(tmp_path: Path) -> None:
    """The lock file beside the wheel has the extras of an installation on Azure."""
    rule = re.search(r"^wheel:.*?\n\n", (PIPELINE.parents[1] / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert rule is not None
    (lock,) = re.findall(r"cp (\S+requirements\.lock) dist/", rule[0])
    text = (PIPELINE.parents[1] / lock).read_text()
    for package in ("azure-identity", "azure-storage-blob", "azure-ai-ml", "psycopg2-binary", "mssql-python-odbc"):
        assert re.search(rf"^{package}==", text, re.MULTILINE), package


PROPOSAL = {"look": {"look.waiting.proposal": "r7"}}
NIGHT, PUSH = {"Build.Reason": "Schedule"}, {"Build.Reason": "IndividualCI"}


@pytest.mark.parametrize(
    ("variables", "ends", "outputs", "expected"),
    [
        (NIGHT, {}, PROPOSAL, "Skipped Succeeded Succeeded Succeeded Skipped"),
        (NIGHT, {}, {}, "Skipped Succeeded Succeeded Skipped Skipped"),
        (PUSH, {}, PROPOSAL, "Succeeded Succeeded Succeeded Succeeded Succeeded"),
        (
            PUSH,
            {"test": "SucceededWithIssues"},
            PROPOSAL,
            "SucceededWithIssues Succeeded Succeeded Succeeded Succeeded",
        ),
        ({"Build.Reason": "Manual"}, {}, PROPOSAL, "Succeeded Succeeded Succeeded Succeeded Succeeded"),
        ({"Build.Reason": "PullRequest"}, {}, PROPOSAL, "Succeeded Succeeded Skipped Skipped Skipped"),
        (PUSH, {"test": "Failed"}, PROPOSAL, "Failed Skipped Skipped Skipped Skipped"),
        (PUSH, {"test": "Canceled"}, PROPOSAL, "Canceled Skipped Skipped Skipped Skipped"),
        (NIGHT, {"package": "Failed"}, PROPOSAL, "Skipped Failed Skipped Skipped Skipped"),
        (NIGHT, {"look": "Failed"}, PROPOSAL, "Skipped Succeeded Failed Skipped Skipped"),
        (NIGHT, {"look": "Canceled"}, PROPOSAL, "Skipped Succeeded Canceled Skipped Skipped"),
    ],
)
def test_the_pipelines_stages_run_when_they_should(variables, ends, outputs, expected) -> None:
    """The night's run skips the tests and still promotes; a failed, cancelled or skipped look promotes nothing."""
    results = Run(variables, ends, outputs).results(list(stages().values()))
    assert list(results.values()) == expected.split()


def test_succeeded_asks_indirect_dependencies_as_azure_devops_does() -> None:
    skipped = {"stage": "test", "condition": "eq(variables['Build.Reason'], 'Manual')"}
    middle = {"stage": "package", "condition": "in(dependencies.test.result, 'Succeeded', 'Skipped')"}
    results = Run(NIGHT).results([skipped, middle, {"stage": "last", "condition": "and(succeeded(), true)"}])
    assert results == {"test": "Skipped", "package": "Succeeded", "last": "Skipped"}
    with pytest.raises(ValueError, match="no function 'succeed'"):
        Run(NIGHT).results([{"stage": "a", "condition": "succeed()"}])


def test_the_pipelines_wheel_has_the_command_and_the_loaders_that_travel_in_packs(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    for name in ("many_models", "deploy", "pyproject.toml", "README.md", "LICENSE", "Makefile"):
        source = PIPELINE.parents[1] / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    assert script("package", "make")["script"] == "make wheel sbom"
    bash({"script": f"make -o install wheel VENV={sys.prefix}"}, copy)
    assert (copy / "dist" / "requirements.lock").is_file()  # what the other stages install first
    (wheel,) = (copy / "dist").glob("many_models-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {"many_models/forecasting/pack/mm_pack_v1.py", "many_models/forecasting/pack/mm_sklearn_v1.py"} <= set(names)
    assert "many_models/templates/dagster.yaml" in names
    assert not [name for name in names if "tests" in name]


@pytest.mark.long(
    "promotion/test_approval.py::test_status_names_what_waits_and_the_command_that_it_names_makes_it_live",
    "contracts/production_registry.py::test_a_newer_proposal_supersedes_and_the_older_one_cannot_be_approved",
)
def test_the_pipelines_commands_approve_what_was_looked_at_and_nothing_newer(project: Project) -> None:
    env = {"MANY_MODELS_CONFIG": str(project.root / "many_models.toml")}
    told = bash(script("look", "setvariable"), project.root, **env)
    variable = re.search(r"##vso\[task.setvariable variable=proposal;isOutput=true\](\S+)", told)
    assert variable is not None
    step = script("promote", "approve")
    assert set(step["env"]) >= {"PROPOSAL", "ASKED_BY", "WHY"}
    said = {"PROPOSAL": variable[1], "ASKED_BY": "Ada", "WHY": "approved in production, run 7"}
    with pytest.raises(AssertionError, match="waits for approval, not older"):
        bash(step, project.root, **env, **{**said, "PROPOSAL": "older"})
    bash(step, project.root, **env, **said)
    live = build_production(project.settings()).live()
    assert live is not None
    assert live.approval is not None
    assert (live.release_id, live.approval.actor, live.approval.reason) == (variable[1], "Ada", said["WHY"])
    assert json.loads(many_models(project, "approve", "--show", "--json")) == {"proposal": ""}
