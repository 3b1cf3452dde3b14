"""What people should know of names and plans, as sentences: nothing here is an error, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.keys import SeriesKey, folded, unmatched

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

_SHOWN = 3  # examples in a sentence


def of_names(series: pa.Table, keys: Sequence[str]) -> list[str]:
    """Names in the `keys` of `series` (a row per series) that look like one and are several, and empty ones."""
    found = list[str]()
    for key in keys:
        names = sorted({str(name) for name in series[key].to_pylist()})
        if "" in names:
            found.append(
                f"rows without a {key}, be it null or an empty text, are one series: name them in the source, or leave "
                "them out in a view"
            )
        groups = dict[str, list[str]]()
        for name in names:
            groups.setdefault(folded(name), []).append(name)
        alike = [group for group in groups.values() if len(group) > 1]
        if alike:
            found.append(
                f"names in {key} that differ in case, blanks or accents alone are different series: "
                f"{_some(' = '.join(map(repr, group)) for group in alike)}. Where they are one, write them alike in "
                "the source"
            )
    return found


def of_missing_at(series: pa.Table, key: str, missing_at: Collection[str]) -> list[str]:
    """Values of `data.missing_at` that no series has as its first `key`."""
    there = {str(name) for name in series[key].to_pylist()}
    if not (absent := sorted(set(missing_at) - there)):
        return []
    return [
        f"data.missing_at names {_some(map(repr, absent))}, and no series has such a {key}: write it as the source does"
    ]


def of_strangers(rows: pa.Table, keys: Sequence[str], series: Iterable[str], table: str) -> list[str]:
    """What `rows` of `table` (those of `keys` that it has, null for all values) are about that none of `series` has."""
    named = sorted({tuple(row.get(name) for name in keys) for row in rows.to_pylist()}, key=str)
    parts = [SeriesKey.parse(name).parts for name in series]
    unknown = [
        _named([part for part in about if part is not None]) + (f" (did you mean {alike}?)" if alike else "")
        for about, alike in unmatched(named, parts).items()
    ]
    if not unknown:
        return []
    return [f"{table} names {_some(unknown)}, and there are no sales of them: write names as the sales do"]


def of_contradictions(rows: pd.DataFrame, keys: Sequence[str], known: Sequence[str]) -> list[str]:
    """Rows (the `keys` that there are, ds, `known`) that say different things of the same keys and period."""
    said = dict[tuple[object, ...], dict[tuple[object, ...], None]]()
    places = [*keys, "ds"]
    for row in rows.loc[rows.duplicated(places, keep=False), [*places, *known]].itertuples(index=False):
        said.setdefault(tuple(row[: len(places)]), {})[tuple(map(str, row[len(places) :]))] = None
    different = [(place, values) for place, values in said.items() if len(values) > 1]
    if not different:
        return []
    (*parts, ds), values = different[0]
    shown = "; ".join(", ".join(f"{name} {value}" for name, value in zip(known, one, strict=True)) for one in values)
    where = ", ".join([*map(str, parts), str(ds)[:10]])
    how_many = f"{len(different):,} keys and periods"
    return [f"the covariates contradict each other for {how_many}, for example {where}: {shown}. The last row holds"]


def of_plan(
    ahead: pa.Table,
    keys: Sequence[str],
    series: Collection[tuple[str, ...]],
    levels: Mapping[str, Collection[str]],
) -> list[str]:
    """What rows of the future (`ahead`, as `covariates.from_source` makes them) say that nothing can be made of.

    `series` are the key parts of those that have sales, `levels` the texts that each text covariate had in the past.
    """
    import pyarrow.compute as pc

    found = list[str]()
    own = [key for key in keys if key in ahead.column_names]
    if own and ahead.num_rows:
        places = [list(keys).index(key) for key in own]
        there = {tuple(parts[place] for place in places) for parts in series}
        planned = sorted({tuple(row[key] for key in own) for row in ahead.select(own).to_pylist()})
        usual = {tuple(map(folded, parts)): parts for parts in there}
        unknown = [parts for parts in planned if parts not in there]
        alike = [parts for parts in unknown if tuple(map(folded, parts)) in usual]
        if alike:
            pairs = (f"{_named(parts)} = {_named(usual[tuple(map(folded, parts))])}" for parts in alike)
            found.append(
                "the plan writes names differently from the sales, and is not used for them: "
                f"{_some(pairs)}. Write them alike"
            )
        new = [parts for parts in unknown if parts not in alike]
        if new:
            found.append(
                f"the plan has {', '.join(own)} that have no sales yet and get no forecast until they sell: "
                f"{_some(map(_named, new))}"
            )
    for name, seen in levels.items():
        if name in ahead.column_names:
            planned_levels = {str(value) for value in pc.unique(ahead[name]).to_pylist() if value is not None}
            unseen = sorted(planned_levels - set(seen))
            if unseen:
                found.append(
                    f"{name} has values in the future that it never had: {_some(map(repr, unseen))}. No effect of them "
                    "is known, so the forecast takes none"
                )
    return found


def _named(parts: Sequence[str]) -> str:
    return " / ".join(map(str, parts))


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
