"""The newest commit of a Delta table's log, found by one listing of the log's folder; the table is not opened.

delta-rs lists, too, but holds Python's lock until the store has answered: a store that hangs would hang every thread.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.adapters.azure.storage import opened_container, while_busy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from many_models.adapters.azure.storage import AzureStorage

LOG = "_delta_log"
COMMIT = re.compile(r"\d{20}\.json")


def newest(commits: Iterable[tuple[str, str]]) -> str:
    """Of (name of a file, what changes when it is written) the newest commit with its mark; "" where there is none."""
    return " ".join(max((each for each in commits if COMMIT.fullmatch(each[0])), default=()))


def newest_in_folder(table: str) -> str:
    """The newest commit of the table in the folder `table`, with the moment it was written and its size."""
    try:
        with os.scandir(f"{table}/{LOG}") as files:
            stats = [(file.name, file.stat()) for file in files]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return newest((name, f"{stat.st_mtime_ns} {stat.st_size}") for name, stat in stats)


@dataclass(frozen=True, slots=True)
class NewestInStorage:
    """The newest commit of a table in `storage`, with its ETag."""

    storage: AzureStorage

    def __call__(self, table: str) -> str:
        """Of the table in the folder of this name. Raises AccessError, UnavailableError."""
        start = self.storage.path(f"{table}/{LOG}/")
        with opened_container(self.storage) as container:
            return while_busy(
                lambda: newest(
                    (blob.name.removeprefix(start), str(blob.etag))
                    for blob in container.list_blobs(name_starts_with=start)
                )
            )
