"""A pack as an MLflow model folder on disk: layout, MLmodel, pinned requirements, and back."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.keys import digest, files_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from many_models.ports import PackUpload

Files = dict[str, bytes]

SERIES_FILE = "series.json"
SERIES_TAG_LIMIT = 60_000
"""Longest series list that is kept in a tag: MySQL's TEXT ends at 65,535 bytes."""


def model_folder(upload: PackUpload, path: str, run_id: str) -> Files:
    """The files of an MLflow model folder for a pack: `code/` for its `*.py`, `data/` for the rest, MLmodel on top.

    A pack without a loader (`mm_pack_v*.py`) gets no MLmodel: it can be stored, but not be loaded by MLflow.
    """
    folder = {f"{'code' if name.endswith('.py') else 'data'}/{name}": data for name, data in upload.files.items()}
    series = json.dumps(upload.series)
    if len(series) > SERIES_TAG_LIMIT:
        folder[SERIES_FILE] = series.encode()
    loaders = [name for name in upload.files if re.fullmatch(r"mm_pack_v\d+\.py", name)]
    if not loaders:
        return folder
    requirements = _requirements(with_sklearn=any(name.endswith(".skops") for name in upload.files))
    environment = {"python": _python(), "dependencies": ["-r requirements.txt"]}
    model: dict[str, object] = {
        "artifact_path": path,
        "flavors": {
            "python_function": {
                "loader_module": max(loaders).removesuffix(".py"),
                "code": "code",
                "data": "data",
                "env": {"virtualenv": "python_env.yaml"},
                "python_version": _python(),
            }
        },
        "mlflow_version": _mlflow_version(),
        "model_uuid": digest(run_id, path) * 2,
        "run_id": run_id,
    }
    if signature := _signature(upload):
        model["signature"] = signature
    folder["requirements.txt"] = "".join(f"{line}\n" for line in requirements).encode()
    folder["python_env.yaml"] = json.dumps(environment, indent=1).encode()
    folder["MLmodel"] = json.dumps(model, indent=1).encode()  # JSON is YAML
    return folder


def _signature(upload: PackUpload) -> dict[str, str]:
    """What `predict` takes, in MLflow's form: series_id, ds, the known covariates that the pack's index names, and the
    parameter `explain`.

    MLflow drops every column that a signature does not name: without an index there is none.
    """
    if "index.json" not in upload.files:
        return {}
    known = json.loads(upload.files["index.json"]).get("known", [])
    columns: list[dict[str, object]] = [
        {"name": "series_id", "type": "string", "required": True},
        {"name": "ds", "type": "datetime", "required": True},
        *({"name": name, "type": "any", "required": False} for name in known),
    ]
    parameters = [{"name": "explain", "type": "boolean", "default": False, "shape": None}]
    return {"inputs": json.dumps(columns), "params": json.dumps(parameters)}


def pack_files(folder: Mapping[str, bytes]) -> Files:
    """The pack's own files of a model folder."""
    found: Files = {}
    for path, data in folder.items():
        top, _, name = path.partition("/")
        if name and top in ("code", "data"):
            found[name] = data
    return found


def local_path(uri: str) -> Path | None:
    """The folder that a path or a `file:` URI names; None for everything else."""
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    if not uri:
        return None
    scheme = urlparse(uri).scheme
    if scheme == "file":
        return Path(url2pathname(urlparse(uri).path))
    return Path(uri) if len(scheme) <= 1 else None  # one letter is a drive


def series_tags(upload: PackUpload) -> dict[str, str]:
    """The pack's list of series as tags; of a list too long for a tag its digest, the list being in SERIES_FILE."""
    series = json.dumps(upload.series)
    if len(series) <= SERIES_TAG_LIMIT:
        return {"series": series}
    return {"series_digest": files_sha256({SERIES_FILE: series.encode()}), "series_count": str(len(upload.series))}


def write_folders(root: Path, folders: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write folders (name, and file name → bytes) under `root`, one after the other."""
    for folder, files in folders:
        for name, data in files.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def read_folder(root: Path) -> Files:
    """Every file under `root` by its path from there; none when there is no such folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@lru_cache(maxsize=2)
def _requirements(*, with_sklearn: bool = False) -> list[str]:
    """What a loader may import, pinned to what is installed here: no guessing, no package index."""
    from importlib.metadata import version

    more = ("scikit-learn", "skops") if with_sklearn else ()
    return [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "pandas", *more)]


@lru_cache(maxsize=1)
def _python() -> str:
    import platform

    return platform.python_version()


def _mlflow_version() -> str:
    return _requirements()[0].partition("==")[2]
