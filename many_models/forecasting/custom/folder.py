"""Whose code is run: a folder of forecasters is refused where someone else may write to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_FILES = 1_000  # of a package that are looked at


def require_own(folder: str, modules: Iterable[str]) -> None:
    """Raise SettingsError where anybody but this user and root may change `folder`, a folder above it, or one of the
    `modules` (module:attribute) in it: all of it is code that runs with what this process may do.
    """
    if not hasattr(os, "geteuid"):  # Windows has other rules
        return
    home = Path(folder).resolve()
    for path in [home, *_files(home, modules)]:
        if writer := _other_writer(path, sticky=False):
            raise SettingsError(f"custom forecasters: {writer} may write {path}, whose code runs here: {_mend(path)}")
    for path in home.parents:
        if writer := _other_writer(path, sticky=True):
            raise SettingsError(f"custom forecasters: {writer} may replace what is in {path}: {_mend(path)}")


def _mend(path: Path) -> str:
    return f"chmod go-w {path}, or move the project"


def _files(home: Path, modules: Iterable[str]) -> Iterator[Path]:
    for name in sorted({module.partition(":")[0].partition(".")[0] for module in modules}):
        if (single := home / f"{name}.py").exists():
            yield single
        if (package := home / name).is_dir():
            yield package
            for _, path in zip(range(MOST_FILES), package.rglob("*"), strict=False):
                yield path


def _other_writer(path: Path, *, sticky: bool) -> str:
    """Who else may write; with `sticky`, a folder in which no user can replace another's files is fine."""
    try:
        about = path.stat()
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return ""
    except OSError as error:
        raise SettingsError(f"custom forecasters: {path} cannot be looked at: {error.strerror}") from error
    if about.st_uid not in {0, os.geteuid()}:
        return f"user {about.st_uid}"
    if sticky and about.st_mode & stat.S_ISVTX:
        return ""
    if about.st_mode & stat.S_IWOTH:
        return "everybody"
    # a group of the user's own name and number is how most systems set users up
    return f"group {about.st_gid}" if about.st_mode & stat.S_IWGRP and about.st_gid != os.geteuid() else ""
