"""What is wrong with a disk, a folder or a database file, in one sentence with the file and the remedy."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
REMEDIES = {  # the end of a database file's path → what to do when it is damaged
    "warehouse.db": "the next run loads it again from the lake",
    "staging.db": "with the folder `staging` beside it; `many-models doctor --mend` then has all series trained again",
    "production.db": "with the folder `production` beside it; the next run then has promotion decide again",
}
RECORDS = "the next run does every stage again: the same rows take the place of those that are there"
DEEPEST = 4  # folders below the project's


def in_words(error: BaseException, folders: Iterable[Path]) -> str:
    """One sentence for an error of the disk or of an SQLite file; "" for anything else, which is a bug.

    The databases of `folders` are looked through for the one that is damaged.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in NO_ROOM:
            return f"no space left to write {one.filename or 'a file'}: make room, then run again; nothing is lost"
        if isinstance(one, OSError) and one.errno in NOT_ALLOWED:
            return f"this account may not write {one.filename}: give it the right, or use another folder"
        if isinstance(one, sqlite3.Error):
            return _of_sqlite(one, folders)
    return ""


def _of_sqlite(error: sqlite3.Error, folders: Iterable[Path]) -> str:
    text = str(error)
    if "full" in text:
        return "no space left to write a database: make room, then run again; nothing is lost"
    if "readonly" in text or "unable to open" in text:
        locked = [str(path) for path in databases(folders) if not _writable(path)]
        where = ", ".join(locked) or "its folder"
        return f"a database cannot be written ({text}): this account needs the right to write {where}"
    broken = [path for path in databases(folders) if damage_of(path)]
    if not broken:
        return ""
    said = "; ".join(f"{path} is damaged ({damage_of(path)}): {remedy_of(path)}" for path in broken)
    return f"{said}. A backup (`many-models backup`) brings it back as it was"


def remedy_of(path: Path) -> str:
    """What to do with a damaged database file."""
    what = REMEDIES.get(path.name, RECORDS)
    return f"move it away{', ' if what.startswith('with') else '; '}{what}"


def databases(folders: Iterable[Path]) -> Iterator[Path]:
    """Every SQLite file of `folders`, a few folders deep."""
    seen = set[Path]()
    for folder in folders:
        for depth in range(DEEPEST):
            for path in sorted(folder.glob("*/" * depth + "*.db")):
                if path.is_file() and path.resolve() not in seen:
                    seen.add(path.resolve())
                    yield path


def damage_of(path: Path) -> str:
    """What SQLite says of a damaged file; "" for a sound one, and for one that someone is writing."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return "" if said == "ok" else str(said)
    except sqlite3.OperationalError:
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)


def _writable(path: Path) -> bool:
    import os

    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [getattr(one, "orig", None), one.__cause__, one.__context__]
