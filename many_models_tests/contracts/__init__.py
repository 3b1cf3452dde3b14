"""One contract class a port: every implementation is tested by subclassing it, and cannot leave a test out."""

from __future__ import annotations


class Contract:
    """Base of contracts. A subclass says how the thing is made; it may add tests, never replace or disable one."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__test__" in vars(cls) or "pytestmark" in vars(cls):
            raise TypeError(f"{cls.__name__} must not switch contract tests off")
        names = {name for base in cls.__mro__ for name in vars(base) if name.startswith("test")}
        replaced = [name for name in names if sum(name in vars(base) for base in cls.__mro__) > 1]
        if replaced:
            raise TypeError(f"{cls.__name__} replaces contract tests: {', '.join(sorted(replaced))}")
