"""Which stages of an Azure DevOps pipeline run: its conditions, evaluated as the documentation says.

Rules (azure-devops-docs, "Specify conditions" and "Expressions"): a stage without a condition has `succeeded()`, which
asks all direct and indirect dependencies, and Skipped is not Succeeded. A condition that is false skips the stage.
Comparisons of texts ignore case. An unknown name is an empty text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SUCCEEDED = frozenset({"Succeeded", "SucceededWithIssues"})
_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|([A-Za-z_][\w-]*)|(-?\d+(?:\.\d+)?)|(.))")
Value = str | bool | float | dict[str, object]


@dataclass
class Run:
    """One run of a pipeline: `variables`, what the jobs of each stage would end with, and the outputs they set."""

    variables: Mapping[str, str]
    ends: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, "Mapping[str, str]"])
    cancelled: bool = False

    def results(self, stages: Sequence[Mapping[str, object]]) -> dict[str, str]:
        """Stage → Succeeded, SucceededWithIssues, Failed, Canceled or Skipped."""
        found, before = dict[str, str](), dict[str, list[str]]()
        last: list[str] = []
        for stage in stages:
            name, after = str(stage["stage"]), stage.get("dependsOn", last)
            before[name] = [str(after)] if isinstance(after, str) else [str(one) for one in after or ()]
            runs = self._holds(str(stage.get("condition", "succeeded()")), before[name], _all(before, name), found)
            found[name] = self.ends.get(name, "Succeeded") if runs else "Skipped"
            last = [name]
        return found

    def _holds(self, text: str, direct: Sequence[str], every: Sequence[str], found: Mapping[str, str]) -> bool:
        """Whether `text` is true for a stage after `direct`, whose direct and indirect dependencies are `every`."""
        dependencies: dict[str, object] = {
            name: {"result": found[name], "outputs": dict(self.outputs.get(name, {}))} for name in direct
        }
        status = {
            "always": lambda *_: True,
            "canceled": lambda *_: self.cancelled,
            "succeeded": lambda *names: not self.cancelled and all(found[n] in SUCCEEDED for n in names or every),
            "failed": lambda *names: not self.cancelled and any(found[n] == "Failed" for n in names or every),
            "succeededOrFailed": lambda *names: (
                not self.cancelled and all(found[n] in {*SUCCEEDED, "Failed"} for n in names or every)
            ),
        }
        names: dict[str, object] = {"dependencies": dependencies, "variables": dict(self.variables)}
        return _truth(_Reader(text, names, status).value())


def _all(before: Mapping[str, Sequence[str]], name: str) -> list[str]:
    direct = before[name]
    return list(dict.fromkeys([*direct, *(far for near in direct for far in _all(before, near))]))


def _truth(value: object) -> bool:
    return bool(value)


def _same(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return _truth(left) == _truth(right)
    return str(left).casefold() == str(right).casefold()


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "and": lambda *values: all(map(_truth, values)),
    "or": lambda *values: any(map(_truth, values)),
    "not": lambda value: not _truth(value),
    "eq": _same,
    "ne": lambda left, right: not _same(left, right),
    "in": lambda needle, *values: any(_same(needle, value) for value in values),
    "notIn": lambda needle, *values: not any(_same(needle, value) for value in values),
    "startsWith": lambda text, start: str(text).casefold().startswith(str(start).casefold()),
    "coalesce": lambda *values: next((value for value in values if value != ""), ""),
}


class _Reader:
    """A reader of one expression. Raises ValueError where the text is not one, or names an unknown function."""

    def __init__(self, text: str, names: Mapping[str, object], status: Mapping[str, Callable[..., object]]) -> None:
        self._names, self._functions = names, {**FUNCTIONS, **status}
        self._tokens = [match.group(0).strip() for match in _TOKEN.finditer(text.strip()) if match.group(0).strip()]
        self._at = 0

    def value(self) -> object:
        """The value of the whole text."""
        found = self._one()
        if self._at != len(self._tokens):
            raise ValueError(f"unexpected {self._tokens[self._at]!r}")
        return found

    def _take(self, wanted: str = "") -> str:
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if not token or (wanted and token != wanted):
            raise ValueError(f"expected {wanted or 'a value'}, got {token or 'the end'!r}")
        self._at += 1
        return token

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _one(self) -> object:
        token = self._take()
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if re.fullmatch(r"-?\d+(\.\d+)?", token):
            return float(token)
        if token.casefold() in {"true", "false"}:
            return token.casefold() == "true"
        if self._next() == "(":
            self._take("(")
            arguments = list(self._arguments())
            if token not in self._functions:
                raise ValueError(f"no function {token!r}")
            return self._functions[token](*arguments)
        if token not in self._names:
            raise ValueError(f"no value {token!r} here")
        return self._below(self._names[token])

    def _arguments(self) -> Iterator[object]:
        while self._next() != ")":
            yield self._one()
            if self._next() == ",":
                self._take(",")
        self._take(")")

    def _below(self, value: object) -> object:
        while self._next() in {".", "["}:
            if self._take() == ".":
                name = self._take()
            else:
                name = str(self._one())
                self._take("]")
            value = value.get(name, "") if isinstance(value, dict) else ""
        return value
