# pyarrow ships no types; its compute functions come into being at import.
from typing import Any

def __getattr__(name: str) -> Any: ...
