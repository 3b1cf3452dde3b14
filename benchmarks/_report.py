"""How benchmarks say what they measured: a table for people, one JSON object for machines."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """One measured number: what, how much, of what, and what it has to be."""

    name: str
    value: float
    unit: str
    against: str


def machine(*packages: str) -> str:
    """What the figures are of: cores, versions, and how busy they were."""
    versions = "".join(f", {name} {version(name)}" for name in packages)
    cores = f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    return f"{cores}, {platform.system()}, Python {platform.python_version()}{versions}"


def flags(about: str, small: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has; `small` says what --small measures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def show(figures: Sequence[Figure], ran_on: str, *, as_json: bool, **more: object) -> None:
    """Print what was measured, and in JSON what else there is."""
    if as_json:
        print(json.dumps({"machine": ran_on, "figures": [asdict(figure) for figure in figures], **more}))
        return
    print(ran_on)
    for figure in figures:
        print(f"{figure.name:66s} {figure.value:12.4g} {figure.unit:16s} {figure.against}")
