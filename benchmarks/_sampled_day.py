"""A measured day (`_measured_day`) whose own process says where its CPU goes: each 5 ms of CPU the main thread's stack
is a sample. The third argument is the file that gets the samples as collapsed stacks (what flame graphs are drawn of).
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

EVERY = 0.005


def main() -> None:
    """Run the day and write its samples."""
    from benchmarks._measured_day import main as day

    stacks = Counter[str]()

    def sample(_number: int, frame: FrameType | None) -> None:
        names = list[str]()
        while frame is not None:
            names.append(f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}")
            frame = frame.f_back
        stacks[";".join(reversed(names))] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        day()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(sys.argv[3]).write_text("".join(f"{stack} {count}\n" for stack, count in stacks.items()))
