"""API keys, kept as hashes; those of a file follow the file, by rules that never let a withdrawn key in again.

| The file | Then |
|---|---|
| has other content | it counts within seconds, whatever its time says |
| has a line that can be no key | that line is left out, the others count; at the start it is an error |
| has no key at all | no key counts |
| is gone, too large, or cannot be read | its last keys count for another minute, then none until it is back |
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from many_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHORTEST_KEY = 16
FILE_SECONDS = 2.0  # a changed file counts after so long
MISSED_SECONDS = 60.0  # the keys of a file that is gone count for so long: secrets are replaced by moving files
MOST_BYTES = 1_000_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

log = logging.getLogger(__name__)


def hash_keys(keys: Sequence[str]) -> frozenset[bytes]:
    """The sha256 of each key. Raises SettingsError for one that is too short."""
    plain = [key.strip() for key in keys if key.strip()]
    if any(len(key) < SHORTEST_KEY for key in plain):
        raise SettingsError(f"an API key has fewer than {SHORTEST_KEY} characters: make longer ones")
    return frozenset(hashlib.sha256(key.encode()).digest() for key in plain)


class KeyFile:
    """The keys in the file at `path`. Raises SettingsError where it cannot be used at the start."""

    def __init__(self, path: Path) -> None:
        self._path, self._looked, self._missed = path, time.monotonic(), float("inf")
        self._hashes: frozenset[bytes] = frozenset()
        try:
            content = _read(path)
        except OSError as error:
            raise SettingsError(f"serve.api_keys_file {path} cannot be read: {error.strerror}") from error
        self._digest = hashlib.sha256(content).digest()
        self._hashes, bad = _keys_of(content)
        if bad:
            raise SettingsError(f"serve.api_keys_file {path}: {_described(bad)}")

    @property
    def hashes(self) -> frozenset[bytes]:
        """The sha256 of each key that counts now."""
        now = time.monotonic()
        if now - self._looked >= FILE_SECONDS:
            self._looked = now
            self._look(now)
        return self._hashes

    @property
    def is_missed(self) -> bool:
        """Whether the file has been away for so long that its keys do not count."""
        return time.monotonic() - self._missed >= MISSED_SECONDS and not self._hashes

    def _look(self, now: float) -> None:
        try:
            content = _read(self._path)
        except OSError as error:
            self._miss(now, error)
            return
        if self._missed <= now:
            log.warning("serve.api_keys_file is back: its keys count")
            self._missed, self._digest = float("inf"), b""
        if (digest := hashlib.sha256(content).digest()) == self._digest:
            return
        self._digest = digest
        self._hashes, bad = _keys_of(content)
        log.info("serve.api_keys_file has changed: %d keys count", len(self._hashes))
        if bad:
            log.error("serve.api_keys_file: %s; the other lines count", _described(bad))
        if not self._hashes:
            log.error("serve.api_keys_file has no key: no client can authenticate with one")

    def _miss(self, now: float, error: OSError) -> None:
        if self._missed > now:
            self._missed = now
            text = "serve.api_keys_file cannot be read (%s): its last keys count for another %.0f s"
            log.error(text, error.strerror, MISSED_SECONDS)
        elif now - self._missed >= MISSED_SECONDS and self._hashes:
            self._hashes = frozenset()
            log.error("serve.api_keys_file cannot be read (%s): none of its keys counts any more", error.strerror)


def _read(path: Path) -> bytes:
    """The file's content. Raises OSError for what is not a file, or too large."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would hold up everybody
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "it is not a file")
        if about.st_size > MOST_BYTES:
            raise OSError(0, f"it has more than {MOST_BYTES} bytes")
        return file.read(MOST_BYTES)


def _keys_of(content: bytes) -> tuple[frozenset[bytes], list[int]]:
    """The hashes of the keys, a line each, and the numbers of the lines that can be none."""
    if content.startswith(_UTF16):  # as editors on Windows write
        content = content.decode("utf-16", "replace").encode()
    hashes: set[bytes] = set()
    bad: list[int] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        key = line.strip()
        if not key:
            continue
        try:
            text = key.decode()
        except UnicodeDecodeError:
            text = ""
        if len(text) < SHORTEST_KEY or not text.isprintable() or "\ufffd" in text or "\ufeff" in text:
            bad.append(number)
        else:
            hashes.add(hashlib.sha256(key).digest())
    return frozenset(hashes), bad


def _described(bad: Sequence[int]) -> str:
    lines = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
    return f"line {lines} can be no key: a line each, at least {SHORTEST_KEY} characters, UTF-8, fewer cannot be used"
