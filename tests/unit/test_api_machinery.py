"""What is generic over kinds: whole collections deleted, replicas scaled, dry runs, compressed answers."""

from __future__ import annotations

import gzip
from typing import Any

import aiohttp
import pytest

from controller import keys
from controller.api import compression
from controller.api.admission import NOT_COLLECTED
from controller.api.deleting import NO_DEPENDENTS
from drivers.memory import MemoryStore
from tests.apiserver import (
    APPLY,
    DOMAINS,
    JSON_PATCH,
    MERGE,
    NODES,
    TABLE,
    V1,
    Api,
    domain,
    node,
    scaled_kind,
)

ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
SCALE = f"{DOMAINS}/web-1/scale"


def role(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "labels": labels},
        "rules": [],
    }


async def names(api: Api, path: str) -> list[str]:
    return [item["metadata"]["name"] for item in (await api.call("GET", path)).body["items"]]


# --- deletecollection


async def test_a_collection_is_deleted_as_far_as_it_is_chosen(api: Api) -> None:
    for name, app in (("a", "x"), ("b", "y"), ("c", "x")):
        await api.call("POST", ROLES, role(name, app=app))
    reply = await api.call("DELETE", f"{ROLES}?labelSelector=app%3Dx")
    assert (reply.status, reply.body["kind"]) == (200, "RoleList")
    assert [i["metadata"]["name"] for i in reply.body["items"]] == ["a", "c"]
    assert await names(api, ROLES) == ["b"]
    assert (await api.call("DELETE", f"{ROLES}?fieldSelector=metadata.name%3Dz")).body["items"] == []
    assert (await api.call("DELETE", ROLES)).status == 200
    assert await names(api, ROLES) == []
    log = api.audit_log.read_text()
    assert '"deletecollection":["default/a","default/c"]' in log, "what it meant is written before it acts"


async def test_a_collection_of_domains_is_marked_and_left_to_the_controller(api: Api) -> None:
    for name in ("a", "b"):
        await api.call("POST", DOMAINS, domain(name))
    assert (await api.call("DELETE", DOMAINS)).status == 200
    for item in (await api.call("GET", DOMAINS)).body["items"]:
        assert item["metadata"]["deletionTimestamp"]


async def test_a_collection_is_deleted_in_one_namespace_only(api: Api) -> None:
    await api.call("POST", DOMAINS, domain("a"))
    assert (await api.call("DELETE", f"{V1}/domains")).status == 405
    assert (await api.call("DELETE", DOMAINS.replace("default", "other"))).body["items"] == []
    assert "deletionTimestamp" not in (await api.call("GET", f"{DOMAINS}/a")).body["metadata"]


async def test_no_more_of_a_collection_is_deleted_than_its_limit(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.call("POST", ROLES, role(name))
    assert (await api.call("DELETE", f"{ROLES}?limit=2")).status == 200
    assert await names(api, ROLES) == ["c"]


async def test_a_collection_is_deleted_page_by_page_as_it_is_listed(api: Api) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await api.call("POST", ROLES, role(name))
    first = (await api.call("DELETE", f"{ROLES}?limit=2")).body
    assert [i["metadata"]["name"] for i in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.call("POST", ROLES, role("a"))  # since that page: none of this collection
    path = f"{ROLES}?limit=2&continue={first['metadata']['continue']}"
    second = (await api.call("DELETE", path)).body
    assert [i["metadata"]["name"] for i in second["items"]] == ["c", "d"]
    assert await names(api, ROLES) == ["a", "e"]
    last = (await api.call("DELETE", f"{ROLES}?continue={second['metadata']['continue']}")).body
    assert ([i["metadata"]["name"] for i in last["items"]], "continue" in last["metadata"]) == (["e"], False)
    assert await names(api, ROLES) == ["a"]


async def test_a_collection_of_one_revision_is_what_was_there_then(api: Api) -> None:
    old = (await api.call("POST", ROLES, role("a"))).rv
    await api.call("POST", ROLES, role("b"))
    exact = "resourceVersionMatch=Exact&resourceVersion="
    ahead = await api.call("DELETE", f"{ROLES}?{exact}{int(old) + 1000}")
    assert (ahead.status, await names(api, ROLES)) == (504, ["a", "b"])
    assert (await api.call("DELETE", f"{ROLES}?resourceVersion={int(old) + 1000}")).status == 504
    assert (await api.call("DELETE", f"{ROLES}?{exact}{old}&dryRun=All")).status == 200
    assert await names(api, ROLES) == ["a", "b"]
    assert (await api.call("DELETE", f"{ROLES}?{exact}{old}")).status == 200
    assert await names(api, ROLES) == ["b"]
    assert isinstance(api.store, MemoryStore)
    await api.store.compact((await api.store.status()).revision)
    assert (await api.call("DELETE", f"{ROLES}?{exact}{old}")).status == 410
    assert await names(api, ROLES) == ["b"]


async def test_preconditions_hold_for_each_of_a_collection(api: Api) -> None:
    await api.call("POST", ROLES, role("a"))
    rv = (await api.call("POST", ROLES, role("b"))).rv
    only = {"preconditions": {"resourceVersion": rv}}
    refused = await api.call("DELETE", ROLES, only)
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    assert await names(api, ROLES) == ["a", "b"]
    assert (await api.call("DELETE", f"{ROLES}?fieldSelector=metadata.name%3Db", only)).status == 200
    assert await names(api, ROLES) == ["a"]


async def test_a_selector_that_cannot_be_read_deletes_nothing(api: Api) -> None:
    await api.call("POST", ROLES, role("a"))
    unread = "labelSelector=app%20notin%20%28y%20z%29"  # which would spare nothing
    for query in (unread, "labelSelector=%21%28", "fieldSelector=spec.x%3Dy", "limit=x", "dryRun=Maybe"):
        assert (await api.call("DELETE", f"{ROLES}?{query}")).status in {400, 422}, query
    assert (await api.call("DELETE", ROLES, {"preconditions": {"uid": "x"}})).status == 400
    assert await names(api, ROLES) == ["a"]


async def test_every_propagation_policy_is_taken(api: Api) -> None:
    for policy in ("Orphan", "Background", "Foreground"):
        await api.call("POST", ROLES, role("a"))
        reply = await api.call("DELETE", f"{ROLES}/a", {"propagationPolicy": policy})
        assert reply.status == 200
        assert [NO_DEPENDENTS in said for said in reply.warnings] == [True] * (policy == "Foreground")
        assert await names(api, ROLES) == []


async def test_who_names_owners_is_told_that_nothing_goes_with_them(api: Api) -> None:
    owner = (await api.call("POST", ROLES, role("owner"))).body["metadata"]
    reference = {"apiVersion": "v1", "kind": "Role", "name": "owner", "uid": owner["uid"]}
    owned = role("owned")
    owned["metadata"]["ownerReferences"] = [reference]
    reply = await api.call("POST", ROLES, owned)
    assert (reply.status, len(reply.warnings)) == (201, 1)
    assert NOT_COLLECTED in reply.warnings[0]
    patch = {"metadata": {"labels": {"a": "b"}}}
    assert (await api.call("PATCH", f"{ROLES}/owned", patch, type=MERGE)).warnings == ()
    late = {"metadata": {"ownerReferences": [reference]}}
    assert len((await api.call("PATCH", f"{ROLES}/owner", late, type=MERGE)).warnings) == 1
    assert (await api.call("DELETE", f"{ROLES}/owner", {"propagationPolicy": "Background"})).warnings == ()
    assert await names(api, ROLES) == ["owned"]


NOT_UNDERSTOOD: list[tuple[Any, str, str]] = [
    ({"propagationPolicy": "Sideways"}, "", "propagationPolicy"),
    (None, "propagationPolicy=Sideways", "propagationPolicy"),
    ({"propagationPolicy": "Orphan", "orphanDependents": True}, "", "propagationPolicy"),
    ({"dryRun": ["Some"]}, "", "dryRun"),
]


async def test_a_deletion_that_is_not_understood_deletes_nothing(api: Api) -> None:
    await api.call("POST", ROLES, role("a"))
    for body, query, field in NOT_UNDERSTOOD:
        for path in (f"{ROLES}/a", ROLES):
            reply = await api.call("DELETE", f"{path}?{query}", body)
            assert (reply.status, list(reply.causes)) == (422, [field]), (body, query)
    assert await names(api, ROLES) == ["a"]


async def test_a_body_of_no_type_is_json_but_a_patch_must_name_its_own(api: Api) -> None:
    assert (await api.call("POST", ROLES, role("a"), type="")).status == 201
    assert (await api.call("DELETE", f"{ROLES}/a", {"dryRun": ["All"]}, type="")).status == 200
    assert await names(api, ROLES) == ["a"]
    assert (await api.call("PATCH", f"{ROLES}/a", {"rules": []}, type="")).status == 415


# --- scale, on a kind made for it: a Domain whose vcpus are its replicas


@pytest.fixture
async def scaled(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    scaled_kind(monkeypatch)
    await api.call("POST", DOMAINS, domain(vcpus=2))
    return api


async def test_a_scale_is_a_view_of_its_object(scaled: Api) -> None:
    note = {"metadata": {"annotations": {"selector": "app=web"}}}
    rv = (await scaled.call("PATCH", f"{DOMAINS}/web-1", note, type=MERGE)).rv
    reply = await scaled.call("GET", SCALE)
    assert (reply.status, reply.rv) == (200, rv)
    body = reply.body
    assert (body["apiVersion"], body["kind"]) == ("autoscaling/v1", "Scale")
    assert (body["metadata"]["name"], body["metadata"]["namespace"]) == ("web-1", "default")
    assert (body["spec"], body["status"]) == ({"replicas": 2}, {"replicas": 0, "selector": "app=web"})


async def test_scaling_writes_the_one_field_and_owns_it(scaled: Api) -> None:
    change = [{"op": "replace", "path": "/spec/replicas", "value": 4}]
    reply = await scaled.call("PATCH", f"{SCALE}?fieldManager=hpa", change, type=JSON_PATCH)
    assert (reply.status, reply.body["spec"]) == (200, {"replicas": 4})
    body = (await scaled.call("GET", f"{DOMAINS}/web-1")).body
    assert (body["spec"]["vcpus"], body["spec"]["memory"], body["metadata"]["generation"]) == (4, "64Mi", 2)
    owned = {m["manager"]: (m.get("subresource"), m["fieldsV1"]) for m in body["metadata"]["managedFields"]}
    assert owned["hpa"] == ("scale", {"f:spec": {"f:vcpus": {}}})


async def test_a_scale_is_replaced_at_its_revision_only(scaled: Api) -> None:
    body = (await scaled.call("GET", SCALE)).body
    body["spec"]["replicas"] = 3
    assert (await scaled.call("PUT", SCALE, body)).body["spec"] == {"replicas": 3}
    assert (await scaled.call("PUT", SCALE, body)).status == 409
    stale = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "spec": {"replicas": 9}}
    assert (await scaled.call("PATCH", SCALE, stale, type=MERGE)).status == 409


async def test_what_is_no_number_of_replicas_is_refused(scaled: Api) -> None:
    for replicas in (-1, "2", 1.5, True, 2**31, [], {}):
        reply = await scaled.call("PATCH", SCALE, {"spec": {"replicas": replicas}}, type=MERGE)
        assert (reply.status, list(reply.causes)) == (422, ["spec.replicas"]), replicas
    assert (await scaled.call("GET", SCALE)).body["spec"] == {"replicas": 2}


async def test_the_kinds_own_rules_hold_for_its_scale(scaled: Api) -> None:
    reply = await scaled.call("PATCH", SCALE, {"spec": {"replicas": 0}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["spec.vcpus"])


async def test_what_is_no_scale_is_refused(scaled: Api) -> None:
    for change in ({"kind": "Domain"}, {"apiVersion": "v1"}, {"metadata": {"name": "x"}}, {"spec": None}):
        reply = await scaled.call("PATCH", SCALE, change, type=MERGE)
        assert reply.status == 422, change
    assert (await scaled.call("PATCH", SCALE, b"spec: {replicas: 1}", type=APPLY)).status == 415
    assert (await scaled.call("DELETE", SCALE)).status == 405
    assert (await scaled.call("GET", f"{NODES}/hv1/scale")).status == 404, "no other kind has one"


async def test_discovery_tells_of_a_scale_as_kubernetes_does(scaled: Api) -> None:
    listed = {r["name"]: r for r in (await scaled.call("GET", V1)).body["resources"]}
    found = listed["domains/scale"]
    assert (found["group"], found["version"], found["kind"]) == ("autoscaling", "v1", "Scale")
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    document = (await scaled.call("GET", "/apis", Accept=accept)).body["items"][0]["versions"][0]
    subresources = document["resources"][0]["subresources"]
    assert [s["subresource"] for s in subresources] == ["status", "scale", "console", "log"]
    assert subresources[1]["responseKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}


# --- dry runs

DRY: list[tuple[str, str, Any, str]] = [
    ("POST", DOMAINS, domain("new", interfaces=[{"name": "n", "network": "x"}]), "application/json"),
    ("POST", DOMAINS, {**domain(), "metadata": {"generateName": "x-"}}, "application/json"),
    ("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 3}}, MERGE),
    ("PATCH", f"{DOMAINS}/web-1", [{"op": "add", "path": "/spec/vcpus", "value": 4}], JSON_PATCH),
    ("PATCH", f"{DOMAINS}/web-1?fieldManager=a&force=true", domain(vcpus=5), APPLY),
    ("PATCH", f"{DOMAINS}/applied?fieldManager=a", domain("applied"), APPLY),
    ("PATCH", f"{DOMAINS}/web-1/status", {"status": {"node": "hv1"}}, MERGE),
    ("PATCH", SCALE, {"spec": {"replicas": 6}}, MERGE),
    ("DELETE", f"{DOMAINS}/web-1", {"propagationPolicy": "Foreground"}, "application/json"),
    ("DELETE", DOMAINS, None, "application/json"),
    ("DELETE", f"{ROLES}/a", None, "application/json"),
    ("DELETE", ROLES, None, "application/json"),
    ("POST", f"{NODES}/hv1/confirmdead", {}, "application/json"),
    ("POST", f"{DOMAINS}/web-1/resolve", {"keep": "hv1"}, "application/json"),
    ("POST", f"{V1}/storeacks", {"nodes": ["hv1"]}, "application/json"),
]


async def test_a_dry_run_of_any_verb_leaves_no_trace_and_answers_as_the_act_would(scaled: Api) -> None:
    await scaled.call("POST", NODES, node())
    await scaled.call("POST", ROLES, role("a"))
    await scaled.call("POST", ROLES, role("b"))
    before = (await scaled.store.list(keys.ROOT)).items
    answers = []
    for method, path, body, type in DRY:
        dry = f"{path}{'&' if '?' in path else '?'}dryRun=All"
        reply = await scaled.call(method, dry, body, type=type)
        assert reply.status in {200, 201}, (method, path, reply.text)
        assert (await scaled.store.list(keys.ROOT)).items == before, (method, path)
        answers.append(reply.status)
    for (method, path, body, type), status in zip(DRY, answers, strict=True):
        before = (await scaled.store.list(keys.ROOT)).items
        assert (await scaled.call(method, path, body, type=type)).status == status, (method, path)
        assert (await scaled.store.list(keys.ROOT)).items != before, (method, path, "it acts")


# --- gzip


async def raw(api: Api, path: str, **headers: str) -> tuple[bytes, dict[str, str]]:
    connector = api.session.connector
    async with (
        aiohttp.ClientSession(connector=connector, connector_owner=False, auto_decompress=False) as session,
        session.get(api.url + path, headers={"Accept-Encoding": "", **headers}) as response,
    ):
        return await response.read(), dict(response.headers)


async def test_large_answers_are_compressed_for_those_who_take_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "FROM_BYTES", 2000)
    for n in range(20):
        await api.call("POST", DOMAINS, domain(f"d{n}"))
    for accept in ("application/json", TABLE):
        plain, headers = await raw(api, DOMAINS, Accept=accept)
        assert "Content-Encoding" not in headers
        packed, headers = await raw(api, DOMAINS, Accept=accept, **{"Accept-Encoding": "deflate, gzip;q=1"})
        assert (headers["Content-Encoding"], headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert int(headers["Content-Length"]) == len(packed) < len(plain) / 4
        later, _ = await raw(api, DOMAINS, Accept=accept)  # a Table's ages may have changed meanwhile
        assert gzip.decompress(packed) in (plain, later)
    for refused in ("identity", "gzip;q=0", "br"):
        assert "Content-Encoding" not in (await raw(api, DOMAINS, **{"Accept-Encoding": refused}))[1]
    assert "Content-Encoding" not in (await raw(api, f"{DOMAINS}/d1", **{"Accept-Encoding": "gzip"}))[1]
