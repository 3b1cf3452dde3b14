"""A uvicorn server on a thread of this process, on a free port of loopback."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    import uvicorn

START_SECONDS = 60


@contextmanager
def running(server: uvicorn.Server) -> Generator[int]:
    """The port of the server, which is made with port 0 and ended with the block."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive()
