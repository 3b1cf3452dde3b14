"""What `init` and `load` say and ask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from many_models.onboarding.grid import Reading
    from many_models.onboarding.inferred import InferredSettings
    from many_models.onboarding.next_file import LoadResult
    from many_models.onboarding.questions import Question
    from many_models.operations.setup import Initialised, InitOptions


def can_ask() -> bool:
    """Whether a person sits at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def print_inferred(out: Console, location: str, done: Initialised) -> None:
    """Print what `init` has inferred and why, what it wrote, and the command to type next."""
    from rich.markup import escape

    from many_models.onboarding.inferred import SOURCE_PASSWORD
    from many_models.onboarding.questions import shown

    found, file = done.inferred, done.file
    if done.loaded is not None:
        where = file.with_name("sales.db")
        out.print(f"{location}: {done.loaded.rows:,} rows loaded into {where}, table {done.loaded.table}")
    guesses = Table("what", "guess", "how sure", "why")
    for what, choice in found.choices.items():
        guesses.add_row(what, escape(shown(choice.value)) or "(none)", choice.confidence, escape(choice.reason))
    out.print(guesses)
    for warning in found.warnings:
        out.print(f"[yellow]warning[/yellow]: {escape(warning)}")
    if found.password:
        out.print(f"the password is in no file: export {SOURCE_PASSWORD}=… before you run")
    dates = f"{found.start} to {found.last}"
    out.print(f"{found.series:,} series, {dates}; written: {file} and {done.page} (a page to look at). Then:")
    config = "" if file.parent == type(file)() else f" --config {file}"
    out.print(f"  many-models run{config}")


def print_readings(out: Console, readings: Sequence[Reading]) -> None:
    """How the file was read, with some of its rows before and after."""
    from rich.markup import escape

    for reading in readings:
        out.print(f"I read this as {escape(reading.what)}")
        for title, rows in (("before", reading.before), ("after", reading.after)):
            for number, row in enumerate(rows):
                out.print(f"  {title if number == 0 else '':7} {escape(' | '.join(row))}")
        if reading.question:
            out.print(f"  [yellow]check[/yellow]: {escape(reading.question)}")


def ask_what_is_unsure(out: Console, location: str, given: InitOptions, found: InferredSettings) -> InferredSettings:
    """Ask where a guess is unsure; an answer other than the guess is like a flag, and the rest is guessed again."""
    from many_models.onboarding.guess import infer_settings
    from many_models.onboarding.questions import questions_of

    asked = set[str]()
    options: dict[str, Any] = dict(given)
    while pending := [question for question in questions_of(found) if question.about not in asked]:
        asked.add(pending[0].about)
        change = _answer(out, pending[0])
        if change:
            options |= change
            found = infer_settings(location, **options)
    return found


def _answer(out: Console, question: Question, read: Callable[[str], str] = input) -> dict[str, Any]:
    from rich.markup import escape

    out.print(f"[bold]{escape(question.text)}[/bold]")
    for number, option in enumerate(question.options, 1):
        out.print(f"  {number}  {escape(option.text)}{' (the guess)' if number == 1 else ''}")
    while True:
        reply = read("number, or Enter for the guess: ").strip() or "1"
        if reply.isdigit() and 1 <= int(reply) <= len(question.options):
            return question.options[int(reply) - 1].change
        try:
            return question.parse(reply) if question.parse else {}
        except ValueError:
            out.print(f"write a number from 1 to {len(question.options)}")


# --- load -----------------------------------------------------------------------------------------------------------
def print_load(out: Console, location: str, done: LoadResult, *, check: bool) -> None:
    """Print what was added, changed and refused of the next file."""
    from rich.markup import escape

    print_readings(out, done.readings)
    what = "would be " if check else ""
    out.print(
        f"{location}: {done.rows:,} rows: {what}[green]added {done.added:,}[/green], changed {done.changed:,}, already "
        f"there {done.same:,}, refused {done.refused_rows:,}"
    )
    if done.plan_rows:
        out.print(f"of them the plan: {done.plan_rows:,} rows, in table {done.plan_table}")
    for kind, example in done.refused.items():
        out.print(
            f"[yellow]refused[/yellow]: {example.rows:,} rows: {escape(kind)}, for example {escape(example.text)}"
        )
    for note in done.notes:
        out.print(f"[yellow]note[/yellow]: {escape(note)}")
    if done.new_series:
        out.print(f"new series: {escape(', '.join(done.new_series[:5]))} ({len(done.new_series):,} in all)")
    if not check and done.added + done.changed:
        out.print("then: many-models run")
