"""Server-side apply over HTTPS before a store in memory: what is made, owned, refused, and never written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controller import keys
from tests.apiserver import APPLY, DOMAINS, JSON_PATCH, MERGE, NODES, Api, Reply, domain, node

ONE = f"{DOMAINS}/web-1"


async def apply(api: Api, body: Any, who: str = "ci", path: str = ONE, query: str = "") -> Reply:
    return await api.call("PATCH", f"{path}?fieldManager={who}{query}", body, type=APPLY)


def owners(reply: Reply) -> dict[str, Any]:
    """Who owns what, without versions and times."""
    return {
        f"{e['manager']}:{e['operation']}{':' * bool(e.get('subresource'))}{e.get('subresource', '')}": e[
            "fieldsV1"
        ]
        for e in reply.body["metadata"].get("managedFields", [])
    }


MEMORY = {"f:spec": {"f:memory": {}}}


async def test_apply_creates_what_is_not_there(api: Api) -> None:
    body = domain()
    body["status"] = {"phase": "x"}
    reply = await apply(api, body)
    assert reply.status == 201
    metadata = reply.body["metadata"]
    assert (metadata["name"], metadata["namespace"], metadata["generation"]) == ("web-1", "default", 1)
    assert reply.body["status"]["phase"] == "Pending"
    (entry,) = metadata["managedFields"]
    assert entry == {
        "manager": "ci",
        "operation": "Apply",
        "apiVersion": "domctl.io/v1",
        "time": metadata["creationTimestamp"],
        "fieldsType": "FieldsV1",
        "fieldsV1": MEMORY,
    }
    assert (await api.call("GET", ONE)).body == reply.body


async def test_apply_reads_yaml_and_cluster_scoped_kinds(api: Api) -> None:
    text = (
        b"apiVersion: domctl.io/v1\nkind: Node\nmetadata: {name: hv1}\nspec:\n  uri: qemu+ssh://hv1/system\n"
    )
    reply = await apply(api, text, path=f"{NODES}/hv1")
    assert reply.status == 201, reply.text
    assert (await apply(api, text, path=f"{NODES}/hv1")).status == 200


async def test_an_unchanged_apply_writes_nothing(api: Api) -> None:
    await apply(api, domain())
    first = await api.call("GET", ONE)
    revision = (await api.store.list("/")).revision
    again = await apply(api, domain())
    assert (again.status, again.body) == (200, first.body)
    assert (await api.store.list("/")).revision == revision


async def test_a_conflict_says_who_and_what_as_kubernetes_does(api: Api) -> None:
    await api.call("POST", f"{DOMAINS}?fieldManager=kubectl-edit", domain())
    reply = await apply(api, domain(memory="1Gi"))
    assert (reply.status, reply.body["reason"]) == (409, "Conflict")
    words = 'conflict with "kubectl-edit" using domctl.io/v1'
    assert reply.body["message"] == f"Apply failed with 1 conflict: {words}: .spec.memory"
    assert reply.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": words, "field": ".spec.memory"}
    ]
    assert (await api.call("GET", ONE)).body["spec"]["memory"] == "64Mi"
    forced = await apply(api, domain(memory="1Gi"), query="&force=true")
    assert (forced.status, forced.body["spec"]["memory"]) == (200, "1Gi")
    assert owners(forced) == {"ci:Apply": MEMORY}
    assert forced.body["metadata"]["generation"] == 2


async def test_fields_of_other_groups_kinds_are_owned_as_those(api: Api) -> None:
    """By its apiVersion a client knows whether it can read what an entry names."""
    maps = "/api/v1/namespaces/default/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    made = await api.call("POST", f"{maps}?fieldManager=kubectl-edit", body)
    assert [e["apiVersion"] for e in made.body["metadata"]["managedFields"]] == ["v1"]
    refused = await apply(api, {**body, "data": {"a": "2"}}, path=f"{maps}/c")
    words = 'conflict with "kubectl-edit" using v1'
    assert refused.body["message"] == f"Apply failed with 1 conflict: {words}: .data.a"
    assert [cause["message"] for cause in refused.body["details"]["causes"]] == [words]
    forced = await apply(api, {**body, "data": {"a": "2"}}, path=f"{maps}/c", query="&force=true")
    assert [e["apiVersion"] for e in forced.body["metadata"]["managedFields"]] == ["v1"]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}}
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/r"
    applied = await apply(api, {**role, "rules": []}, path=path)
    assert [e["apiVersion"] for e in applied.body["metadata"]["managedFields"]] == [role["apiVersion"]]


async def test_what_is_no_longer_applied_is_taken_away(api: Api) -> None:
    disks = [{"name": "a", "source": {"file": "/a"}}, {"name": "b", "source": {"file": "/b"}}]
    await apply(api, domain(vcpus=2, disks=disks))
    reply = await apply(api, domain(disks=disks[1:]))
    assert reply.body["spec"] == {"memory": "64Mi", "disks": disks[1:]}
    assert (await apply(api, domain())).body["spec"] == {"memory": "64Mi"}


async def test_other_changes_are_owned_by_field_manager_or_user_agent(api: Api) -> None:
    created = await api.call("POST", DOMAINS, domain(), User_Agent="tool/1.0 (linux)")
    assert owners(created) == {"tool:Update": MEMORY}
    patched = await api.call("PATCH", f"{ONE}?fieldManager=p", {"spec": {"vcpus": 2}}, type=MERGE)
    assert owners(patched) == {"tool:Update": MEMORY, "p:Update": {"f:spec": {"f:vcpus": {}}}}
    body = patched.body
    body["spec"]["memory"] = "128Mi"
    del body["metadata"]["managedFields"]
    replaced = await api.call("PUT", f"{ONE}?fieldManager=q", body)
    assert owners(replaced) == {"q:Update": MEMORY, "p:Update": {"f:spec": {"f:vcpus": {}}}}
    gone = await api.call("PATCH", ONE, [{"op": "remove", "path": "/spec/vcpus"}], type=JSON_PATCH)
    assert owners(gone) == {"q:Update": MEMORY}


async def test_status_is_owned_apart(api: Api) -> None:
    await apply(api, domain())
    status = f"{ONE}/status"
    reply = await api.call("PATCH", f"{status}?fieldManager=k", {"status": {"node": "hv1"}}, type=MERGE)
    assert owners(reply)["k:Update:status"] == {"f:status": {"f:node": {}}}
    body = {**domain(memory="9Gi"), "status": {"node": "hv2"}}
    refused = await apply(api, body, path=status)
    assert (refused.status, refused.body["details"]["causes"][0]["message"]) == (
        409,
        'conflict with "k" with subresource "status" using domctl.io/v1',
    )
    taken = await apply(api, body, path=status, query="&force=1")
    assert (taken.body["status"]["node"], taken.body["spec"]) == ("hv2", {"memory": "64Mi"})
    assert owners(taken) == {"ci:Apply": MEMORY, "ci:Apply:status": {"f:status": {"f:node": {}}}}
    assert (await apply(api, domain("x"), path=f"{DOMAINS}/x/status")).status == 404


async def test_a_dry_run_changes_nothing(api: Api) -> None:
    assert (await apply(api, domain(), query="&dryRun=All")).status == 201
    assert (await api.call("GET", ONE)).status == 404
    await apply(api, domain())
    before = (await api.call("GET", ONE)).body
    reply = await apply(api, domain(vcpus=3), query="&dryRun=All")
    assert (reply.body["spec"]["vcpus"], reply.body["metadata"]["generation"]) == (3, 2)
    assert (await api.call("GET", ONE)).body == before


async def test_one_empty_entry_gives_all_ownership_up_and_an_empty_list_none(api: Api) -> None:
    await apply(api, domain())
    for nothing in ([], None):
        patch = {"metadata": {"managedFields": nothing}}
        assert owners(await api.call("PATCH", ONE, patch, type=MERGE)) == {"ci:Apply": MEMORY}
    reply = await api.call("PATCH", ONE, {"metadata": {"managedFields": [{}]}}, type=MERGE)
    assert "managedFields" not in reply.body["metadata"]
    assert owners(await api.call("PATCH", ONE, {"spec": {"vcpus": 1}}, type=MERGE)) == {}
    after = await apply(api, domain())
    assert owners(after).keys() == {"ci:Apply", "before-first-apply:Update"}


async def test_a_client_may_hand_ownership_on(api: Api) -> None:
    """As kubectl does when it goes from client-side to server-side apply."""
    created = await api.call("POST", f"{DOMAINS}?fieldManager=kubectl-client-side-apply", domain())
    entry = {**created.body["metadata"]["managedFields"][0], "manager": "kubectl", "operation": "Apply"}
    move = [
        {"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": created.rv},
    ]
    reply = await api.call("PATCH", ONE, move, type=JSON_PATCH)
    assert (reply.status, owners(reply)) == (200, {"kubectl:Apply": MEMORY})
    assert (await api.call("PATCH", ONE, move, type=JSON_PATCH)).status == 409, "the object has moved"


def with_metadata(**more: Any) -> dict[str, Any]:
    return {**domain(), "metadata": {"name": "web-1", **more}}


REFUSED: list[tuple[Any, str, int, str]] = [
    (domain(), "fieldManager=", 422, "is required for apply patch"),
    (domain(), "fieldManager=" + "x" * 129, 422, "128 bytes"),
    (domain(), "fieldManager=a%0Ab", 422, "printable"),
    (domain(), "fieldManager=a&force=perhaps", 400, "force"),
    (domain("other"), "fieldManager=a", 400, "does not match the name on the URL"),
    ({**domain(), "kind": "Node"}, "fieldManager=a", 400, "does not match"),
    ({**domain(), "kind": ""}, "fieldManager=a", 400, "kind must be set"),
    ({"apiVersion": "domctl.io/v1", "kind": "Domain"}, "fieldManager=a", 422, "metadata"),
    (with_metadata(managedFields=[{}]), "fieldManager=a", 400, "must be nil"),
    (with_metadata(uid="x"), "fieldManager=a", 409, "uid mismatch"),
    (with_metadata(resourceVersion="1"), "fieldManager=a", 409, "modified"),
    (domain(disks=[{"name": "a"}] * 2), "fieldManager=a", 422, 'duplicate entries for key [name="a"]'),
    (domain(disks=[{}]), "fieldManager=a", 422, "an item lacks name"),
    (domain(disks=[1]), "fieldManager=a", 422, "spec.disks"),
    (domain(disks={"a": 1}), "fieldManager=a", 422, "spec.disks"),
    (domain(os=[1]), "fieldManager=a", 422, "spec.os"),
    ({**domain(), "spec": 5}, "fieldManager=a", 422, "spec"),
    (with_metadata(labels=[1]), "fieldManager=a", 422, "metadata.labels"),
    (with_metadata(finalizers=["a/b", "a/b"]), "fieldManager=a", 422, "duplicate"),
    (domain(x=1), "fieldManager=a&fieldValidation=Strict", 422, "spec.x: unknown field"),
    (b"[]", "fieldManager=a", 400, "JSON object"),
    (b"a: b: c", "fieldManager=a", 400, "not YAML"),
    (b'{"a": ', "fieldManager=a", 400, "not JSON"),
    (b"a: 1\n---\nb: 2\n", "fieldManager=a", 400, "2 documents"),
    (b"", "fieldManager=a", 400, ""),
    (b'{"a":' * 5000, "fieldManager=a", 400, "JSON"),
    (b'{"a":' * 60 + b"1" + b"}" * 60, "fieldManager=a", 400, "nested deeper"),
    (b"a: &a [x]\nb: &b [*a,*a,*a,*a]\n" * 2, "fieldManager=a", 400, ""),
    (domain(xml="x" * 300_000), "fieldManager=a", 413, ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "query", "status", "words"), REFUSED)
async def test_what_cannot_be_applied_is_refused_with_a_reason(
    api: Api, body: Any, query: str, status: int, words: str
) -> None:
    reply = await api.call("PATCH", f"{ONE}?{query}", body, type=APPLY)
    assert reply.status == status, reply.text
    assert words in reply.body["message"]
    assert (await api.call("GET", ONE)).status == 404


async def test_force_is_for_apply_alone_and_cbor_is_not_read(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("PATCH", f"{ONE}?force=true", {"spec": {}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["force"])
    reply = await api.call("PATCH", f"{ONE}?fieldManager=a", b"\xa0", type="application/apply-patch+cbor")
    assert reply.status == 415
    assert APPLY in reply.body["message"]


HOSTILE: list[Any] = [
    "x",
    {"a": 1},
    [1],
    [{"operation": "Rule", "manager": "a"}],
    [{"operation": "Apply", "manager": "a", "fieldsV1": {"x": {}}}],
    [{"operation": "Apply", "manager": "a", "fieldsV1": {"k:{": {}}}],
    [{"operation": "Apply", "manager": 5}],
]


@pytest.mark.parametrize("entries", HOSTILE)
async def test_managed_fields_that_make_no_sense_are_refused(api: Api, entries: Any) -> None:
    await apply(api, domain())
    reply = await api.call("PATCH", ONE, {"metadata": {"managedFields": entries}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["metadata.managedFields"]), reply.text


async def test_managed_fields_count_into_an_objects_size(api: Api) -> None:
    await apply(api, domain())
    many = [
        {"manager": "a", "operation": "Update", "fieldsV1": {f"f:{n:0200}": {} for n in range(1500)}},
    ]
    reply = await api.call("PATCH", ONE, {"metadata": {"managedFields": many}}, type=MERGE)
    assert reply.status == 413, reply.text
    many[0]["fieldsV1"] = {f"f:{n:0200}": {} for n in range(1000)}
    assert (await api.call("PATCH", ONE, {"metadata": {"managedFields": many}}, type=MERGE)).status == 200
    labels = {"labels": {f"l{n}": "x" * 60 for n in range(1000)}}
    reply = await apply(api, {**domain(), "metadata": {"name": "web-1", **labels}})
    assert reply.status == 413


async def test_unreadable_ownership_in_the_store_is_nobodys(api: Api) -> None:
    await apply(api, domain())
    stored = await api.store.get(keys.object_key("domains", "default", "web-1"))
    assert stored is not None
    value = json.loads(stored.value)
    value["metadata"]["managedFields"] = [{"operation": "Apply", "fieldsV1": {"junk": 1}}]
    await api.put_raw(stored.key, json.dumps(value).encode())
    reply = await apply(api, domain())
    assert owners(reply).keys() == {"ci:Apply", "before-first-apply:Update"}


async def test_unknown_fields_are_pruned_with_a_warning_and_owned_by_nobody(api: Api) -> None:
    reply = await apply(api, domain(cpus=1), query="&fieldValidation=Warn")
    assert reply.status == 201
    assert "spec.cpus" in reply.warnings[0]
    assert owners(reply) == {"ci:Apply": MEMORY}


async def test_two_appliers_at_once_both_get_through(api: Api) -> None:
    await apply(api, domain())
    labelled = [
        {
            "apiVersion": "domctl.io/v1",
            "kind": "Domain",
            "metadata": {"name": "web-1", "labels": {f"l{n}": "x"}},
        }
        for n in range(3)
    ]
    replies = await asyncio.gather(*(apply(api, body, f"m{n}") for n, body in enumerate(labelled)))
    assert {r.status for r in replies} == {200}
    found = (await api.call("GET", ONE)).body["metadata"]["labels"]
    assert found == {"l0": "x", "l1": "x", "l2": "x"}


async def test_what_the_server_keeps_is_not_applied(api: Api) -> None:
    await apply(api, domain())
    before = (await api.call("GET", ONE)).body
    body = {k: v for k, v in before.items() if k != "status"}
    body["metadata"] = {k: v for k, v in before["metadata"].items() if k != "managedFields"}
    body["metadata"].pop("finalizers")
    assert (await apply(api, body)).body == before
    stale = {**domain(), "metadata": {"name": "web-1", "resourceVersion": "1"}}
    assert (await apply(api, stale)).status == 409
    other = {**domain(), "metadata": {"name": "web-1", "uid": "11111111-2222-3333-4444-555555555555"}}
    assert "UID in precondition" in (await apply(api, other)).body["message"]


async def test_a_node_is_applied_too(api: Api) -> None:
    taint = {"key": "k", "effect": "NoSchedule"}
    body = node()
    body["spec"]["taints"] = [taint]
    assert (await apply(api, body, path=f"{NODES}/hv1")).status == 201
    more = {"apiVersion": "domctl.io/v1", "kind": "Node", "metadata": {"name": "hv1"},
            "spec": {"taints": [{**taint, "key": "l"}], "allowedPaths": ["/a"]}}  # fmt: skip
    reply = await apply(api, more, "two", path=f"{NODES}/hv1")
    assert [t["key"] for t in reply.body["spec"]["taints"]] == ["k", "l"]
    assert owners(reply)["two:Apply"]["f:spec"]["f:allowedPaths"] == {'v:"/a"': {}}
