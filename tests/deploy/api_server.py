"""A server that tells kubectl which kinds a cluster has, so that `kubectl apply --dry-run=client` runs offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

_KINDS = {
    "api/v1": ("PersistentVolumeClaim", "ConfigMap", "Secret"),
    "apis/batch/v1": ("CronJob", "Job"),
    "apis/ray.io/v1": ("RayJob", "RayCronJob", "RayCluster"),
}


@contextmanager
def api_server() -> Iterator[str]:
    """Serve the lists of kinds of Kubernetes and KubeRay on a free local port. Yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = _answer(self.path.split("?")[0].strip("/"))
        body = json.dumps(answer or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no log."""


def _answer(path: str) -> dict[str, Any] | None:
    """Return the document at a path of the API, or None. No object exists yet."""
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group("batch"), _group("ray.io")]}
    if path in _KINDS:
        resources = [_resource(kind) for kind in _KINDS[path]]
        version = path.removeprefix("apis/").removeprefix("api/")
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    return None


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource(kind: str) -> dict[str, Any]:
    verbs = ["create", "get", "list", "patch"]
    return {"name": f"{kind.lower()}s", "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
