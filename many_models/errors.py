"""Every error the product raises on purpose, as one tree, and a series' failure as data.

ManyModelsError
├── PermanentError              the same again fails the same way: never retried
│   ├── SettingsError           a setting that cannot be used
│   ├── InputError              a table, column or row that cannot be used
│   │   ├── MissingTableError   a table that is not there (which is not an empty table)
│   │   └── SeriesError         one series' data
│   ├── AccessError             a login or a permission that is refused
│   ├── IntegrityError          stored bytes that are not what was stored
│   │   └── DamagedTableError   a file of a table of the lake that cannot be read
│   └── MissingDependencyError  a package of the system or of PyPI that is not installed
└── TransientError              worth another try
    ├── UnavailableError        a store, database or worker that does not answer
    └── ConflictError           another process wrote first
"""

from __future__ import annotations

from dataclasses import dataclass


class ManyModelsError(Exception):
    """Base of everything raised on purpose."""


class PermanentError(ManyModelsError):
    """The same work on the same input fails again."""


class SettingsError(PermanentError):
    """A setting that is missing, unknown or cannot be used together with another."""


class InputError(PermanentError):
    """A table, column or row that cannot be used."""


class MissingTableError(InputError):
    """A table that is not there."""


class SeriesError(InputError):
    """One series' data cannot be used.

    Attributes: `series_id`, the series; `reason`, what is wrong, what was needed, what to do.
    """

    def __init__(self, series_id: str, reason: str) -> None:
        super().__init__(f"series {series_id!r}: {reason}")
        self.series_id = series_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[SeriesError], tuple[str, str]]:
        return (type(self), (self.series_id, self.reason))


class AccessError(PermanentError):
    """A login that is refused, or that may not do what was asked."""


class IntegrityError(PermanentError):
    """Stored bytes are not what was stored: damaged, swapped or cut off."""


class DamagedTableError(IntegrityError):
    """A file of a table of the lake is damaged or gone; the text names it and says what brings its rows back."""


class MissingDependencyError(PermanentError):
    """Something that has to be installed first; the text says what."""


class TransientError(ManyModelsError):
    """Worth another try."""


class UnavailableError(TransientError):
    """A store, database or worker that does not answer."""


class ConflictError(TransientError):
    """Another process wrote first."""


NOT_OF_A_SERIES = (TransientError, AccessError, DamagedTableError, OSError, MemoryError)


@dataclass(frozen=True, slots=True)
class SeriesFailure:
    """One series that failed while the rest of its run went on.

    `kind` names the error's class; `permanent` says whether the same data fails again.
    """

    series_id: str
    kind: str
    reason: str
    permanent: bool

    @classmethod
    def of(cls, series_id: str, error: BaseException) -> SeriesFailure:
        """The failure of `series_id` by `error`; permanent unless the series is not at fault."""
        permanent = not isinstance(error, NOT_OF_A_SERIES)
        reason = error.reason if isinstance(error, SeriesError) else str(error)
        return cls(series_id, type(error).__name__, reason or type(error).__name__, permanent)
