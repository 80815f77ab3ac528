"""Where connections are opened to, found once before a load: names cost time in its loop."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

_PROBE_S = 2.0  # for an address to say whether anybody listens there


def listening(host: str, port: int) -> tuple[tuple[int, int, int], Any]:
    """The kind of socket and the address to open: of several, the first where somebody listens.

    `localhost` is ::1 and 127.0.0.1, and a server listens on one of them mostly.
    """
    found = [
        ((int(family), int(kind), protocol), address)
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
    ]
    for kinds, address in found if len(found) > 1 else ():
        with contextlib.suppress(OSError), socket.socket(*kinds) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(address)
            return kinds, address
    return found[0]
