"""pandas as the board uses it. Its types are unions of everything, which say nothing: tests check what it returns."""

from __future__ import annotations

from typing import Any

import pandas  # noqa: ICN001  its name with types is `pd`

Frame = Any  # a pandas.DataFrame
pd: Any = pandas
