"""Names: of series, their key parts and exact escaping; slugs for paths and models; SQL identifiers; digests."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from many_models.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SEPARATOR = "__"
_READABLE = frozenset(" -._~")
_MOST_PARTS = 2**16
_IN_AZURE = re.compile(r"abfss?://[\w$.-]+@[A-Za-z0-9.-]+(:\d+)?(/[^?#]*)?", re.ASCII)
LONGEST_PACK = 240  # bytes of `quote`: the lake has a folder `pack=…` for each, and a folder's name has 255 of them
_EMPTY = "%"  # neither way of escaping leaves a bare per cent sign as a whole part
_MEANS_SOMETHING = frozenset('/\\"[]*|')  # in a URL's path, or in Dagster's language of selected partitions
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"})
_LIKE_AN_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2})|^%$")


@lru_cache(_MOST_PARTS)  # the same few parts make all names
def escape_part(part: str) -> str:
    """`part` with everything escaped that a path or the separator could trip over.

    Letters and digits of any script, `-`, `~`, and single inner spaces, `_` and `.` stay readable.
    """
    if part == "":
        return _EMPTY
    return _edges("".join(c if c.isalnum() or c in _READABLE else _escaped(c) for c in part))


@lru_cache(_MOST_PARTS)
def name_part(part: str) -> str:
    r"""`part` as people read it in a partition key: only what a key cannot hold is escaped.

    That is: control characters and others that are not seen; `/ \ " [ ] * |`; a `%` that would read as an escape; and
    `_`, `.` and spaces at an edge or repeated (`__` separates parts, Dagster refuses `...`).
    """
    if part == "":
        return _EMPTY
    text = _LIKE_AN_ESCAPE.sub("%25", part)
    return _edges("".join(_escaped(c) if _is_unseen(c) or c in _MEANS_SOMETHING else c for c in text))


def _is_unseen(char: str) -> bool:
    """By category, and not `str.isprintable`: which characters are assigned differs between Python's versions."""
    return char != " " and unicodedata.category(char) in _UNSEEN


def _escaped(char: str) -> str:
    return quote(char, safe="", errors="surrogatepass")


def _edges(text: str) -> str:
    text = re.sub(r"^_|_$|_(?=_)|(?<=_)_", "%5F", text)
    text = re.sub(r"^ | $| (?= )|(?<= ) ", "%20", text)
    return re.sub(r"^\.|\.$|\.(?=\.)|(?<=\.)\.", "%2E", text)


def unescape_part(text: str) -> str:
    """The inverse of `escape_part`, and of `name_part`."""
    return "" if text == _EMPTY else unquote(text, errors="surrogatepass")


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """The key parts of one series, in the order of the settings' `keys`."""

    parts: tuple[str, ...]

    @property
    def series_id(self) -> str:
        """The series' one name: partition key, and identity in every table."""
        return SEPARATOR.join(name_part(part) for part in self.parts)

    @property
    def escaped_id(self) -> str:
        """The name with everything escaped but letters and digits: of packs, and of series in a project that began
        with such names (`names_are_escaped`).
        """
        return SEPARATOR.join(escape_part(part) for part in self.parts)

    @classmethod
    def parse(cls, series_id: str, parts: int | None = None) -> SeriesKey:
        """The key that `series_id` names.

        Raises InputError when it is not a series_id as `SeriesKey.series_id` or `escaped_id` write them, or has
        another number of parts than `parts`.
        """
        key = cls(tuple(unescape_part(text) for text in series_id.split(SEPARATOR)))
        if series_id != key.series_id and series_id != key.escaped_id:  # noqa: PLR1714 - the second is rarely built
            raise InputError(f"{series_id!r} is not a series_id: {key.parts!r} is written {key.series_id!r}")
        if parts is not None and len(key.parts) != parts:
            raise InputError(f"series {series_id!r} has {len(key.parts)} key parts, the settings name {parts}")
        return key


def names_are_escaped(series: Iterable[str]) -> bool:
    """Whether a project's series have the names of earlier versions, which escaped apostrophes, commas and the like.

    Their names are in tables, packs, releases and events, so such a project goes on with them. A project in which both
    ways give the same names has not yet chosen.
    """
    return any("%" in name and SeriesKey.parse(name).series_id != name for name in series)


def folded(name: str) -> str:
    """A name without what people do not see: its case, blanks around it and twice, how accents are composed."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def unmatched(
    named: Iterable[tuple[str | None, ...]], series: Iterable[Sequence[str]]
) -> dict[tuple[str | None, ...], str]:
    """Those of `named` (a part for each key, None for all of its values) that fit none of `series` (their key parts),
    in order; and of each the parts that look like it to people, joined by " / ", "" where there are none.
    """
    own = [tuple(parts) for parts in series]
    there = dict[tuple[int, ...], set[tuple[str, ...]]]()
    looks = dict[tuple[int, ...], dict[tuple[str, ...], str]]()
    found = dict[tuple[str | None, ...], str]()
    for about in named:
        places = tuple(at for at, part in enumerate(about) if part is not None)
        if places not in there:
            there[places] = {tuple(parts[at] for at in places) for parts in own}
        said = tuple(str(about[at]) for at in places)
        if places and said not in there[places]:
            if places not in looks:
                alike = sorted(there[places], reverse=True)  # of several that look the same, the first is named
                looks[places] = {tuple(map(folded, parts)): " / ".join(parts) for parts in alike}
            found[about] = looks[places].get(tuple(map(folded, said)), "")
    return found


def slug(name: str, length: int = 40) -> str:
    """A name for paths and registries: readable, case-safe, and different for different names.

    Lower-case letters, digits and `-` of `name`, at most `length` of them, then ten hex digits of its sha256.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:length].strip("-")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable}-{digest}" if readable else digest


def digest(*parts: object) -> str:
    """16 hex digits that stand for `parts` (their `repr`s) in version tags."""
    return hashlib.sha256("\x1f".join(map(repr, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def files_sha256(files: Mapping[str, bytes]) -> str:
    """64 hex digits over names and contents, in the order of the names; lengths go in, so that nothing can shift."""
    hasher = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            hasher.update(len(part).to_bytes(8, "big"))
            hasher.update(part)
    return hasher.hexdigest()


def verified(files: Mapping[str, bytes], sha256: str, ref: str) -> Mapping[str, bytes]:
    """`files`, when they are the ones that were stored as `ref`. Raises IntegrityError."""
    if (got := files_sha256(files)) != sha256:
        raise IntegrityError(
            f"pack {ref}: its {len(files)} files are not what was stored (sha256 {got[:12]}, expected {sha256[:12]}): "
            "damaged, cut off or swapped; restore the files or roll back to another release"
        )
    return files


def pack_of(key: SeriesKey, keys: Sequence[str], by: Sequence[str], buckets: int) -> str:
    """The pack that a series belongs to.

    `by` names the keys whose parts make the pack (all keys: a pack of one). Empty: the first key when there are
    several, else one of `buckets` by hash, so that a single-key table does not become a pack per series. A name that
    would be too long for a folder of the lake is a slug of it.
    """
    names = list(by) or (list(keys[:1]) if len(keys) > 1 else [])
    if names:
        pack = SeriesKey(tuple(part for name, part in zip(keys, key.parts, strict=True) if name in names)).escaped_id
        return pack if len(quote(pack, safe="", errors="surrogatepass")) <= LONGEST_PACK else slug(pack)
    bucket = int(hashlib.sha256(key.escaped_id.encode()).hexdigest()[:8], 16) % buckets
    return f"bucket-{bucket:03d}"


def row_hashes(rows: pa.Table) -> NDArray[np.uint64]:
    """A hash of each row's values, (rows,): pandas' own, which is the same in every process."""
    from pandas.util import hash_pandas_object

    hashed: Any = hash_pandas_object  # pandas.util gives it without its types
    return hashed(rows.to_pandas(), index=False).to_numpy()


def plain_name(name: str) -> bool:
    """Whether `name` can name a column: not empty, and without line breaks and other control characters, which would
    begin a new line of a script that it is written into.
    """
    return bool(name) and all(char.isprintable() for char in name)


def known_place(path: str) -> str:
    """`path` of a folder, or in Azure storage. Raises ValueError for a URL that is neither."""
    if not plain_name(path):
        raise ValueError(f"{path!r} is empty or holds line breaks or other control characters")
    if path.startswith(("abfss:", "abfs:")) and not _IN_AZURE.fullmatch(path):
        raise ValueError(  # without the path, which may hold a secret
            "not an Azure location: it is written abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER, without any "
            "secret"
        )
    return path


def quoted(name: str) -> str:
    """`name` as an identifier of standard SQL, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'
