"""How benchmarks say what they measured: a table for people, one JSON object for machines."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
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


def machine() -> str:
    """What ran it, and how busy it was."""
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    load = os.getloadavg()[0]
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, load {load:.1f}"


def options(about: str, small: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has; `small` says what --small measures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps({"machine": machine(), "figures": [asdict(figure) for figure in figures]}))
        return
    print(machine())
    for figure in figures:
        print(f"{figure.name:66s} {figure.value:12.4g} {figure.unit:16s} {figure.against}")
