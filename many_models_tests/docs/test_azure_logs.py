"""Compute logs in Blob storage: the example for the instance's dagster.yaml, with its client led to the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml

if TYPE_CHECKING:
    from many_models_tests.stand_ins.azurite import Azurite

DEPLOY = Path(__file__).parents[2] / "deploy" / "azure"
CAPTURED = "said by a run"


@pytest.mark.slow
def test_what_a_run_prints_is_in_blob_storage(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import BlobServiceClient
    from dagster_azure.blob import compute_log_manager

    def led_to_the_emulator(account: str, credential: str, _suffix: str) -> BlobServiceClient:
        assert (account, credential) == (azurite.account, azurite.key)
        return BlobServiceClient(azurite.endpoint, credential)

    monkeypatch.setattr(compute_log_manager, "create_blob_client", led_to_the_emulator)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", azurite.account)
    monkeypatch.setenv("AZURE_STORAGE_KEY", azurite.key)
    monkeypatch.setenv("MANY_MODELS_LOGS_CONTAINER", "logs")
    azurite.container("logs")
    text = (DEPLOY / "compute_logs.yaml").read_text()
    section = yaml.safe_load(text.replace("# access_key_or_sas_token", "access_key_or_sas_token"))
    del section["compute_logs"]["config"]["default_azure_credential"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(section))

    @dg.op
    def talk() -> None:
        print(CAPTURED)  # noqa: T201  what is captured

    @dg.job
    def talking() -> None:
        talk()

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        result = talking.execute_in_process(instance=instance)
        (logs,) = [e.event_specific_data for e in result.all_events if e.event_type_value == "LOGS_CAPTURED"]
        manager = instance.compute_log_manager
        key = manager.build_log_key_for_run(result.run_id, logs.file_key)
        assert CAPTURED in manager.get_log_data(key).stdout.decode()
    names = azurite.blobs("logs")
    assert any(name.startswith("many_models/storage/") and name.endswith(".out") for name in names), names
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and azurite.key.encode() in path.read_bytes()]
