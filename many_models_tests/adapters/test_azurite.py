"""The storage emulator that the Azure tests stand on: it starts, keeps what it is given, and refuses strangers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from many_models_tests.stand_ins.azurite import missing


def test_what_is_put_into_the_emulator_is_there(azurite):
    assert azurite.container("kept") == "abfss://kept@devstoreaccount1.dfs.core.windows.net"
    with ContainerClient.from_connection_string(azurite.connection_string, "kept") as client:
        client.upload_blob("a/b", b"something")
        assert client.download_blob("a/b").readall() == b"something"
    assert azurite.blobs("kept") == ["a/b"]


def test_the_emulator_refuses_what_a_signature_does_not_allow(azurite):
    azurite.container("guarded")
    url = f"{azurite.endpoint}/guarded?{azurite.sas('guarded', permission='rl')}"
    with ContainerClient.from_container_url(url) as client:
        assert list(client.list_blob_names()) == []
        with pytest.raises(HttpResponseError, match="AuthorizationPermissionMismatch"):
            client.upload_blob("a", b"b")


@pytest.mark.parametrize(("ci", "outcome"), [("true", "Failed"), ("", "Skipped")])
def test_an_emulator_that_cannot_be_had_is_an_error_in_ci_and_a_skip_elsewhere(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(BaseException, match="no Node") as raised:
        missing("no Node here")
    assert raised.typename == outcome


def test_the_helper_needs_nothing_at_import():
    words = "import sys; sys.modules['azure'] = None; import many_models_tests.stand_ins.azurite"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", words], cwd=root, check=False).returncode == 0
