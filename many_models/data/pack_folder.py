"""The packs on the local disk: fetched from the registry once, named by their sha256, bounded in bytes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from many_models.data.pack_file import contents, in_memory, joined, read
from many_models.errors import IntegrityError, ManyModelsError, UnavailableError
from many_models.system import write_atomically

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Collection
    from pathlib import Path

    from many_models.data.release_index import PackId
    from many_models.ports import ProductionRegistry

log = logging.getLogger(__name__)


class PackFolder:
    """Packs in `folder`, at most `limit` bytes of them (None: no bound); thread-safe for different packs.

    `full` says whether the last pack that was fetched could not be written.
    """

    def __init__(
        self, folder: Path, production: ProductionRegistry, limit: int | None, fetched: Callable[[str], None]
    ) -> None:
        self._folder, self._production, self._limit, self._fetched = folder, production, limit, fetched
        self._lock = threading.Lock()
        self._bytes = -1
        self.full = False

    def path(self, pack: PackId) -> Path:
        """Where the pack is, or would be."""
        return self._folder / f"{pack.sha256}.pack"

    def size(self, pack: PackId) -> int | None:
        """Its bytes on this disk, None where it is not there."""
        stat = _stat(self.path(pack))
        return None if stat is None else stat.st_size

    def open(self, pack: PackId) -> tuple[mmap.mmap, dict[str, memoryview]]:
        """The pack in memory, and its verified files; fetched when it is not here or damaged.

        Raises UnavailableError when the registry does not answer, IntegrityError when it has not what was promoted.
        """
        path = self.path(pack)
        try:
            block = read(path)
            files = contents(block, pack.sha256, pack.ref)
            with contextlib.suppress(OSError):
                os.utime(path)  # what was used last is deleted last
        except FileNotFoundError:
            pass
        except (IntegrityError, OSError, ValueError) as error:
            log.warning("pack %s is damaged on the local disk (%s): fetching it again", pack.ref, type(error).__name__)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        else:
            return block, files
        block = self._fetch(pack, path)
        return block, contents(block, pack.sha256, pack.ref)

    def fetched_file(self, pack: PackId) -> Path:
        """The file of the verified pack, for tasks that read it by themselves.

        Raises as `open` does, and UnavailableError where the disk cannot keep the pack.
        """
        self.open(pack)
        if self.size(pack) is None:
            raise UnavailableError(f"pack {pack.ref} cannot be kept in {self._folder}: free some space on its disk")
        return self.path(pack)

    def _fetch(self, pack: PackId, path: Path) -> mmap.mmap:
        try:
            content = joined(self._production.files(pack.ref, pack.sha256))
        except ManyModelsError as error:
            self._fetched(type(error).__name__)
            raise
        except Exception as error:  # a driver's own error: it must not end the request
            self._fetched(type(error).__name__)
            raise UnavailableError(f"pack {pack.ref} cannot be fetched: {type(error).__name__}") from error
        self._fetched("ok")
        try:
            self._make_room(len(content))
            write_atomically(path, content)
        except OSError as error:
            if not self.full:
                log.warning("packs cannot be kept on the local disk (%s): served from memory", error.strerror)
            self.full = True
        else:
            self.full = False
        return in_memory(content)

    def _make_room(self, size: int) -> None:
        """Delete the packs that were used longest ago until there is room for `size` more bytes."""
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._limit is not None and (self._bytes < 0 or self._bytes + size > self._limit):
                packs = sorted(
                    (
                        (stat.st_mtime, stat.st_size, path)
                        for path in self._folder.glob("*.pack")
                        if (stat := _stat(path))
                    ),
                    key=lambda found: found[:2],
                )
                self._bytes = sum(stored for _, stored, _ in packs)
                for _, stored, path in packs:
                    if self._bytes + size <= 0.9 * self._limit:
                        break
                    path.unlink(missing_ok=True)
                    self._bytes -= stored
            self._bytes += size

    def keep_only(self, packs: Collection[PackId]) -> None:
        """Delete the packs that are none of these: they belong to releases that are gone."""
        kept = {pack.sha256 for pack in packs}
        with self._lock:
            for path in self._folder.glob("*.pack"):
                if path.stem not in kept:
                    path.unlink(missing_ok=True)
            self._bytes = -1


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # deleted by another process that shares the folder, or out of reach
        return None
