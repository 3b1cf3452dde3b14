"""The helpers that every room uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from many_models.system import THREAD_VARIABLES, child_command, doubling, first_line, retry, write_atomically


def report() -> None:
    """What a child process says of its threads."""
    sys.stdout.write(json.dumps({name: os.environ.get(name) for name in THREAD_VARIABLES}))


def test_a_child_process_has_one_thread_and_finds_our_modules(tmp_path):
    done = subprocess.run(child_command(__name__, "report"), capture_output=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == dict.fromkeys(THREAD_VARIABLES, "1")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "release.json"
    write_atomically(path, b"old")
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode  # others who share the folder may read it
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []


def test_writers_of_one_file_do_not_mix_their_content(tmp_path):
    """With one name for the unfinished file, two writers wrote into each other's."""
    path, contents = tmp_path / "file", [bytes([65 + k]) * 200_000 for k in range(6)]
    threads = [
        threading.Thread(target=lambda c=content: [write_atomically(path, c) for _ in range(10)])
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_only_errors_that_may_pass_are_tried_again():
    tries: list[int] = []

    def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        return "done"

    def again(error: Exception) -> float | None:
        return 0.0 if isinstance(error, ConnectionError) else None

    assert retry(work, again, [0.0, 0.0]) == "done"
    tries.clear()
    with pytest.raises(ConnectionError):
        retry(work, again, [0.0])
    assert len(tries) == 2
    with pytest.raises(ZeroDivisionError):
        retry(lambda: 1 / 0, again, [0.0] * 9)


def test_pauses_double_up_to_their_limit():
    pauses = doubling(0.5, 3.0, 3600.0)
    assert [next(pauses) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(doubling(0.5, 3.0, -1.0)) == []


@pytest.mark.slow
def test_the_first_line_of_an_error_without_text_is_its_type():
    assert first_line(ValueError("first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("x" * 500), 10) == "x" * 10
