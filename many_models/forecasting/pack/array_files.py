"""Arrays as .npy files: the same bytes for the same content. `mm_pack_v1.stored_arrays` reads them."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def array_files(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, bytes]:
    """One .npy file (format 1.0) for each array."""
    files: dict[str, bytes] = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return files


def sha256_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each file, in hex digits."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
