"""What a table means, as a record: each guess with its reason, and the many_models.toml that it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from many_models.onboarding.frequency import unit_of
from many_models.onboarding.layout import open_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from many_models.onboarding.column_roles import Inferred
    from many_models.onboarding.grid import Reading
    from many_models.onboarding.profile import TableProfile
    from many_models.onboarding.readers import TableKind, TableReader
    from many_models.onboarding.row_meaning import Missing
    from many_models.onboarding.value_types import Column

_GRAIN = {"h": "day", "D": "day", "W": "week", "M": "month", "Q": "month", "Y": "month"}
SOURCE_PASSWORD = "MANY_MODELS_SOURCE_PASSWORD"  # noqa: S105  the secret's name


_Entry = tuple[str, object, str]  # a setting, its value, and why


@dataclass(frozen=True)
class InferredSettings:
    """What a table means, in the names that the source will have (`renamed` maps original → those that changed).

    `kind` says what `location` is; `rows` were looked at (`complete`: all there are), `series` found in them between
    `first` and `last`. `added_key` is a constant column to be added because the table holds one series.
    `columns` is how `load_file` reads each column. `url` is a database's, with an absolute path where it is a file, and
    without the password where the user gave one (`password`).
    `totals` mark rows to be left out, `variants` are names of keys to be replaced, `plan_after` is the time after which
    rows without a target are the plan.
    """

    location: str
    kind: TableKind
    table: Inferred[str]
    covariates_table: Inferred[str]
    keys: Inferred[tuple[str, ...]]
    timestamp: Inferred[str]
    target: Inferred[str]
    frequency: Inferred[str]
    season: Inferred[int]
    horizon: Inferred[int]
    known: Inferred[tuple[str, ...]]
    exposure: Inferred[str]
    negatives: Inferred[Any]
    start: date
    last: date
    rows: int
    series: int
    complete: bool
    warnings: tuple[str, ...]
    columns: Mapping[str, Column] = field(repr=False)
    profile: TableProfile = field(repr=False)
    missing: Inferred[Missing]
    missing_on: Inferred[dict[str, Missing]]
    missing_at: Inferred[dict[str, Missing]]
    aggregate: Inferred[Any]
    timezone: Inferred[str]
    available: Inferred[str]
    sold_out: Inferred[str]
    open_hours: Inferred[float]
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    added_key: str = ""
    url: str = ""
    password: bool = False
    readings: tuple[Reading, ...] = ()
    totals: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, "Mapping[str, str]"])
    plan_after: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def reader(self) -> TableReader:
        """The file, to be read in the way that it was looked at."""
        return open_table(self.location, sheet=self.options["sheet"], first=self.options["first"])

    @property
    def choices(self) -> dict[str, Inferred[object]]:
        """Every guess by the name of its setting, for a table that people read."""
        names = (
            "table covariates_table keys timestamp target frequency aggregate missing missing_on missing_at available "
            "sold_out open_hours timezone season horizon known exposure negatives"
        ).split()
        found: dict[str, Inferred[object]] = {name: getattr(self, name) for name in names}
        return {name: choice for name, choice in found.items() if choice.value or name == "known"}

    def to_toml(self, source_url: str, table: str = "") -> str:
        """A many_models.toml with these guesses, their reasons as comments. `table` defaults to the guessed one."""
        import tomlkit

        told = f"Guessed by `many-models init {_one_line(self.location)}`: check it, then `many-models run`."
        document = tomlkit.document()
        document.add(tomlkit.comment(told))
        for warning in self.warnings:
            document.add(tomlkit.comment(f"Warning: {_one_line(warning)}"))
        for name, entries in self._sections(source_url, table).items():
            section = tomlkit.table()
            for key, value, reason in entries:
                if reason:
                    section.add(tomlkit.comment(_one_line(reason)))
                section.add(key, _inline(value))
            document.add(tomlkit.nl())
            document.add(name, section)
        return tomlkit.dumps(document)

    def _sections(self, source_url: str, table: str) -> dict[str, list[_Entry]]:
        """The entries of each section of many_models.toml."""
        sections: dict[str, list[_Entry]] = {
            "source": self._source_entries(source_url, table),
            "data": self._data_entries(),
            "forecast": [("horizon", self.horizon.value, _why(self.horizon))],
        }
        grain = _GRAIN[unit_of(self.frequency.value)]
        if grain != "day":
            sections["partitions"] = [("grain", grain, "as the data's frequency")]
        return sections

    def _source_entries(self, url: str, table: str) -> list[_Entry]:
        entries: list[_Entry] = [("url", url, "")]
        if self.password:
            told = f"the password is not written here: export {SOURCE_PASSWORD}=…, or {SOURCE_PASSWORD}_FILE=its file"
            entries.append(("credential", "password", told))
        entries.append(("table", table or self.table.value, "" if table else _why(self.table)))
        if self.covariates_table.value:
            entries.append(("covariates_table", self.covariates_table.value, _why(self.covariates_table)))
        return entries

    def _data_entries(self) -> list[_Entry]:
        """What is always said first, then what was found in this table alone."""
        always: list[_Entry] = [
            ("keys", list(self.keys.value), _why(self.keys)),
            ("timestamp", self.timestamp.value, _why(self.timestamp)),
            ("target", self.target.value, _why(self.target)),
            ("known", list(self.known.value), _why(self.known)),
            ("frequency", self.frequency.value, _why(self.frequency)),
            ("missing", self.missing.value, _why(self.missing)),
            ("country", "", 'not guessed; an ISO code such as "DE" adds its public holidays'),
            ("start", self.start, "the first day in the data"),
            ("negatives", self.negatives.value, _why(self.negatives)),
        ]
        names = "exposure missing_on missing_at aggregate available sold_out open_hours timezone".split()
        found: list[tuple[str, Inferred[Any]]] = [(name, getattr(self, name)) for name in names]
        return always + [(name, one.value, _why(one)) for name, one in found if one.value or one.alternatives]


def _inline(value: object) -> object:
    """A mapping as it is written in one line."""
    if not isinstance(value, dict):
        return value
    import tomlkit

    table = tomlkit.inline_table()
    table.update(value)
    return table


def _why(choice: Inferred[Any]) -> str:
    other = f"; or: {', '.join(choice.alternatives)}" if choice.alternatives else ""
    return f"{choice.confidence}: {choice.reason}{other}" if choice.reason else ""


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
