"""Names in SQL."""

from __future__ import annotations


def quoted(name: str) -> str:
    """`name` as an identifier of standard SQL, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'
