"""Reading over HTTPS before a store in memory: lists, tables, what cannot be read, decisions and events."""

from __future__ import annotations

import base64

import msgspec
import pytest

from controller import keys
from controller.api import selectors
from controller.api.reading import Reader
from controller.api.resources import DOMAINS as DOMAIN_KIND
from controller.model import Decision
from controller.objects import parse
from drivers.memory import MemoryStore
from tests.apiserver import (
    DOMAINS,
    MERGE,
    NODES,
    TABLE,
    V1,
    Api,
    domain,
    node,
    put_assignment,
)

# --- what cannot be read


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xfe", b"[]", b"{}", b'{"kind":"Domain","metadata":{"name":"other"}}', b"null"]
)
async def test_unreadable_objects_are_skipped_and_counted_and_stay(api: Api, value: bytes) -> None:
    await api.call("POST", DOMAINS, domain())
    key = keys.object_key("domains", "default", "bad")
    await api.put_raw(key, value)
    for path in (DOMAINS, f"{DOMAINS}?limit=1", f"{V1}/domains"):
        reply = await api.call("GET", path)
        assert [i["metadata"]["name"] for i in reply.body["items"]] in (["web-1"], [])
    reply = await api.call("GET", f"{DOMAINS}/bad")
    assert (reply.status, reply.body["reason"]) == (500, "InternalError")
    for method, body in (("DELETE", None), ("PATCH", {"spec": {}})):
        assert (await api.call(method, f"{DOMAINS}/bad", body, type=MERGE)).status == 500
    assert (await api.call("POST", DOMAINS, domain("bad"))).status == 409
    kv = await api.store.get(key)
    assert kv is not None
    assert kv.value == value
    assert "domctl_objects_quarantined 1.0" in (await api.call("GET", "/metrics")).text
    assert parse(DOMAIN_KIND, kv).problem


# --- lists


async def test_a_list_is_paged_at_one_revision(api: Api) -> None:
    for n in range(7):
        await api.call("POST", DOMAINS, domain(f"d{n}"))
    first = (await api.call("GET", f"{DOMAINS}?limit=3")).body
    await api.call("POST", DOMAINS, domain("d5a"))
    await api.call("PATCH", f"{DOMAINS}/d4", {"spec": {"vcpus": 9}}, type=MERGE)
    names, body = [i["metadata"]["name"] for i in first["items"]], first
    while token := body["metadata"].get("continue"):
        body = (await api.call("GET", f"{DOMAINS}?limit=3&continue={token}")).body
        assert body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [i["metadata"]["name"] for i in body["items"]]
        assert all("vcpus" not in i["spec"] for i in body["items"])
    assert names == [f"d{n}" for n in range(7)]


async def test_a_page_tells_how_many_follow_unless_something_chooses(api: Api) -> None:
    for n in range(7):
        await api.call("POST", DOMAINS, domain(f"d{n}"))
    left: list[int | None] = []
    token = ""
    while True:
        page = await api.call("GET", f"{DOMAINS}?limit=3&continue={token}", Accept=TABLE)
        left.append(page.body["metadata"].get("remainingItemCount"))
        if not (token := page.body["metadata"].get("continue", "")):
            break
        await api.call("DELETE", f"{DOMAINS}/d6")  # is not gone where the first page was read
    assert left == [4, 1, None]
    for query in ("labelSelector=%21x&limit=3", "fieldSelector=metadata.name%21%3Dd0&limit=3", "limit=7", ""):
        listed = await api.call("GET", f"{DOMAINS}?{query}")
        assert "remainingItemCount" not in listed.body["metadata"], query
    pods = await api.call("GET", "/api/v1/namespaces/default/pods?limit=1")
    assert "remainingItemCount" not in pods.body["metadata"], "of which there are fewer than Domains"


async def test_a_page_is_filled_over_what_a_selector_leaves_out(api: Api) -> None:
    for n in range(9):
        body = domain(f"d{n}")
        body["metadata"]["labels"] = {"odd": str(n % 2)}
        await api.call("POST", DOMAINS, body)
    names: list[str] = []
    token = ""
    while True:
        page = await api.call("GET", f"{DOMAINS}?limit=2&labelSelector=odd%3D1&continue={token}")
        names += [i["metadata"]["name"] for i in page.body["items"]]
        token = page.body["metadata"].get("continue", "")
        if not token:
            break
    assert names == ["d1", "d3", "d5", "d7"]


async def test_a_list_that_was_compacted_must_be_begun_again(api: Api) -> None:
    for n in range(3):
        await api.call("POST", DOMAINS, domain(f"d{n}"))
    token = (await api.call("GET", f"{DOMAINS}?limit=1")).body["metadata"]["continue"]
    await api.call("POST", DOMAINS, domain("d9"))
    assert isinstance(api.store, MemoryStore)
    await api.store.compact((await api.store.status()).revision)
    reply = await api.call("GET", f"{DOMAINS}?limit=1&continue={token}")
    assert (reply.status, reply.body["reason"]) == (410, "Expired")


MADE_UP = [
    *('{"rv":1e400,"start":"%s"}', '{"rv":1.5,"start":"%s"}', '{"rv":true,"start":"%s"}', '{"start":"%s"}'),
    *(
        '{"rv":"1","start":"%s"}',
        '{"rv":0,"start":"%s"}',
        '{"rv":-1,"start":"%s"}',
        '{"rv":1,"start":["%s"]}',
    ),
    *(f'{{"rv":{number},"start":"%s"}}' for number in (2**63, 10**30, "9" * 5000)),
    *('{"rv":1,"start":"%s\\ud800"}', '{"rv":1,"start":"%s\\udcff\\udfff"}', "[]", "1", "[" * 5000),
]


@pytest.mark.parametrize("token", MADE_UP)
async def test_a_made_up_continue_token_is_refused(api: Api, token: str) -> None:
    await api.call("POST", DOMAINS, domain())
    prefix = keys.object_prefix("domains", "default")
    made = base64.urlsafe_b64encode(token.replace("%s", prefix).encode()).decode().rstrip("=")
    reply = await api.call("GET", f"{DOMAINS}?limit=1&continue={made}")
    assert (reply.status, reply.body["message"]) == (400, "continue key is not valid"), reply.text


async def test_a_continue_token_of_another_collection_is_refused(api: Api) -> None:
    for n in range(2):
        await api.call("POST", DOMAINS, domain(f"d{n}"))
    token = (await api.call("GET", f"{DOMAINS}?limit=1")).body["metadata"]["continue"]
    assert (await api.call("GET", f"{NODES}?limit=1&continue={token}")).status == 400


async def test_lists_keep_to_their_namespace(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    other = f"{V1}/namespaces/default-2/domains"
    assert (await api.call("POST", other, domain("web-2"))).status == 201
    assert [i["metadata"]["name"] for i in (await api.call("GET", DOMAINS)).body["items"]] == ["web-1"]
    everything = (await api.call("GET", f"{V1}/domains")).body["items"]
    assert [i["metadata"]["namespace"] for i in everything] == ["default-2", "default"] or [
        i["metadata"]["namespace"] for i in everything
    ] == ["default", "default-2"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=web", ["web"]),
        ("metadata.name=we", []),
        ("metadata.name!=web", ["web-1"]),
        ("metadata.name=web,metadata.namespace=default", ["web"]),
        ("metadata.namespace=other", []),
        ("status.phase=Pending", ["web", "web-1"]),
    ],
)
@pytest.mark.parametrize("path", [DOMAINS, f"{V1}/domains"])
async def test_field_selectors_choose(api: Api, path: str, selector: str, names: list[str]) -> None:
    for name in ("web", "web-1"):
        await api.call("POST", DOMAINS, domain(name))
    reply = await api.call("GET", f"{path}?fieldSelector={selector.replace('=', '%3D')}")
    assert [i["metadata"]["name"] for i in reply.body["items"]] == names
    assert int(reply.rv) >= 2


async def test_tables_have_kubectls_form(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    body = (await api.call("GET", DOMAINS, Accept=TABLE)).body
    assert (body["kind"], body["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    shown = [c["name"] for c in body["columnDefinitions"] if c["priority"] == 0]
    assert shown == ["Name", "State", "Node", "Ready", "Reason", "Age"]
    (row,) = body["rows"]
    assert row["cells"][:5] == ["web-1", "Unknown", "<none>", "Unknown", "Pending"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    full = (await api.call("GET", f"{DOMAINS}?includeObject=Object", Accept=TABLE)).body
    assert full["rows"][0]["object"]["spec"] == {"memory": "64Mi"}


# --- operators' decisions


async def test_confirming_a_nodes_death_is_recorded_and_can_be_withdrawn(api: Api) -> None:
    await api.call("POST", NODES, node())
    path, key = f"{NODES}/hv1/confirmdead", keys.confirmed_dead("hv1")
    assert (await api.call("POST", f"{path}?dryRun=All", {"reason": "burnt"})).status == 201
    assert await api.store.get(key) is None
    reply = await api.call("POST", path, {"reason": "burnt"})
    assert reply.status == 201
    kv = await api.store.get(key)
    assert kv is not None
    decision = msgspec.json.decode(kv.value, type=Decision)
    assert (decision.by, decision.reason, decision.node) == ("admin", "burnt", "hv1")
    assert (await api.call("DELETE", path)).status == 200
    assert await api.store.get(key) is None
    assert (await api.call("DELETE", path)).status == 404


async def test_confirming_the_death_of_what_answers_is_warned_of(api: Api) -> None:
    await api.call("POST", NODES, node())
    path = f"{NODES}/hv1/status"
    for phase, reason, warned in (
        ("Refused", "HostKeyChanged", True),
        ("Refused", "CredentialsMissing", False),
        ("Unreachable", "NoAnswer", False),
    ):
        change = {"status": {"phase": phase, "reason": reason}}
        assert (await api.call("PATCH", path, change, type=MERGE)).status == 200
        reply = await api.call("POST", f"{NODES}/hv1/confirmdead?dryRun=All", {})
        assert any("spec.uri" in warning for warning in reply.warnings) is warned, reply.warnings


@pytest.mark.parametrize(
    ("host", "ready", "warned"), [("m1", True, True), ("m1", False, False), ("m2", True, False)]
)
async def test_confirming_the_death_of_a_host_that_answers_as_another_node_is_warned_of(
    api: Api, host: str, ready: bool, warned: bool
) -> None:
    condition = {
        "type": "Ready",
        "status": str(ready),
        "reason": "R",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    for name, status in (("hv1", {"hostUuid": "m1"}), ("hv2", {"hostUuid": host, "conditions": [condition]})):
        await api.call("POST", NODES, node(name))
        assert (
            await api.call("PATCH", f"{NODES}/{name}/status", {"status": status}, type=MERGE)
        ).status == 200
    reply = await api.call("POST", f"{NODES}/hv1/confirmdead?dryRun=All", {})
    assert any("hv2" in warning for warning in reply.warnings) is warned, reply.warnings


async def test_only_registered_nodes_can_be_named_in_decisions(api: Api) -> None:
    await api.call("POST", NODES, node())
    uid = (await api.call("POST", DOMAINS, domain())).body["metadata"]["uid"]
    assert (await api.call("POST", f"{NODES}/hv9/confirmdead", {})).status == 404
    for path, body in (
        (f"{DOMAINS}/web-1/resolve", {"notOn": ["hv1", "hv9"]}),
        (f"{DOMAINS}/web-1/resolve", {"keep": "hv9"}),
        (f"{V1}/storeacks", {"nodes": ["hv9"]}),
    ):
        reply = await api.call("POST", path, body)
        assert reply.status == 422, path
        assert "hv9" in reply.body["message"]
    for bad in ({}, {"keep": "hv1", "notOn": ["hv1"]}, {"notOn": "hv1"}, {"notOn": ["../x"]}, {"force": 1}):
        assert (await api.call("POST", f"{DOMAINS}/web-1/resolve", bad)).status == 422, bad
    assert await api.store.get(keys.resolution(uid)) is None
    assert await api.store.get(keys.STORE_ACK) is None


async def test_resolutions_of_one_domain_add_up(api: Api) -> None:
    for name in ("hv1", "hv2"):
        await api.call("POST", NODES, node(name))
    uid = (await api.call("POST", DOMAINS, domain())).body["metadata"]["uid"]

    async def decided() -> Decision:
        kv = await api.store.get(keys.resolution(uid))
        assert kv is not None
        return msgspec.json.decode(kv.value, type=Decision)

    for name in ("hv1", "hv2"):
        assert (await api.call("POST", f"{DOMAINS}/web-1/resolve", {"notOn": [name]})).status == 201
    assert (await decided()).not_on == ("hv1", "hv2")
    assert (await api.call("POST", f"{DOMAINS}/web-1/resolve", {"keep": "hv1"})).status == 201
    assert ((await decided()).keep, (await decided()).not_on) == ("hv1", ())


async def test_a_tombstone_is_resolved_by_its_uuid(api: Api) -> None:
    await api.call("POST", NODES, node())
    path = f"{V1}/assignments/u-1/resolve"
    assert (await api.call("POST", path, {"notOn": ["hv1"]})).status == 404
    await put_assignment(api, "u-1", "hv1", tombstone=True)
    assert (await api.call("POST", path, {"notOn": ["hv1"]})).status == 201
    assert await api.store.get(keys.resolution("u-1")) is not None


async def test_assignments_are_shown_without_the_domains_xml(api: Api) -> None:
    await put_assignment(api, "u-1", "hv1", config="<domain>secret</domain>")
    reply = await api.call("GET", f"{V1}/assignments")
    (item,) = reply.body["items"]
    assert (item["metadata"]["name"], item["status"]["node"]) == ("u-1", "hv1")
    assert item["status"]["libvirtName"] == "web-1"
    assert "secret" not in reply.text


async def test_the_store_is_acknowledged_with_the_nodes_that_need_not_be_read(api: Api) -> None:
    await api.call("POST", NODES, node())
    assert (await api.call("POST", f"{V1}/storeacks", {"nodes": ["hv1"], "reason": "restored"})).status == 201
    kv = await api.store.get(keys.STORE_ACK)
    assert kv is not None
    assert msgspec.json.decode(kv.value, type=Decision).nodes == ("hv1",)


# --- events


async def test_events_are_served_in_both_groups_and_chosen_by_what_they_are_about(api: Api) -> None:
    for n, name in enumerate(("web-1", "web-2")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.17{n}", "namespace": "default"},
            "involvedObject": {"kind": "Domain", "name": name, "namespace": "default"},
            "reason": "Started",
            "type": "Normal",
        }
        await api.put_raw(keys.object_key("events", "default", f"{name}.17{n}"), msgspec.json.encode(event))
    for prefix, version in (("/api/v1", "v1"), (V1, "domctl.io/v1")):
        path = f"{prefix}/namespaces/default/events?fieldSelector=involvedObject.name%3Dweb-2"
        (item,) = (await api.call("GET", path)).body["items"]
        assert (item["apiVersion"], item["metadata"]["name"]) == (version, "web-2.171")
    assert (await api.call("GET", "/api/v1/namespaces/default/events/web-1.170")).status == 200


@pytest.mark.parametrize("selector", ["", "app=none"])
async def test_what_is_read_to_begin_a_watch_gives_the_loop_back_whatever_matches(
    api: Api, selector: str
) -> None:
    for number in range(120):
        await api.put_raw(
            keys.object_key("domains", "default", f"d{number:03}"),
            msgspec.json.encode(domain(f"d{number:03}")),
        )
    turns: list[int] = []

    async def turn() -> None:
        turns.append(1)

    chosen = selectors.parse(selector, "", DOMAIN_KIND.fields)
    await Reader(api.objects, turn).all(DOMAIN_KIND, "", chosen)
    assert len(turns) == 3, "fifty at a time"
