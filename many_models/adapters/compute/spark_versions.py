"""Which Spark, Databricks runtime, and Python go with which client, and what an error of a cluster means.

Rules (pages "Databricks Connect usage requirements" and the runtimes' release notes): the client is not newer than the
runtime, and functions that workers run need the runtime's Python minor version.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from many_models.errors import AccessError, InputError, ManyModelsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST = (3, 5)  # mapInArrow's barrier and a session's tags came with it
RUNTIME_PYTHON: Mapping[str, str] = {"14.3": "3.10", "15.4": "3.11", "16.4": "3.12", "17.3": "3.12"}  # LTS runtimes
STARTING = ("unexpected state Pending", "state=PENDING", "TEMPORARILY_UNAVAILABLE", "is in unexpected state Restarting")
QUOTA = ("QUOTA_EXCEEDED", "QuotaExceeded", "Cores quota", "CPU quota", "vCPU quota", "CoreQuota")
NO_RIGHT = ("INSUFFICIENT_PERMISSIONS", "PERMISSION_DENIED", "UNAUTHORIZED_ACCESS")
LACKING = re.compile(r"does not have (?P<right>[A-Z ]+?) on (?P<what>\w+)(?: '(?P<name>[^']+)')?")


def require_spark(client: str, server: str, place: str) -> None:
    """Raise InputError where the server's Spark at `place` is too old, or older than the client."""
    if _two(server) < OLDEST:
        raise InputError(f"Spark {server} at {place} is too old: it needs Spark {'.'.join(map(str, OLDEST))} or newer")
    if _two(client) > _two(server):
        major, minor = _two(server)
        raise InputError(
            f"the Spark at {place} is {server}, and this client is pyspark {client}: a client must not be newer than "
            f"its server; pip install 'pyspark[connect]=={major}.{minor}.*'"
        )


def require_runtime(client: str, runtime: str, python: str) -> None:
    """Raise InputError where databricks-connect `client` is newer than the `runtime` (such as 15.4.x-scala2.12), or
    this process's `python` is not the runtime's.
    """
    major, minor = _two(runtime)
    short = f"{major}.{minor}"
    if _two(client) > (major, minor):
        raise InputError(
            f"the cluster runs Databricks runtime {short}, and this client is databricks-connect {client}: a client "
            f"must not be newer than the runtime; install 'databricks-connect=={short}.*' as docs/spark.md says"
        )
    wanted = RUNTIME_PYTHON.get(short, "")
    if wanted and wanted != ".".join(python.split(".")[:2]):
        raise InputError(
            f"Databricks runtime {short} has Python {wanted}, and this process runs {python}: "
            + (
                f"uv venv --python {wanted}, and install many_models there"
                if _two(wanted) >= (3, 11)
                else "many_models needs Python 3.11 or newer; choose runtime 15.4 LTS or newer for the cluster"
            )
        )


def cluster_trouble(text: str) -> ManyModelsError | None:
    """What a cluster's error `text` means where a person can do something about it; None where it is another one."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
    if any(words in text for words in QUOTA):
        return UnavailableError(
            f"the cluster cannot grow, the subscription's quota of cores is used up: {line} Ask for more quota, or "
            "choose a smaller cluster or another size of machine; then run it again"
        )
    if any(words in text for words in NO_RIGHT):
        return AccessError(f"the cluster may not read what it needs: {line} {_grant(text)}")
    if any(words in text for words in STARTING):
        return UnavailableError(f"the cluster is starting: {line} Run it again in some minutes")
    return None


def _grant(text: str) -> str:
    found = LACKING.search(text)
    if found is None:
        return "In Unity Catalog it needs USE CATALOG, USE SCHEMA and SELECT"
    name = found["name"] or "NAME"
    quoted = ".".join(f"`{part}`" for part in name.split("."))
    return f"An owner grants it: GRANT {found['right']} ON {found['what'].upper()} {quoted} TO `PRINCIPAL`"


def _two(version: str) -> tuple[int, int]:
    """Major and minor of a version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise InputError(f"{version!r} is not a version of Spark or of a Databricks runtime")
    return int(found[1]), int(found[2])
