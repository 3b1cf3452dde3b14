"""A pack's files in one file of the local disk, read and verified; nothing in it is ever run or unpickled."""

from __future__ import annotations

import json
import mmap
import os
from typing import TYPE_CHECKING

from many_models.errors import IntegrityError
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.keys import verified

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"MMPACKS1"
ALIGNMENT = 64


def joined(files: Mapping[str, bytes]) -> bytes:
    """`files` one after the other, each at a multiple of ALIGNMENT, with a table of contents in front."""
    sizes = {name: len(files[name]) for name in sorted(files)}
    table = json.dumps(sizes).encode()
    parts = [MAGIC, len(table).to_bytes(8, "little"), table]
    at = sum(map(len, parts))
    for name, size in sizes.items():
        pad = -at % ALIGNMENT
        parts += [b"\0" * pad, files[name]]
        at += pad + size
    return b"".join(parts)


def parted(view: memoryview) -> dict[str, memoryview]:
    """The inverse of `joined`, without copying. Raises IntegrityError."""
    if bytes(view[:8]) != MAGIC:
        raise IntegrityError("a stored pack cannot be read: it does not begin as one")
    at = 16 + int.from_bytes(view[8:16], "little")
    try:
        sizes = {str(name): int(size) for name, size in json.loads(bytes(view[16:at])).items()}
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"a stored pack cannot be read: {error}") from error
    found: dict[str, memoryview] = {}
    for name, size in sizes.items():
        at += -at % ALIGNMENT
        if at + size > len(view):
            raise IntegrityError(f"a stored pack cannot be read: it ends within {name}")
        found[name] = view[at : at + size]
        at += size
    return found


def read(path: Path) -> mmap.mmap:
    """The file at `path` in its own memory, so that what was verified is what answers: a mapped file follows
    whoever overwrites it, and ends the process of whoever reads it after it was cut. Raises IntegrityError when empty.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise IntegrityError(f"{path} is empty")
        block = mmap.mmap(-1, size)
        view, at = memoryview(block), 0
        while at < size and (got := file.readinto(view[at:])):
            at += got
        view.release()
    return block


def in_memory(content: bytes) -> mmap.mmap:
    """`content` in its own memory, which goes back to the system when it is let go."""
    block = mmap.mmap(-1, len(content))
    block.write(content)
    return block


def contents(block: mmap.mmap, sha256: str, ref: str) -> dict[str, memoryview]:
    """The files of pack `ref` in `block`. Raises IntegrityError when they are not `sha256`."""
    files = parted(memoryview(block))
    verified(files, sha256, ref)  # pyright: ignore[reportArgumentType]  views of bytes
    return files


def arrays(files: Mapping[str, memoryview]) -> dict[str, NDArray[np.generic]]:
    """The arrays (`*.npy`) among `files`, as views. Raises ValueError for a file that is not a plain array."""
    names = [name for name in files if name.endswith(".npy")]
    return {name.removesuffix(".npy"): loader.array_of(files[name], name) for name in names}
