"""Pictures of domctl's objects as Kubernetes' own kinds: what is in them, and who may see and change them."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from controller import keys
from controller.api import protobuf, reading
from controller.api.facade import nodes, pods
from controller.objects import StoredObject
from specs.validate import decode
from tests.apiserver import APPLY, DOMAINS, JSON_PATCH, MERGE, NODES, TABLE, Api, domain, node
from tests.unit.test_api_noise import mutated
from tests.unit.test_api_reviews import enveloped, field
from tests.unit.test_api_rights import CLUSTER_BINDINGS, as_bob, binding, give, known, made, rule

CORE = "/api/v1"
PODS = f"{CORE}/namespaces/default/pods"
READY = {"type": "Ready", "status": "True", "reason": "AsWanted", "message": "it is"}


def stored(status: dict[str, Any], **metadata: Any) -> StoredObject:
    head = {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7", **metadata}
    body = {"apiVersion": "domctl.io/v1", "kind": "Domain", "metadata": head, "spec": {}, "status": status}
    return StoredObject("key", "default", "web", 7, 1, body)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("running", "Running"),
        ("paused", "Running"),
        ("shutdown", "Running"),  # on its way, still active
        ("unknown", "Unknown"),
        ("crashed", "Running"),
        ("shutoff", "Succeeded"),
        ("absent", "Succeeded"),
    ],
)
def test_a_pod_is_there_unless_its_domain_is_known_to_be_off(state: str, phase: str) -> None:
    pod = pods.pictured(stored({"state": state, "node": "hv1"}))
    assert pod.body["status"]["phase"] == phase
    assert pods.is_there(pod) is (phase != "Succeeded")
    assert not pods.is_there(pods.pictured(stored({"state": state}))), "without a node"
    assert not pods.is_there(pods.pictured(stored({}))), "nobody has looked at it yet"


def test_a_pod_is_another_on_another_node_and_the_same_after_a_restart() -> None:
    here = pods.pictured(stored({"state": "running", "node": "hv1", "epoch": 1}))
    again = pods.pictured(stored({"state": "running", "node": "hv1", "epoch": 4, "restarts": 2}))
    there = pods.pictured(stored({"state": "running", "node": "hv2", "epoch": 2}))
    twin = pods.pictured(stored({"state": "running", "node": "hv1"}, uid="u2"))
    assert (here.name, here.uid) == (again.name, again.uid)
    assert (
        len({one.name for one in (here, there, twin)}) == len({one.uid for one in (here, there, twin)}) == 3
    )
    assert {pods.domain_of(one.name) for one in (here, there, twin)} == {"web"}
    assert here.revision == int(here.body["metadata"]["resourceVersion"]) == 7


def test_several_recorded_consoles_are_containers_of_a_pod_by_their_names() -> None:
    def containers(*serials: dict[str, Any]) -> list[str]:
        domain = stored({"state": "running", "node": "hv1", "conditions": [READY]})
        domain.body["spec"] = {"memory": "1Gi", "vcpus": 2, "serials": [*serials]}
        pod = pods.pictured(domain).body
        listed, said = pod["spec"]["containers"], pod["status"]["containerStatuses"]
        assert [one["name"] for one in said] == [one["name"] for one in listed]
        asked = [one["resources"].get("requests") for one in listed]
        assert asked == [{"cpu": "2", "memory": "1Gi"}] + [None] * (len(listed) - 1), "asked for once"
        assert pods.ready_word(pod) == f"{len(listed)}/{len(listed)}"
        return [one["name"] for one in listed]

    main, other = {"name": "main", "record": True}, {"name": "other", "record": True}
    assert containers() == containers(main) == containers(main, {"name": "other"}) == ["domain"]
    assert containers(main, {"name": "x", "type": "file", "record": True}) == ["domain"]
    assert containers({"name": "plain"}, main, other) == ["main", "other"]


def test_only_what_is_known_stands_in_the_picture_of_a_node() -> None:
    ours = {**node("hv1"), "metadata": {"name": "hv1", "uid": "u"}}
    seen = nodes.pictured(StoredObject("key", "", "hv1", 1, 1, ours)).body
    assert seen["status"]["capacity"] == seen["status"]["allocatable"] == {}
    assert seen["status"]["addresses"] == seen["status"]["conditions"] == []
    assert set(seen["status"]["nodeInfo"].values()) == {""}
    assert "uri" not in seen["spec"]


def test_what_is_taken_from_a_picture_is_put_back_where_it_came_from() -> None:
    ours: dict[str, Any] = {**node("hv1"), "metadata": {"name": "hv1", "uid": "u", "finalizers": ["x/y"]}}
    seen = nodes.pictured(StoredObject("key", "", "hv1", 1, 1, ours)).body
    assert nodes.taken(ours, seen, seen) == (ours, []), "nothing wanted, nothing changed"
    wanted = {**seen, "spec": {**seen["spec"], "unschedulable": True}}
    changed, causes = nodes.taken(ours, seen, wanted)
    assert (changed, causes) == ({**ours, "spec": {**ours["spec"], "unschedulable": True}}, [])
    back = nodes.pictured(StoredObject("key", "", "hv1", 1, 1, changed)).body
    assert nodes.taken(changed, back, seen) == (ours, [])
    _, causes = nodes.taken(ours, seen, {**seen, "spec": {"podCIDR": "10.0.0.0/8"}})
    assert {cause.field for cause in causes} == {"spec.podCIDR"}


async def running(api: Api, name: str = "web") -> str:
    """The name of its pod."""
    await made(api, DOMAINS, domain(name))
    status = {"status": {"state": "running", "node": "hv1"}}
    assert (await api.call("PATCH", f"{DOMAINS}/{name}/status", status, type=MERGE)).status == 200
    (pod,) = (await api.call("GET", PODS)).body["items"]
    return str(pod["metadata"]["name"])


async def test_rights_to_pictures_are_rights_of_their_own(api: Api) -> None:
    await made(api, NODES, node("hv1"))
    pod = await running(api)
    await give(api, rule("get list patch delete", "nodes domains"), rule("get", "pods", ""))
    assert (await as_bob(api, "GET", f"{PODS}/{pod}")).status == 200
    for method, path in (
        ("GET", PODS),
        ("GET", f"{CORE}/nodes"),
        ("GET", f"{CORE}/namespaces"),
        ("PATCH", f"{CORE}/nodes/hv1"),
        ("DELETE", f"{CORE}/nodes/hv1"),
        ("POST", f"{PODS}/{pod}/eviction"),
    ):
        reply = await as_bob(api, method, path, {} if method in {"POST", "PATCH"} else None)
        assert reply.status == 403, (method, path)
        assert 'in API group ""' in reply.body["message"]


async def test_view_sees_pictures_and_edit_may_evict_besides(api: Api) -> None:
    pod = await running(api)
    await made(api, CLUSTER_BINDINGS, binding("bobs", "view"))
    await known(api)
    for path in (PODS, f"{CORE}/nodes", f"{CORE}/namespaces", f"{CORE}/configmaps"):
        assert (await as_bob(api, "GET", path)).status == 200, path
    assert (await as_bob(api, "POST", f"{PODS}/{pod}/eviction", {})).status == 403
    await made(api, CLUSTER_BINDINGS, binding("more", "edit"))
    await known(api)
    assert (await as_bob(api, "POST", f"{PODS}/{pod}/eviction", {})).status == 429
    assert (await as_bob(api, "PATCH", f"{CORE}/nodes/hv1", {}, type=MERGE)).status == 403


async def test_who_writes_the_picture_of_a_node_is_its_manager(api: Api) -> None:
    await made(api, NODES, node("hv1"))
    patch = {"metadata": {"labels": {"a": "b"}}, "spec": {"unschedulable": True}}
    path = f"{CORE}/nodes/hv1?fieldManager=ops"
    assert (await api.call("PATCH", path, patch, type="application/strategic-merge-patch+json")).status == 200
    managers = (await api.call("GET", f"{NODES}/hv1")).body["metadata"]["managedFields"]
    (mine,) = [entry for entry in managers if entry["manager"] == "ops"]
    assert set(mine["fieldsV1"]) == {"f:metadata", "f:spec"}
    assert mine["fieldsV1"]["f:spec"] == {"f:unschedulable": {}}


async def test_the_picture_of_a_node_is_applied_to_as_far_as_it_can_be_written(api: Api) -> None:
    await made(api, NODES, node("hv1"))
    taint = {"key": "example.org/old", "effect": "NoSchedule"}

    async def applied(who: str, spec: dict[str, Any], query: str = "", **metadata: Any) -> Any:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hv1", **metadata}, "spec": spec}
        path = f"{CORE}/nodes/hv1?fieldManager={who}{query}"
        return await api.call("PATCH", path, body, type=APPLY)

    reply = await applied("ops", {"unschedulable": True, "taints": [taint]}, labels={"rack": "a"})
    assert reply.status == 200, reply.text
    assert (reply.body["apiVersion"], reply.body["spec"]["taints"]) == ("v1", [taint])
    ours = (await api.call("GET", f"{NODES}/hv1")).body
    assert (ours["spec"]["unschedulable"], ours["metadata"]["labels"]) == (True, {"rack": "a"})
    assert ours["spec"]["uri"] == node("hv1")["spec"]["uri"]
    assert [e["manager"] for e in ours["metadata"]["managedFields"] if e["operation"] == "Apply"] == ["ops"]
    reply = await applied("other", {"unschedulable": False})
    assert (reply.status, ".spec.unschedulable" in reply.body["message"]) == (409, True)
    assert (await applied("ops", {"taints": [taint]}, finalizers=["a/b"])).status == 200
    ours = (await api.call("GET", f"{NODES}/hv1")).body
    assert "unschedulable" not in ours["spec"]
    assert "labels" not in ours["metadata"] or ours["metadata"]["labels"] == {}
    assert ours["metadata"]["finalizers"] == ["domctl.io/node"]
    reply = await applied("ops", {"podCIDR": "10.0.0.0/8"})
    assert reply.causes == {"spec.podCIDR": "is a picture only: change the Node of domctl.io/v1"}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hv2"}}
    reply = await api.call("PATCH", f"{CORE}/nodes/hv2?fieldManager=ops", body, type=APPLY)
    assert (reply.status, "create a Node of domctl.io/v1" in reply.body["message"]) == (405, True)


async def test_an_eviction_is_understood_in_protobuf(api: Api) -> None:
    pod = await running(api)
    metadata = field(1, pod.encode()) + field(3, b"default")
    options = field(2, field(1, b"other"))
    for extra, code in ((field(2, options), 409), (b"", 429)):
        body = enveloped("Eviction", field(1, metadata) + extra, "policy/v1")
        reply = await api.call("POST", f"{PODS}/{pod}/eviction", body, type=protobuf.CONTENT_TYPE)
        assert reply.status == code, reply.text


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Pod"},
        {"apiVersion": "v1"},
        {"metadata": []},
        {"metadata": {"name": "another"}},
        {"deleteOptions": []},
        {"deleteOptions": {"preconditions": []}},
        {"deleteOptions": {"preconditions": [1]}},
        [],
    ],
)
async def test_what_is_no_eviction_is_refused_and_asks_for_nothing(api: Api, body: Any) -> None:
    pod = await running(api)
    reply = await api.call("POST", f"{PODS}/{pod}/eviction", body)
    assert reply.status in (400, 429), reply.text
    asked = (await api.call("GET", "/apis/domctl.io/v1/migrations")).body["items"]
    assert len(asked) == (reply.status == 429)
    assert (await api.call("GET", f"{PODS}/{pod}/eviction")).status == 405


async def test_older_clients_find_what_they_look_for_before_they_evict(api: Api) -> None:
    """kubectl 1.20 deletes pods, which is refused, where there is no group of that name."""
    groups = {group["name"]: group for group in (await api.call("GET", "/apis")).body["groups"]}
    assert groups["policy"]["preferredVersion"] == {"groupVersion": "policy/v1", "version": "v1"}
    assert (await api.call("GET", "/apis/policy")).body["name"] == "policy"
    assert (await api.call("GET", "/apis/policy/v1")).body["resources"] == []
    listed = {one["name"]: one["kind"] for one in (await api.call("GET", CORE)).body["resources"]}
    assert listed["pods/eviction"] == "Eviction"
    assert (await api.call("GET", "/apis/policy/v1/poddisruptionbudgets")).status == 404
    assert (await api.call("GET", "/apis/policy/v1beta1")).status == 404


async def test_among_many_migrations_an_eviction_reads_a_few_at_a_time_and_its_own_alone_when_asked_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await running(api)
    migrations = "/apis/domctl.io/v1/namespaces/default/migrations"
    for number in range(20):
        body = {"apiVersion": "domctl.io/v1", "kind": "Migration", "metadata": {"name": f"m{number}"}}
        await made(api, migrations, {**body, "spec": {"domain": "web" if number == 13 else "other"}})
    read: list[int] = []
    pages, prefix = api.store.page, keys.object_prefix("migrations")

    async def page(scope: str, **how: Any) -> Any:
        found = await pages(scope, **how)
        if scope.startswith(prefix):
            read.append(len(found.items))
        return found

    monkeypatch.setattr(reading, "PAGE", 4)
    monkeypatch.setattr(api.store, "page", page)
    reply = await api.call("POST", f"{PODS}/{pod}/eviction", {})
    assert (reply.status, "default/m13" in reply.body["message"]) == (429, True)
    assert 0 < len(read) < 5, "it stops at what it looks for"
    assert set(read) == {4}
    await api.call("PATCH", f"{migrations}/m13/status", {"status": {"phase": "Failed"}}, type=MERGE)
    reply = await api.call("POST", f"{PODS}/{pod}/eviction", {})
    assert f"default/evict-{pod}" in reply.body["message"]
    assert sum(read) > 20
    read.clear()
    for _ in range(3):
        reply = await api.call("POST", f"{PODS}/{pod}/eviction", {})
        assert f"default/evict-{pod}" in reply.body["message"]
    assert read == []


async def test_nothing_is_put_into_a_namespace_that_is_being_deleted(api: Api) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "finalizers": ["x.org/y"]}}
    await made(api, f"{CORE}/namespaces", space)
    gone = await api.call("DELETE", f"{CORE}/namespaces/a")
    assert gone.body["status"]["phase"] == "Terminating"
    reply = await api.call("POST", DOMAINS.replace("default", "a"), domain())
    assert (reply.status, "because it is being terminated" in reply.body["message"]) == (403, True)
    patch = {"metadata": {"finalizers": None}}
    assert (await api.call("PATCH", f"{CORE}/namespaces/a", patch, type=MERGE)).status == 200
    assert (await api.call("GET", f"{CORE}/namespaces/a")).status == 404


async def test_a_namespace_that_cannot_be_read_is_in_nobodys_way_and_stays(api: Api) -> None:
    key = f"{keys.OBJECTS}namespaces/odd"
    await api.put_raw(key, b"\xff")
    await made(api, DOMAINS.replace("default", "odd"), domain())
    assert (await api.call("GET", f"{CORE}/namespaces")).status == 200
    kv = await api.store.get(key)
    assert kv is not None and kv.value == b"\xff"


WRONG_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"data": {"a b": "x"}}, "data"),
    ({"data": {"..": "x"}}, "data"),
    ({"data": {"a": 1}}, "data.a"),
    ({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}, "data"),
    ({"binaryData": {"a": "not base64"}}, "binaryData.a"),
    ({"metadata": {"name": "Upper", "namespace": "default"}}, "metadata.name"),
]


@pytest.mark.parametrize(("change", "path"), WRONG_CONFIG)
def test_a_configmap_has_kubernetes_rules(change: dict[str, Any], path: str) -> None:
    good = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a.b-c", "namespace": "default"},
        "data": {"k.e_y-": "any\ntext"},
        "binaryData": {"blob": "/wD+"},
    }
    assert decode(good)[1] == []
    assert [problem.path for problem in decode({**good, **change})[1]] == [path]


@pytest.mark.parametrize("seed", range(3))
async def test_noise_on_pictures_is_answered_by_a_status_and_never_fails(api: Api, seed: int) -> None:
    rng = random.Random(seed)
    await made(api, NODES, node("hv1"))
    pod = await running(api)
    picture = (await api.call("GET", f"{CORE}/nodes/hv1")).body
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}, "spec": {}}
    bodies: list[tuple[str, str, Any, str]] = [
        ("PATCH", f"{CORE}/nodes/hv1", picture, MERGE),
        ("PUT", f"{CORE}/nodes/hv1", picture, "application/json"),
        ("PATCH", f"{CORE}/nodes/hv1", [{"op": "replace", "path": "/spec", "value": {}}], JSON_PATCH),
        ("POST", f"{PODS}/{pod}/eviction", {"deleteOptions": {"dryRun": ["All"]}}, "application/json"),
        ("POST", f"{CORE}/namespaces/default/configmaps", config, "application/json"),
        ("PATCH", f"{CORE}/namespaces/default/configmaps/a", config, MERGE),
        ("POST", f"{CORE}/namespaces", space, "application/json"),
        ("PATCH", f"{CORE}/namespaces/b", space, MERGE),
        ("DELETE", f"{CORE}/namespaces/b", {"dryRun": ["All"]}, "application/json"),
    ]
    async with asyncio.timeout(60):
        for _ in range(150):
            method, path, body, kind = rng.choice(bodies)
            sent = mutated(rng, mutated(rng, body))
            reply = await api.call(method, path, sent, type=kind)
            assert reply.status != 500, (method, path, sent, reply.text)
            if reply.status >= 400:
                assert reply.body["kind"] == "Status", (method, path, sent, reply.text)
    ours = (await api.call("GET", f"{NODES}/hv1")).body
    assert ours["spec"]["uri"] == node("hv1")["spec"]["uri"], "out of reach of a picture"
    for path in (PODS, f"{CORE}/nodes", f"{CORE}/namespaces"):
        assert (await api.call("GET", path, Accept=TABLE)).status == 200


@pytest.mark.parametrize(
    "status", [{"conditions": 1}, {"conditions": [1]}, {"allocatable": []}, {"state": 3}]
)
async def test_what_nobody_should_have_stored_does_not_keep_the_others_from_being_shown(
    api: Api, status: dict[str, Any]
) -> None:
    for body in (domain("web"), node("hv1")):
        kind = "domains/default/" if body["kind"] == "Domain" else "nodes/"
        name = body["metadata"]["name"]
        space = {"namespace": "default"} if body["kind"] == "Domain" else {}
        odd = {
            **body,
            "metadata": {"name": name, **space},
            "status": {"node": "hv1", "state": "running", **status},
        }
        await api.put_raw(f"{keys.OBJECTS}{kind}{name}", json.dumps(odd).encode())
    for path in (PODS, f"{CORE}/nodes"):
        for accept in ("application/json", TABLE):
            reply = await api.call("GET", path, Accept=accept)
            assert reply.status == 200, reply.text
            assert len(reply.body.get("items") or reply.body.get("rows")) == 1
