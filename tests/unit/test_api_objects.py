"""The verbs over HTTPS before a store in memory: what is created, refused, changed and marked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import keys
from controller.api.resources import DOMAINS as DOMAIN_KIND
from controller.api.resources import NODES as NODE_KIND
from controller.model import Identity
from controller.objects import NotFound
from drivers.memory import MemoryStore
from tests.apiserver import (
    DOMAINS,
    JSON_PATCH,
    MERGE,
    NODES,
    V1,
    Api,
    Options,
    domain,
    node,
    put_assignment,
    serving,
)

MAC = "52:54:00:12:34:56"


def nic(mac: str = MAC, name: str = "net0") -> dict[str, Any]:
    return {"name": name, "network": "default", "mac": mac}


# --- creation


async def test_a_new_domain_has_an_identity_a_finalizer_and_conditions(api: Api) -> None:
    mine = domain()
    mine["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555"
    mine["status"] = {"phase": "Running"}
    reply = await api.call("POST", DOMAINS, mine)
    assert reply.status == 201
    metadata, status = reply.body["metadata"], reply.body["status"]
    assert metadata["uid"] != mine["metadata"]["uid"]
    assert metadata["generation"] == 1
    assert metadata["namespace"] == "default"
    assert metadata["finalizers"] == ["domctl.io/undefine"]
    assert status["phase"] == "Pending"
    assert {c["type"]: (c["status"], c["reason"], c["observedGeneration"]) for c in status["conditions"]} == {
        "Ready": ("Unknown", "Pending", 0),
        "Reconciling": ("True", "Pending", 0),
        "Stalled": ("False", "Pending", 0),
    }
    assert reply.body["spec"] == {"memory": "64Mi"}, "nothing is defaulted into a user's spec"


async def test_the_resource_version_is_the_revision_and_is_not_stored(api: Api) -> None:
    reply = await api.call("POST", DOMAINS, domain())
    kv = await api.store.get(keys.object_key("domains", "default", "web-1"))
    assert kv is not None
    assert reply.rv == str(kv.mod_revision)
    assert "resourceVersion" not in json.loads(kv.value)["metadata"]


async def test_creating_twice_is_refused_as_already_there(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("POST", DOMAINS, domain())
    assert (reply.status, reply.body["reason"]) == (409, "AlreadyExists")
    assert reply.body["message"] == 'domains.domctl.io "web-1" already exists'


async def test_a_domain_claims_its_uuid_and_its_macs_with_itself(api: Api) -> None:
    reply = await api.call("POST", DOMAINS, domain(interfaces=[nic()]))
    uid = reply.body["metadata"]["uid"]
    for key in (keys.mac(MAC), keys.uuid_owner(uid)):
        kv = await api.store.get(key)
        assert kv is not None
        assert kv.value == b"default/web-1"
        assert str(kv.mod_revision) == reply.rv, "claimed in the object's own transaction"


async def test_a_mac_of_another_domain_is_refused_by_the_owners_name(api: Api) -> None:
    await api.call("POST", DOMAINS, domain("first", interfaces=[nic()]))
    body = domain("second", interfaces=[nic("52:54:00:00:00:01"), nic(name="net1")])
    for path in (DOMAINS, f"{DOMAINS}?dryRun=All"):
        reply = await api.call("POST", path, body)
        assert reply.status == 422
        assert reply.causes.keys() == {"spec.interfaces[1].mac"}
        assert "default/first" in reply.causes["spec.interfaces[1].mac"]
    assert (await api.call("GET", f"{DOMAINS}/second")).status == 404
    assert await api.store.get(keys.mac("52:54:00:00:00:01")) is None, "nothing of a refused change stays"


async def test_an_update_takes_new_macs_and_frees_old_ones(api: Api) -> None:
    await api.call("POST", DOMAINS, domain(interfaces=[nic()]))
    new = "52:54:00:00:00:02"
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"interfaces": [nic(new)]}}, type=MERGE)
    assert reply.status == 200
    assert await api.store.get(keys.mac(MAC)) is None
    assert await api.store.get(keys.mac(new)) is not None
    assert (await api.call("POST", DOMAINS, domain("other", interfaces=[nic()]))).status == 201


async def test_a_mac_that_the_domain_still_runs_with_is_not_freed(api: Api) -> None:
    await api.call("POST", DOMAINS, domain(interfaces=[nic()]))
    status = {"status": {"macs": {"net0": MAC}}}
    assert (await api.call("PATCH", f"{DOMAINS}/web-1/status", status, type=MERGE)).status == 200
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"interfaces": []}}, type=MERGE)
    assert reply.status == 200
    reply = await api.call("POST", DOMAINS, domain("other", interfaces=[nic()]))
    assert reply.status == 422


async def test_a_mac_that_was_chosen_for_a_domain_may_be_written_into_its_spec(api: Api) -> None:
    await api.call("POST", DOMAINS, domain(interfaces=[{"name": "net0", "network": "default"}]))
    await api.put_raw(keys.mac(MAC), b"default/web-1")
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"interfaces": [nic()]}}, type=MERGE)
    assert reply.status == 200


async def test_a_generated_name_begins_with_the_prefix(api: Api) -> None:
    body = domain()
    body["metadata"] = {"generateName": "web-"}
    names = {(await api.call("POST", DOMAINS, body)).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_a_dry_run_shows_the_result_and_leaves_no_trace(api: Api) -> None:
    before = (await api.store.status()).revision
    reply = await api.call("POST", f"{DOMAINS}?dryRun=All", domain(interfaces=[nic()]))
    assert reply.status == 201
    assert reply.body["metadata"]["uid"]
    assert (await api.store.status()).revision == before
    await api.call("POST", DOMAINS, domain())
    before = (await api.store.status()).revision
    assert (await api.call("POST", f"{DOMAINS}?dryRun=All", domain())).status == 409
    change = {"spec": {"vcpus": 2}}
    reply = await api.call("PATCH", f"{DOMAINS}/web-1?dryRun=All", change, type=MERGE)
    assert reply.body["metadata"]["generation"] == 2
    reply = await api.call("DELETE", f"{DOMAINS}/web-1", {"dryRun": ["All"]})
    assert reply.body["metadata"]["deletionTimestamp"]
    assert (await api.store.status()).revision == before


async def test_a_dry_run_that_is_not_understood_changes_nothing(api: Api) -> None:
    reply = await api.call("POST", f"{DOMAINS}?dryRun=all", domain())
    assert reply.status == 422
    assert (await api.call("GET", f"{DOMAINS}/web-1")).status == 404


# --- refusals


async def test_every_cause_of_a_refusal_is_named_at_once(api: Api) -> None:
    body = domain(vcpus=0, memory="1", xml="<domain/>", colour="red")
    reply = await api.call("POST", f"{DOMAINS}?fieldValidation=Strict", body)
    assert (reply.status, reply.body["reason"]) == (422, "Invalid")
    assert reply.causes.keys() >= {"spec.vcpus", "spec.memory", "spec.xml", "spec.colour"}
    assert reply.body["details"]["kind"] == "Domain"
    assert reply.body["message"].startswith('Domain.domctl.io "web-1" is invalid: [')


@pytest.mark.parametrize(("mode", "status", "warned"), [("", 201, 1), ("Warn", 201, 1), ("Ignore", 201, 0)])
async def test_unknown_fields_are_pruned_and_warned_of_as_asked(
    api: Api, mode: str, status: int, warned: int
) -> None:
    reply = await api.call("POST", f"{DOMAINS}?fieldValidation={mode}", domain(vcpuz=3))
    assert reply.status == status
    assert len(reply.warnings) == warned
    assert all(w.startswith("299 - ") and "spec.vcpuz" in w for w in reply.warnings)
    assert "vcpuz" not in reply.body["spec"]


async def test_raw_xml_needs_the_servers_permission(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    body = domain(xml="<domain><description>x</description></domain>")
    async with serving(store, tmp_path, Options(allow_xml=True)) as api:
        assert (await api.call("POST", DOMAINS, body)).status == 201
    async with serving(store, tmp_path) as api:
        reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}}, type=MERGE)
        assert (reply.status, list(reply.causes)) == (422, ["spec.xml"])
    await store.close()


@pytest.mark.parametrize(
    ("body", "type", "code"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b"k8s\x00", "application/vnd.kubernetes.protobuf", 415),
        (b"a: 1", "application/x-yaml", 415),
        (b"a: 1", "application/yaml", 422),
        (b"a: &a [*a]", "application/yaml", 400),
        (b"[" * 10_000, "application/json", 400),
        (b'{"metadata":{"name":"x"},"a":' + b"[" * 60 + b"]" * 60 + b"}", "application/json", 400),
        (b'{"metadata":{"name":"x"},"spec":{"memory":1e999}}', "application/json", 400),
        (b'{"metadata":{"name":"x"},"spec":{"memory":' + b"9" * 400 + b"}}", "application/json", 422),
        (b'{"metadata":[]}', "application/json", 422),
        (b'{"kind":"Node","metadata":{"name":"x"}}', "application/json", 400),
        (b'{"apiVersion":"v2","metadata":{"name":"x"}}', "application/json", 400),
        (b'{"metadata":{"name":"x","namespace":"other"}}', "application/json", 400),
        (b'{"metadata":{"name":"../../leader"},"spec":{"memory":"64Mi"}}', "application/json", 422),
        (b'{"metadata":{},"spec":{"memory":"64Mi"}}', "application/json", 422),
        (b'{"metadata":{"name":"x"},"spec":7}', "application/json", 422),
        (b" " * (300 << 10), "application/json", 413),
        (b" " * (2 << 20), "application/json", 413),
    ],
)
async def test_a_bad_body_is_answered_by_a_status(api: Api, body: bytes, type: str, code: int) -> None:
    reply = await api.call("POST", DOMAINS, body, type=type)
    assert (reply.status, reply.body["kind"], reply.body["code"]) == (code, "Status", code)
    assert (await api.call("GET", DOMAINS)).body["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/apis/apps/v1/deployments", 404),
        ("GET", f"{V1}/widgets", 404),
        ("GET", f"{DOMAINS}/none", 404),
        ("GET", f"{DOMAINS}/..%2F..%2Fleader", 404),
        ("GET", f"{V1}/namespaces/..%2f/domains", 404),
        ("GET", f"{V1}/domains/web-1", 404),
        ("GET", f"{V1}/namespaces/default/nodes", 404),
        ("GET", f"{DOMAINS}/web-1/scale", 404),
        ("GET", f"{DOMAINS}/web-1/status/more", 404),
        ("DELETE", f"{V1}/domains", 405),
        ("POST", f"{V1}/domains", 405),
        ("POST", f"{DOMAINS}/web-1", 405),
        ("PUT", DOMAINS, 405),
        ("POST", f"{V1}/namespaces/default/events", 405),
        ("DELETE", f"{V1}/assignments/x", 405),
        ("POST", "/apis", 405),
        ("PROPFIND", DOMAINS, 405),
        ("GET", f"{DOMAINS}?limit=-1", 400),
        ("GET", f"{DOMAINS}?continue=xyz", 400),
        ("GET", f"{DOMAINS}?labelSelector=a%3D%3D%3Db", 400),
        ("GET", f"{DOMAINS}?fieldSelector=spec.memory%3D1", 400),
    ],
)
async def test_what_is_not_there_or_not_allowed_is_answered_by_a_status(
    api: Api, method: str, path: str, code: int
) -> None:
    reply = await api.call(method, path)
    assert (reply.status, reply.body["kind"], reply.body["code"]) == (code, "Status", code)


async def test_a_missing_object_is_named_in_kubectls_words(api: Api) -> None:
    reply = await api.call("GET", f"{DOMAINS}/web-1")
    assert reply.body["message"] == 'domains.domctl.io "web-1" not found'
    assert reply.body["details"] == {"name": "web-1", "group": "domctl.io", "kind": "domains"}


# --- changes


async def test_a_stale_update_is_refused_in_kubectls_words(api: Api) -> None:
    old = (await api.call("POST", DOMAINS, domain())).body
    await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}}, type=MERGE)
    reply = await api.call("PUT", f"{DOMAINS}/web-1", old)
    assert (reply.status, reply.body["reason"]) == (409, "Conflict")
    assert reply.body["message"] == (
        'Operation cannot be fulfilled on domains.domctl.io "web-1": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    patch = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "spec": {"vcpus": 3}}
    assert (await api.call("PATCH", f"{DOMAINS}/web-1", patch, type=MERGE)).status == 409


async def test_an_update_must_name_the_revision_it_is_based_on(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("PUT", f"{DOMAINS}/web-1", domain())
    assert (reply.status, list(reply.causes)) == (422, ["metadata.resourceVersion"])


async def test_the_generation_moves_with_the_spec_alone(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    path = f"{DOMAINS}/web-1"
    reply = await api.call("PATCH", path, {"metadata": {"labels": {"a": "b"}}}, type=MERGE)
    assert reply.body["metadata"]["generation"] == 1
    reply = await api.call("PATCH", f"{path}/status", {"status": {"phase": "Running"}}, type=MERGE)
    assert (reply.body["metadata"]["generation"], reply.body["status"]["phase"]) == (1, "Running")
    reply = await api.call("PATCH", path, {"spec": {"vcpus": 2}}, type=MERGE)
    assert (reply.body["metadata"]["generation"], reply.body["status"]["phase"]) == (2, "Running")


async def test_spec_and_status_are_written_apart(api: Api) -> None:
    body = (await api.call("POST", DOMAINS, domain())).body
    body["spec"]["vcpus"], body["status"]["phase"] = 7, "Running"
    reply = await api.call("PUT", f"{DOMAINS}/web-1/status", body)
    assert (reply.body["spec"].get("vcpus"), reply.body["status"]["phase"]) == (None, "Running")
    body["metadata"]["resourceVersion"], body["status"]["phase"] = reply.rv, "Lost"
    reply = await api.call("PUT", f"{DOMAINS}/web-1", body)
    assert (reply.body["spec"]["vcpus"], reply.body["status"]["phase"]) == (7, "Running")


async def test_a_wrong_status_is_refused_by_its_causes(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("PATCH", f"{DOMAINS}/web-1/status", {"status": {"epoch": "x"}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["status.epoch"])


async def test_a_change_that_changes_nothing_writes_nothing(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain())).rv
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"memory": "64Mi"}}, type=MERGE)
    assert (reply.status, reply.rv) == (200, rv)
    assert (await api.store.status()).revision == int(rv)


async def test_patches_of_many_clients_at_once_are_all_kept(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    patches = [{"metadata": {"labels": {f"k{n}": "v"}}} for n in range(4)]
    replies = await asyncio.gather(*(api.call("PATCH", f"{DOMAINS}/web-1", p, type=MERGE) for p in patches))
    assert [r.status for r in replies] == [200] * 4
    labels = (await api.call("GET", f"{DOMAINS}/web-1")).body["metadata"]["labels"]
    assert labels == {f"k{n}": "v" for n in range(4)}


async def test_a_json_patch_is_applied_in_order_or_not_at_all(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    path = f"{DOMAINS}/web-1"
    good = [
        {"op": "test", "path": "/spec/memory", "value": "64Mi"},
        {"op": "add", "path": "/spec/vcpus", "value": 2},
    ]
    reply = await api.call("PATCH", path, good, type=JSON_PATCH)
    assert reply.body["spec"] == {"memory": "64Mi", "vcpus": 2}
    for bad in (
        [
            {"op": "replace", "path": "/spec/vcpus", "value": 3},
            {"op": "test", "path": "/spec/memory", "value": 1},
        ],
        [{"op": "remove", "path": "/spec/nothing"}],
        [{"op": "replace", "path": "", "value": []}],
        [{"op": "add", "path": "/spec/memory/x", "value": 1}],
    ):
        assert (await api.call("PATCH", path, bad, type=JSON_PATCH)).status == 422, bad
    for wrong in (
        [{"op": "fly"}],
        {"op": "add"},
        [{"path": "/a"}],
        [{"op": "add", "path": "a", "value": 1}],
        [7],
    ):
        assert (await api.call("PATCH", path, wrong, type=JSON_PATCH)).status == 400, wrong
    assert (await api.call("GET", path)).body["spec"]["vcpus"] == 2


async def test_a_patch_that_multiplies_itself_is_stopped(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    bomb = [{"op": "copy", "from": "/metadata", "path": f"/metadata/x{n}"} for n in range(60)]
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", bomb, type=JSON_PATCH)
    assert reply.status == 413


@pytest.mark.parametrize("kind", ["application/strategic-merge-patch+json", "application/apply-patch+cbor"])
async def test_other_kinds_of_patches_are_refused_as_kubernetes_does(api: Api, kind: str) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {}}, type=kind)
    assert (reply.status, reply.body["reason"]) == (415, "UnsupportedMediaType")
    assert MERGE in reply.body["message"]


async def test_warnings_are_no_more_than_clients_take(api: Api) -> None:
    few = await api.call("POST", DOMAINS, domain("few", **{f"unknown{n}": 1 for n in range(16)}))
    many = await api.call("POST", DOMAINS, domain("many", **{f"unknown{n:03}": 1 for n in range(300)}))
    long = await api.call("POST", DOMAINS, domain("long", **{f"{n}{'x' * 2000}": 1 for n in range(5)}))
    assert (few.status, len(few.warnings)) == (201, 16)
    assert (many.status, len(many.warnings), "more warnings" in many.warnings[-1]) == (201, 16, True)
    assert (long.status, len(long.warnings), sum(map(len, long.warnings)) < 4200) == (201, 5, True)


@pytest.mark.parametrize("field", ["name", "namespace", "uid"])
async def test_an_objects_identity_cannot_be_changed(api: Api, field: str) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"metadata": {field: "other"}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, [f"metadata.{field}"])


async def test_another_hypervisors_type_cannot_be_set(api: Api) -> None:
    await api.call("POST", DOMAINS, domain(type="qemu"))
    assert (await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"type": "kvm"}}, type=MERGE)).status == 200
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"type": "test"}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["spec.type"])


# --- deletion


async def test_deleting_marks_the_domain_and_leaves_it_to_the_controller(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("DELETE", f"{DOMAINS}/web-1", {"propagationPolicy": "Background"})
    assert reply.status == 200
    assert reply.body["metadata"]["deletionTimestamp"]
    again = await api.call("DELETE", f"{DOMAINS}/web-1")
    assert (again.status, again.rv) == (200, reply.rv)
    assert (await api.call("GET", f"{DOMAINS}/web-1")).status == 200


async def test_deletion_with_a_precondition_that_does_not_hold_is_refused(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    for wanted in ({"uid": "x"}, {"resourceVersion": "1"}):
        assert (await api.call("DELETE", f"{DOMAINS}/web-1", {"preconditions": wanted})).status == 409


@pytest.mark.parametrize("value", [None, [], ["example.org/other"]])
@pytest.mark.parametrize("deleting", [False, True])
async def test_users_cannot_take_the_finalizer_away(api: Api, value: Any, deleting: bool) -> None:
    await api.call("POST", DOMAINS, domain())
    if deleting:
        await api.call("DELETE", f"{DOMAINS}/web-1")
    patch = {"metadata": {"finalizers": value}}
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", patch, type=MERGE)
    assert reply.status == 422
    assert "domctl node confirm-dead" in reply.body["message"]


async def test_an_update_from_a_file_keeps_the_finalizer(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain())).rv
    body = domain(vcpus=2)
    body["metadata"]["resourceVersion"] = rv
    reply = await api.call("PUT", f"{DOMAINS}/web-1", body)
    assert reply.status == 200
    assert reply.body["metadata"]["finalizers"] == ["domctl.io/undefine"]
    body["metadata"] |= {"resourceVersion": reply.rv, "finalizers": []}
    assert (await api.call("PUT", f"{DOMAINS}/web-1", body)).status == 422


async def test_the_leaders_removal_frees_all_that_the_domain_claimed(api: Api) -> None:
    uid = (await api.call("POST", DOMAINS, domain(interfaces=[nic()]))).body["metadata"]["uid"]
    chosen = "52:54:00:aa:aa:aa"
    await api.put_raw(keys.mac(chosen), b"default/web-1")
    await api.put_raw(keys.mac("52:54:00:bb:bb:bb"), b"default/web-2")
    macs = {"net0": MAC, "net1": chosen, "net2": "52:54:00:bb:bb:bb"}
    await api.call("PATCH", f"{DOMAINS}/web-1/status", {"status": {"macs": macs}}, type=MERGE)
    stored = await api.objects.get(DOMAIN_KIND, "default", "web-1")
    compares, writes = await api.objects.removal_writes(DOMAIN_KIND, stored)
    assert (await api.store.txn(compares, writes)).ok
    with pytest.raises(NotFound):
        await api.objects.get(DOMAIN_KIND, "default", "web-1")
    assert await api.store.get(keys.uuid_owner(uid)) is None
    left = [kv.key.removeprefix(keys.MACS) for kv in (await api.store.list(keys.MACS)).items]
    assert left == ["52:54:00:bb:bb:bb"], "another object's address stays"


async def test_a_removal_fails_when_the_object_moved(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    stored = await api.objects.get(DOMAIN_KIND, "default", "web-1")
    compares, writes = await api.objects.removal_writes(DOMAIN_KIND, stored)
    await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}}, type=MERGE)
    assert not (await api.store.txn(compares, writes)).ok


# --- nodes


async def test_a_host_is_registered_once_however_its_uri_is_written(api: Api) -> None:
    assert (await api.call("POST", NODES, node("hv1", "qemu+tcp://10.0.0.1/system"))).status == 201
    reply = await api.call("POST", NODES, node("hv2", "qemu+tcp://10.0.0.1:16509/system"))
    assert (reply.status, list(reply.causes)) == (422, ["spec.uri"])
    assert "hv1" in reply.causes["spec.uri"]
    await api.call("POST", NODES, node("hv3", "qemu+tcp://10.0.0.3/system"))
    change = {"spec": {"uri": "qemu+tcp://10.0.0.1/system"}}
    assert (await api.call("PATCH", f"{NODES}/hv3", change, type=MERGE)).status == 422
    assert (await api.call("PATCH", f"{NODES}/hv1", change, type=MERGE)).status == 200


async def test_a_node_that_may_hold_a_domain_cannot_be_deleted(api: Api) -> None:
    await api.call("POST", NODES, node())
    await put_assignment(api, "u-1", "hv1")
    reply = await api.call("DELETE", f"{NODES}/hv1")
    assert reply.status == 409
    assert "default/web-1" in reply.body["message"]
    await put_assignment(api, "u-1", "hv2")
    reply = await api.call("DELETE", f"{NODES}/hv1")
    assert (reply.status, reply.body["metadata"]["finalizers"]) == (200, ["domctl.io/node"])


async def test_a_node_is_not_deleted_beside_an_assignment_that_cannot_be_read(api: Api) -> None:
    await api.call("POST", NODES, node())
    await api.put_raw(keys.assignment("u-1"), b"\x00")
    assert (await api.call("DELETE", f"{NODES}/hv1")).status == 409


async def test_a_nodes_removal_frees_its_identity_and_voids_its_death(api: Api) -> None:
    await api.call("POST", NODES, node())
    mine = keys.identity("h-1", "qemu", "system")
    other = keys.identity("h-2", "qemu", "system")
    await api.put_raw(mine, msgspec.json.encode(Identity(node="hv1", at="t")))
    await api.put_raw(other, msgspec.json.encode(Identity(node="hv2", at="t")))
    await api.put_raw(keys.identity("h-3", "qemu", "system"), b"")
    await api.call("POST", f"{NODES}/hv1/confirmdead", {"reason": "burnt"})
    stored = await api.objects.get(NODE_KIND, "", "hv1")
    compares, writes = await api.objects.removal_writes(NODE_KIND, stored)
    assert (await api.store.txn(compares, writes)).ok
    assert [await api.store.get(k) for k in (mine, keys.confirmed_dead("hv1"))] == [None, None]
    assert await api.store.get(other) is not None
