"""What a later day costs, against an older commit, and where its CPU goes.
`python -m benchmarks.later_day [--against COMMIT] [--refit-every 7] [--series 10000] [--days 500] [--more 2] [--small]
[--json]`.

Both versions of the code run the same days on the same machine, in turn: a first day each, then `--more` days with one
new period of every series. The older code comes from a git worktree of that commit, with this environment's packages.
CPU is of the run's process and all its workers. Then each version's last day is run under a sampler, which shows what
the run's own process, which no more workers shorten, does: the shares of the functions below which a sample was taken.

With `--refit-every N` the same code runs twice: "before" fits every series each night, "now" only every N days.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import END, Size, project

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from benchmarks.reference_day import Sales

BEFORE = "db2e60c"  # where this was first measured
ITEMS = 100
ROOT = Path(__file__).parents[1]
SHOWN, LEAST = 40, 0.01  # how many functions are listed, and the share that each has at least


@dataclass
class Version:
    """One version of the code with its project; `days` are the marks of each day that it has run."""

    name: str
    code: Path
    folder: Path
    sales: Sales
    settings: Mapping[str, str] = field(default_factory=dict[str, str])  # from the environment
    days: list[list[Mapping[str, float | str]]] = field(default_factory=list["list[Mapping[str, float | str]]"])

    def run(self, samples: Path | None = None) -> None:
        """Run what is due; under the sampler where there is a file for its stacks."""
        module = "_sampled_day" if samples else "_measured_day"
        path = os.pathsep.join([str(self.code), str(ROOT)]) if samples else str(self.code)
        words = [sys.executable, "-c", f"from benchmarks.{module} import main; main()", str(self.folder), ""]
        done = subprocess.run(
            [*words, *([str(samples)] if samples else [])],
            cwd=self.code, env={**os.environ, **self.settings, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
            check=True,
        )  # fmt: skip
        self.days.append(json.loads(done.stdout)["marks"])

    def cpu(self, day: int, what: str = "cpu") -> float:
        """CPU seconds of a day: `cpu` of all its processes, `driver_cpu` of the run's own."""
        return float(self.days[day][-1][what])

    def stages(self, day: int) -> dict[str, float]:
        """Stage → its CPU seconds."""
        found, before = dict[str, float](), 0.0
        for mark in self.days[day]:
            found[str(mark["stage"])] = float(mark["cpu"]) - before
            before = float(mark["cpu"])
        return found


@contextmanager
def code_of(commit: str, folder: Path) -> Generator[Path]:
    """A worktree of `commit`, with this version's sampler in it."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), commit], check=True)
    try:
        sampler = "benchmarks/_sampled_day.py"
        (folder / sampler).write_text((ROOT / sampler).read_text())
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def inclusive(samples: Path) -> dict[str, float]:
    """Function of ours → the share of all samples that were taken in it or in what it calls."""
    found, total = Counter[str](), 0
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        total += int(count)
        for name in {name for name in stack.split(";") if name.startswith("many_models.")}:
            found[name] += int(count)
    return {name: count / max(total, 1) for name, count in found.most_common()}


def where(version: Version, samples: Path) -> str:
    """The functions that most CPU of the run's own process is spent in and below, in seconds of the sampled day."""
    own = version.cpu(-1, "driver_cpu")
    shares = list(inclusive(samples).items())[:SHOWN]
    lines = [f"{share * own:8.2f} s {share:6.1%}  {name}" for name, share in shares if share >= LEAST]
    return f"{version.name}: the run's own process, {own:.1f} s of CPU\n" + "\n".join(lines)


def measured(
    size: Size, commit: str, folder: Path, *, sample: bool, refit_every: int = 1
) -> tuple[list[Figure], dict[str, str]]:
    """The figures, and where each version's time goes."""
    told = dict[str, str]()
    with nullcontext(ROOT) if refit_every > 1 else code_of(commit, folder / "code") as code:
        names = {"fitted each night" if refit_every > 1 else f"before ({commit})": code, "now": ROOT}
        every = (1, refit_every)
        versions = [
            Version(
                name, at, folder / str(n), project(folder / str(n), size.stores, size),
                {"MANY_MODELS__FORECAST__REFIT_EVERY": str(every[n])} if refit_every > 1 else {},
            )
            for n, (name, at) in enumerate(names.items())
        ]  # fmt: skip
        for day in range(size.more + 1 + sample):
            for version in versions:
                if day:
                    version.sales.add(END + timedelta(days=day), 1)
                stacks = folder / f"{version.folder.name}.samples"
                sampled = sample and day == size.more + 1
                version.run(stacks if sampled else None)
                if sampled:
                    told[version.name] = where(version, stacks)
    return figures_of(size, *versions), told


def figures_of(size: Size, before: Version, now: Version) -> list[Figure]:
    """Both versions' later days side by side."""
    later = range(1, size.more + 1)

    def mean(version: Version, what: str) -> float:
        return sum(version.cpu(day, what) for day in later) / len(later)

    figures = list[Figure]()
    for what, text in (("cpu", "CPU"), ("driver_cpu", "CPU of the run's own process")):
        old, new = mean(before, what), mean(now, what)
        goal = ("at most 0.5" if now.settings else "at most 0.7") if what == "cpu" else ""
        figures += [
            Figure(f"later day of {size.series:,} × {size.days}, {text}, {before.name}", old, "s", ""),
            Figure(f"later day, {text}, now", new, "s", ""),
            Figure(f"later day, {text}, now / before", new / old, "×", goal),
        ]
    for stage in now.stages(1):
        old, new = (sum(v.stages(day).get(stage, 0.0) for day in later) / len(later) for v in (before, now))
        figures.append(Figure(f"  of it {stage}", new, "s", f"before {old:.1f} s"))
    return figures


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "300 series of 200 days")
    parser.add_argument("--against", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--refit-every", type=int, default=1, help="compare with fitting only every so many days")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=500)
    parser.add_argument("--more", type=int, default=2, help="later days that are measured")
    parser.add_argument("--no-samples", action="store_true", help="leave out the days under the sampler")
    args = parser.parse_args()
    series, days = (300, 200) if args.small else (args.series, args.days)
    size = Size(max(series // ITEMS, 1), min(series, ITEMS), days, args.more, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        figures, told = measured(
            size, args.against, Path(name), sample=not args.no_samples, refit_every=args.refit_every
        )
    show(figures, machine("dagster", "mlflow", "deltalake"), as_json=args.json, where=told)
    if not args.json:
        print("\n\n".join(["", *told.values()]))


if __name__ == "__main__":
    main()
