"""Which series of a run have no result."""

from many_models.orchestration.stage_run import without_result


class Counted(str):
    """A key that counts how often it is hashed."""

    __slots__ = ()
    hashed = 0

    def __hash__(self) -> int:
        Counted.hashed += 1
        return str.__hash__(self)


def test_a_key_that_is_neither_done_nor_failed_has_failed() -> None:
    found = without_result(["a", "b", "c"], {"a": 1}, {"b": 2})
    assert list(found) == ["c"]
    assert found["c"].permanent
    assert "nothing came back" in found["c"].reason


def test_the_work_grows_with_the_number_of_series_not_with_its_square() -> None:
    keys = [Counted(f"s{at}") for at in range(500)]
    good = dict.fromkeys(keys[:-1])
    Counted.hashed = 0
    assert list(without_result(keys, good, {})) == [keys[-1]]
    assert Counted.hashed < 5 * len(keys)
