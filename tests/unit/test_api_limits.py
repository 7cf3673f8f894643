"""What one client may have of the server, what all may have, and that the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from controller.api.errors import ApiError
from controller.api.flow import Flow, Seats
from controller.api.rbac import User
from controller.api.turnstile import Turnstile
from controller.limits import Bounds
from drivers.memory import MemoryStore
from tests.apiserver import APPLY, DOMAINS, MERGE, NODES, Api, Options, client_context, domain, node, serving
from tests.unit.test_api_server import issue
from tests.unit.test_api_storm import Lag

ANN = User("ann", ("dev",))
BOB = User("bob", ("dev",))
ROOT = User("root", ("domctl:admins",))
FEW = Bounds(requests_each=3, requests_burst=5, requests_per_second=2, watchers_each=2, watchers=3)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(bounds=FEW)) as found:
        yield found
    await store.close()


def admin(api: Api) -> ssl.SSLContext:
    return client_context(api.pki.ca_cert, api.pki.admin_cert, api.pki.admin_key)


# --- rates


async def test_who_asks_too_often_is_told_when_to_come_again(api: Api, tmp_path: Path) -> None:
    context = issue(api, tmp_path, "eve", "dev")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        codes = []
        for _ in range(8):
            async with session.get(api.url + DOMAINS) as response:
                codes.append(response.status)
                last = (response.headers.get("Retry-After"), await response.json())
    assert codes[:5] == [403] * 5
    assert codes[-1] == 429
    assert last[0] == "1"
    assert (last[1]["reason"], last[1]["details"]["retryAfterSeconds"]) == ("TooManyRequests", 1)
    assert "asks more often than 2 times a second" in last[1]["message"]
    assert [(await api.call("GET", DOMAINS)).status for _ in range(20)] == [200] * 20, "others, and admins"


async def test_health_is_never_rationed(api: Api) -> None:
    nobody = client_context(api.pki.ca_cert)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=nobody)) as session:
        for _ in range(30):
            async with session.get(api.url + "/livez") as response:
                assert response.status == 200


def test_requests_under_way_are_bounded_for_each_identity() -> None:
    flow = Flow(lambda: 0.0, FEW)
    first, *_ = [flow.enter(ANN) for _ in range(3)]
    with pytest.raises(ApiError, match="3 requests under way"):
        flow.enter(ANN)
    flow.enter(BOB)
    first.leave()
    first.leave()  # said twice, it frees one
    flow.enter(ANN)
    with pytest.raises(ApiError):
        flow.enter(ANN)
    roots = [flow.enter(ROOT) for _ in range(3)]
    with pytest.raises(ApiError):
        flow.enter(ROOT)  # an administrator's memory is bounded too
    for passage in roots * 2:
        passage.leave()
    for _ in range(100):
        flow.enter(ROOT).leave()  # but he has no rate


async def test_seats_go_round_between_those_who_wait() -> None:
    seats, order = Seats(1), []

    async def work(who: str) -> None:
        await seats.take(who)
        order.append(who)
        await asyncio.sleep(0)
        seats.give()

    tasks = [asyncio.create_task(work("ann")) for _ in range(50)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work("bob")) for _ in range(2)]
    await asyncio.gather(*tasks)
    assert len(order) == 52
    assert {order.index("bob") <= 4, order[:8].count("bob") == 2} == {True}


async def test_a_seat_is_not_lost_when_its_taker_goes() -> None:
    seats = Seats(1)
    await seats.take("ann")
    waiting = [asyncio.create_task(seats.take(who)) for who in ("bob", "bob", "carl")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    seats.give()
    waiting[2].cancel()  # in the very moment in which it may have been given
    await asyncio.wait(waiting, timeout=1)
    assert waiting[1].done() or seats._free == 1
    if not waiting[1].cancelled() and waiting[1].done():
        seats.give()
    assert seats._free == 1


# --- watches


async def test_watches_are_bounded_for_each_identity_and_for_all() -> None:
    flow = Flow(lambda: 0.0, FEW)
    with flow.watching(ANN), flow.watching(ANN):
        with pytest.raises(ApiError, match='"ann" has 2 watches open'), flow.watching(ANN):
            pass
        with flow.watching(BOB), pytest.raises(ApiError, match="3 watches are open"), flow.watching(ROOT):
            pass
    with flow.watching(ANN), flow.watching(BOB):
        pass
    assert not flow._watches


async def test_watches_of_others_leave_some_to_administrators() -> None:
    flow = Flow(lambda: 0.0, Bounds(watchers=40, watchers_each=20))
    with ExitStack() as held:
        for _ in range(19):
            held.enter_context(flow.watching(ANN))
            held.enter_context(flow.watching(BOB))
        with pytest.raises(ApiError, match="38 watches are open"), flow.watching(BOB):
            pass
        for _ in range(2):
            held.enter_context(flow.watching(ROOT))
        with pytest.raises(ApiError, match="40 watches are open"), flow.watching(ROOT):
            pass


async def test_a_watch_too_many_is_told_to_come_again(api: Api) -> None:
    opened = [await api.session.get(api.url + f"{DOMAINS}?watch=true") for _ in range(3)]
    assert [response.status for response in opened] == [200, 200, 200]
    reply = await api.call("GET", f"{DOMAINS}?watch=true")
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    assert (await api.call("GET", DOMAINS)).status == 200, "watches keep no seats from requests"
    for response in opened:
        response.close()


# --- what does not end


async def test_bodies_that_do_not_come_keep_nobody_waiting(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(bounds=Bounds(requests_at_once=2))) as api:
        slow = []
        for _ in range(10):
            _, writer = await asyncio.open_connection(*api.server.address, ssl=admin(api))
            head = f"POST {DOMAINS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            slow.append(writer)
        async with asyncio.timeout(5):
            assert (await api.call("POST", DOMAINS, domain())).status == 201
        for writer in slow:
            writer.close()
    await store.close()


async def test_an_answer_that_nobody_reads_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.api.parts.WRITE_S", 0.5)
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(bounds=Bounds(requests_each=1))) as api:
        for n in range(300):
            body = domain(f"web-{n}")
            body["metadata"]["annotations"] = {"note": "x" * 20000}
            assert (await api.call("POST", DOMAINS, body)).status == 201
        _, writer = await asyncio.open_connection(*api.server.address, ssl=admin(api), limit=1)
        writer.write(f"GET {DOMAINS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(0.3)
        statuses = []
        for _ in range(60):
            statuses.append((await api.call("GET", f"{DOMAINS}/web-1")).status)
            if statuses[-1] == 200:
                break
            await asyncio.sleep(0.1)
        assert statuses[-1] == 200, "its place was freed"
        writer.transport.abort()
    await store.close()


async def test_a_request_head_that_drips_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.api.server.IDLE_S", 0.5)
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        reader, writer = await asyncio.open_connection(
            *api.server.address, ssl=client_context(api.pki.ca_cert)
        )
        writer.write(b"GET /livez HTTP/1.1\r\n")
        ended = asyncio.create_task(reader.read())
        for _ in range(100):
            if ended.done():
                break
            writer.write(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.1)
        assert ended.done()
        writer.close()
    await store.close()


async def test_connections_over_the_bound_are_closed_and_others_go_on(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(bounds=Bounds(connections=5))) as api:
        assert (await api.call("GET", DOMAINS)).status == 200
        context = client_context(api.pki.ca_cert)
        held, refused = [], 0
        for _ in range(10):
            try:
                held.append(await asyncio.open_connection(*api.server.address, ssl=context))
            except OSError:
                refused += 1
        assert (len(held), refused) == (4, 6)
        assert (await api.call("GET", DOMAINS)).status == 200, "on the connection that it has"
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.2)
        _, writer = await asyncio.open_connection(*api.server.address, ssl=context)
        writer.close()
    await store.close()


async def test_handshakes_that_never_end_keep_nobody_out(api: Api) -> None:
    silent = [await asyncio.open_connection(*api.server.address) for _ in range(200)]
    async with asyncio.timeout(20):
        assert (await api.call("GET", "/livez")).status == 200
    for _, writer in silent:
        writer.close()


# --- turns


async def test_what_waits_for_turns_lets_others_run_in_between() -> None:
    loop = asyncio.get_running_loop()
    turns, done, rounds = Turnstile(loop.time), 0, 0

    async def heavy() -> None:
        nonlocal done
        await turns.turn()
        until = loop.time() + 0.002
        while loop.time() < until:
            pass
        done += 1

    tasks = [asyncio.create_task(heavy()) for _ in range(300)]
    before = 0
    most = 0
    while done < 300:
        await asyncio.sleep(0)
        rounds += 1
        most = max(most, done - before)
        before = done
    await asyncio.gather(*tasks)
    assert most <= 16, "so many at most ran before the loop came round"
    assert rounds > 30


async def test_turns_are_given_when_nobody_else_wants_them_and_survive_who_goes() -> None:
    turns = Turnstile(asyncio.get_running_loop().time)
    for _ in range(1000):
        await turns.turn()
    waiting = [asyncio.create_task(turns.turn()) for _ in range(200)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(task.cancelled() for task in waiting) <= 100
    async with asyncio.timeout(1):
        await turns.turn()


# --- fields


def labelled(count: int, first: int = 0) -> dict[str, Any]:
    body = domain()
    body["metadata"]["labels"] = {f"example.org/l{n}": "x" for n in range(first, first + count)}
    return body


async def test_an_object_has_a_bounded_number_of_fields_however_it_comes_by_them(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        web, patch = f"{DOMAINS}/web-1", {"metadata": labelled(1000, 10_000)["metadata"]}
        for method, path, body, kind in (
            ("POST", DOMAINS, labelled(9_000), "application/json"),
            ("PATCH", f"{web}?fieldManager=me", labelled(9_000), APPLY),
            ("PATCH", f"{web}?fieldManager=me", json_yaml(labelled(3_000)), APPLY),
        ):
            reply = await api.call(method, path, body, type=kind)
            assert (reply.status, reply.body["reason"]) == (413, "RequestEntityTooLarge")
            assert "at most 1500 are accepted" in reply.body["message"]
        assert (await api.call("POST", DOMAINS, labelled(1000))).status == 201
        reply = await api.call("PATCH", web, patch, type=MERGE)
        assert (reply.status, "would have 20" in reply.body["message"]) == (413, True), "bit by bit"
        reply = await api.call("PATCH", f"{web}?fieldManager=me", labelled(1000, 10_000), type=APPLY)
        assert reply.status == 413
        whole = (await api.call("GET", web)).body
        whole["metadata"]["annotations"] = {"note": "x"}
        assert (await api.call("PUT", web, whole)).status == 200, "with what says whose they are"
    await store.close()


async def test_what_managers_own_of_an_object_together_is_bounded(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        path, statuses = f"{DOMAINS}/web-1", []
        for manager in range(8):
            lag = Lag()
            watching = asyncio.create_task(lag.watch())
            reply = await api.call("PATCH", f"{path}?fieldManager=m{manager}", labelled(1400), type=APPLY)
            watching.cancel()
            statuses.append(reply.status)
        assert statuses == [201, 200, 200, 200, 200, 413, 413, 413]
        assert "too many managers own parts" in reply.body["message"]
        assert (await api.call("PATCH", path, {"spec": {"vcpus": 2}}, type=MERGE)).status == 200
        whole = (await api.call("GET", path)).body
        assert (await api.call("PUT", path, whole)).status == 200, "what was read can be put back"
        other = labelled(1400)
        other["metadata"]["labels"] = dict.fromkeys(other["metadata"]["labels"], "y")
        lag = Lag()
        watching = asyncio.create_task(lag.watch())
        reply = await api.call("PATCH", f"{path}?fieldManager=last", other, type=APPLY)
        watching.cancel()
        assert (reply.status, len(reply.text) < 200_000) == (409, True)
        assert lag.longest_s < 0.1
    await store.close()


async def test_a_node_is_compared_with_all_others_only_where_its_uri_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        for name in ("hv1", "hv2"):
            assert (await api.call("POST", NODES, node(name))).status == 201
        taken = {"spec": {"uri": "qemu+tcp://hv2/system"}}
        reply = await api.call("PATCH", f"{NODES}/hv1", taken, type=MERGE)
        assert (reply.status, list(reply.causes)) == (422, ["spec.uri"])

        async def refuse(*_: object) -> None:
            raise AssertionError("all nodes were read")

        monkeypatch.setattr(api.objects, "list", refuse)
        change = {"metadata": {"labels": {"rack": "1"}}, "spec": {"unschedulable": True}}
        assert (await api.call("PATCH", f"{NODES}/hv1", change, type=MERGE)).status == 200
    await store.close()


def json_yaml(body: dict[str, Any]) -> bytes:
    return yaml.safe_dump(body).encode()


async def test_an_apply_of_as_many_fields_as_may_be_blocks_the_loop_for_less_than_50_ms(
    tmp_path: Path,
) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        lag = Lag()
        for manager in ("one", "two"):
            path = f"{DOMAINS}/web-1?fieldManager={manager}&force=true"
            data = json.dumps(labelled(1400)).encode()
            watching = asyncio.create_task(lag.watch())
            assert (await api.call("PATCH", path, data, type=APPLY)).status in {200, 201}
            watching.cancel()
    print(f"lag {lag.longest_s * 1000:.0f} ms")
    assert lag.longest_s < 0.05
    await store.close()
