"""What is asked on a terminal where a guess is unsure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.onboarding.column_roles import Inferred
    from many_models.onboarding.inferred import InferredSettings


@dataclass(frozen=True, slots=True)
class Option:
    """One answer, and what it changes among the arguments of `infer_settings`; the first is the guess."""

    text: str
    change: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; `parse` turns an answer that is not an option's number into a change, or raises ValueError."""

    about: str
    text: str
    options: tuple[Option, ...]
    parse: Callable[[str], dict[str, Any]] | None = None


def questions_of(found: InferredSettings) -> list[Question]:
    """Questions on guesses that are unsure, or that change forecasts a lot; in the order in which they are asked."""
    asked = [*_on_readings(found), *_on_dates(found), *_on_numbers(found)]
    for about, choice in (("timestamp", found.timestamp), ("target", found.target), ("frequency", found.frequency)):
        if choice.confidence == "unsure" and choice.alternatives and about not in {q.about for q in asked}:
            asked.append(_on_flag(about, choice))
    return [*asked, *_on_missing(found), *_on_aggregate(found)]


def _on_readings(found: InferredSettings) -> list[Question]:
    asked: list[Question] = []
    for reading in found.readings:
        if "which day is" in reading.question:
            text = f"{reading.question.partition('?')[0]}? Write it as 2026-01-31"
            guess = Option(f"from {found.start} on, so that it ends now")
            asked.append(Question("first", text, (guess,), lambda reply: {"first": date.fromisoformat(reply)}))
    return asked


def _on_dates(found: InferredSettings) -> list[Question]:
    time = found.timestamp.value
    kind = found.columns[time].type
    if not kind.or_else:
        return []
    options = (Option(f"as {kind.style}: {found.start} to {found.last}"), Option(f"as {kind.or_else}"))
    change = {"styles": {time: kind.or_else}}
    text = f"{time} can be read in two ways. How are its dates written?"
    return [Question(f"style of {time}", text, (options[0], Option(options[1].text, change)))]


def _on_numbers(found: InferredSettings) -> list[Question]:
    column = found.columns[found.target.value]
    kind = column.type
    if column.kind != "number" or not kind.or_else:
        return []
    named = {
        "plain": "a point before decimals",
        "comma": "points between thousands",
        "thousands": "commas between them",
    }
    guess, other = (named.get(style, style) for style in (kind.style, kind.or_else))
    text = f"{column.name} can be read in two ways: what is the sign in its numbers?"
    options = (Option(guess), Option(other, {"styles": {column.name: kind.or_else}}))
    return [Question(f"style of {column.name}", text, options)]


def _on_flag(about: str, choice: Inferred[str]) -> Question:
    flag = f"--{about} "
    options = [Option(f"{choice.value}: {choice.reason}")]
    options += [
        Option(other.removeprefix(flag), {about: other.removeprefix(flag)})
        for other in choice.alternatives
        if other.startswith(flag)
    ]
    return Question(about, f"What is the {about}?", tuple(options))


def _on_missing(found: InferredSettings) -> list[Question]:
    choice = found.missing
    if not choice.alternatives:
        return []
    means = {"zero": "nothing was sold", "closed": "the shop was closed", "unknown": "not known: not learned from"}
    others = [other for other in means if other != choice.value]
    at, everywhere = found.missing_at, ", everywhere" if found.missing_at.value else ""
    apart = f"; at {', '.join(list(at.value)[:3])}{' …' if len(at.value) > 3 else ''}: " if at.value else ""
    apart += means[next(iter(at.value.values()))] if at.value else ""
    options = [Option(f"{choice.value}: {means[choice.value]}{apart}")]
    options += [Option(f"{other}: {means[other]}{everywhere}", {"missing": other}) for other in others]
    reason = choice.reason if choice.reason == at.reason or not at.value else f"{choice.reason}. {at.reason}"
    return [Question("missing", f"What does a period without a row mean? {reason}", tuple(options))]


def _on_aggregate(found: InferredSettings) -> list[Question]:
    choice = found.aggregate
    if not choice.alternatives:
        return []
    means = {"sum": "they are summed up", "mean": "their mean", "": "they are duplicates: the first is used"}
    others = [other for other in means if other != choice.value]
    options = [Option(f"{choice.value or 'none'}: {means.get(choice.value, '')}")]
    options += [Option(f"{other or 'none'}: {means[other]}", {"aggregate": other}) for other in others]
    return [Question("aggregate", f"What do several rows of a series and period mean? {choice.reason}", tuple(options))]


def shown(value: object) -> str:
    """A setting's value as a text for people."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)
