"""Files of packs that wait on disk until a registry asks for them: a release of all series would not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from many_models.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD = 256 * 2**20
"""Bytes of packs that one release holds in memory; further packs wait on disk."""


class SpooledFiles(Mapping[str, bytes]):
    """File name → bytes, read again from `folder` at each access."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Write `files` into `folder`, which is made. Raises OSError where there is no space."""
        folder.mkdir(parents=True)
        self._paths = {name: folder / str(number) for number, name in enumerate(files)}
        for name, path in self._paths.items():
            path.write_bytes(files[name])

    def __getitem__(self, name: str) -> bytes:
        return self._paths[name].read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


class Spool:
    """Keeps the first `held` bytes of files in memory and puts all others into `folder`, a folder for each pack."""

    def __init__(self, folder: Path, held: int = HELD) -> None:
        self._folder, self._left, self._packs = folder, held, 0

    def keep(self, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The same files, in memory or on disk. Raises UnavailableError where the disk does not take them."""
        self._left -= sum(map(len, files.values()))
        if self._left >= 0:
            return files
        self._packs += 1
        try:
            return SpooledFiles(self._folder / str(self._packs), files)
        except OSError as error:
            raise UnavailableError(
                f"a pack of the next release could not wait in {self._folder}: {error}. Make room there, or name "
                "another folder in TMPDIR, then run again"
            ) from error
