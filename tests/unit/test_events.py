"""Events as they stand in the store: told once each, counted, gone after an hour, never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from controller import events, keys
from controller.events import Recorder
from controller.ledger import Fenced, Ledger
from controller.model import EVENT_LIFETIME_S
from controller.world import World
from drivers.memory import MemoryStore
from drivers.store import Delete, Put
from tests import virtualtime
from tests.faultystore import FaultyStore
from tests.term import Term


@dataclass
class Newsroom:
    world: World
    memory: MemoryStore
    network: FaultyStore
    counted: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def recorder(self) -> Recorder:
        """A new term's recorder, running."""
        await self.memory.txn([], [Delete(keys.LEADER)])
        token = (await self.memory.txn([], [Put(keys.LEADER, b"me")])).revision
        made = Recorder(Ledger(self.network, Term(token)), self.network, self.world, self.counted.append)
        self.tasks.append(asyncio.create_task(made.run()))
        return made

    async def written(self) -> list[dict[str, Any]]:
        page = await self.memory.list(keys.object_prefix("events"))
        return [msgspec.json.decode(kv.value) for kv in page.items]


@asynccontextmanager
async def newsroom() -> AsyncIterator[Newsroom]:
    world = virtualtime.world()
    memory = MemoryStore(world.now)
    made = Newsroom(world, memory, FaultyStore(memory))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await memory.close()


def tell(recorder: Recorder, message: str = "started on n1", name: str = "web", **more: str) -> None:
    kind, namespace = more.get("kind", "Domain"), more.get("namespace", "team")
    reason = more.get("reason", "Started")
    recorder.event(kind, namespace, name, "u-" + name, "Normal", reason, message, "Start")


def test_an_event_has_the_form_that_kubernetes_tools_read() -> None:
    async def main() -> None:
        async with newsroom() as room:
            tell(await room.recorder())
            await asyncio.sleep(1)
            (event,) = await room.written()
            name = event["metadata"]["name"]
            assert name.startswith("web.")
            assert await room.memory.get(keys.object_key("events", "team", name)) is not None
            assert event["metadata"]["namespace"] == "team"
            assert len(event["metadata"]["uid"]) == 36
            assert (event["apiVersion"], event["kind"]) == ("v1", "Event")
            assert event["involvedObject"] == {
                "apiVersion": "domctl.io/v1",
                "kind": "Domain",
                "namespace": "team",
                "name": "web",
                "uid": "u-web",
            }
            said = {k: event[k] for k in ("reason", "message", "type", "action", "count")}
            assert said == {
                "reason": "Started",
                "message": "started on n1",
                "type": "Normal",
                "action": "Start",
                "count": 1,
            }
            assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T12:00:00Z"
            assert event["source"] == {"component": "domctl"}

    virtualtime.run(main())


def test_an_event_about_a_node_stands_in_the_default_namespace() -> None:
    async def main() -> None:
        async with newsroom() as room:
            tell(await room.recorder(), kind="Node", namespace="", name="n1")
            await asyncio.sleep(1)
            (event,) = await room.written()
            assert event["metadata"]["namespace"] == "default"
            assert "namespace" not in event["involvedObject"]

    virtualtime.run(main())


def test_the_same_event_is_counted_not_repeated_also_under_the_next_leader() -> None:
    async def main() -> None:
        async with newsroom() as room:
            first = await room.recorder()
            for _ in range(3):
                tell(first)
            await asyncio.sleep(60)
            tell(first)
            await asyncio.sleep(60)
            tell(await room.recorder())
            await asyncio.sleep(1)
            (event,) = await room.written()
            assert event["count"] == 5
            assert event["firstTimestamp"] == "2026-01-02T12:00:00Z"
            assert event["lastTimestamp"] == "2026-01-02T12:02:00Z"
            assert room.counted.count("merged") == 2

    virtualtime.run(main())


def test_different_objects_reasons_and_messages_are_different_events() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            tell(recorder)
            tell(recorder, name="db")
            tell(recorder, reason="Stopped")
            tell(recorder, message="started on n2")
            tell(recorder, namespace="other")
            await asyncio.sleep(1)
            assert len(await room.written()) == 5

    virtualtime.run(main())


def test_an_object_with_ever_new_messages_does_not_fill_the_store() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            for number in range(500):
                tell(recorder, message=f"attempt {number} failed")
                await asyncio.sleep(0.7)
            written = await room.written()
            assert len(written) == events.MAX_KINDS_PER_OBJECT + 1
            assert sum(event["count"] for event in written) == 500
            assert "attempt 499 failed" in {event["message"] for event in written}

    virtualtime.run(main())


def test_events_end_an_hour_after_their_last_occurrence_and_share_their_leases() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            for number in range(10):
                tell(recorder, name=f"d{number}")
                await asyncio.sleep(30)
            leases = {kv.lease for kv in (await room.memory.list(keys.object_prefix("events"))).items}
            assert len(leases) == 1
            await asyncio.sleep(EVENT_LIFETIME_S - 600)
            tell(recorder, name="d0")
            await asyncio.sleep(605 - 300)
            assert len(await room.written()) == 10
            await asyncio.sleep(events.LEASE_WINDOW_S)
            assert [event["involvedObject"]["name"] for event in await room.written()] == ["d0"]
            await asyncio.sleep(EVENT_LIFETIME_S + events.LEASE_WINDOW_S)
            assert await room.written() == []

    virtualtime.run(main())


def test_telling_never_waits_and_never_fails_while_the_store_is_away() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            room.network.silent = True
            for number in range(events.MAX_WAITING + 100):
                tell(recorder, name=f"d{number}")
                if number % 1000 == 0:
                    await asyncio.sleep(10)
            assert recorder.dropped == 100
            room.network.silent = False
            await asyncio.sleep(60)
            assert len(await room.written()) == events.MAX_WAITING

    virtualtime.run(main())


def test_an_event_whose_lease_was_lost_is_written_under_another() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            tell(recorder)
            await asyncio.sleep(1)
            await room.memory.revoke(recorder._lease)
            assert await room.written() == []
            tell(recorder, name="db")
            tell(recorder)
            await asyncio.sleep(10)
            assert {event["involvedObject"]["name"] for event in await room.written()} == {"web", "db"}

    virtualtime.run(main())


def test_an_event_that_cannot_be_read_is_replaced() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            tell(recorder)
            await asyncio.sleep(1)
            (kv,) = (await room.memory.list(keys.object_prefix("events"))).items
            for garbage in (b"", b"{", b"[]", b'{"count": "x", "firstTimestamp": 1}'):
                await room.memory.txn([], [Put(kv.key, garbage)])
                tell(await room.recorder())
                await asyncio.sleep(1)
                (event,) = await room.written()
                assert event["count"] == 1
                assert event["firstTimestamp"]

    virtualtime.run(main())


def test_a_recorder_whose_term_is_over_stops_and_writes_nothing() -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            await room.memory.txn([], [Delete(keys.LEADER)])
            tell(recorder)
            with pytest.raises(Fenced):
                await room.tasks[0]
            assert await room.written() == []

    virtualtime.run(main())
