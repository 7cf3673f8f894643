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

from tests.apiserver import APPLY, DOMAINS, NODES, TABLE, V1, domain, node
from tests.bench.served import Served, reading

ALL = f"{V1}/domains"
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


ASKED: dict[str, Ask] = {
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
    "apply": send("PATCH", f"{DOMAINS}/applied?fieldManager=bench", domain("applied"), APPLY),
    "delete a collection, dry": send("DELETE", f"{DOMAINS}?dryRun=All&labelSelector=app%3Da7"),
    "delete a node, dry": send("DELETE", f"{NODES}/hv3?dryRun=All"),
}


def stalls(served: Served, session: requests.Session) -> Iterator[tuple[str, dict[str, float]]]:
    send("POST", NODES, node("hv3"))(session, served.url)
    served.told()
    for what, ask in ASKED.items():
        ask(session, served.url)
        yield what, served.told()
