"""kubectl's own verbs on pictures of domctl's objects: real kubectl, the real server, a real etcd.

No controller runs here: what its leader would write into a status is written by the test.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from controller.api.facade import evictions
from controller.api.resources import NAMESPACES
from tests.apiserver import DOMAINS, MERGE, NODES, V1, Api, domain, node
from tests.etcdserver import EtcdServer
from tests.integration.test_api import FOUND, until
from tests.kubectl import Kubectl, real_api, versions

pytestmark = pytest.mark.etcd

STATUS = {
    "hostname": "hv1.example.org",
    "hostUuid": "8d5e1e37-30f6-4f6e-9d5c-0a7c41e4f001",
    "driver": "qemu",
    "libvirtVersion": "9.0.0",
    "hypervisorVersion": "7.2.15",
    "arch": "x86_64",
    "cpus": 8,
    "memoryBytes": 16 << 30,
    "freeMemoryBytes": 12 << 30,
    "allocatable": {"vcpus": 32, "memoryBytes": 15 << 30},
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Ready",
            "message": "answers",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}


# The others with --long: tests/golden/kubectl/facade.txt has what differs between them.
@pytest.fixture(params=versions(FOUND, FOUND[-1:]))
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Kubectl:
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(request.param, api.pki.kubeconfig, home)


async def ready(api: Api, name: str = "hv1") -> None:
    assert (await api.call("POST", NODES, node(name))).status == 201
    reply = await api.call("PATCH", f"{NODES}/{name}/status", {"status": STATUS}, type=MERGE)
    assert reply.status == 200, reply.text


async def ours(api: Api, name: str = "hv1") -> dict[str, Any]:
    found: dict[str, Any] = (await api.call("GET", f"{NODES}/{name}")).body
    return found


# --- namespaces


async def names(api: Api) -> list[str]:
    items = (await api.call("GET", "/api/v1/namespaces")).body["items"]
    return [item["metadata"]["name"] for item in items]


async def has(api: Api, name: str) -> bool:
    return name in await names(api)


async def test_namespaces_are_created_listed_used_and_deleted(kubectl: Kubectl, api: Api) -> None:
    await until(lambda: has(api, "default"))
    assert await kubectl.good("create", "ns", "team-a") == "namespace/team-a created\n"
    out = await kubectl.good("create", "namespace", "dry", "--dry-run=server")
    assert out == "namespace/dry created (server dry run)\n"
    head, *rows = (await kubectl.good("get", "ns")).splitlines()
    assert head.split() == ["NAME", "STATUS", "AGE"]
    assert [row.split()[:2] for row in rows] == [["default", "Active"], ["team-a", "Active"]]
    assert "Status:" in await kubectl.good("describe", "ns", "team-a")
    await kubectl.good("label", "ns", "team-a", "tier=front")
    assert "team-a" in await kubectl.good("get", "ns", "-l", "tier=front", "-o", "name")
    manifest = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-b}\n"
    assert await kubectl.good("apply", "-f", "-", stdin=manifest) == "namespace/team-b created\n"
    assert await kubectl.good("apply", "-f", "-", stdin=manifest) == "namespace/team-b unchanged\n"
    await kubectl.good("apply", "--server-side", "-f", "-", stdin=manifest)
    assert "already exists" in await kubectl.bad("create", "ns", "team-a")
    out = await kubectl.good("delete", "ns", "team-b", "--dry-run=server")
    assert "(server dry run)" in out and await has(api, "team-b")
    assert "deleted" in await kubectl.good("delete", "ns", "team-b")
    assert await names(api) == ["default", "team-a"]
    assert "this namespace may not be deleted" in await kubectl.bad("delete", "ns", "default")


async def test_a_namespace_comes_with_its_first_object_and_stays_while_it_has_any(
    kubectl: Kubectl, api: Api
) -> None:
    text = json.dumps(domain("web-1"))
    await kubectl.good("create", "-n", "new", "--dry-run=server", "-f", "-", stdin=text)
    assert not await has(api, "new")
    await kubectl.good("create", "-n", "new", "-f", "-", stdin=text)
    assert await has(api, "new")
    refused = await kubectl.bad("delete", "ns", "new")
    assert "it has domains: web-1; it goes only when it is empty" in refused
    assert (await api.call("GET", DOMAINS.replace("default", "new") + "/web-1")).status == 200
    assert await has(api, "new")


async def test_namespaces_of_objects_that_are_older_than_the_kind_are_found(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    async with real_api(etcd, tmp_path / "first") as api:
        for space in ("a", "a0", "a-b"):
            for name in ("one", "two"):
                path = DOMAINS.replace("default", space)
                assert (await api.call("POST", path, domain(name))).status == 201
            assert (await api.call("GET", f"/api/v1/namespaces/{space}")).status == 200
            kv = await api.store.get(f"/domctl/objects/namespaces/{space}")
            assert kv is not None
            await api.objects.remove(*await _namespace(api, space))
        assert not await has(api, "a0")
        api.server._namespaces.start()
        await until(lambda: _are(api, ["a", "a-b", "a0", "default"]))


async def _namespace(api: Api, name: str) -> tuple[Any, Any]:
    return NAMESPACES, await api.objects.get(NAMESPACES, "", name)


async def _are(api: Api, wanted: list[str]) -> bool:
    return await names(api) == wanted


# --- nodes


async def test_nodes_are_shown_as_kubernetes_shows_them(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    head, row = (await kubectl.good("get", "nodes")).splitlines()
    assert head.split() == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert (row.split()[:3], row.split()[-1]) == (["hv1", "Ready", "<none>"], "libvirt-9.0.0")
    code, wide, err = await kubectl.run("get", "no", "-o", "wide")
    assert (code, err) == (0, "")
    assert wide.splitlines()[1].split()[-2:] == ["hv1.example.org", "qemu://7.2.15"]
    allocatable = await kubectl.good("get", "node", "hv1", "-o", "jsonpath={.status.allocatable.cpu}")
    assert allocatable == "32"
    assert (await kubectl.good("get", "nodes.domctl.io")).split()[3] == "URI"
    described = await kubectl.good("describe", "node", "hv1")
    assert "Unschedulable:      false" in described
    assert "Non-terminated Pods:          (0 in total)" in described
    await kubectl.good("wait", "--for=condition=Ready", "node/hv1", "--timeout=10s")


async def test_cordon_label_taint_and_annotate_write_through_to_our_node(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    before = (await ours(api))["spec"]
    assert await kubectl.good("cordon", "hv1", "--dry-run=server") == "node/hv1 cordoned (server dry run)\n"
    assert (await ours(api))["spec"] == before
    assert await kubectl.good("cordon", "hv1") == "node/hv1 cordoned\n"
    assert (await ours(api))["spec"] == {**before, "unschedulable": True}
    assert "Ready,SchedulingDisabled" in await kubectl.good("get", "nodes")
    assert "already cordoned" in await kubectl.good("cordon", "hv1")
    await kubectl.good("label", "node", "hv1", "disk=fast", "node-role.kubernetes.io/db=")
    await kubectl.good("annotate", "node", "hv1", "note=before")
    await kubectl.good("taint", "node", "hv1", "gpu=yes:NoSchedule")
    found = await ours(api)
    assert found["metadata"]["labels"] == {"disk": "fast", "node-role.kubernetes.io/db": ""}
    assert found["metadata"]["annotations"]["note"] == "before"
    assert found["metadata"]["finalizers"] == ["domctl.io/node"]
    assert found["spec"]["taints"] == [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    assert found["status"]["hostname"] == "hv1.example.org"
    assert " db " in await kubectl.good("get", "nodes", "-l", "disk=fast")
    refused = await kubectl.bad("taint", "node", "hv1", "gpu=yes:NoExecute")
    assert "nothing is moved off a node by itself" in refused
    await kubectl.good("taint", "node", "hv1", "gpu-")
    await kubectl.good("label", "node", "hv1", "disk-")
    assert await kubectl.good("uncordon", "hv1") == "node/hv1 uncordoned\n"
    found = await ours(api)
    assert found["spec"] == before
    assert "disk" not in found["metadata"]["labels"]
    await kubectl.good("edit", "node", "hv1", EDITOR="sed -i s/before/after/")
    assert (await ours(api))["metadata"]["annotations"]["note"] == "after"


async def test_what_a_picture_of_a_node_cannot_do_is_refused_with_the_way(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    new = '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hv2"}}'
    assert "create a Node of domctl.io/v1 instead" in await kubectl.bad("create", "-f", "-", stdin=new)
    patch = '{"spec":{"podCIDR":"10.0.0.0/24"}}'
    refused = await kubectl.bad("patch", "node", "hv1", "-p", patch)
    assert "spec.podCIDR: is a picture only: change the Node of domctl.io/v1" in refused
    seen = (await api.call("GET", "/api/v1/nodes/hv1")).body
    seen["spec"]["unschedulable"] = True
    assert (await api.call("PUT", "/api/v1/nodes/hv1", seen)).body["spec"]["unschedulable"] is True
    assert (await api.call("PUT", "/api/v1/nodes/hv1", seen)).status == 409, "it has moved"
    reply = await api.call("PATCH", "/api/v1/nodes/hv1?dryRun=All", {"spec": {"uri": "x"}}, type=MERGE)
    assert reply.causes == {"spec.uri": "is a picture only: change the Node of domctl.io/v1"}
    applied = '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hv1"}, "spec": {"podCIDR": "x"}}'
    assert "spec.podCIDR" in await kubectl.bad("apply", "--server-side", "-f", "-", stdin=applied)


async def test_deleting_the_picture_of_a_node_deletes_the_node(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    assert "deleted" in await kubectl.good("delete", "node", "hv1", "--wait=false", "--dry-run=server")
    assert "deletionTimestamp" not in (await ours(api))["metadata"]
    assert "deleted" in await kubectl.good("delete", "node", "hv1", "--wait=false")
    assert (await ours(api))["metadata"]["finalizers"] == ["domctl.io/node"]
    assert "deletionTimestamp" in (await ours(api))["metadata"]


async def test_a_watch_of_nodes_shows_changes_of_ours_as_pictures(api: Api) -> None:
    await ready(api)
    async with api.watch("/api/v1/nodes?watch=1") as events:
        first = await anext(events)
        assert (first["type"], first["object"]["apiVersion"]) == ("ADDED", "v1")
        await api.call("PATCH", f"{NODES}/hv1", {"spec": {"unschedulable": True}}, type=MERGE)
        second = await anext(events)
        assert (second["type"], second["object"]["spec"]["unschedulable"]) == ("MODIFIED", True)
        assert "uri" not in second["object"]["spec"]


# --- pods

PODS = "/api/v1/namespaces/default/pods"
MIGRATIONS = f"{V1}/namespaces/default/migrations"


async def state(api: Api, name: str, state: str, on: str = "hv1", **more: Any) -> None:
    """As the leader would say it."""
    ready = {**STATUS["conditions"][0], "status": "True" if state == "running" else "False"}  # type: ignore[index]
    status = {"state": state, "node": on, "conditions": [ready], **more}
    reply = await api.call("PATCH", f"{DOMAINS}/{name}/status", {"status": status}, type=MERGE)
    assert reply.status == 200, reply.text


async def runs_on(api: Api, *names: str, on: str = "hv1") -> None:
    for name in names:
        assert (await api.call("POST", DOMAINS, domain(name, vcpus=2))).status == 201
        await state(api, name, "running", on)


async def pods_of(api: Api) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in (await api.call("GET", PODS)).body["items"]}


async def the_pod(api: Api) -> str:
    (name,) = await pods_of(api)
    return name


async def test_active_domains_are_shown_as_pods(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    await runs_on(api, "web-1", "web-2")
    await api.call("POST", DOMAINS, domain("off"))
    await state(api, "off", "shutoff")
    await state(api, "web-2", "unknown")
    head, *rows = (await kubectl.good("get", "pods")).splitlines()
    assert head.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    shown = {row.split()[0].rpartition("-")[0]: row.split()[1:4] for row in rows}
    assert shown == {"web-1": ["1/1", "Running", "0"], "web-2": ["0/1", "Unknown", "0"]}
    code, wide, err = await kubectl.run("get", "po", "-A", "-o", "wide")
    assert (code, err) == (0, "")
    assert [row.split()[-1] for row in wide.splitlines()[1:]] == ["hv1", "hv1"]
    names = (await kubectl.good("get", "pods", "-o", "name")).split()
    first = names[0].removeprefix("pod/")
    owner = await kubectl.good("get", "pod", first, "-o", "jsonpath={.metadata.ownerReferences[0].name}")
    assert owner == "web-1"
    described = await kubectl.good("describe", "pod", first)
    assert "Controlled By:  Domain/web-1" in described
    node_described = await kubectl.good("describe", "node", "hv1")
    assert "Non-terminated Pods:          (2 in total)" in node_described
    elsewhere = await kubectl.good("get", "pods", "--field-selector=spec.nodeName=hv2", "-o", "name")
    assert elsewhere == ""
    assert "not found" in await kubectl.bad("get", "pod", "web-1")
    assert "not found" in await kubectl.bad("get", "pod", "off-aaaaa")


async def test_a_pod_is_only_a_picture(kubectl: Kubectl, api: Api) -> None:
    await runs_on(api, "web-1")
    name = await the_pod(api)
    refused = await kubectl.bad("delete", "pod", name)
    assert "evict the pod" in refused and "spec.state of its Domain" in refused
    assert "change the Domain of domctl.io/v1" in await kubectl.bad("label", "pod", name, "a=b")
    assert "create a Domain of domctl.io/v1" in await kubectl.bad("run", "x", "--image=y")
    assert "only the picture" in await kubectl.bad("delete", "pods", "--all")
    assert list(await pods_of(api)) == [name]


async def test_a_watch_sees_one_pod_end_and_another_begin_when_a_domain_moves(api: Api) -> None:
    await runs_on(api, "web-1")
    first = await the_pod(api)
    async with api.watch(f"{PODS}?watch=1") as events:
        assert (await anext(events))["object"]["metadata"]["name"] == first
        await state(api, "web-1", "running", "hv2")
        gone, new = await anext(events), await anext(events)
        assert (gone["type"], gone["object"]["metadata"]["name"]) == ("DELETED", first)
        assert (new["type"], new["object"]["spec"]["nodeName"]) == ("ADDED", "hv2")
        assert gone["object"]["metadata"]["uid"] != new["object"]["metadata"]["uid"]
        await state(api, "web-1", "unknown", "hv2")
        assert (await anext(events))["object"]["status"]["phase"] == "Unknown", "unknown is not absent"
        await state(api, "web-1", "shutoff", "hv2")
        assert (await anext(events))["type"] == "DELETED"
        await state(api, "web-1", "running", "hv1")
        again = await anext(events)
        assert (again["type"], again["object"]["metadata"]["name"]) == ("ADDED", first)


# --- eviction


def eviction(pod: str, **options: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": "default"},
        "deleteOptions": options,
    }


async def migrations(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.call("GET", MIGRATIONS)).body["items"]
    return found


async def test_an_eviction_asks_once_for_a_migration_and_says_what_it_waits_for(api: Api) -> None:
    await runs_on(api, "web-1")
    pod = await the_pod(api)
    path = f"{PODS}/{pod}/eviction"
    assert (await api.call("POST", path, eviction(pod, dryRun=["All"]))).status == 201
    assert (await api.call("POST", f"{path}?dryRun=All", eviction(pod))).status == 201
    assert await migrations(api) == []
    reply = await api.call("POST", path, eviction(pod, preconditions={"uid": "other"}))
    assert reply.status == 409
    for _ in range(3):
        reply = await api.call("POST", path, eviction(pod))
        assert (reply.status, reply.body["reason"]) == (429, "TooManyRequests")
        assert "Retry-After" not in reply.headers
    (asked,) = await migrations(api)
    assert asked["spec"] == {"domain": "web-1", "ttlSecondsAfterFinished": 3600}
    assert asked["metadata"]["name"] == f"evict-{pod}"
    assert f"evict-{pod}" in api.audit_log.read_text()
    status = {"phase": "Running", "conditions": [{**STATUS["conditions"][0], "message": "hv1 to hv2"}]}  # type: ignore[index]
    await api.call("PATCH", f"{MIGRATIONS}/evict-{pod}/status", {"status": status}, type=MERGE)
    assert "Running: hv1 to hv2" in (await api.call("POST", path, eviction(pod))).body["message"]
    await state(api, "web-1", "running", "hv2")
    assert (await api.call("POST", path, eviction(pod))).status == 404
    assert len(await migrations(api)) == 1


async def test_an_eviction_that_failed_is_tried_again_after_a_while_under_the_same_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock of the replica that wrote when it ended."""
    monkeypatch.setattr(evictions, "_AGAIN_S", 1.0)
    await runs_on(api, "web-1")
    pod = await the_pod(api)
    path, mine = f"{PODS}/{pod}/eviction", f"{MIGRATIONS}/evict-{pod}"
    await api.call("POST", path, eviction(pod))
    first = (await api.call("GET", mine)).body["metadata"]["uid"]
    status = {"phase": "Failed", "completedAt": "2026-01-01T00:00:00Z", "conditions": STATUS["conditions"]}
    await api.call("PATCH", f"{mine}/status", {"status": status}, type=MERGE)
    reply = await api.call("POST", path, eviction(pod))
    assert (reply.status, "Failed: answers" in reply.body["message"]) == (429, True)
    assert (await api.call("GET", mine)).body["metadata"]["uid"] == first
    status["completedAt"] = "2999-01-01T00:00:00Z"
    await api.call("PATCH", f"{mine}/status", {"status": status}, type=MERGE)
    await asyncio.sleep(1.1)
    assert (await api.call("POST", f"{path}?dryRun=All", eviction(pod))).status == 201
    assert (await api.call("GET", mine)).body["metadata"]["uid"] == first
    assert (await api.call("POST", path, eviction(pod))).status == 429
    assert (await api.call("GET", mine)).body["metadata"]["uid"] != first
    assert len(await migrations(api)) == 1


async def test_an_eviction_waits_for_a_migration_that_somebody_else_asked_for(api: Api) -> None:
    await runs_on(api, "web-1")
    pod = await the_pod(api)
    body = {"apiVersion": "domctl.io/v1", "kind": "Migration", "metadata": {"name": "by-hand"}}
    reply = await api.call("POST", MIGRATIONS, {**body, "spec": {"domain": "web-1", "node": "hv2"}})
    assert reply.status == 201
    reply = await api.call("POST", f"{PODS}/{pod}/eviction", eviction(pod))
    assert (reply.status, "default/by-hand" in reply.body["message"]) == (429, True)
    assert [m["metadata"]["name"] for m in await migrations(api)] == ["by-hand"]


async def test_a_drain_cordons_evicts_all_and_ends_when_they_have_left(kubectl: Kubectl, api: Api) -> None:
    await ready(api)
    await runs_on(api, "web-1", "web-2")
    out = await kubectl.good("drain", "hv1", "--ignore-daemonsets", "--dry-run=server")
    assert "drained (server dry run)" in out
    assert await migrations(api) == []
    process = await kubectl.start("drain", "hv1", "--ignore-daemonsets", "--timeout=60s")
    await until(lambda: _are_asked(api, 2))
    assert (await ours(api))["spec"]["unschedulable"] is True
    await state(api, "web-1", "running", "hv2")
    await state(api, "web-2", "running", "hv2")
    out_bytes, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"node/hv1 drained" in out_bytes
    assert b"Cannot evict pod before its domain has moved" in err
    assert len(await migrations(api)) == 2


async def _are_asked(api: Api, number: int) -> bool:
    return len(await migrations(api)) == number


# --- configmaps


async def test_configmaps_are_kept_for_clients(kubectl: Kubectl, api: Api, tmp_path: Path) -> None:
    binary = tmp_path / "blob"
    binary.write_bytes(b"\xff\x00\xfe")
    words = ("create", "cm", "my.config", "--from-literal=a=1", f"--from-file={binary}")
    assert "server dry run" in await kubectl.good(*words, "--dry-run=server")
    assert await kubectl.good(*words) == "configmap/my.config created\n"
    head, row = (await kubectl.good("get", "cm")).splitlines()
    assert (head.split(), row.split()[:2]) == (["NAME", "DATA", "AGE"], ["my.config", "2"])
    found = json.loads(await kubectl.good("get", "cm", "my.config", "-o", "json"))
    assert (found["data"], found["binaryData"]) == ({"a": "1"}, {"blob": "/wD+"})
    assert "BinaryData" in await kubectl.good("describe", "cm", "my.config")
    await kubectl.good("patch", "cm", "my.config", "-p", '{"data":{"b":"2"},"immutable":true}')
    refused = await kubectl.bad("patch", "cm", "my.config", "-p", '{"data":{"b":"3"}}')
    assert "data: cannot be changed: it is immutable" in refused
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {x: why}\n"
    assert await kubectl.good("apply", "-f", "-", stdin=text) == "configmap/other created\n"
    ssa = await kubectl.good("apply", "--server-side", "--field-manager=x", "-f", "-", stdin=text)
    assert ssa == "configmap/other serverside-applied\n"
    assert "must be letters, digits" in await kubectl.bad(
        "apply", "-f", "-", stdin=text.replace("x:", "'a b':")
    )
    assert "deleted" in await kubectl.good("delete", "cm", "other", "my.config")


async def test_a_configmap_is_the_parent_of_an_applyset_which_prunes(kubectl: Kubectl, api: Api) -> None:
    def both(*shown: str) -> str:
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": [domain(name) for name in shown]})

    alpha = {"KUBECTL_APPLYSET": "true"}
    words = ("apply", "--server-side", "--prune", "--applyset=configmaps/set", "-n", "default", "-f", "-")
    out = await kubectl.good(*words, stdin=both("web-1", "web-2"), **alpha)
    assert out.count("serverside-applied") == 2
    labels = (await api.call("GET", "/api/v1/namespaces/default/configmaps/set")).body["metadata"]["labels"]
    assert labels["applyset.kubernetes.io/id"].startswith("applyset-")
    out = await kubectl.good(*words, stdin=both("web-1"), **alpha)
    assert "domain.domctl.io/web-2 pruned" in out
    assert "deletionTimestamp" in (await api.call("GET", f"{DOMAINS}/web-2")).body["metadata"]


# --- the official client in Python


def core_session(kubeconfig: str) -> list[Any]:
    """What somebody's script would do; blocking."""
    with kubernetes.config.new_client_from_config(kubeconfig) as client:
        core = kubernetes.client.CoreV1Api(client)
        (host,) = core.list_node().items
        core.patch_node(host.metadata.name, {"spec": {"unschedulable": True}})
        cordoned = core.read_node(host.metadata.name).spec.unschedulable
        core.create_namespace(kubernetes.client.V1Namespace(metadata={"name": "made"}))
        spaces = [one.metadata.name for one in core.list_namespace().items]
        (pod,) = core.list_namespaced_pod("default", field_selector="spec.nodeName=hv1").items
        body = kubernetes.client.V1Eviction(metadata={"name": pod.metadata.name})
        try:
            core.create_namespaced_pod_eviction(pod.metadata.name, "default", body)
        except kubernetes.client.ApiException as error:
            code = error.status
        core.delete_namespace("made")
        return [host.status.capacity["cpu"], cordoned, spaces, pod.status.phase, code]


async def test_the_official_python_client_reads_and_asks_as_kubectl_does(api: Api) -> None:
    await ready(api)
    await runs_on(api, "web-1")
    seen = await asyncio.to_thread(core_session, str(api.pki.kubeconfig))
    assert seen == ["8", True, ["default", "made"], "Running", 429]
    assert not await has(api, "made")
