"""Alerts without a daemon: at the end of a run, and a test message to each address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from many_models.definitions import RUNS
from many_models.orchestration import alerts, telemetry
from many_models.ports import Message
from many_models.wiring import build_messenger, build_telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg

    from many_models.ports import Lake, Messenger, ProductionRegistry, Warehouse
    from many_models.settings import Settings


def tell_people(settings: Settings, instance: dg.DagsterInstance, resources: Mapping[str, object]) -> list[str]:
    """Send the alerts that the sensor would send now, where the settings ask for any. Returns lines for the log.

    `resources` are the adapters by name. Whatever a messenger does, nothing is raised: a run is what its stages did.
    """
    if not settings.alerts.on:
        return []
    try:
        messenger = cast("Messenger", resources.get("messenger") or build_messenger(settings))
        lake, production = cast("Lake", resources["lake"]), cast("ProductionRegistry", resources["production"])
        asked = alerts.Asked(settings, instance, lake, production, cast("Warehouse", resources["warehouse"]))
        return alerts.tell(asked, messenger, datetime.now(UTC), settled=True)
    except Exception as error:  # noqa: BLE001  the outcome of the run must not depend on who could be told of it
        return [f"people were not told: {type(error).__name__}: {error}"]


def tell_operators(settings: Settings, instance: dg.DagsterInstance) -> list[str]:
    """Tell the collector of the runs that ended, where the settings name one. Returns lines for the log."""
    try:
        receiver = build_telemetry(settings, RUNS)
        if receiver is not None:
            telemetry.report(instance, receiver, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001  as above
        return [f"runs were not told: {type(error).__name__}: {error}"]
    return []


def send_test(settings: Settings, messenger: Messenger | None = None) -> dict[str, str]:
    """Send a test message to each address. Returns each address → why it was not taken, "" where it was.

    Raises SettingsError where there are no addresses, or one is wrong.
    """
    messenger = messenger or build_messenger(settings)
    page = settings.board.page_url("/")
    test = Message("many_models: test", f"This address gets the alerts of many_models. The board: {page}")
    names = messenger.addresses()
    refused = messenger.send({name: [test] for name in names})
    return {name: refused.get(name, "") for name in names}
