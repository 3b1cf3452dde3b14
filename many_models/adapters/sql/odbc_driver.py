"""Microsoft's ODBC driver for SQL Server, where the wheel mssql-python-odbc brings it and the system has none."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

FAMILIES = {
    "debian": "debian_ubuntu",
    "ubuntu": "debian_ubuntu",
    "rhel": "rhel",
    "fedora": "rhel",
    "suse": "suse",
    "sles": "suse",
    "alpine": "alpine",
}


def bundled_driver() -> str | None:
    """The path of the driver in the installed wheel for this system; None where there is none."""
    spec = find_spec("mssql_python_odbc")
    family = _family()
    if spec is None or not spec.submodule_search_locations or family is None:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "libs" / "linux" / family
    found = sorted((folder / platform.machine().replace("aarch64", "arm64") / "lib").glob("libmsodbcsql-*"))
    return str(found[-1]) if found else None


def _family() -> str | None:
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        return None
    names = [about.get("ID", ""), *about.get("ID_LIKE", "").split()]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)
