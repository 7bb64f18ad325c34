"""Ports of the loopback that nothing else takes between the choice and the use."""

import random
import socket

# Below the ports that the system gives to outgoing connections (from 32768 on), which may take a
# port at any moment.
_FIRST, _LAST = 15_000, 32_000
_CHANCE = random.SystemRandom()  # tests seed the usual one, and would choose the same ports


def free_port() -> int:
    """Returns a port on which nobody listens."""
    while True:
        port = _CHANCE.randrange(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
