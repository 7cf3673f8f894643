"""v1 Events that clients write: what is taken, how much of it, when it ends, and what is not theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from controller import keys
from controller.api.facade import notes
from controller.events import Recorder
from controller.ledger import Ledger
from controller.limits import Bounds
from controller.model import EVENT_LIFETIME_S
from drivers.memory import MemoryStore
from drivers.store import Delete, Put
from tests.apiserver import JSON_PATCH, MERGE, Api, Options, serving
from tests.term import Term
from tests.unit.test_api_rights import as_bob, give, known, rule

EVENTS = "/api/v1/namespaces/default/events"
OURS = "/apis/domctl.io/v1/namespaces/default/events"
STRATEGIC = "application/strategic-merge-patch+json"


def told(**more: Any) -> dict[str, Any]:
    """As Kopf tells it."""
    return {
        "metadata": {"namespace": "default", "generateName": "kopf-event-"},
        "action": "Action?",
        "type": "Normal",
        "reason": "Logging",
        "message": "Handler 'created' succeeded.",
        "reportingComponent": "kopf",
        "reportingInstance": "dev",
        "source": {"component": "kopf"},
        "involvedObject": {
            "apiVersion": "domctl.io/v1",
            "kind": "Domain",
            "name": "web-1",
            "uid": "u",
            "namespace": "default",
        },
        "firstTimestamp": "2026-01-02T03:04:05.678901+00:00",
        "lastTimestamp": "2026-01-02T05:04:05.678901+02:00",
        "eventTime": "2026-01-02T03:04:05.678901+00:00",
        **more,
    }


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    bounds = Bounds(client_events=4, client_events_each=3)
    async with serving(store, tmp_path, Options(bounds=bounds)) as found:
        yield found
    await store.close()


async def test_what_a_client_tells_is_kept_as_clients_can_read_it(api: Api) -> None:
    reply = await api.call("POST", EVENTS, told())
    assert reply.status == 201, reply.text
    name = reply.body["metadata"]["name"]
    assert name.startswith("kopf-event-")
    assert len(name) > len("kopf-event-")
    (seen,) = (await api.call("GET", f"{EVENTS}?fieldSelector=involvedObject.name%3Dweb-1")).body["items"]
    assert seen == {**reply.body, "apiVersion": "v1", "kind": "Event"}
    assert seen["firstTimestamp"] == seen["lastTimestamp"] == "2026-01-02T03:04:05Z"
    assert seen["eventTime"] == "2026-01-02T03:04:05.678901Z"
    assert seen["metadata"]["uid"]
    assert (await api.call("GET", f"{OURS}/{name}")).body["message"] == seen["message"]
    assert (await api.call("POST", EVENTS, told(metadata={"name": name}))).status == 409


async def test_a_repeated_event_is_patched_and_keeps_its_name(api: Api) -> None:
    made = (await api.call("POST", EVENTS, told())).body["metadata"]
    path = f"{EVENTS}/{made['name']}"
    for content_type, change, count in (
        (STRATEGIC, {"count": 2, "lastTimestamp": "2026-01-02T04:00:00Z"}, 2),
        (MERGE, {"count": 3}, 3),
        (JSON_PATCH, [{"op": "replace", "path": "/count", "value": 4}], 4),
    ):
        reply = await api.call("PATCH", path, change, type=content_type)
        assert (reply.status, reply.body["count"]) == (200, count), reply.text
    seen = (await api.call("GET", path)).body
    assert (seen["count"], seen["lastTimestamp"]) == (4, "2026-01-02T04:00:00Z")
    assert seen["metadata"]["uid"] == made["uid"]
    reply = await api.call("PATCH", path, {"metadata": {"name": "x"}}, type=MERGE)
    assert reply.status == 422
    reply = await api.call("PATCH", path, {"metadata": {"namespace": None}}, type=MERGE)
    assert (reply.status, "metadata.namespace" in reply.causes) == (422, True), reply.text
    stale = {"metadata": {"resourceVersion": made["resourceVersion"]}, "count": 9}
    assert (await api.call("PATCH", path, stale, type=MERGE)).status == 409
    assert (await api.call("PATCH", f"{path}?dryRun=All", {"count": 9}, type=MERGE)).body["count"] == 9
    assert (await api.call("GET", path)).body["count"] == 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reportingComponent": "domctl.io/controller"}, "reportingComponent"),
        ({"source": {"component": "domctl"}}, "source.component"),
        ({"eventTime": "yesterday"}, "eventTime"),
        ({"firstTimestamp": "2026-01-02T03:04:05"}, "firstTimestamp"),
        ({"lastTimestamp": 7}, "lastTimestamp"),
        ({"count": "many"}, "count"),
        ({"involvedObject": {"kind": "Domain", "namespace": "other"}}, "involvedObject.namespace"),
        ({"involvedObject": None}, "involvedObject"),
        ({"metadata": {"name": "Not A Name"}}, "metadata.name"),
        ({"metadata": {"name": "x", "labels": {"a b": "c"}}}, "metadata.labels"),
    ],
)
async def test_what_nobody_could_read_or_the_controller_alone_says_is_refused(
    api: Api, change: dict[str, Any], field: str
) -> None:
    reply = await api.call("POST", EVENTS, told(**change))
    assert (reply.status, field in reply.causes) == (422, True), reply.text
    assert (await api.call("GET", EVENTS)).body["items"] == []


async def test_events_are_bounded_in_size_and_number(api: Api) -> None:
    assert (await api.call("POST", EVENTS, told(message="x" * 9000))).status == 413
    assert (await api.call("POST", f"{EVENTS}?dryRun=All", told())).status == 201
    assert (await api.call("GET", EVENTS)).body["items"] == []
    for _ in range(3):
        assert (await api.call("POST", EVENTS, told())).status == 201
    reply = await api.call("POST", EVENTS, told())
    assert (reply.status, "of one client" in reply.body["message"]) == (429, True)
    assert 0 < int(reply.headers["Retry-After"]) <= 600
    other = {"Impersonate_User": "ann", "Impersonate_Group": "domctl:admins"}
    assert (await api.call("POST", EVENTS, told(), **other)).status == 201
    reply = await api.call("POST", EVENTS, told(), **other)
    assert (reply.status, "of all clients" in reply.body["message"]) == (429, True)
    event, *_ = (await api.call("GET", EVENTS)).body["items"]
    path = f"{EVENTS}/{event['metadata']['name']}"
    reply = await api.call("PATCH", path, {"message": "x" * 8100}, type=MERGE)
    assert reply.status == 413
    assert (await api.call("PATCH", path, {"count": 2}, type=MERGE)).status == 200, "repeats take no room"


async def test_only_who_may_write_events_does(api: Api) -> None:
    assert (await as_bob(api, "POST", EVENTS, told())).status == 403
    await give(api, rule("create", "events", ""))
    await known(api)
    assert (await as_bob(api, "POST", EVENTS, told())).status == 201
    assert (await as_bob(api, "POST", OURS, told())).status == 403
    assert (await api.call("POST", OURS, told())).status == 405
    assert (await api.call("DELETE", EVENTS)).status == 405
    assert (await api.call("POST", "/api/v1/events", told())).status == 405


async def recorder(api: Api) -> Recorder:
    await api.store.txn([], [Delete(keys.LEADER)])
    token = (await api.store.txn([], [Put(keys.LEADER, b"me")])).revision
    return Recorder(Ledger(api.store, Term(token)), api.store, api.objects.world)


async def test_the_controllers_own_are_nobodys_to_change(api: Api) -> None:
    ours = await recorder(api)
    ours.event("Domain", "default", "web-1", "u", "Normal", "Started", "it was started", "Start")
    assert await ours.flush()
    (event,) = (await api.call("GET", EVENTS)).body["items"]
    path = f"{EVENTS}/{event['metadata']['name']}"
    reply = await api.call("PATCH", path, {"message": "it was not"}, type=MERGE)
    assert (reply.status, "the controller's own" in reply.body["message"]) == (403, True)
    reply = await api.call("PATCH", path, {"reportingComponent": "me"}, type=MERGE)
    assert reply.status == 403
    assert (await api.call("GET", path)).body == event


async def test_an_event_under_a_name_that_the_controller_needs_makes_way(api: Api) -> None:
    ours = await recorder(api)
    said = ("Domain", "default", "web-1", "u", "Normal", "Started", "it was started", "Start")
    ours.event(*said)
    assert await ours.flush()
    (event,) = (await api.call("GET", EVENTS)).body["items"]
    name = event["metadata"]["name"]
    await api.store.txn([], [Delete(keys.object_key("events", "default", name))])
    claimed = told(metadata={"name": name}, count=1_000_000, message="forged")
    assert (await api.call("POST", EVENTS, claimed)).status == 201
    again = await recorder(api)
    again.event(*said)
    assert await again.flush()
    (event,) = (await api.call("GET", EVENTS)).body["items"]
    assert (event["message"], event["count"]) == ("it was started", 1)
    assert event["firstTimestamp"] != "2026-01-02T03:04:05Z"


async def test_an_event_ends_by_itself_unless_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(notes, "WINDOW_S", 0.0)
    store = MemoryStore(lambda: now_s)
    async with serving(store, tmp_path) as api:
        await api.call("POST", EVENTS, told())
        again = (await api.call("POST", EVENTS, told())).body["metadata"]["name"]
        now_s += EVENT_LIFETIME_S - 60
        await api.call("PATCH", f"{EVENTS}/{again}", {"count": 2}, type=MERGE)
        assert len((await api.call("GET", EVENTS)).body["items"]) == 2
        now_s += 100
        left = [one["metadata"]["name"] for one in (await api.call("GET", EVENTS)).body["items"]]
        assert left == [again]
        now_s += EVENT_LIFETIME_S
        assert (await api.call("GET", EVENTS)).body["items"] == []
    await store.close()


async def test_an_event_outlives_the_loss_of_the_lease_that_others_hang_on(api: Api) -> None:
    assert isinstance(api.store, MemoryStore)
    await api.call("POST", EVENTS, told())
    for lease in api.store.leases:
        await api.store.revoke(lease)
    assert (await api.call("GET", EVENTS)).body["items"] == []
    assert (await api.call("POST", EVENTS, told())).status == 201
