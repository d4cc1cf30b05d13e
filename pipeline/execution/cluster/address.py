"""Finds a Ray cluster by its address and checks, within seconds, that it answers.

`ray.init` waits for minutes for a cluster that does not answer, and hears no signal meanwhile.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
from ray._private import services
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from tirazh.errors import RequestError
from tirazh.pipeline.execution.cluster.token import ClusterToken, find_token, rejection

ANSWER_TIMEOUT_S = 30.0
_CLIENT_SCHEME = "ray://"
_LOCAL = "local"
_POLL_S = 0.2


def is_cluster(address: str | None) -> bool:
    """Whether --address or RAY_ADDRESS names a cluster; otherwise Ray is started on this machine."""
    return (address or os.environ.get("RAY_ADDRESS") or _LOCAL) != _LOCAL


def check_answers(address: str | None) -> str:
    """Return `host:port` of the cluster that `--address` or RAY_ADDRESS names.

    Raises RequestError within about ten seconds if nothing answers there, or if the cluster rejects
    the token. Signals are handled meanwhile.
    """
    shown, is_auto, host, port = locate(address)
    token = find_token(is_auto=is_auto)
    problem = _within(ANSWER_TIMEOUT_S, lambda: _connect(host, port) or _ask(address, shown, host, port, token))
    if problem is not None:
        raise RequestError(
            problem if problem.startswith("the cluster") else f"no Ray cluster answers at {shown}: {problem}"
        )
    return f"{host}:{port}"


def locate(address: str | None) -> tuple[str, bool, str, int]:
    """Return the address as it is shown to the user, whether it is `auto`, and its host and port.

    Raises RequestError for an address of another form, or if no cluster runs on this machine
    (`auto`).
    """
    named = os.environ.get("RAY_ADDRESS") if address in (None, "", "auto") else address
    if named and named.startswith(("http://", "https://")):
        raise RequestError(
            f"--address {named} is the job server of a cluster: submit the job with `tirazh submit`, or give the "
            "address of the cluster (host:6379, or auto on one of its machines)"
        )
    is_auto = named in (None, "", "auto")
    found = _find_here() if is_auto else str(named).removeprefix(_CLIENT_SCHEME)
    host, _, port = found.rpartition(":")
    if not host and not is_auto and str(named).startswith(_CLIENT_SCHEME):
        host, port = port, "10001"
    if not host or not port.isdecimal():
        raise RequestError(f"--address {named} must be host:port, or auto on one of the cluster's machines")
    return found if is_auto else str(named), is_auto, host.strip("[]"), int(port)


def _find_here() -> str:
    try:
        found = services.canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError):
        found = None
    if not found:
        raise RequestError(
            "--address auto: no Ray cluster runs on this machine; start one with `ray start`, or give its address "
            "(host:6379)"
        )
    return str(found)


def _connect(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S).close()
    except OSError as error:
        return str(getattr(error, "strerror", None) or error).lower() or type(error).__name__
    return None


def _ask(address: str | None, shown: str, host: str, port: int, token: ClusterToken) -> str | None:
    """Ask the cluster for its id, as `ray.init` does first. Returns a sentence if it refuses."""
    if str(address).startswith(_CLIENT_SCHEME) or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None  # another protocol: `ray.init` asks
    headers = [("authorization", f"Bearer {token.value}")] if token.is_sent else []
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", options=options) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            # Without a timeout, of which grpc would make a time of the wall clock: `_within` limits the call.
            stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), metadata=headers)
        except grpc.RpcError as error:
            return _refusal(error, shown, token)
    return None


def _refusal(error: Any, shown: str, token: ClusterToken) -> str | None:
    code = error.code()
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return rejection(shown, token)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
        return "what answers there is not the head of a Ray cluster (its port is 6379 by default)"
    return None


def _within(limit_s: float, ask: Callable[[], str | None]) -> str | None:
    """Call `ask` in a thread, so that this one still handles signals. Returns its answer, or raises its exception."""
    answer: Future[str | None] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            answer.set_exception(error)

    thread = threading.Thread(target=run, name="tirazh-address", daemon=True)
    thread.start()
    waited = 0.0
    while thread.is_alive() and waited < limit_s:
        thread.join(_POLL_S)
        waited += _POLL_S
    return answer.result() if answer.done() else f"no answer within {limit_s:.0f} s"
