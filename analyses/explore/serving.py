"""How is a site looked at without opening it from disk? Over HTTP, by this machine alone."""

import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_HOSTS = ("127.0.0.1", "localhost")


def serve_site(folder: Path, tell: Callable[[str], None], port: int = 0) -> None:
    """Serve a folder on the loopback address until the process ends; `tell` gets the address."""
    with site_server(folder, port) as server:
        tell(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


def site_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """The server, not yet running; a `port` of 0 is any that is free."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))


class _Handler(SimpleHTTPRequestHandler):
    """Files, and parts of them, without which a browser cannot seek in a clip."""

    _rest: int | None = None

    def send_head(self) -> Any:
        """Refuse other hosts' names, by which pages elsewhere could read what is served."""
        host = self.headers.get("Host", "").partition(":")[0]
        if host not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        requested = _RANGE.fullmatch(self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if requested is None or not path.is_file():
            return super().send_head()
        size, first = path.stat().st_size, int(requested[1])
        last = min(int(requested[2]) if requested[2] else size - 1, size - 1)
        if first > last:
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return None
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        file = path.open("rb")
        file.seek(first)
        self._rest = last - first + 1
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """The part that was requested, or all."""
        if self._rest is None:
            super().copyfile(source, outputfile)
            return
        outputfile.write(source.read(self._rest))
        self._rest = None

    def end_headers(self) -> None:
        """Say that parts can be had, and that nothing is to be kept."""
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the command's."""
