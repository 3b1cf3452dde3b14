"""A release as arrays: which pack and row serves each series, at about 60 bytes a series and its name."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from many_models.errors import IntegrityError
from many_models.ports import Champion, Release
from many_models.system import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_TEXTS = ("staging", "recipe", "cutoff", "previous", "fallback")
_FACTS = ("release_id", "actor", "reason", "previous")


@dataclass(frozen=True, slots=True)
class PackId:
    """A production pack version: its reference in the registry and the sha256 over its files."""

    ref: str
    sha256: str


class ReleaseIndex:
    """One release, immutable. Series are numbered in the manifest's order."""

    def __init__(
        self,
        facts: dict[str, str],
        packs: list[PackId],
        texts: list[str],
        names: bytes,
        arrays: dict[str, NDArray[np.int64] | NDArray[np.int32]],
    ) -> None:
        self.release_id, self.actor, self.reason, self.previous = (facts[name] for name in _FACTS)
        self.created_at = datetime.fromisoformat(facts["created_at"])
        self.packs = packs
        self._facts, self._texts, self._names, self._arrays = facts, texts, names, arrays
        self._ends: NDArray[np.int64] = arrays["ends"].astype(np.int64)
        self.pack_of: NDArray[np.int32] = arrays["pack"].astype(np.int32)
        self.row_of: NDArray[np.int32] = arrays["row"].astype(np.int32)
        hashes = np.fromiter((hash(self.name(i)) for i in range(len(self))), np.int64, len(self))
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    @classmethod
    def of(cls, release: Release) -> ReleaseIndex:
        """The release's manifest, made small."""
        champions = list(release.champions.values())
        packs: dict[PackId, int] = {}
        texts: dict[str, int] = {}
        encoded = [_bytes(champion.series_id) for champion in champions]
        n = len(champions)
        arrays: dict[str, NDArray[np.int64] | NDArray[np.int32]] = {
            "ends": np.cumsum(np.fromiter(map(len, encoded), np.int64, n)),
            "row": np.fromiter((c.row for c in champions), np.int32, n),
            "pack": np.fromiter(
                (packs.setdefault(PackId(c.ref, c.sha256), len(packs)) for c in champions), np.int32, n
            ),
            **{
                name: np.fromiter((texts.setdefault(getattr(c, name), len(texts)) for c in champions), np.int32, n)
                for name in _TEXTS
            },
        }
        facts = {name: str(getattr(release, name)) for name in _FACTS}
        facts["created_at"] = release.created_at.isoformat()
        # copies, all in one place: the manifest's own would keep the memory around them from being given back
        copied = [PackId(_copy(pack.ref), _copy(pack.sha256)) for pack in packs]
        return cls(facts, copied, [_copy(text) for text in texts], b"".join(encoded), arrays)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, number: int) -> str:
        """The series_id of a number."""
        start = int(self._ends[number - 1]) if number else 0
        return self._names[start : int(self._ends[number])].decode("utf-8", "surrogatepass")

    def find(self, names: Sequence[str]) -> list[int]:
        """The number of each series, -1 for one that the release does not serve."""
        if not len(self):
            return [-1] * len(names)
        wanted = np.fromiter(map(hash, names), np.int64, len(names))
        places = np.searchsorted(self._hashes, wanted)
        likely = self._order[np.minimum(places, len(self) - 1)]
        spans = np.where(likely > 0, self._ends[likely - 1], 0).tolist(), self._ends[likely].tolist()
        numbers: list[int] = likely.tolist()
        for i, (name, start, end) in enumerate(zip(names, *spans, strict=True)):
            if self._names[start:end] != _bytes(name):
                numbers[i] = self._match(name, int(places[i]))
        return numbers

    def _match(self, name: str, place: int) -> int:
        """Of the series with the hash of `name`, which begin at `place`, the one with that name."""
        own = hash(name)
        while place < len(self._hashes) and self._hashes[place] == own:
            number = int(self._order[place])
            if self.name(number) == name:
                return number
            place += 1
        return -1

    def text(self, column: str, number: int) -> str:
        """What the manifest says of a series in one of the columns staging, recipe, cutoff, previous, fallback."""
        return self._texts[self._arrays[column][number]]

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """The row in its pack of each series; any for -1."""
        return self.row_of[numbers].tolist() if len(self) else [0] * len(numbers)

    def codes(self, numbers: Sequence[int]) -> list[int]:
        """The place in `packs` of the pack that serves each series; -1 for -1."""
        if not len(self):
            return [-1] * len(numbers)
        found: list[int] = np.where(np.asarray(numbers) < 0, -1, self.pack_of[numbers]).tolist()
        return found

    def cutoffs(self, numbers: Sequence[int]) -> list[str]:
        """The training cutoff of each series, as the manifest has it; "" for -1."""
        if not len(self):
            return [""] * len(numbers)
        codes: list[int] = self._arrays["cutoff"][numbers].tolist()
        return ["" if number < 0 else self._texts[code] for number, code in zip(numbers, codes, strict=True)]

    def pack(self, number: int) -> PackId:
        """The pack that serves a series."""
        return self.packs[self.pack_of[number]]

    def champion(self, number: int) -> Champion:
        """Everything the manifest says of a series."""
        pack = self.pack(number)
        texts = {name: self.text(name, number) for name in _TEXTS}
        return Champion(self.name(number), pack.ref, int(self.row_of[number]), pack.sha256, **texts)

    def release(self) -> Release:
        """The manifest again, as the registry gave it."""
        champions = (self.champion(number) for number in range(len(self)))
        by_name = {champion.series_id: champion for champion in champions}
        return Release(self.release_id, self.created_at, self.actor, self.reason, self.previous, by_name)

    # --- on disk, for a start without the registry ---
    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        tables = {"facts": self._facts, "packs": [[p.ref, p.sha256] for p in self.packs], "texts": self._texts}
        text = np.frombuffer(json.dumps(tables).encode(), np.uint8)
        names = np.frombuffer(self._names, np.uint8)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, tables=text, names=names, **self._arrays)  # pyright: ignore[reportArgumentType]
        write_atomically(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> ReleaseIndex:
        """What `save` wrote. Raises IntegrityError when it is damaged, FileNotFoundError when there is nothing."""
        import zipfile

        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            tables = json.loads(arrays.pop("tables").tobytes())
            packs = [PackId(ref, sha256) for ref, sha256 in tables["packs"]]
            return cls(tables["facts"], packs, tables["texts"], arrays.pop("names").tobytes(), arrays)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise IntegrityError(f"{path} is not a stored release: {error}; delete it") from error


def _copy(text: str) -> str:
    return _bytes(text).decode("utf-8", "surrogatepass")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
