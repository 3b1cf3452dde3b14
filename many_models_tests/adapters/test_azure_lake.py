"""The lake on Azure storage: the contract over the emulator, each kind of credential, and what goes wrong out there."""

from __future__ import annotations

import itertools
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from pydantic import ValidationError

from many_models.adapters.azure.storage import KEY, SAS, AzureStorage, while_busy
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.lake.delta_log import NewestInStorage
from many_models.adapters.warehouse.staging_blob import BlobStaging
from many_models.errors import AccessError, ConflictError, SettingsError, UnavailableError
from many_models.ports import Filter
from many_models.settings import LakeSettings, Settings, secret
from many_models.wiring import build_lake
from many_models_tests.contracts.lake import LakeContract, contents, row, rows
from many_models_tests.stand_ins.faulty_http import CUT, LOSE, faulty
from many_models_tests.support.adapter_faults import numbered, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from many_models_tests.stand_ins.azurite import Azurite

counted = itertools.count()


pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Secrets:
    """Secrets from nowhere but here; pickled without them, as the product's are."""

    values: dict[str, str] = field(repr=False)

    def __call__(self, name: str) -> str:
        return self.values[name]


def place(azurite: Azurite) -> str:
    """A folder in a new container."""
    return f"{azurite.container(f'lake-{next(counted)}')}/many models"


def lake_at(azurite: Azurite, url: str, credential="key", endpoint: str = "", **secrets: str) -> DeltaLake:
    given = Secrets({KEY: azurite.key, **secrets})
    storage = AzureStorage(url, credential, given, endpoint=endpoint or azurite.endpoint)
    return DeltaLake(url, storage, NewestInStorage(storage))


@pytest.mark.slow
class TestDeltaLakeOnAzure(LakeContract):
    @pytest.fixture
    def make(self, azurite) -> Callable[[], DeltaLake]:
        return lambda: lake_at(azurite, place(azurite))


# --- Credentials ----------------------------------------------------------------------------------------------------
def test_a_signature_opens_its_container(azurite):
    url = place(azurite)
    signature = azurite.sas(url.split("//")[1].split("@")[0])
    for text in (signature, f"?{signature}"):
        lake = lake_at(azurite, url, "sas", **{SAS: text})
        lake.replace("t", rows(row()), Filter())
        assert contents(lake.read("t")) == contents(rows(row()))


def test_an_expired_signature_is_a_clear_error_that_does_not_show_it(azurite):
    url = place(azurite)
    signature = azurite.sas(url.split("//")[1].split("@")[0], expires=timedelta(hours=-1))
    lake = lake_at(azurite, url, "sas", **{SAS: signature})
    for do in (lake.check, lambda: lake.read("t"), lambda: lake.replace("t", rows(row()), Filter())):
        with pytest.raises(AccessError, match=r"abfss://.*not accepted.*expired.*renew it") as raised:
            do()
        assert "sig=" not in repr_chain(raised.value)


def test_a_right_to_read_is_not_enough_to_write_and_check_says_so(azurite):
    url = place(azurite)
    lake_at(azurite, url).replace("t", rows(row()), Filter())
    lake = lake_at(azurite, url, "sas", **{SAS: azurite.sas(url.split("//")[1].split("@")[0], permission="rl")})
    assert lake.read("t").num_rows == 1
    for do in (lake.check, lambda: lake.replace("t", rows(row(y=2.0)), Filter())):
        with pytest.raises(AccessError, match=r"may not do this .*Storage Blob Data Contributor"):
            do()
    assert contents(lake.read("t")) == contents(rows(row()))


def test_a_wrong_key_and_a_broken_one_are_told_apart_and_not_shown(azurite):
    url = place(azurite)
    with pytest.raises(AccessError, match="not accepted") as wrong:
        lake_at(azurite, url, **{KEY: "cGxhbnRlZA=="}).version("t")
    with pytest.raises(SettingsError, match="AZURE_STORAGE_KEY is not an account key") as broken:
        lake_at(azurite, url, **{KEY: "planted secret"}).version("t")
    assert "planted" not in repr_chain(wrong.value) + repr_chain(broken.value)
    assert "cGxhbnRlZA" not in repr_chain(wrong.value)


def repr_chain(error: BaseException | None) -> str:
    """All that a log could show of an error."""
    return "" if error is None else f"{error!r} {repr_chain(error.__cause__ or error.__context__)}"


def test_a_container_that_is_not_there_is_an_error_not_an_empty_lake(azurite):
    lake = lake_at(azurite, "abfss://nowhere@devstoreaccount1.dfs.core.windows.net/lake")
    for do in (lake.check, lake.tables, lambda: lake.version("t"), lambda: lake.replace("t", rows(row()), Filter())):
        with pytest.raises(SettingsError, match="no such container"):
            do()


def test_a_lake_that_travels_to_a_worker_carries_no_secret(azurite, monkeypatch):
    url = place(azurite)
    monkeypatch.setenv(KEY, azurite.key)
    settings = Settings(lake=LakeSettings(path=url, credential="key", endpoint=azurite.endpoint))
    lake = build_lake(settings)
    lake.replace("t", rows(row()), Filter())
    packed = pickle.dumps(lake)
    assert azurite.key.encode() not in packed
    assert contents(pickle.loads(packed).read("t")) == contents(rows(row()))
    monkeypatch.delenv(KEY)
    with pytest.raises(SettingsError, match="AZURE_STORAGE_KEY is missing"):
        pickle.loads(packed).read("t")


def test_a_secret_comes_from_the_environment_or_a_mounted_file(monkeypatch, tmp_path):
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(f"{KEY}_FILE", raising=False)
    with pytest.raises(SettingsError, match=f"{KEY}_FILE"):
        secret(KEY)
    file = tmp_path / "key"
    monkeypatch.setenv(f"{KEY}_FILE", str(file))
    with pytest.raises(SettingsError, match="cannot be read: FileNotFoundError"):
        secret(KEY)
    file.write_text("")
    with pytest.raises(SettingsError, match="is empty"):
        secret(KEY)
    file.write_text("from a file\n")
    assert secret(KEY) == "from a file"
    monkeypatch.setenv(KEY, "from the environment")
    assert secret(KEY) == "from the environment"


@pytest.mark.parametrize(
    ("path", "endpoint", "said"),
    [
        ("abfss://lake/folder", "", "not an Azure location"),
        ("abfss://lake:planted@a.dfs.core.windows.net/f", "", "not an Azure location"),
        ("abfss://lake@a.dfs.core.windows.net/f?sig=planted", "", "not an Azure location"),
        ("abfss://lake@a.dfs.core.windows.net/f", "http://example.com/a", "emulator on this machine only"),
    ],
)
def test_a_location_with_a_secret_or_without_encryption_is_refused(path, endpoint, said):
    with pytest.raises((SettingsError, ValidationError), match=said) as raised:
        build_lake(Settings(lake=LakeSettings(path=path, endpoint=endpoint)))
    assert "planted" not in repr_chain(raised.value)


# --- Faults ---------------------------------------------------------------------------------------------------------
@pytest.mark.long("adapters/test_azure_lake.py::test_an_answer_of_a_busy_store_or_capacity_is_asked_again")
def test_a_store_that_is_busy_for_half_a_minute_is_asked_again(azurite, tmp_path):
    """By the lake's commit, and by what is staged for Synapse."""
    url = place(azurite)
    (tmp_path / "rows.parquet").write_bytes(b"staged")
    with faulty(azurite.endpoint) as proxy, ThreadPoolExecutor(1) as other:
        lake = lake_at(azurite, url, endpoint=proxy.endpoint)
        lake.replace("t", rows(row()), Filter())
        storage = AzureStorage(f"{url}/staging", "key", {KEY: azurite.key}.__getitem__, endpoint=proxy.endpoint)
        end = time.monotonic() + 30
        proxy.fault = lambda *_: busy(end - time.monotonic())
        staged = other.submit(stage, BlobStaging(storage), tmp_path / "rows.parquet", azurite, url)
        lake.replace("t", rows(row(y=2.0)), Filter())
        assert time.monotonic() > end
        assert proxy.faults >= 4
        assert contents(lake.read("t")) == contents(rows(row(y=2.0)))
        assert staged.result() == b"staged"


def busy(seconds_left: float) -> int | None:
    """Each of the two answers for half of the time without a break: clients count the tries of each differently."""
    return 503 if seconds_left > 15 else 429 if seconds_left > 0 else None


def stage(staging: BlobStaging, file: Path, azurite, url: str) -> bytes:
    """What lies in the store while the file is staged."""
    with staging.holding(file, file.name) as address:
        container = urlsplit(url).username or ""
        name = address.split(f"/{container}/")[1]
        with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
            return client.download_blob(name).readall()


@pytest.mark.slow
def test_cut_lines_change_nothing_twice(azurite):
    """Of seven requests one is cut before it arrives, and of one the answer is lost."""
    url = place(azurite)
    with faulty(azurite.endpoint) as proxy:
        lake = lake_at(azurite, url, endpoint=proxy.endpoint)
        lake.replace("t", rows(row(n=0)), Filter())
        proxy.fault = lambda number, *_: (CUT, None, None, LOSE, None, None, None)[number % 7]
        done = 0
        for n in range(1, 6):
            for _ in range(3):
                try:
                    lake.replace("t", rows(row(n=n)), Filter())
                except (ConflictError, UnavailableError):
                    continue
                done += 1
                break
        proxy.fault = lambda *_: None
        assert proxy.faults >= 5
        assert done == 5
        assert contents(lake.read("t")) == contents(rows(row(n=5)))


def test_of_two_who_commit_at_once_one_is_told_and_nothing_is_lost(azurite):
    url = place(azurite)
    lake = lake_at(azurite, url)
    lake.replace("t", rows(row("a"), row("b")), Filter(), ("pack",))

    def write(n: int) -> bool:
        try:
            lake_at(azurite, url).replace("t", rows(row("a", n=n)), Filter({"pack": ["a"]}))
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(write, range(8)))
    assert any(won)
    left = lake.read("t", Filter({"pack": ["a"]})).to_pylist()
    assert [line["n"] for line in left] in [[n] for n, good in enumerate(won) if good]
    assert lake.version("t") == sum(won)


@pytest.mark.slow
def test_a_writer_killed_between_data_and_commit_leaves_the_old_rows(azurite):
    url = place(azurite)
    lake = lake_at(azurite, url)
    lake.replace("t", numbered(0), Filter())
    with faulty(azurite.endpoint) as proxy:
        proxy.fault = lambda _number, method, path: 503 if method == "PUT" and "_delta_log" in path else None
        call = f"replace_on_azure({url!r}, {proxy.endpoint!r}, {azurite.key!r})"
        with start(call) as writer:
            while not proxy.faults and writer.poll() is None:
                time.sleep(0.02)
            writer.kill()
    assert set(lake.read("t").column("n").to_pylist()) == {0}
    assert lake.version("t") == 0
    lake.replace("t", numbered(2), Filter())
    assert set(lake.read("t").column("n").to_pylist()) == {2}


def test_a_store_that_does_not_answer_is_unavailable_not_empty():
    url = "abfss://lake@devstoreaccount1.dfs.core.windows.net/lake"
    storage = AzureStorage(url, "key", Secrets({KEY: "a2V5"}), endpoint="http://127.0.0.1:9/devstoreaccount1")
    lake = DeltaLake(url, lambda: {**storage(), "max_retries": "1", "retry_timeout": "1s"})
    with pytest.raises(UnavailableError, match=re.compile("Connection refused", re.IGNORECASE)):
        lake.version("t")


@pytest.mark.parametrize(("status", "tries"), [(429, 3), (430, 3), (503, 3), (404, 1)])
def test_an_answer_of_a_busy_store_or_capacity_is_asked_again(status, tries):
    asked: list[int] = []

    def work() -> str:
        asked.append(1)
        if len(asked) < 3:
            error = HttpResponseError("planted")
            error.status_code = status
            raise error
        return "done"

    if tries == 1:
        with pytest.raises(HttpResponseError):
            while_busy(work)
    else:
        assert while_busy(work) == "done"
    assert len(asked) == tries
