"""A folder of Azure storage with what a registry needs of it: files, state that is replaced atomically, and a lease.

State is one blob. A writer sends the ETag that it has read (`If-Match`); the service refuses the write when another
writer was faster. A lease keeps other writers out and ends by itself 60 seconds after its holder died.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from many_models.adapters.azure.storage import BLOB_PATIENCE, blob_errors, delete, while_busy
from many_models.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from azure.storage.blob import BlobLeaseClient, ContainerClient

    from many_models.adapters.azure.storage import AzureStorage

THREADS = 16
LEASE_SECONDS = 60  # the longest that the service grants
PAUSE_SECONDS = 0.5
State = dict[str, Any]


class BlobFolder:
    """The folder `storage.url`. Raises AccessError and UnavailableError as `blob_errors` does."""

    def __init__(self, storage: AzureStorage) -> None:
        self.storage = storage

    @cached_property
    def _container(self) -> ContainerClient:
        with blob_errors(self.storage.url):
            from azure.storage.blob import ContainerClient

            credential = self.storage.blob_credential()
            return ContainerClient(
                self.storage.blob_address, self.storage.container, credential=credential, **BLOB_PATIENCE
            )

    # --- files --------------------------------------------------------------------------------------------------
    def put(self, files: Mapping[str, bytes]) -> None:
        """Write each file by its name."""
        with self._errors():
            self._each(
                [partial(self._container.upload_blob, self._path(n), b, overwrite=True) for n, b in files.items()]
            )

    def get(self, folder: str) -> dict[str, bytes]:
        """Every file below `folder`, by its path from there; empty where there is no such folder."""
        start = self._path(f"{folder}/")
        with self._errors():
            names = while_busy(lambda: sorted(self._container.list_blob_names(name_starts_with=start)))
            found = self._each([partial(self._read, name) for name in names])
        return {name.removeprefix(start): content for name, content in zip(names, found, strict=True)}

    def remove(self, folder: str) -> None:
        """Delete `folder` with all files below it."""
        with self._errors():
            start = self._path(f"{folder}/")
            names = while_busy(lambda: sorted(self._container.list_blob_names(name_starts_with=start)))
            for name in names:
                delete(partial(self._container.delete_blob, name))

    def _read(self, name: str) -> bytes:
        return self._container.download_blob(name).readall()

    def _each(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each of `works` returns, in order; several at a time."""
        from concurrent.futures import ThreadPoolExecutor

        if len(works) < 2:
            return [while_busy(work) for work in works]
        threads: ThreadPoolExecutor
        with ThreadPoolExecutor(THREADS, thread_name_prefix="blobs") as threads:
            started: list[Future[Any]] = [threads.submit(while_busy, work) for work in works]
            return [future.result() for future in started]

    # --- state --------------------------------------------------------------------------------------------------
    def read_state(self, name: str) -> tuple[State, str]:
        """The state and its ETag; an empty state and "" before the first write."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._errors():
            try:
                found = while_busy(lambda: self._container.download_blob(self._path(name)))
                return json.loads(found.readall()), str(found.properties.etag)
            except ResourceNotFoundError as error:
                if getattr(error, "error_code", "") != "BlobNotFound":  # a container that is not there is an error
                    raise
                return {}, ""

    def write_state(self, name: str, state: State, etag: str) -> str:
        """Replace the state that had `etag` ("" for none), in one step; return the new ETag.

        Raises ConflictError where it has another one by now; then nothing changed. When an answer is lost, the client
        asks again and is refused although its first try was written: the state that is there then decides.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

        content = json.dumps(state, separators=(",", ":")).encode()
        unless: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        how: dict[str, Any] = {"overwrite": True, **unless} if etag else {"overwrite": False}
        with self._errors():
            blob = self._container.get_blob_client(self._path(name))
            try:
                return str(while_busy(lambda: blob.upload_blob(content, **how))["etag"])
            except (ResourceExistsError, ResourceModifiedError) as error:
                there, new = self.read_state(name)
                if there == state:
                    return new
                raise ConflictError(f"{self.storage.url}/{name}: another writer was faster; run it again") from error

    # --- lease --------------------------------------------------------------------------------------------------
    @contextmanager
    def lease(self, name: str, seconds: float, what: str) -> Generator[Callable[[], None]]:
        """Hold the lease of the blob `name`; yields a check that raises ConflictError when it was lost.

        Raises ConflictError where others have held it for `seconds`.
        """
        with self._errors():
            lease = self._acquire(name, time.monotonic() + seconds, what)
        lost, done = threading.Event(), threading.Event()
        renewing = threading.Thread(target=_renew, args=(lease, done, lost), daemon=True)
        renewing.start()

        def check() -> None:
            if lost.is_set():
                raise ConflictError(f"another machine has taken over {what}: this one lost its lease; run it again")

        try:
            yield check
        finally:
            done.set()
            renewing.join()
            with suppress(Exception):  # it ends by itself
                lease.release()

    def _acquire(self, name: str, until: float, what: str) -> BlobLeaseClient:
        from azure.core.exceptions import HttpResponseError, ResourceExistsError

        blob = self._container.get_blob_client(self._path(name))
        with suppress(ResourceExistsError):
            while_busy(lambda: blob.upload_blob(b"", overwrite=False))
        while True:
            try:
                return blob.acquire_lease(LEASE_SECONDS)
            except HttpResponseError as error:
                if error.status_code != 409:
                    raise
                if time.monotonic() > until:
                    raise ConflictError(
                        f"another machine has been {what} all the time: try again later (the lease of one that died "
                        f"ends within {LEASE_SECONDS} seconds; who holds it longer is alive: {self.storage.url}/{name})"
                    ) from error
                time.sleep(PAUSE_SECONDS)

    def _path(self, name: str) -> str:
        return self.storage.path(name)

    @contextmanager
    def _errors(self) -> Generator[None]:
        with blob_errors(self.storage.url):
            yield


def _renew(lease: BlobLeaseClient, done: threading.Event, lost: threading.Event) -> None:
    """Renew until `done`; set `lost` when no renewal has been answered for as long as a lease lasts."""
    from azure.core.exceptions import AzureError, HttpResponseError

    since = time.monotonic()
    while not done.wait(LEASE_SECONDS / 4):
        try:
            lease.renew()
            since = time.monotonic()
        except HttpResponseError as error:
            if error.status_code in {404, 409, 412}:
                lost.set()
                return
        except AzureError:
            pass
        if time.monotonic() - since > LEASE_SECONDS:
            lost.set()
            return
