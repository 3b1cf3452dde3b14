"""Files between a driver and far workers: the same over a folder and over Azure storage (Azurite)."""

from __future__ import annotations

import pickle

import pytest

from many_models.adapters.azure.storage import AzureStorage
from many_models.adapters.compute.exchange import BlobExchange, FolderExchange
from many_models.errors import UnavailableError
from many_models_tests.stand_ins import azurite as emulator

azurite = emulator.azurite
pytestmark = pytest.mark.slow


def key(_: str) -> str:
    return emulator.KEY


@pytest.fixture(params=["folder", "blob"])
def exchange(request, tmp_path):
    if request.param == "folder":
        return FolderExchange(str(tmp_path))
    azurite = request.getfixturevalue("azurite")
    url = f"{azurite.container('exchange')}/many_models/jobs"
    return BlobExchange(AzureStorage(url, "key", key, endpoint=azurite.endpoint))


def test_what_is_left_is_found_by_folder_until_it_is_removed(exchange):
    exchange.put("run/results/000001", b"two")
    exchange.put("run/results/000000", b"one")
    exchange.put("run/notes/a", b"")
    exchange.put("run/results/000001", b"again")
    there = pickle.loads(pickle.dumps(exchange))
    assert there.names("run/results") == ["run/results/000000", "run/results/000001"]
    assert [there.get(name) for name in there.names("run/results")] == [b"one", b"again"]
    assert there.names("run/result") == there.names("elsewhere") == []
    assert there.place("run/results").endswith("/run/results")
    exchange.remove("run")
    exchange.remove("run")
    assert exchange.names("run/results") == exchange.names("run/notes") == []


def test_a_file_that_is_not_there_is_no_empty_file(exchange):
    with pytest.raises(UnavailableError):
        exchange.get("run/results/000000")


def test_a_pickle_of_it_holds_no_key(exchange):
    assert emulator.KEY.encode() not in pickle.dumps(exchange)
