"""What is fuzzed: each target takes bytes from outside, and accepts them or refuses them with an error of ours."""

from __future__ import annotations

import hashlib
import json
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.data.pack_file import in_memory, joined, parted
from many_models.data.release_index import PackId
from many_models.errors import InputError, ManyModelsError, SettingsError
from many_models.forecasting import PackModel
from many_models.keys import SeriesKey
from many_models.onboarding.files import open_file
from many_models.onboarding.readers import head
from many_models.serving.api_keys import SHORTEST_KEY, _keys_of
from many_models.serving.bodies import BodyError, parse
from many_models.serving.loaded_pack import LoadedPack
from many_models.serving.service import _answers
from many_models.settings import ServeSettings, load_settings
from many_models_tests.support.serving_parts import ITEMS, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CORPUS = Path(__file__).parent / "corpus"
SERVE = ServeSettings(max_horizon=60)


def read_settings(data: bytes) -> None:
    """A settings file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many_models.toml"
        path.write_bytes(data)
        load_settings(path)


def read_rows(data: bytes) -> None:
    """A stranger's table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sales.csv"
        path.write_bytes(data)
        table, _ = head(open_file(str(path)), 1_000)
        assert len(set(table.column_names)) == table.num_columns


def read_key(data: bytes) -> None:
    """A series_id, and a key part: what one writes the other reads."""
    text = data.decode("utf-8", "surrogatepass")
    assert SeriesKey.parse(SeriesKey((text, "x")).series_id).parts == (text, "x")
    key = SeriesKey.parse(text)
    assert text in {key.series_id, key.escaped_id}


def read_request(data: bytes) -> None:
    """A request for forecasts, answered where it is one."""
    asked = parse(data, SERVE)
    questions = [one.question() for one in asked.series][:3]
    rows = [ITEMS.index(one.series_id) if one.series_id in ITEMS else 99 for one in questions]
    for answer in _answers(loaded(base_pack()), questions, rows, keep=False):
        if isinstance(answer, bytes):
            json.loads(answer + b"}")
        else:
            assert "cannot be computed" not in str(answer), answer


def read_pack(data: bytes) -> None:
    """A file of a pack, its name before the first line's end: the hashes are right, so the content alone decides."""
    name, _, content = data.partition(b"\n")
    files = {**base_pack(), name.decode("utf-8", "replace"): content}
    if name == b"index.json":
        index = json.loads(content.decode("utf-8", "replace"))
    else:
        index = json.loads(files["index.json"])
        index["sha256"][name.decode("utf-8", "replace")] = hashlib.sha256(content).hexdigest()
        files["index.json"] = json.dumps(index).encode()
    model = PackModel.from_files(files)
    served = loaded(files)
    assert model.series == served.series
    assert model.predict(None, horizon=3).num_rows == 3 * len(model.series)


def read_key_file(data: bytes) -> None:
    """The file of API keys: what is left of it counts, and each bad line is named."""
    hashes, bad = _keys_of(data)
    assert (
        hashes or bad or not data.strip() or len(data) < SHORTEST_KEY or not data.strip(b"\xef\xbb\xbf\xff\xfe\0 \r\n")
    )
    assert bad == sorted(set(bad))


@cache
def base_pack() -> Mapping[str, bytes]:
    """A sound pack."""
    return trained().files()


def loaded(files: Mapping[str, bytes]) -> LoadedPack:
    """The pack as the service has it."""
    block = in_memory(joined(files))
    return LoadedPack(PackId("pack/1", "0" * 64), block, parted(memoryview(block)))


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[type[BaseException], ...]]] = {
    "settings": (read_settings, (SettingsError,)),
    "rows": (read_rows, (ManyModelsError,)),
    "keys": (read_key, (InputError, UnicodeDecodeError)),  # bytes that are no text are no key
    "requests": (read_request, (BodyError,)),
    "packs": (read_pack, (ManyModelsError, json.JSONDecodeError)),  # the harness reads an index before
    "key_files": (read_key_file, ()),
}


def seeds(target: str) -> list[bytes]:
    """What mutations start from: the corpus, and a pack's own files."""
    found = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    if target == "packs":
        found += [name.encode() + b"\n" + content for name, content in base_pack().items() if not name.endswith(".py")]
    return found


def outcome_of(target: str, data: bytes) -> str:
    """Where it ended: "" for what was accepted, else the error and the line that raised it. Raises what is a fault."""
    run, allowed = TARGETS[target]
    try:
        run(data)
    except allowed as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {Path(frame.filename).name}:{frame.name}:{frame.line}"
    return ""
