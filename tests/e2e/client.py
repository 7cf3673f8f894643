"""The API as any client sees it: HTTPS, JSON and a kubeconfig, sharing no code with the server or the CLI."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

Object = dict[str, Any]
DOMAINS = "/apis/domctl.io/v1/namespaces/default/domains"
NODES = "/apis/domctl.io/v1/nodes"
MIGRATIONS = "/apis/domctl.io/v1/namespaces/default/migrations"
EVENTS = "/api/v1/namespaces/default/events"


class ApiError(Exception):
    """The server answered with a Status; `code` is HTTP's."""

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('reason')}: {status.get('message')}")
        self.code = code
        self.status = status


class Api:
    """One request, one connection: nothing is remembered over the server's death."""

    def __init__(self, kubeconfig: Path, timeout_s: float = 10.0) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = urlsplit(cluster["server"]).netloc
        self._timeout_s = timeout_s
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile(prefix="domctl-test-") as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(b"\n" + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._context.load_cert_chain(pair.name)

    def request(self, method: str, path: str, body: object = None, content_type: str = "") -> Any:
        """The decoded answer, or text where it is not JSON. Raises ApiError, OSError."""
        with self._asked(method, path, body, content_type) as reply:
            text = reply.read().decode()
            is_json = "json" in reply.getheader("Content-Type", "")
            answer = json.loads(text) if is_json else text
            if reply.status >= 400:
                raise ApiError(reply.status, answer if isinstance(answer, dict) else {"message": text})
            return answer

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def create(self, path: str, body: Object) -> Object:
        return dict(self.request("POST", path, body))

    def merge(self, path: str, patch: Object) -> Object:
        return dict(self.request("PATCH", path, patch, "application/merge-patch+json"))

    def delete(self, path: str) -> Object:
        return dict(self.request("DELETE", path))

    def watch(self, path: str, resource_version: str, timeout_s: float) -> Iterator[Object]:
        """Events from `resource_version` on; ends when the server ends it, or raises TimeoutError when
        nothing comes for `timeout_s`."""
        joint = "&" if "?" in path else "?"
        asked = f"{path}{joint}watch=true&resourceVersion={resource_version}"
        with self._asked("GET", asked, None, "", timeout_s) as reply:
            if reply.status >= 400:
                raise ApiError(reply.status, json.loads(reply.read()))
            while line := reply.readline():
                yield json.loads(line)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as it is written there."""
        found = {}
        for line in str(self.get("/metrics")).splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def _asked(
        self, method: str, path: str, body: object, content_type: str, timeout_s: float | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(
            self._host, timeout=timeout_s or self._timeout_s, context=self._context
        )
        headers = {"Accept": "application/json", "Connection": "close"}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
            data = json.dumps(body).encode()
        connection.request(method, path, data, headers)
        return connection.getresponse()


def condition(thing: Object, kind: str) -> Object:
    """One condition of an object; empty if there is none."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def is_ready(thing: Object) -> bool:
    """Ready, as of the spec that stands now."""
    ready = condition(thing, "Ready")
    generation = thing["metadata"].get("generation")
    return ready.get("status") == "True" and thing["status"].get("observedGeneration") == generation


def reason(thing: Object) -> str:
    """Why it is as it is, as `domctl get` shows it."""
    return str(thing.get("status", {}).get("reason") or condition(thing, "Ready").get("reason", ""))
