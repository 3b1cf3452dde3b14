"""Names and places that are written into scripts and SQL are refused by the settings where they could break out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from many_models.settings import DataSettings, LakeSettings


@pytest.mark.parametrize("name", ["store\nGO\nDROP", "store\r", "a\u2028b", "a\x00b", "a\x85b", ""])
@pytest.mark.parametrize("setting", ["keys", "timestamp", "target", "known", "attributes"])
def test_a_column_with_a_line_break_in_its_name_is_refused(setting: str, name: str) -> None:
    value = name if setting in {"timestamp", "target"} else ["other", name]
    with pytest.raises(ValidationError, match="names that no column can have"):
        DataSettings.model_validate({setting: value})


@pytest.mark.parametrize("path", [
    "abfss://lake@evil'.dfs.core.windows.net/x", "abfss://lake@h', FORMAT = 'CSV/x", "abfss://la'ke@h/x",
    "abfss://lake@h h/x", "abfss://lake@[::1]/x", "abfss://@h/x", "abfss://lake/x", "abfss:/lake@h/x",
    "abfss://lake@h/x\nGO", "var/lake\n", "abfss://lake@h?x", "",
])  # fmt: skip
def test_a_lake_at_an_odd_host_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        LakeSettings(path=path)


@pytest.mark.parametrize("path", [
    "var/lake", "/srv/lac d'été", "abfss://lake@account.dfs.core.windows.net", "abfss://$web@a.dfs.core.windows.net/a",
    "abfss://lake@127.0.0.1:10000/devstoreaccount1/x", "abfss://Work_space@onelake.dfs.fabric.microsoft.com/Lake.Lakehouse",
])  # fmt: skip
def test_an_ordinary_place_of_a_lake_stays_as_it_is(path: str) -> None:
    assert LakeSettings(path=path).path == path
