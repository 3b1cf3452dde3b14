"""Fitted scikit-learn regressors as the skops files that travel in packs: the same bytes for the same model."""

from __future__ import annotations

import io
import json
import warnings
import zipfile

from many_models.forecasting.pack import mm_sklearn_v1

LARGEST = 250_000  # bytes; a hundred larger ones would make a pack too large to fetch
_STAMP = (1980, 1, 1, 0, 0, 0)


def packed(model: object, largest: int = LARGEST) -> bytes:
    """`model` as a skops file that mm_sklearn_v1 loads; empty where a type is not trusted, or the file is larger than
    `largest` bytes.
    """
    import skops.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = _canonical(skops.io.dumps(model))
        mm_sklearn_v1.check(data)
    except Exception:  # noqa: BLE001  whatever a user's class does when it is written: then its forecast travels
        return b""
    return data if len(data) <= largest else b""


def _canonical(data: bytes) -> bytes:
    """The file without what differs from process to process: addresses, names made of them, times."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(content["schema.json"])
    files: dict[str, bytes] = {}
    for number, node in enumerate(_in_order(schema), 1):
        node["__id__"] = number
        if "file" in node:
            name = f"{number}.npy"
            files[name], node["file"] = content[str(node["file"])], name
    files["schema.json"] = json.dumps(schema, separators=(",", ":")).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in files.items():
            archive.writestr(zipfile.ZipInfo(name, _STAMP), part, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _in_order(part: object) -> list[dict[str, object]]:
    """The nodes of a schema, parents first, in the order of the file."""
    if isinstance(part, dict):
        here = [part] if "__id__" in part else []
        return here + [node for value in part.values() for node in _in_order(value)]
    return [node for value in part for node in _in_order(value)] if isinstance(part, list) else []
