"""Ports of loopback for servers that cannot be told to take a free one by themselves."""

from __future__ import annotations

import random
import socket

LEAST, MOST = 20_000, 32_000  # below those that the kernel hands out
_chance = random.SystemRandom()


def free_port() -> int:
    """A port on which no process listens.

    A server takes seconds to start. One of the kernel's own choice could by then be the port of somebody who asked the
    kernel, too, as every test server on port 0 and every socket of Spark's does; and a server that is stopped and
    started again would find its port taken.
    """
    while True:
        port = _chance.randint(LEAST, MOST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
