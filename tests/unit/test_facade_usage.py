"""metrics.k8s.io: how busy nodes and pods are, what is not known, and who may see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller import keys
from controller.api.facade import pods
from controller.figures import Reading, Use
from drivers.memory import MemoryStore
from drivers.store import Put
from tests.apiserver import DOMAINS, MERGE, NODES, TABLE, Api, Options, domain, node, real_world, serving
from tests.unit.test_api_rights import (
    BINDINGS,
    CLUSTER_BINDINGS,
    ROLES,
    as_bob,
    binding,
    known,
    made,
    role,
    rule,
)

USAGE = "/apis/metrics.k8s.io/v1beta1"
USED = Use(0.2501, 300 << 20)


def names(body: Any) -> list[str]:
    return [one["metadata"]["name"] for one in body["items"]]


async def with_domains(api: Api) -> dict[str, str]:
    """web-1 and web-2 on hv1, which is known; db-1 on hv2, which is not. Their pods' names."""
    found = {}
    reading_of: dict[str, Use] = {}
    for name in ("hv1", "hv2"):
        assert (await api.call("POST", NODES, node(name))).status == 201
    for name, on in (("web-1", "hv1"), ("web-2", "hv1"), ("db-1", "hv2")):
        body = domain(name)
        body["metadata"]["labels"] = {"app": name[:-2]}
        made_one = (await api.call("POST", DOMAINS, body)).body
        made_one["status"] = {**made_one.get("status", {}), "node": on, "state": "running"}
        reply = await api.call("PUT", f"{DOMAINS}/{name}/status", made_one)
        assert reply.status == 200, reply.text
        reading_of[made_one["metadata"]["uid"]] = USED
    for pod in names((await api.call("GET", "/api/v1/pods")).body):
        found[pods.domain_of(pod)] = pod
    at = "2026-01-01T00:00:30Z"
    api.figures.put("hv1", Reading(at, 30.0, api.objects.world.now() + 60, Use(1.5, 3 << 30), reading_of))
    return found


async def test_a_node_is_as_busy_as_its_host_was_seen(api: Api) -> None:
    await with_domains(api)
    body = (await api.call("GET", f"{USAGE}/nodes")).body
    assert (body["kind"], body["apiVersion"]) == ("NodeMetricsList", "metrics.k8s.io/v1beta1")
    [one] = body["items"]
    assert one == {
        "apiVersion": "metrics.k8s.io/v1beta1",
        "kind": "NodeMetrics",
        "metadata": {"name": "hv1", "creationTimestamp": one["metadata"]["creationTimestamp"]},
        "timestamp": "2026-01-01T00:00:30Z",
        "window": "30.000s",
        "usage": {"cpu": "1500000000n", "memory": "3145728Ki"},
    }
    assert (await api.call("GET", f"{USAGE}/nodes/hv1")).body == one


async def test_what_is_not_known_is_not_there(api: Api) -> None:
    found = await with_domains(api)
    reply = await api.call("GET", f"{USAGE}/nodes/hv2")
    assert reply.status == 404
    assert reply.body["message"] == 'nodemetrics.metrics.k8s.io "hv2" not found'
    reply = await api.call("GET", f"{USAGE}/namespaces/default/pods/{found['db-1']}")
    assert reply.status == 404
    assert reply.body["message"] == f'podmetrics.metrics.k8s.io "default/{found["db-1"]}" not found'
    api.figures.drop("hv1")
    for kind in ("nodes", "pods"):
        assert (await api.call("GET", f"{USAGE}/{kind}")).body["items"] == []


async def test_figures_that_are_too_old_are_not_there(api: Api) -> None:
    await with_domains(api)
    now = api.objects.world.now()
    api.figures.put("hv1", Reading("then", 30.0, now - 1, Use(1, 1), {}))
    assert (await api.call("GET", f"{USAGE}/nodes")).body["items"] == []


async def test_pods_are_told_of_by_name_label_and_namespace(api: Api) -> None:
    found = await with_domains(api)
    body = (await api.call("GET", f"{USAGE}/pods")).body
    assert names(body) == [found["web-1"], found["web-2"]]
    one = body["items"][0]
    assert one["containers"] == [{"name": "domain", "usage": {"cpu": "250100000n", "memory": "307200Ki"}}]
    assert one["metadata"]["labels"] == {"app": "web"}
    assert one["metadata"]["ownerReferences"][0]["name"] == "web-1"
    here = f"{USAGE}/namespaces/default/pods"
    assert (await api.call("GET", f"{here}/{found['web-1']}")).body == one
    for query, expected in (
        ("?labelSelector=app=web", [found["web-1"], found["web-2"]]),
        ("?labelSelector=app=db", []),
        (f"?fieldSelector=metadata.name={found['web-2']}", [found["web-2"]]),
        ("?limit=1", [found["web-1"]]),
    ):
        assert names((await api.call("GET", here + query)).body) == expected
    assert names((await api.call("GET", f"{USAGE}/namespaces/other/pods")).body) == []


async def test_a_pod_that_has_gone_from_the_node_has_no_figures_there(api: Api) -> None:
    await with_domains(api)
    for change in ({"node": "hv2"}, {"node": "hv1", "state": "shutoff"}):
        reply = await api.call("PATCH", f"{DOMAINS}/web-1/status", {"status": change}, type=MERGE)
        assert reply.status == 200
        body = (await api.call("GET", f"{USAGE}/pods")).body
        assert [pods.domain_of(name) for name in names(body)] == ["web-2"], change


async def test_they_are_shown_as_tables(api: Api) -> None:
    await with_domains(api)
    table = (await api.call("GET", f"{USAGE}/nodes", Accept=TABLE)).body
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "CPU", "Memory", "Window"]
    assert table["rows"][0]["cells"] == ["hv1", "1500m", "3072Mi", "30.000s"]
    table = (await api.call("GET", f"{USAGE}/pods", Accept=TABLE)).body
    assert table["rows"][0]["cells"][1:] == ["251m", "300Mi", "30.000s"]


async def test_nothing_can_be_written_or_watched(api: Api) -> None:
    await with_domains(api)
    for method, path in (
        ("GET", f"{USAGE}/nodes?watch=true"),
        ("POST", f"{USAGE}/nodes"),
        ("PUT", f"{USAGE}/nodes/hv1"),
        ("PATCH", f"{USAGE}/nodes/hv1"),
        ("DELETE", f"{USAGE}/nodes/hv1"),
        ("DELETE", f"{USAGE}/namespaces/default/pods"),
    ):
        assert (await api.call(method, path, {} if method != "GET" else None)).status == 405, (method, path)
    for path in (f"{USAGE}/domains", f"{USAGE}/nodes/hv1/status", "/apis/metrics.k8s.io/v1/nodes"):
        assert (await api.call("GET", path)).status == 404, path
    listed = (await api.call("GET", USAGE)).body["resources"]
    assert {one["name"]: one["verbs"] for one in listed} == {
        "nodes": ["get", "list"],
        "pods": ["get", "list"],
    }
    described = (await api.call("GET", f"/openapi/v3{USAGE}")).text
    assert not [path for path in ("pods/{name}/attach", "pods/{name}/log") if path in described]


async def test_only_who_may_see_them_does(api: Api) -> None:
    await with_domains(api)
    here = f"{USAGE}/namespaces/default/pods"
    reply = await as_bob(api, "GET", here)
    assert reply.status == 403
    assert 'cannot list resource "pods" in API group "metrics.k8s.io"' in reply.body["message"]
    await made(api, ROLES, role("top", rule("list", "pods", "metrics.k8s.io"), kind="Role"))
    await made(api, BINDINGS, binding("top", "top", kind="RoleBinding", of="Role"))
    await known(api)
    assert (await as_bob(api, "GET", here)).status == 200
    for path in (f"{USAGE}/pods", f"{USAGE}/nodes", f"{USAGE}/nodes/hv1"):
        assert (await as_bob(api, "GET", path)).status == 403, path


async def test_view_includes_them(api: Api) -> None:
    await with_domains(api)
    await made(api, CLUSTER_BINDINGS, binding("see", "view"))
    await known(api)
    for path in (f"{USAGE}/nodes", f"{USAGE}/pods"):
        assert (await as_bob(api, "GET", path)).status == 200


async def test_a_replica_that_does_not_lead_says_who_does(tmp_path: Path) -> None:
    store = MemoryStore(real_world().now)
    async with serving(store, tmp_path, Options(leads=False)) as api:
        reply = await api.call("GET", f"{USAGE}/nodes")
        assert (reply.status, reply.body["reason"]) == (503, "ServiceUnavailable")
        assert "nobody leads just now" in reply.body["message"]
        assert "Retry-After" not in reply.headers
        record = b'{"id": "x", "host": "control-2", "at": "2026-01-01T00:00:00Z"}'
        await store.txn([], [Put(keys.LEADER, record)])
        reply = await api.call("GET", f"{USAGE}/pods")
        assert reply.body["message"].endswith("the one on control-2 does")
    await store.close()
