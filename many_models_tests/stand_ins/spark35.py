"""An environment with pyspark 3.5 before this one's packages: what Synapse's pools and Databricks' runtime 15.4 have.

It is made once, in a cache folder, by uv and the lock file beside this module.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

LOCK = Path(__file__).with_name("spark35.lock")


def python_of_spark35() -> Path:
    """The interpreter of the environment, which is made where it is missing."""
    told = f"{LOCK.read_text()}{sys.version}{sys.prefix}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "many_models_tests"
    home = cache / f"spark35-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "spark35.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (home / "made").exists():
            _make(home)
    return home / "bin/python"


def _make(home: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    command = [uv, "pip", "sync", "--quiet", "--python", home / "bin/python", "--require-hashes", LOCK]
    subprocess.run(command, check=True, timeout=600)
    (packages,) = (home / "lib").glob("python*/site-packages")
    root = Path(__file__).parents[2]
    (packages / "z_others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")  # after its own
    (home / "made").touch()
