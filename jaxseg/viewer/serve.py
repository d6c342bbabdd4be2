"""The viewer's server: this machine only, a secret in the address, nothing but what is shown."""

import json
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jaxseg.errors import TrainingFailed, UserError
from jaxseg.viewer.pictures import (
    Gallery,
    describe_gallery,
    describe_prediction,
    describe_scan,
    layer,
    nifti,
    plane_bytes,
)
from jaxseg.viewer.review import lesions, preview

HOST = "127.0.0.1"
_PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_SCRIPTS = (
    *("viewer.js", "state.js", "controls.js", "patient.js", "moves.js", "pictures.js"),
    *("list.js", "planes.js", "layers.js", "draw.js", "readout.js", "space.js"),
    *("regions.js", "threshold.js", "lesions.js", "tools.js", "save.js"),
)
_FILES = (*_SCRIPTS, "viewer.css", "icon.svg")
_LAYER = "image-[0-9]{1,2}|truth|prediction|probability-[0-9]{1,2}"
_DESCRIPTION = re.compile("patient/([0-9]{1,6})/(scan|prediction).json")
_PLANE = re.compile(f"patient/([0-9]{{1,6}})/({_LAYER})/([012])/([0-9]{{1,6}})")
_LESIONS = re.compile("patient/([0-9]{1,6})/lesions-([0-9]{1,2}).json")
_PREVIEW = re.compile("patient/([0-9]{1,6})/preview-([0-9]{1,2})/([0-9]{1,2}).json")
_VOLUME = re.compile(f"patient/([0-9]{{1,6}})/({_LAYER}).nii.gz")
_POLICY = (
    "default-src 'none'; script-src 'self'{wasm}; style-src 'self'; img-src 'self'{blob}; "
    "connect-src 'self'{blob}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Answer = tuple[str, bytes]  # content type and body


def answer(gallery: Gallery, niivue: Path | None, path: str) -> Answer:
    """Return what the page asks for.

    No path is ever looked up on the disk: what is not one of the few forms below is not there.

    Args:
        gallery: what is shown.
        niivue: the user's copy of NiiVue; None: no 3D rendering.
        path: of the address, without the token.

    Raises:
        LookupError: there is no such thing.
    """
    if path == "":
        return _file(_PAGE / "index.html")
    if path in _FILES:
        return _file(_PAGE / path)
    if path == "patients.json":
        return _json(describe_gallery(gallery, niivue is not None))
    if found := _DESCRIPTION.fullmatch(path):
        patient = _patient(gallery, found[1])
        if found[2] == "scan":
            return _json(describe_scan(gallery.scan(patient)))
        return _json(describe_prediction(gallery.predict(patient)))
    if found := _PLANE.fullmatch(path):
        volume = layer(gallery, _patient(gallery, found[1]), found[2])
        plane = plane_bytes(volume, int(found[3]), int(found[4]))
        return "application/octet-stream", plane
    if found := _LESIONS.fullmatch(path):
        return _json(lesions(gallery, _patient(gallery, found[1]), int(found[2])))
    if found := _PREVIEW.fullmatch(path):
        asked = (int(number) for number in found.groups()[1:])
        return _json(preview(gallery, _patient(gallery, found[1]), *asked))
    if niivue and path == "niivue.js":
        return _file(niivue)
    if niivue and (found := _VOLUME.fullmatch(path)):
        patient = _patient(gallery, found[1])
        volume = layer(gallery, patient, found[2])
        return "application/gzip", nifti(gallery.scan(patient), found[2], volume)
    raise LookupError(path)


def make_server(gallery: Gallery, port: int, niivue: Path | None = None) -> ThreadingHTTPServer:
    """Return a server bound to this machine only; `address(server)` says where.

    Args:
        gallery: what to show.
        port: 0: any that is free.
        niivue: the user's copy of NiiVue; None: no 3D rendering.

    Raises:
        UserError: the port cannot be used.
    """
    handler = type("Handler", (_Handler,), {"gallery": gallery, "niivue": niivue})
    try:
        server = _Server((HOST, port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no port number"
        raise UserError(f"--port {port}: cannot be used ({reason}); try another") from error
    server.token = secrets.token_urlsafe(24)
    return server


def address(server: ThreadingHTTPServer) -> str:
    """Return the address to open; who has it sees the scans."""
    return f"http://{HOST}:{server.server_port}/{server.token}/"


class _Server(ThreadingHTTPServer):
    token: str
    daemon_threads = True  # a page left open must not keep the program alive

    def handle_error(self, request, client_address):
        """Report an error, but not a page that was closed while it was served."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    gallery: Gallery
    niivue: Path | None
    protocol_version = "HTTP/1.1"  # one connection for many slices
    server_version, sys_version = "jaxseg", ""
    timeout = 300  # seconds until an idle connection is closed

    def do_GET(self):
        """Answer a request that names this machine and the token, refuse all others."""
        _, _, rest = self.path.partition("/")
        token, slash, path = rest.partition("/")
        hosts = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this address is not served here")
        elif not secrets.compare_digest(token.encode("latin-1"), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"open the address that jaxseg printed")
        else:
            self._answer(path if slash else "/")

    def _answer(self, path: str):
        try:
            kind, body = answer(self.gallery, self.niivue, path)
        except LookupError:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found")
        except (UserError, TrainingFailed) as error:
            message = str(error).encode()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", message)
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        """Forbid the page all but this server, and others to read, embed or keep it."""
        extra = {"wasm": " 'wasm-unsafe-eval'", "blob": " blob: data:"}
        policy = _POLICY.format(**{k: v if self.niivue else "" for k, v in extra.items()})
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_):
        """Keep the terminal free of a line per slice, and of the token."""


def _file(path: Path) -> Answer:
    return f"{_TYPES[path.suffix]}; charset=utf-8", path.read_bytes()


def _json(value: dict) -> Answer:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _patient(gallery: Gallery, number: str) -> int:
    if int(number) >= len(gallery.rows):
        raise LookupError(number)
    return int(number)
