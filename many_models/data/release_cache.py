"""What a production registry serves, kept on this machine: its live release and packs, to go on while it is away."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from many_models.data.pack_folder import PackFolder
from many_models.data.release_index import ReleaseIndex
from many_models.errors import ManyModelsError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from many_models.ports import ProductionRegistry, Release


class ReleaseCache:
    """The release and the packs of `production` in `folder`. Batch scoring and the service each have their own folder.

    `limit` bounds the packs' bytes (None: every pack of the kept release stays). `fetched` is told how each fetch from
    the registry ended. `away` says why the last `live` was answered from the folder; "" where the registry answered.
    """

    def __init__(
        self,
        production: ProductionRegistry,
        folder: Path,
        limit: int | None = None,
        fetched: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.production, self.away = production, ""
        self.packs = PackFolder(folder / "packs", production, limit, fetched)
        self._file = folder / "release.npz"

    def live(self) -> Release | None:
        """The live release; where the registry does not answer, the kept one. Raises TransientError without either."""
        self.away = ""
        try:
            live = self.production.live()
        except TransientError as error:
            try:
                kept = self.kept().release()
            except (FileNotFoundError, ManyModelsError):
                raise error from None
            self.away = f"{error}; scored with release {kept.release_id}, the last one that was seen"
            return kept
        if live is not None:
            with suppress(OSError):  # a full disk: only a registry that goes away later would need it
                self.keep(ReleaseIndex.of(live))
        return live

    def keep(self, release: ReleaseIndex, before: Iterable[ReleaseIndex] | None = ()) -> None:
        """Keep `release`, and delete the packs that neither it nor those `before` it serve from. Raises OSError.

        With None no pack is deleted: what served before is not known.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        release.save(self._file)
        if before is not None:
            self.packs.keep_only({pack for one in (release, *before) for pack in one.packs})

    def kept(self) -> ReleaseIndex:
        """The kept release. Raises FileNotFoundError where there is none, IntegrityError where it is damaged."""
        return ReleaseIndex.load(self._file)
