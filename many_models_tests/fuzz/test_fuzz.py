"""Bytes from outside, mutated: each target accepts them or refuses them with an error of ours.

In the suite each target gets a few dozen mutations. `MANY_MODELS_FUZZ=120 pytest many_models_tests/fuzz` gives each so
many seconds, and adds to `corpus/` what ended where nothing of the corpus had ended before: later runs start from it.
Commit what it adds, and above all what failed.
"""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from many_models_tests.fuzz.targets import CORPUS, TARGETS, outcome_of, seeds

SECONDS = float(os.environ.get("MANY_MODELS_FUZZ", "0"))
EXAMPLES = {"packs": 40}
LARGEST = 200_000  # bytes of a file of the corpus
WORDS = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\0", b"null", b"true", b"NaN", b"1e999", b"-1", b"0", b"9" * 30,
    b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"__", b"%", b"..", b"/", b"=", b"[[", b"'", b"2024-02-30", b"9999-12-31",
    b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x00\x00\x00\x00\xf0\x7f",
]  # fmt: skip

edits = st.tuples(
    st.floats(0.0, 1.0),
    st.sampled_from(["insert", "replace", "delete", "repeat", "cut", "flip"]),
    st.sampled_from(WORDS) | st.binary(min_size=1, max_size=8),
)


def mutated(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    """`data` after each change: a place between 0 and 1, what is done there, and with what."""
    for place, how, word in changes:
        at, n = int(place * len(data)), len(word)
        part = data[at : at + n]
        between = {
            "insert": word + part,
            "replace": word,
            "delete": b"",
            "repeat": part * 20,
            "flip": bytes(a ^ b for a, b in zip(part, word, strict=False)),
        }
        data = data[:at] if how == "cut" else data[:at] + between[how] + data[at + n :]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_accepted_or_refused(target: str) -> None:
    found = {outcome_of(target, data) for data in seeds(target)}
    assert "" in found  # some of it is sound, or its mutations would say nothing


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_mutations_are_accepted_or_refused(target: str) -> None:
    start = seeds(target)
    met = {outcome_of(target, data) for data in start}
    until = time.monotonic() + SECONDS

    # without a time for it the same mutations are tried each time, so that a failure is one of the change at hand
    @settings(
        max_examples=EXAMPLES.get(target, 150), deadline=None, derandomize=not SECONDS,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(data=st.sampled_from(start), changes=st.lists(edits, max_size=6))
    def run(data: bytes, changes: list[tuple[float, str, bytes]]) -> None:
        changed = mutated(data, changes)
        outcome = outcome_of(target, changed)
        if outcome not in met and SECONDS and len(changed) <= LARGEST:
            met.add(outcome)
            (CORPUS / target / hashlib.sha256(changed).hexdigest()[:16]).write_bytes(changed)

    run()
    while time.monotonic() < until:
        run()
