"""Requests made of noise: whatever comes, there is a Status and never a 500, and nothing outside changes."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from controller import keys
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, JSON_PATCH, MERGE, NODES, TABLE, V1, Api, domain, node, serving

WORDS = [
    *("domains", "nodes", "events", "assignments", "namespaces", "default", "web-1", "hv1", "status"),
    *(
        "resolve",
        "confirmdead",
        "storeacks",
        "..",
        "%2e%2e",
        "%00",
        "x" * 300,
        "é",
        "apis",
        "domctl.io",
        "v1",
    ),
]
QUERIES = [
    *("limit=1", "limit=x", "limit=99999999999999999999", "continue=AAAA", "watch=true&timeoutSeconds=1"),
    *(
        "resourceVersion=-1",
        "resourceVersion=1&watch=1&timeoutSeconds=1",
        "labelSelector=%21%28",
        "dryRun=All",
    ),
    *("dryRun=No", "fieldValidation=Strict", "fieldValidation=x", "fieldSelector=metadata.name%3Dweb-1"),
    *("includeObject=None", "includeObject=Object", "resourceVersionMatch=Exact", "fieldManager=%00"),
    "resourceVersionMatch=Exact&resourceVersion=1",
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1e300, 2**70, "", "x", "../..", "\u0000", "é" * 100, [], {}, [[]], {"": {}}),
    *({"name": "web-1"}, ["hv1"], "52:54:00:12:34:56", "64Mi"),
]


def mutated(rng: random.Random, value: Any) -> Any:
    """`value` with one thing somewhere in it replaced, dropped or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.15:
            return {**value, rng.choice(["x", "", "spec", "é", "xml", "finalizers"]): rng.choice(VALUES)}
        return {**value, key: mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        return [*value[:index], mutated(rng, value[index]), *value[index:]]
    return rng.choice(VALUES)


def a_request(rng: random.Random) -> tuple[str, str, Any, str]:
    full = domain(interfaces=[{"name": "net0", "network": "default", "mac": "52:54:00:12:34:56"}])
    full["metadata"] |= {
        "labels": {"a": "b"},
        "finalizers": ["domctl.io/undefine"],
        "annotations": {"c": "d"},
    }
    bodies: list[Any] = [
        full,
        node(),
        {"spec": {"vcpus": 2}},
        {"notOn": ["hv1"]},
        {"preconditions": {"uid": "x"}, "dryRun": ["All"]},
        [
            {"op": "add", "path": "/spec/vcpus", "value": 1},
            {"op": "copy", "from": "/spec", "path": "/spec/x"},
        ],
    ]
    method = rng.choice(["GET", "POST", "PUT", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    known = [DOMAINS, f"{DOMAINS}/web-1", f"{DOMAINS}/web-1/status", NODES, f"{NODES}/hv1", f"{V1}/storeacks"]
    known += [f"{NODES}/hv1/confirmdead", f"{DOMAINS}/web-1/resolve", "/apis", "/openapi/v3", "/api/v1"]
    path = rng.choice(known)
    if rng.random() < 0.3:
        path += "/" + "/".join(rng.choices(WORDS, k=rng.randint(1, 3)))
    if rng.random() < 0.5:
        path += "?" + "&".join(rng.choices(QUERIES, k=rng.randint(1, 3)))
    body: Any = rng.choice(bodies)
    for _ in range(rng.randint(0, 3)):
        body = mutated(rng, body)
    kinds = [*["application/json"] * 6, MERGE, JSON_PATCH, "text/plain", ""]
    kind = rng.choice(kinds if method != "PATCH" else [MERGE, MERGE, JSON_PATCH, "application/json"])
    if rng.random() < 0.5:  # half of it reaches the verbs
        method, path, body = rng.choice(
            [
                ("POST", DOMAINS, mutated(rng, {**full, "metadata": {"name": f"d{rng.randrange(9)}"}})),
                ("PATCH", f"{DOMAINS}/web-1", mutated(rng, full)),
                ("PATCH", f"{DOMAINS}/web-1/status", {"status": mutated(rng, {"macs": {"net0": "x"}})}),
                ("PUT", f"{DOMAINS}/web-1", mutated(rng, mutated(rng, full))),
                ("PATCH", f"{NODES}/hv1", mutated(rng, node())),
                ("POST", f"{DOMAINS}/web-1/resolve", mutated(rng, {"notOn": ["hv1"], "reason": "x"})),
                ("DELETE", f"{DOMAINS}/web-1", mutated(rng, {"preconditions": {"uid": "x"}})),
            ]
        )
        kind = MERGE if method == "PATCH" else "application/json"
    return method, path, body, kind


async def _noise(api: Api, rng: random.Random) -> None:
    method, path, body, kind = a_request(rng)
    data = json.dumps(body).encode()
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data))]
    accept = rng.choice(["application/json", TABLE, "*/*", "image/png", ""])
    reply = await api.call(method, path, None if method == "GET" else data, type=kind, Accept=accept)
    told = (method, path, body, kind, reply.text)
    assert reply.status != 500, told
    if reply.status >= 400 and method != "HEAD":
        assert (reply.body["kind"], reply.body["code"]) == ("Status", reply.status), told


@pytest.mark.parametrize("seed", range(4))
async def test_noise_is_answered_by_a_status_and_never_fails(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        await api.call("POST", DOMAINS, domain())
        await api.call("POST", NODES, node())
        async with asyncio.timeout(60):
            for _ in range(150):
                await asyncio.gather(*(_noise(api, rng) for _ in range(4)))
        known = (keys.OBJECTS, keys.UUIDS, keys.MACS, keys.DECISIONS)
        for kv in (await store.list(keys.ROOT)).items:
            assert kv.key.startswith(known), kv.key
            assert kv.key.isascii() and ".." not in kv.key and "//" not in kv.key
        for name in ("web-1", "hv1"):
            path = f"{DOMAINS}/{name}" if name == "web-1" else f"{NODES}/{name}"
            assert (await api.call("GET", path)).body["metadata"]["finalizers"]
    await store.close()
