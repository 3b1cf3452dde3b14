"""Where a driver and far workers leave each other files: a folder that both see, or Azure storage. Picklable."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from many_models.adapters.azure.storage import delete, opened_container, while_busy
from many_models.errors import AccessError, UnavailableError
from many_models.system import write_atomically

if TYPE_CHECKING:
    from collections.abc import Generator

    from many_models.adapters.azure.storage import AzureStorage


class Exchange(Protocol):
    """Files by name (`folder/name`); a file is there whole or not at all."""

    def put(self, name: str, content: bytes) -> None:
        """Leave a file. Raises AccessError, UnavailableError, as the others do."""
        ...

    def get(self, name: str) -> bytes:
        """The file's content."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names of the files in `folder`, in order; [] when there is none."""
        ...

    def remove(self, folder: str) -> None:
        """Delete `folder` with all that is in it; nothing where there is none."""
        ...

    def place(self, folder: str) -> str:
        """The URL or path of `folder`."""
        ...


@dataclass(frozen=True, slots=True)
class FolderExchange:
    """A folder that driver and workers see under the same path."""

    path: str

    def put(self, name: str, content: bytes) -> None:
        """See `Exchange.put`."""
        file = Path(self.path, name)
        with _os_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)

    def get(self, name: str) -> bytes:
        """See `Exchange.get`."""
        with _os_errors(file := Path(self.path, name)):
            return file.read_bytes()

    def names(self, folder: str) -> list[str]:
        """See `Exchange.names`."""
        place = Path(self.path, folder)
        with _os_errors(place):
            found = sorted(file.name for file in place.iterdir()) if place.is_dir() else []
        return [f"{folder}/{name}" for name in found if not name.startswith(".")]

    def remove(self, folder: str) -> None:
        """See `Exchange.remove`."""
        with _os_errors(place := Path(self.path, folder)):
            if place.is_dir():
                shutil.rmtree(place)

    def place(self, folder: str) -> str:
        """See `Exchange.place`."""
        return str(Path(self.path, folder))


@dataclass(frozen=True, slots=True)
class BlobExchange:
    """A folder of Azure storage, `storage.url`."""

    storage: AzureStorage

    def put(self, name: str, content: bytes) -> None:
        """See `Exchange.put`."""
        with opened_container(self.storage) as container:
            while_busy(lambda: container.upload_blob(self.storage.path(name), content, overwrite=True))

    def get(self, name: str) -> bytes:
        """See `Exchange.get`."""
        with opened_container(self.storage) as container:
            return while_busy(lambda: container.download_blob(self.storage.path(name)).readall())

    def names(self, folder: str) -> list[str]:
        """See `Exchange.names`."""
        start = self.storage.path("")
        with opened_container(self.storage) as container:
            found = while_busy(
                lambda: sorted(container.list_blob_names(name_starts_with=f"{start}{folder}/")),
            )
        return [name.removeprefix(start) for name in found]

    def remove(self, folder: str) -> None:
        """See `Exchange.remove`."""
        for name in reversed(self.names(folder)):
            with opened_container(self.storage) as container:
                delete(partial(container.delete_blob, self.storage.path(name)))

    def place(self, folder: str) -> str:
        """See `Exchange.place`."""
        return f"{self.storage.url.rstrip('/')}/{folder}"


@contextmanager
def _os_errors(place: Path) -> Generator[None]:
    try:
        yield
    except PermissionError as error:
        raise AccessError(f"{place}: {error.strerror}") from error
    except OSError as error:
        raise UnavailableError(f"{place}: {error.strerror or error}") from error
