"""Which client, runtime and Python go together, Databricks' login by OAuth, and what a cluster's errors mean."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from many_models import definitions
from many_models.adapters.compute import spark as spark_adapter
from many_models.adapters.compute import spark_databricks, spark_session
from many_models.adapters.compute.spark_data import FilesOfSnapshots, TablesOfCatalog
from many_models.adapters.compute.spark_databricks import Databricks
from many_models.adapters.compute.spark_versions import require_runtime, require_spark
from many_models.errors import AccessError, InputError, MissingDependencyError, SettingsError, UnavailableError
from many_models.settings import load_settings
from many_models_tests.stand_ins.databricks import CLIENT, CLUSTER, SECRET, Workspace, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = ".".join(platform.python_version().split(".")[:2])


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    with workspace(monkeypatch) as place:
        monkeypatch.setitem(spark_versions_of_python(), "15.4", PYTHON)
        yield place


def spark_versions_of_python() -> dict[str, str]:
    from many_models.adapters.compute import spark_versions

    return spark_versions.RUNTIME_PYTHON  # type: ignore[return-value]


def asked(place: Workspace, **changed: str) -> Databricks:
    about = {"host": place.host, "cluster": CLUSTER, "client_id": CLIENT, "secret": SECRET, **changed}
    return Databricks(about["host"], about["cluster"], about["client_id"], lambda: about["secret"])


# --- Versions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("client", "server"), [("4.3.0", "4.3.0"), ("3.5.9", "4.0.1"), ("3.5.9", "3.5.1")])
def test_a_client_of_the_servers_version_or_older_is_taken(client: str, server: str) -> None:
    require_spark(client, server, "sc://here")


@pytest.mark.parametrize(
    ("client", "server", "said"),
    [
        ("4.3.0", "4.0.1", r"a client must not be newer than its server; pip install 'pyspark\[connect\]==4\.0\.\*'"),
        ("4.0.0", "3.5.4", r"pip install 'pyspark\[connect\]==3\.5\.\*'"),
        ("3.4.1", "3.4.1", r"Spark 3\.4\.1 at sc://here is too old: it needs Spark 3\.5 or newer"),
    ],
)
def test_a_client_newer_than_its_server_is_told_the_line_to_change(client: str, server: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        require_spark(client, server, "sc://here")


def test_the_versions_are_compared_when_a_session_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_session, "_require_reachable", lambda _: None)
    old = SimpleNamespace(version="3.5.4", range=lambda _: SimpleNamespace(count=lambda: 1))
    with pytest.raises(InputError, match="a client must not be newer than its server"):
        spark_session.connect(lambda _: old, "", "sc://there:15002;token=secret", {})


@pytest.mark.parametrize(
    ("client", "runtime", "python", "said"),
    [
        ("16.4.2", "15.4.x-scala2.12", "3.11.9", r"; install 'databricks-connect==15\.4\.\*' as docs/"),
        (
            "15.4.1",
            "15.4.x-scala2.12",
            "3.12.1",
            r"has Python 3\.11, and this process runs 3\.12\.1: uv venv --py",
        ),
        ("14.3.2", "14.3.x-scala2.12", "3.11.9", r"many_models needs Python 3\.11 or newer; choose runtime 15\.4 LTS"),
        ("15.4.1", "custom", "3.11.9", "'custom' is not a version"),
    ],
)
def test_a_client_or_python_that_the_runtime_does_not_have_is_named(client, runtime, python, said) -> None:
    with pytest.raises(InputError, match=said):
        require_runtime(client, runtime, python)


def test_clients_that_fit_a_runtime_are_taken() -> None:
    require_runtime("15.4.1", "15.4.x-scala2.12", "3.11.9")
    require_runtime("16.1.2", "16.4.x-photon-scala2.12", "3.12.3")
    require_runtime("18.0.1", "18.1.x-scala2.13", "3.13.0")  # a runtime whose Python is not known here


# --- Databricks -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_service_principal_gets_a_session_by_oauth(there: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A personal token in the environment is not taken: the settings say who asks."""
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-a-person")
    assert asked(there).connect() is not None
    assert there.tokens == 1
    assert there.settings == {"spark.sql.session.timeZone": "UTC"}


def test_a_wrong_secret_is_refused_without_being_shown(there: Workspace) -> None:
    with pytest.raises(AccessError, match=f"refuses the service principal {CLIENT}") as caught:
        asked(there, secret="dose-wrong").connect()
    assert "dose-wrong" not in str(caught.value)
    assert "MANY_MODELS_DATABRICKS_CLIENT_SECRET" in str(caught.value)


def test_an_unknown_cluster_an_old_runtime_and_a_missing_right_are_named(there: Workspace) -> None:
    """Before a session is asked for: Databricks would start the cluster, and only warn of its runtime."""
    with pytest.raises(UnavailableError, match=r"cluster nobodys at http.* does not answer.*does not exist"):
        asked(there, cluster="nobodys").connect()
    there.may_attach = False
    with pytest.raises(AccessError, match=f"{CLIENT} may not use cluster {CLUSTER}: .* it needs Can Attach To"):
        asked(there).connect()
    there.may_attach, there.runtime = True, "14.3.x-scala2.12"
    with pytest.raises(InputError, match=r"runtime 14\.3, and this client is databricks-connect 15\.4\.26"):
        asked(there).connect()
    assert there.sessions == 0


def test_a_workspace_that_is_away_is_not_called_a_refused_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_databricks, "ANSWER_SECONDS", 1)
    with workspace(monkeypatch) as place:
        pass
    monkeypatch.setitem(sys.modules, "databricks.connect", SimpleNamespace(DatabricksSession=None))
    with pytest.raises(UnavailableError, match=f"no workspace of Databricks answers at {place.host}"):
        asked(place).connect()


def test_without_databricks_connect_and_with_pyspark_beside_it_the_page_is_named(
    there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.beside = True
    with pytest.raises(InputError, match=r"pyspark 4\S+ is installed beside databricks-connect"):
        asked(there).connect()
    monkeypatch.setitem(sys.modules, "databricks.connect", None)
    with pytest.raises(MissingDependencyError, match=r"needs databricks-connect .* in place of pyspark"):
        asked(there).connect()


# --- What a cluster says --------------------------------------------------------------------------------------------
STARTING = "BAD_REQUEST: The cluster is in unexpected state Pending, while waiting for the cluster to become available."
SAYINGS = [
    (STARTING, UnavailableError, "the cluster is starting: .* Run it again in some minutes"),
    (
        (
            "Cluster 1102 is in unexpected state Terminated: AZURE_QUOTA_EXCEEDED_EXCEPTION(CLIENT_ERROR): "
            "azure_error_message:Operation could not be completed as it results in exceeding approved Cores quota."
        ),
        UnavailableError,
        "quota of cores is used up: .* Ask for more quota",
    ),
    (
        "[INSUFFICIENT_PERMISSIONS] Insufficient privileges:\nUser does not have USE SCHEMA on Schema 'main.sales'.",
        AccessError,
        "GRANT USE SCHEMA ON SCHEMA `main`.`sales` TO `PRINCIPAL`",
    ),
    ("[INSUFFICIENT_PERMISSIONS] Insufficient privileges", AccessError, "needs USE CATALOG, USE SCHEMA and SELECT"),
]


@pytest.mark.parametrize(("said", "kind", "told"), SAYINGS)
def test_a_clusters_refusal_is_named_with_the_remedy(there: Workspace, said: str, kind: type, told: str) -> None:
    """At the start of a session, and in the middle of a run."""
    there.trouble = said
    with pytest.raises(kind, match=told):
        asked(there).connect()
    with pytest.raises(kind, match=told):
        spark_adapter._trouble(RuntimeError(said))


# --- Settings -------------------------------------------------------------------------------------------------------
WHOLE = {"kind": "spark", "spark_data": "spark", "databricks_host": "https://adb-1.azuredatabricks.net",
         "databricks_cluster": CLUSTER, "databricks_client_id": CLIENT}  # fmt: skip


def settings_of(folder: Path, compute: dict[str, str]):
    lines = [f'{name} = "{value}"' for name, value in compute.items()]
    (folder / "many_models.toml").write_text("\n".join(["[compute]", *lines]))
    return load_settings(folder / "many_models.toml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"databricks_cluster": ""}, "databricks_host needs databricks_cluster, too"),
        ({"databricks_cluster": "", "databricks_client_id": ""}, "databricks_cluster and databricks_client_id"),
        ({"spark_remote": "sc://cluster:15002"}, "databricks_host and spark_remote are two clusters"),
        ({"databricks_host": "adb-1.azuredatabricks.net"}, "write https://WORKSPACE.azuredatabricks.net"),
        ({"spark_data": "workers"}, 'databricks_host needs spark_data = "spark"'),
        ({"spark_lake": "main/../x y"}, ""),
        ({"spark_lake": "main.forecasting.sales"}, "spark_lake is 'main.forecasting.sales': write CATALOG.SCHEMA"),
        ({"kind": "processes"}, 'spark_data = "spark" needs kind = "spark"'),
    ],
)
def test_settings_of_a_cluster_that_cannot_work_are_refused(tmp_path: Path, changed: dict, said: str) -> None:
    if not said:  # the control: a folder is taken as it is
        assert settings_of(tmp_path, {**WHOLE, **changed}).compute.spark_lake
        return
    with pytest.raises(SettingsError, match=said):
        settings_of(tmp_path, {**WHOLE, **changed})


def test_the_settings_choose_who_reads_the_lake(tmp_path: Path) -> None:
    def frames(**compute: str) -> object:
        made = definitions.build_compute(settings_of(tmp_path, {"kind": "spark", **compute}))
        return made._frames  # type: ignore[attr-defined]

    assert frames() is None
    assert isinstance(frames(spark_data="spark"), FilesOfSnapshots)
    assert frames(spark_data="spark", spark_lake="main.forecasting") == TablesOfCatalog("main.forecasting")
    found = frames(spark_data="spark", spark_lake="/Volumes/main/forecasting/lake")
    assert isinstance(found, FilesOfSnapshots)
    assert found.root == "/Volumes/main/forecasting/lake"


def test_the_secret_comes_from_the_environment(there: Workspace, tmp_path: Path, monkeypatch) -> None:
    compute = definitions.build_compute(settings_of(tmp_path, {**WHOLE, "databricks_host": there.host}))
    monkeypatch.delenv("MANY_MODELS_DATABRICKS_CLIENT_SECRET", raising=False)
    with pytest.raises(SettingsError, match="MANY_MODELS_DATABRICKS_CLIENT_SECRET is missing"):
        compute.check()
    monkeypatch.setenv("MANY_MODELS_DATABRICKS_CLIENT_SECRET", SECRET)
    there.trouble = STARTING
    with pytest.raises(UnavailableError, match="the cluster is starting"):
        compute.check()
