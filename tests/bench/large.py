"""Every kind of request to a server with very many objects, and how long each keeps the loop from others.

`stalls` asks one after the other and tells for each what `tests.bench.served` saw. A stall is the longest
stretch that the loop's thread worked without coming back, by its processor time: the clock's own figure is
told beside it, and counts whatever else the machine does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import requests

from tests.apiserver import APPLY, DOMAINS, JSON_PATCH, MERGE, NODES, TABLE, V1, domain, node
from tests.bench.served import Served, reading

ALL = f"{V1}/domains"
PODS = "/api/v1/namespaces/default/pods"
GZIP = {"Accept-Encoding": "gzip"}
PLAIN = {"Accept-Encoding": "identity"}
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
INITIAL = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
Ask = Callable[[requests.Session, str], Any]


def get(path: str, **headers: str) -> Ask:
    sent = {k.replace("_", "-"): v for k, v in headers.items()}

    def ask(session: requests.Session, url: str) -> int:
        with session.get(url + path, headers=PLAIN | sent, stream=True) as reply:
            assert reply.status_code == 200, reply.text
            return reading(reply)

    return ask


def pages(path: str, limit: int) -> Ask:
    def ask(session: requests.Session, url: str) -> int:
        token, count = "", 0
        while True:
            reply = session.get(f"{url}{path}?limit={limit}&continue={token}", headers=PLAIN).json()
            count += len(reply["items"])
            if not (token := reply["metadata"].get("continue", "")):
                return count

    return ask


def initial(query: str = "", **headers: str) -> Ask:
    """A watch from its beginning to the bookmark that ends it."""

    def ask(session: requests.Session, url: str) -> int:
        with session.get(f"{url}{ALL}?{INITIAL}{query}", headers=PLAIN | headers, stream=True) as reply:
            for count, line in enumerate(reply.iter_lines(1 << 20)):
                if b'"BOOKMARK"' in line[:40]:
                    return count
        raise AssertionError("it ended before its bookmark")

    return ask


def send(method: str, path: str, body: Any = None, kind: str = "application/json") -> Ask:
    def ask(session: requests.Session, url: str) -> int:
        data = None if body is None else json.dumps(body)
        reply = session.request(method, url + path, data=data, headers={"Content-Type": kind})
        assert reply.status_code in {200, 201, 409}, reply.text
        return reply.status_code

    return ask


def pods(session: requests.Session, url: str, number: int) -> list[str]:
    """The names of so many, which nobody can know before."""
    found = session.get(f"{url}{PODS}?limit={number}", headers={"Accept": PARTIAL}).json()["items"]
    return [one["metadata"]["name"] for one in found]


def figures_of_one(session: requests.Session, url: str) -> int:
    (name,) = pods(session, url, 1)
    return int(get(f"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/{name}")(session, url))


def evict(number: int) -> Ask:
    """Evictions of pods one after the other, as drain asks for them: each is told to wait."""

    def ask(session: requests.Session, url: str) -> int:
        for name in pods(session, url, number):
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
            reply = session.post(f"{url}{PODS}/{name}/eviction", json=body)
            assert reply.status_code == 429, reply.text
        return number

    return ask


def put(path: str) -> Ask:
    def ask(session: requests.Session, url: str) -> int:
        body = session.get(url + path).json()
        body["metadata"]["labels"]["put"] = "1"
        reply = session.put(url + path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.status_code

    return ask


def review(kind: str, **spec: Any) -> Ask:
    path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    return send("POST", path, body)


RIGHT = {"verb": "list", "group": "domctl.io", "resource": "domains", "namespace": "team-a"}
LABELS = {"metadata": {"labels": {"merged": "1"}}}
ADDED = [{"op": "add", "path": "/metadata/labels/patched", "value": "1"}]
ASKED: dict[str, Ask] = {
    # First, for what it costs only once.
    "OpenAPI v3": get("/openapi/v3"),
    "OpenAPI v3 of domctl.io": get("/openapi/v3/apis/domctl.io/v1"),
    "OpenAPI v3 of the core": get("/openapi/v3/api/v1"),
    "OpenAPI v2": get("/openapi/v2"),
    "discovery": get("/apis"),
    "list": get(ALL),
    "list in one namespace": get(DOMAINS),
    "list as gzip": get(ALL, **GZIP),
    "list as Table": get(ALL, Accept=TABLE),
    "list of metadata": get(ALL, Accept=PARTIAL),
    "pages of 500": pages(ALL, 500),
    "pages of 20000": pages(ALL, 20_000),
    "list by label": get(f"{ALL}?labelSelector=app%3Da7"),
    "list by field": get(f"{ALL}?fieldSelector=status.node%3Dhv3"),
    "list that finds nothing": get(f"{ALL}?labelSelector=none%3Dsuch"),
    "list of pods": get("/api/v1/pods", Accept=TABLE),
    "list of assignments": get(f"{V1}/assignments"),
    "watch from the beginning": initial(),
    "watch as Table": initial(Accept=TABLE),
    "watch by label": initial("&labelSelector=app%3Da7"),
    "get": get(f"{DOMAINS}/d00077"),
    "metrics": get("/metrics"),
    "metrics as gzip": get("/metrics", **GZIP),
    "figures of nodes": get("/apis/metrics.k8s.io/v1beta1/nodes"),
    "figures of pods": get("/apis/metrics.k8s.io/v1beta1/pods"),
    "figures of one pod": figures_of_one,
    "namespaces": get("/api/v1/namespaces"),
    "create": send("POST", DOMAINS, domain("made")),
    "update": put(f"{DOMAINS}/d00078"),
    "merge-patch": send("PATCH", f"{DOMAINS}/d00079", LABELS, MERGE),
    "json-patch": send("PATCH", f"{DOMAINS}/d00080", ADDED, JSON_PATCH),
    "status": send("PATCH", f"{DOMAINS}/d00081/status", {"status": {"reason": "Bench"}}, MERGE),
    "may I": review("SelfSubjectAccessReview", resourceAttributes=RIGHT),
    "may somebody": review("SubjectAccessReview", user="ann", resourceAttributes=RIGHT),
    "what may I": review("SelfSubjectRulesReview", namespace="default"),
    "200 evictions": evict(200),
    "delete": send("DELETE", f"{DOMAINS}/d00082"),
    "apply": send("PATCH", f"{DOMAINS}/applied?fieldManager=bench", domain("applied"), APPLY),
    "delete a collection, dry": send("DELETE", f"{DOMAINS}?dryRun=All&labelSelector=app%3Da7"),
    "delete a node, dry": send("DELETE", f"{NODES}/hv3?dryRun=All"),
}


def stalls(served: Served, session: requests.Session) -> Iterator[tuple[str, dict[str, float]]]:
    for n in range(9):
        send("POST", NODES, node(f"hv{n}"))(session, served.url)
    served.told()
    for what, ask in ASKED.items():
        ask(session, served.url)
        yield what, served.told()
