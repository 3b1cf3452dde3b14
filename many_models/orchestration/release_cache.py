"""The release that scoring saw last, kept on this machine: to score with while the production registry is away."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from many_models.errors import SeriesFailure, TransientError
from many_models.orchestration import upstream
from many_models.ports import Champion, Release
from many_models.system import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from many_models.ports import ProductionRegistry

MEMORY = "var/cache/release.json"


def live_or_cached(production: ProductionRegistry, memory: Path) -> tuple[Release | None, str]:
    """The live release and "", or, where the registry does not answer, the one that is kept in `memory` and why.

    Raises what the registry raised where nothing is kept.
    """
    try:
        live = production.live()
    except TransientError as error:
        kept = load(memory)
        if kept is None:
            raise
        return kept, f"{error}; scored with release {kept.release_id}, the last one that was seen"
    if live is not None:
        with suppress(OSError):  # a full disk: only a registry that goes away later would need it
            save(live, memory)
    return live, ""


def save(release: Release, memory: Path) -> None:
    """Keeps `release`, whole or not at all."""
    facts = {"release_id": release.release_id, "created_at": release.created_at.isoformat(), "actor": release.actor}
    facts |= {"reason": release.reason, "previous": release.previous}
    champions = [asdict(champion) for champion in release.champions.values()]
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(memory, json.dumps({**facts, "champions": champions}).encode())


def load(memory: Path) -> Release | None:
    """The kept release; None where there is none, or none that can be read."""
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        champions = {row["series_id"]: Champion(**row) for row in found.pop("champions")}
        created_at = datetime.fromisoformat(found.pop("created_at"))
        return Release(**found, created_at=created_at, champions=champions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def promoted_since(
    release: Release | None, champions: Mapping[str, str], keys: Sequence[str], away: str
) -> list[SeriesFailure]:
    """The series of `keys` whose champion (see `state.champion_versions`) `release` does not know yet: they wait."""
    if not away:
        return []
    known = (
        {name: upstream.version_of(one.staging, one.cutoff) for name, one in release.champions.items()}
        if release
        else {}
    )
    waiting = [name for name in keys if champions.get(name, "") != known.get(name, "")]
    why = f"a newer champion was promoted, which is not on this machine: {away}"
    return [SeriesFailure(name, "UnavailableError", why, permanent=False) for name in waiting]
