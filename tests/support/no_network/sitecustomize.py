"""A process without network: Python imports this first where the folder is in PYTHONPATH.

No offline switch is set: whatever tried to connect is stopped here, and ends the process.
"""

import os
import socket
import sys
from typing import Any


def _refuse(address: Any) -> None:
    print(f"tried to reach {address}", file=sys.stderr)
    os._exit(3)


def _connect(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX:
        _refuse(address)


socket.socket.connect = socket.socket.connect_ex = _connect  # pyright: ignore
socket.getaddrinfo = lambda host, *rest, **options: _refuse(host)  # pyright: ignore
os.environ.pop("HF_HUB_OFFLINE", None)
