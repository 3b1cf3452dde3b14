"""`[forecast.custom]` names code: only what makes forecasters is called, and only from a folder of the user's own."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from many_models.errors import SettingsError
from many_models.forecasting import Spec
from many_models.forecasting.custom import parent
from many_models.forecasting.custom.folder import require_own
from many_models.forecasting.custom.parent import check_custom
from many_models.forecasting.spec import Custom

if TYPE_CHECKING:
    from pathlib import Path

MINE = "many_models_tests.forecasting.mine"


def spec_of(use: str, options: dict[str, object] | None = None, folder: str = "") -> Spec:
    return Spec("D", 7, custom=(Custom("mine", use, json.dumps(options or {})),), folder=folder)


def test_what_makes_no_forecaster_is_not_called(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    calls: dict[str, dict[str, object]] = {
        "subprocess:check_output": {"args": ["touch", str(mark)]},
        "subprocess:Popen": {"args": ["touch", str(mark)]},
        "subprocess:run": {"args": ["touch", str(mark)]},
        "os:system": {"command": f"touch {mark}"},
        "os:mkdir": {"path": str(mark)},
        "shutil:copyfile": {"src": __file__, "dst": str(mark)},
        "pathlib:Path.touch": {"self": str(mark)},
        "builtins:open": {"file": str(mark), "mode": "w"},
        "logging:FileHandler": {"filename": str(mark)},
        "functools:partial": {},
        "os:environ": {},
    }
    for use, options in calls.items():
        with pytest.raises(SettingsError, match=f"{use} (has no|is not called|is neither|does not say)"):
            check_custom(spec_of(use, options))
        assert not mark.exists(), use


@pytest.mark.slow
def test_a_function_has_to_say_which_forecaster_it_makes(tmp_path: Path) -> None:
    (tmp_path / "makers.py").write_text(
        f"from {MINE} import WeekdayMeans\n"
        "def silent(): return WeekdayMeans()\n"
        "def says() -> WeekdayMeans: return WeekdayMeans()\n"
        "def lies() -> WeekdayMeans: return object()\n"
        "def wrong() -> int: return WeekdayMeans()\n"
    )
    check_custom(spec_of("makers:says", folder=str(tmp_path)))
    for name, says in (("silent", "name a class, or a function"), ("lies", "something else"), ("wrong", "has no fit")):
        with pytest.raises(SettingsError, match=says):
            check_custom(spec_of(f"makers:{name}", folder=str(tmp_path)))


@pytest.mark.parametrize("what", ["the folder", "the module", "the package", "a file of the package", "above"])
def test_a_folder_that_others_may_write_is_refused_before_its_code_runs(tmp_path: Path, what: str) -> None:
    above = tmp_path / "above"
    folder = above / "project"
    (folder / "pack").mkdir(parents=True)
    mark, code = tmp_path / "mark", f"from {MINE} import WeekdayMeans\n"
    (folder / "single.py").write_text(f"open({str(mark)!r}, 'w')\n{code}")
    (folder / "pack" / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n{code}")
    for path in (above, folder, folder / "pack", folder / "single.py", folder / "pack" / "__init__.py"):
        path.chmod(0o755)
    use = "pack:WeekdayMeans" if "package" in what else "single:WeekdayMeans"
    spoilt = {"the folder": folder, "the module": folder / "single.py", "the package": folder / "pack",
              "a file of the package": folder / "pack" / "__init__.py", "above": above}[what]  # fmt: skip
    require_own(str(folder), [use])
    spoilt.chmod(0o777)
    with pytest.raises(SettingsError, match=f"everybody may (write|replace what is in) {spoilt}"):
        check_custom(spec_of(use, folder=str(folder)))
    assert not mark.exists()


def test_a_group_of_others_may_not_write_and_a_sticky_folder_above_is_fine(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "project"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o1777)  # as /tmp is
    folder.chmod(0o775)
    if folder.stat().st_gid == os.geteuid():
        require_own(str(folder), [])  # the user's own group
    others = [group for group in os.getgroups() if group != os.geteuid()] or ([65_534] if os.geteuid() == 0 else [])
    for group in others[:1]:
        os.chown(folder, -1, group)
        folder.chmod(0o775)
        with pytest.raises(SettingsError, match=f"group {group} may write"):
            require_own(str(folder), [])
    folder.chmod(0o755)
    require_own(str(folder), [])


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = 65_534
    if os.geteuid() == 0:
        os.chown(tmp_path, owner, -1)
    else:  # who cannot give a folder away becomes somebody else
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SettingsError, match=f"user {owner} may"):
        require_own(str(tmp_path), [])


@pytest.mark.parametrize(
    ("past", "given", "expected"),
    [
        ([0, 0, 1, 0, 1], [1, np.nan, np.nan], [1, 0, 0]),
        ([2, 2, 2, 2, 1], [np.nan, 3, np.nan], [2, 3, 3]),
        (["a", "b", "a", "b", "a", "b", "b"], [None, "a", None], ["b", "a", "b"]),
        ([np.nan, np.nan], [np.nan], [np.nan]),
    ],
)
def test_known_values_to_come_that_are_missing_are_taken_as_usual(past: list, given: list, expected: list):
    number = not isinstance(past[0], str)
    kind = float if number else object
    found = parent._ahead(np.array([past], kind), np.array([given], kind), number=number)
    np.testing.assert_array_equal(found, np.array([expected], kind))
