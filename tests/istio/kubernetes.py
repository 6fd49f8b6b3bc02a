"""An empty Kubernetes: as much of its API as istiod reads before it serves what is in files."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Type
from urllib.parse import parse_qs, urlsplit

Json = Dict[str, Any]


class Kubernetes:
    """Lists of every kind are empty, and watches stay open without an event."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def kubeconfig(self, folder: Path) -> Path:
        """The path of a kubeconfig that leads here."""
        path = folder / "kubeconfig"
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }))
        return path

    def _handler(self) -> Type[BaseHTTPRequestHandler]:
        ended = self._ended

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                if query.get("watch") in (["true"], ["1"]):
                    if "sendInitialEvents" in query:
                        # Clients list then.
                        self._send(422, {"kind": "Status", "status": "Failure", "code": 422,
                                         "reason": "Invalid", "message": "no streaming lists"})
                        return
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    ended.wait()
                elif url.path == "/version":
                    self._send(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
                elif url.path == "/api":
                    self._send(200, {"kind": "APIVersions", "versions": ["v1"]})
                elif url.path == "/apis":
                    self._send(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
                elif url.path == "/api/v1":
                    self._send(200, {"kind": "APIResourceList", "groupVersion": "v1",
                                     "resources": []})
                else:
                    kind = "PartialObjectMetadataList" if "PartialObject" in self.headers.get(
                        "accept", "") else "List"
                    version = "meta.k8s.io/v1" if kind != "List" else "v1"
                    self._send(200, {"kind": kind, "apiVersion": version,
                                     "metadata": {"resourceVersion": "1"}, "items": []})

            def _send(self, status: int, value: Json) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self._send(403, {"kind": "Status", "status": "Failure", "code": 403,
                                 "reason": "Forbidden", "message": "nothing can be written"})

            do_PUT = do_PATCH = do_DELETE = do_POST

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def close(self) -> None:
        """Ends the watches, and the server."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
