"""Dagster's daemon with short pauses: it looks at sensors, backfills and runs every two seconds, not every 5 to 30.

python -m many_models_tests.support.quick_daemon run -w workspace.yaml
"""

from __future__ import annotations

from dagster._core.remote_representation.external import RemoteSensor
from dagster._daemon import controller, sensor
from dagster._daemon.cli import main

SECONDS = 2


def shorten_pauses() -> None:
    """Have the daemon of this process look that often, also at sensors that ask for a longer interval."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS  # the backfills'
    sensor.MIN_INTERVAL_LOOP_TIME = SECONDS
    RemoteSensor.min_interval_seconds = property(lambda _: SECONDS)


if __name__ == "__main__":
    shorten_pauses()
    main()
