"""The viewer's web server: this machine only, a secret in the address, read-only, no path from outside."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import threading
import webbrowser
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from regista.core import FormatError, RegistaError

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load: this server's own files, and the pictures written into its script."""
_PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
}
_TICKET = "open-"
_API = re.compile(r"api/runs/(\d{1,6})(?:/(at|landmarks|grid\.tck|[a-z]+(?:-[a-z0-9]+(?:\.\d+)?)?\.nii))?\Z")
_CHECKER = re.compile(r"checker-(?:[1-9]\d{0,3}|0\.\d{0,2}[1-9])\Z")


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class ViewerServer:
    """Serve runs to a browser on this machine.

    Nothing of a request reaches the file system: files of the page are named by a table, runs by their number.

    Parameters
    ----------
    runs : mapping of str to callable
        What the list shows of each run, and what returns its `ViewerRun`; asked for when first looked at.
    port : int
        Port to listen on; 0 takes a free one.
    opened : ViewerRun, optional
        The first of the runs, where it has been read.

    Raises
    ------
    FormatError
        If the port is taken or not for you.
    """

    def __init__(self, runs: Mapping[str, Callable[[], Any]], port: int = 0, *, opened: Any = None) -> None:
        self.names = list(runs)
        self.token = secrets.token_urlsafe(24)
        self._ticket = ""
        self._load = list(runs.values())
        self._opened: dict[int, Any] = {} if opened is None else {0: opened}
        self._busy = threading.RLock()
        try:
            self._http = _Server((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise FormatError(
                f"port {port} cannot be used ({getattr(error, 'strerror', None) or error}): leave --port out for a "
                "free one"
            ) from None
        self._http.viewer = self

    @property
    def port(self) -> int:
        """Port that is listened on."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page, the secret in it."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def serve(self, *, browser: bool = False) -> None:
        """Answer requests until `close` is called, from another thread, or Ctrl-C is pressed."""
        if browser:
            # other users see what programs are started with: what stands there opens the page once
            self._ticket = secrets.token_urlsafe(24)
            address = f"http://{HOST}:{self.port}/{_TICKET}{self._ticket}"
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        self._http.serve_forever(poll_interval=0.2)

    def take_ticket(self, path: str) -> bool:
        """Tell whether this address opens the page; it does so once."""
        given, own = path.encode("utf-8", "surrogateescape"), f"/{_TICKET}{self._ticket}".encode()
        good = bool(self._ticket) and hmac.compare_digest(given, own)
        if good:
            self._ticket = ""
        return good

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()

    def release(self) -> None:
        """Give the port back once `serve` has ended."""
        self._http.server_close()

    def _run(self, number: int) -> Any:
        if number >= len(self._load):
            raise Refused(HTTPStatus.NOT_FOUND, "no such run")
        if number not in self._opened:
            while len(self._opened) > 1:  # two runs in memory at most
                self._opened.pop(next(iter(self._opened)))
            self._opened[number] = self._load[number]()
        return self._opened[number]

    def answer(self, path: str, query: str) -> tuple[str, bytes]:
        """Return the type and the content of what lies at a path below the secret.

        Raises
        ------
        Refused
            If there is nothing.
        """
        if path in _PAGE:
            name, kind = _PAGE[path]
            return kind, files("regista.reporting").joinpath("viewer", name).read_bytes()
        if path == "api/runs":
            return _json([{"id": n, "name": name} for n, name in enumerate(self.names)])
        match = _API.match(path)
        if match is None:
            raise Refused(HTTPStatus.NOT_FOUND, "nothing here")
        with self._busy:  # images are read once, and kernels are not called by two threads
            try:
                return self._of_run(self._run(int(match[1])), match[2], query)
            except RegistaError as error:
                raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
            except MemoryError:
                raise Refused(
                    HTTPStatus.UNPROCESSABLE_ENTITY, "out of memory: close other programs"
                ) from None

    def _of_run(self, run: Any, what: str | None, query: str) -> tuple[str, bytes]:
        if what is None:
            return _json(run.details())
        if what == "landmarks":
            return _json(run.landmark_pairs())
        if what == "at":
            return _json(run.at(*_place(query)))
        if what == "grid.tck":
            return "application/octet-stream", run.grid_lines()
        name = what.removesuffix(".nii")
        if name.startswith("checker-") and not _CHECKER.match(name):
            raise Refused(HTTPStatus.NOT_FOUND, "no such volume")
        try:
            return "application/octet-stream", run.volume(name)
        except KeyError:
            raise Refused(HTTPStatus.NOT_FOUND, "no such volume") from None


def _json(content: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(content, allow_nan=False).encode()


def _place(query: str) -> tuple[list[float], str]:
    """Return the position and the space that a query asks for."""
    space = "fixed"
    try:
        asked = parse_qs(query, max_num_fields=8)
        space = asked.get("space", [space])[0]
        point = [float(asked[axis][0]) for axis in "xyz"]
    except (KeyError, ValueError):
        point = []
    if space not in ("fixed", "moving") or len(point) != 3 or not all(abs(v) < 1e6 for v in point):
        raise Refused(HTTPStatus.BAD_REQUEST, "expected x, y and z in mm, and space=fixed or space=moving")
    return point, space


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False
    viewer: ViewerServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a request broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "regista", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def _not_allowed(self) -> None:
        self.close_connection = True  # what follows may be the body that nobody reads
        self._send(
            HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", b"read only\n", {"Allow": "GET, HEAD"}
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # any other method, also those that nobody has thought of
            return self._not_allowed
        raise AttributeError(name)

    def _respond(self) -> None:
        status, more = HTTPStatus.OK, {}
        try:
            self._check_sender()
            if self.server.viewer.take_ticket(self.path):
                status, kind, content = HTTPStatus.FOUND, "text/plain; charset=utf-8", b""
                more = {"Location": f"/{self.server.viewer.token}/"}
            else:
                kind, content = self._content()
        except Refused as refusal:
            status, kind, content = refusal.status, "text/plain; charset=utf-8", f"{refusal}\n".encode()
        except Exception:
            _log.exception("the viewer could not answer a request")
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
            content = b"a bug in Regista: see the terminal\n"
        self._send(status, kind, content, more)

    def _content(self) -> tuple[str, bytes]:
        try:
            address = urlsplit(self.path)
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "this is no address") from None
        token, slash, path = address.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(
            token.encode("utf-8", "surrogateescape"), self.server.viewer.token.encode()
        ):
            raise Refused(HTTPStatus.FORBIDDEN, "open the address that regista view printed")
        if not slash:
            raise Refused(HTTPStatus.NOT_FOUND, "the address ends with /")
        return self.server.viewer.answer(path, address.query)

    def _check_sender(self) -> None:
        """Refuse pages of other sites, under whatever name they reach this machine (DNS rebinding)."""
        own = [f"{name}:{self.server.viewer.port}" for name in (HOST, "localhost")]
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in own:
            raise Refused(HTTPStatus.FORBIDDEN, "this server answers to its own address only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{name}" for name in own]:
            raise Refused(HTTPStatus.FORBIDDEN, "pages of other sites get no answer")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(HTTPStatus.FORBIDDEN, "pages of other sites get no answer")

    def _send(self, status: HTTPStatus, kind: str, content: bytes, more: Mapping[str, str]) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **more,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the secret out of the terminal and its logs."""
