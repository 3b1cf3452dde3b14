"""Any file or folder as one table: what kind of file it is, compressed ones unpacked, several below one another."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

from many_models.errors import InputError
from many_models.onboarding.grid import Reading, listed
from many_models.onboarding.readers import CsvFile, ParquetFile, TableKind, TableReader
from many_models.onboarding.workbooks import ExcelFile, JsonFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE = "file"  # the column that says which of several files a row is from
_MAGIC = {
    b"PAR1": "parquet",
    b"SQLi": "sqlite",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xd0\xcf\x11\xe0": "xls",
    b"%PDF": "pdf",
}
_BOOKS = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")
_ENDINGS = ".csv .tsv .txt .tab .dat .json .jsonl .ndjson .parquet .pq .xlsx .xlsm .xlsb .xls .ods".split()
_PACKED = ".gz .bz2 .xz .zst .zip".split()


def open_file(location: str | Path, sheet: str = "") -> TableReader:
    """The rows of a file (CSV, Excel, OpenDocument, JSON, Parquet; also compressed) or of a folder of them.

    Raises InputError that says what it is instead.
    """
    path = Path(location)
    if path.is_dir():
        return _folder(path, sheet)
    if not path.is_file():
        raise InputError(f"there is no file {str(location)!r}")
    kind = _kind_of(path)
    if kind == "parquet":
        return ParquetFile(path)
    if kind == "json":
        return JsonFile(path)
    if kind in {"xls", "book"}:
        return ExcelFile(path, sheet)
    if kind == "pdf":
        raise InputError(f"{path} is a PDF: save its table as CSV or Excel")
    if kind == "sqlite":
        raise InputError(f"{path} is a SQLite database: give it as sqlite:///{path}")
    if kind in {"gz", "bz2", "xz", "zst", "zip"}:
        return _unpacked(path, kind, sheet)
    return CsvFile(path)


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(64)
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "")
    if kind == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                return "book" if any(name in _BOOKS for name in archive.namelist()) else "zip"
        except zipfile.BadZipFile as error:
            raise InputError(f"{path} is a damaged archive or workbook: {error}") from error
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    return kind or ("json" if text[:1] in {b"{", b"["} else "csv")


def _unpacked(path: Path, kind: str, sheet: str) -> TableReader:
    """What is in a compressed file, unpacked into a folder that goes with the reader."""
    if kind == "gz" and _inside_gzip(path) == "csv":
        return CsvFile(path, "gzip")
    folder = tempfile.TemporaryDirectory(prefix="many-models-")
    into = Path(folder.name)
    try:
        if kind == "zip":
            _unzip(path, into)
        else:
            with _opened(path, kind) as packed, (into / path.with_suffix("").name).open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, pa.ArrowInvalid, RuntimeError) as error:
        raise InputError(f"{path} cannot be unpacked: {error}") from error
    files = sorted(into.iterdir())
    inner = open_file(files[0], sheet) if len(files) == 1 else _folder(into, sheet)
    return UnpackedFile(inner, str(path), folder)


def _inside_gzip(path: Path) -> str:
    try:
        with gzip.open(path) as file:
            first = file.read(16)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} is a damaged gzip file: {error}") from error
    return (
        "json"
        if first.lstrip()[:1] in {b"{", b"["}
        else next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "csv")
    )


def _opened(path: Path, kind: str) -> IO[bytes]:
    if kind == "gz":
        return gzip.open(path)  # pyright: ignore[reportReturnType]
    if kind == "bz2":
        return bz2.open(path)  # pyright: ignore[reportReturnType]
    if kind == "xz":
        return lzma.open(path)  # pyright: ignore[reportReturnType]
    return pa.input_stream(str(path), compression="zstd")


def _unzip(path: Path, into: Path) -> None:
    """Unpack the archive's data files, by the last part of their names, so that nothing is written elsewhere."""
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and _is_data(Path(info.filename))]
        if not infos:
            raise InputError(f"{path} holds no data file; it has {listed(archive.namelist()) or 'nothing'}")
        for info in infos:
            name = Path(info.filename).name
            target = into / (name if not (into / name).exists() else info.filename.replace("/", "_"))
            with archive.open(info) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file)


def _is_data(path: Path) -> bool:
    endings = [suffix.casefold() for suffix in path.suffixes]
    hidden = path.name.startswith((".", "~", "_")) or "__MACOSX" in path.parts
    return not hidden and bool(endings) and (endings[-1] in _ENDINGS or endings[-1] in _PACKED)


@dataclass
class UnpackedFile:
    """A reader of what was unpacked into a folder that lives as long as it."""

    inner: TableReader
    name: str
    folder: tempfile.TemporaryDirectory[str]

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> TableKind:
        """See `TableReader`."""
        return self.inner.kind

    @property
    def notes(self) -> Sequence[str]:
        """See `TableReader`."""
        return self.inner.notes

    @property
    def readings(self) -> Sequence[Reading]:
        """See `TableReader`."""
        return self.inner.readings

    @property
    def separator(self) -> str:
        """The CSV file's, or a comma."""
        return getattr(self.inner, "separator", ",")

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader`."""
        return self.inner.batches()


# --- Folders --------------------------------------------------------------------------------------------------------
def _folder(path: Path, sheet: str) -> TableReader:
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file.relative_to(path)))
    if not files:
        raise InputError(f"{path} holds no data file ({listed([ending[1:] for ending in _ENDINGS])})")
    if len(files) == 1:
        return open_file(files[0], sheet)
    readers = [open_file(file, sheet) for file in files]
    columns = [tuple(next(iter(reader.batches())).column_names) for reader in readers]
    usual = Counter(frozenset(names) for names in columns).most_common(1)[0][0]
    same = [number for number, names in enumerate(columns) if frozenset(names) == usual]
    kinds: set[TableKind] = {readers[i].kind for i in same}
    kind: TableKind = kinds.pop() if len(kinds) == 1 else "csv"
    stacked = Stacked(path, [readers[i] for i in same], [files[i].stem for i in same], list(columns[same[0]]), kind)
    if others := [files[i].name for i in range(len(files)) if i not in same]:
        stacked.left_out.append(f"files with other columns are left out: {listed(others)}")
    what = f"{len(same)} files with the same columns, below one another, with their names in column {FILE!r}"
    stacked.readings[:0] = [Reading(what, (tuple(files[i].name for i in same[:5]),))]
    return stacked


@dataclass
class Stacked:
    """Files with the same columns, below one another."""

    path: Path
    readers: list[TableReader]
    files: list[str]
    names: list[str]
    of_kind: TableKind
    left_out: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])

    def __post_init__(self) -> None:
        self.readings.extend(self.readers[0].readings)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def kind(self) -> TableKind:
        """See `TableReader`."""
        return self.of_kind

    @property
    def separator(self) -> str:
        """The first file's, where it is a CSV file."""
        return getattr(self.readers[0], "separator", ",")

    @property
    def notes(self) -> Sequence[str]:
        """See `TableReader`."""
        return [*self.left_out, *(f"{reader}: {note}" for reader in self.readers for note in reader.notes)]

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader`; where two files have a column in two types, both are read as texts."""
        schemas = [next(iter(reader.batches())).schema for reader in self.readers]
        differ = {
            name
            for name in self.names
            if len({schema.field(name).type for schema in schemas if name in schema.names}) > 1
        }
        for reader, file in zip(self.readers, self.files, strict=True):
            for batch in reader.batches():
                table = batch.select(self.names)
                for at, name in enumerate(self.names):
                    if name in differ:
                        table = table.set_column(at, name, table[name].cast(pa.string()))
                name = FILE if FILE not in self.names else f"{FILE}_name"
                yield table.append_column(name, pa.array([file] * table.num_rows, pa.string()))
