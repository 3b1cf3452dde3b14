"""The board's process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

    from many_models.settings import BoardSettings


def build_server(app: FastAPI, board: BoardSettings) -> uvicorn.Server:
    """The server of `app`, not started."""
    logging.getLogger("many_models").setLevel(logging.INFO)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=board.host,
            port=board.port,
            ws="none",
            server_header=False,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
        )
    )


def run(app: FastAPI, board: BoardSettings) -> None:
    """Serve until a signal."""
    print(f"the board is at {board.url or f'http://{board.host}:{board.port}'}", flush=True)  # noqa: T201  for people
    build_server(app, board).run()
