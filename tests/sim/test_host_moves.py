"""What was measured of libvirt and cannot be said in the contract, of migrations asked for through
the port: each test is one such fact, and the simulated host must show it."""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import CallTimedOut, NoDomain, PeerUnreachable, Unreachable
from drivers.hypervisor import Move, Outcome, Permit, Result, Session
from tests.sim import definition
from tests.sim.twohosts import HERE, PAUSED, THERE, UUID, XML, Lab, now, simulated, until

LEAVE = Permit(float("inf"))


def _move(xml: str | None = XML, target: str = "h2", limit_s: float = 600) -> Move:
    return Move(f"qemu+tcp://{target}/system", xml, limit_s)


async def _on_its_way(lab: Lab) -> tuple[Session, asyncio.Task[Result]]:
    """As production does it: the source has given up its definition."""
    session = await lab.session()
    assert (await session.undefine(UUID, LEAVE)).outcome is Outcome.DONE
    moving = asyncio.create_task(session.migrate(UUID, _move(), LEAVE))
    await until(lambda: lab.stands("h2") == PAUSED)
    return session, moving


@simulated
async def test_a_migration_plants_the_definition_that_it_was_given(lab: Lab) -> None:
    session = await lab.session()
    await session.undefine(UUID, LEAVE)
    pending = definition.with_memory(XML, 64)
    assert await session.migrate(UUID, _move(pending), LEAVE) == Result(Outcome.DONE)
    assert lab.ends() == (None, THERE)
    arrived = lab.other.domains[UUID].detail()
    assert (arrived.persistent, arrived.config_xml) == (True, pending)
    assert arrived.memory_bytes == 32 << 20


@simulated
async def test_a_client_that_dies_stops_no_migration(lab: Lab) -> None:
    _, moving = await _on_its_way(lab)
    lab.hypervisor.die()
    moving.cancel()
    await asyncio.sleep(60)
    assert lab.ends() == (None, THERE)


@simulated
async def test_a_reply_that_is_lost_leaves_a_migration_ambiguous_and_it_goes_on(lab: Lab) -> None:
    _, moving = await _on_its_way(lab)
    lab.network.cut("c1", "h1")
    result = await moving
    assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, Unreachable)
    await asyncio.sleep(60)
    assert lab.ends() == (None, THERE)


@simulated
async def test_a_target_that_the_source_cannot_reach_costs_no_session(lab: Lab) -> None:
    session = await lab.session()
    lab.network.cut("h1", "h2")
    for target in ("h2", "nobody"):
        result = await session.migrate(UUID, _move(target=target), LEAVE)
        assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, PeerUnreachable)
    assert session.is_open
    assert lab.ends() == (HERE, None)


@simulated
async def test_a_job_is_told_of_at_the_source_until_the_end_and_kept_at_the_target(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    there = await lab.open("h2")
    arriving = await there.job(UUID)
    assert arriving is not None
    assert arriving.operation == "migration-in"
    copied = []
    while lab.stands("h2") == PAUSED:
        job = await session.job(UUID)
        assert job is not None
        assert job.operation == "migration-out"
        copied.append(job.processed_bytes)
        await asyncio.sleep(1)
    assert copied == sorted(set(copied))
    assert (await moving).outcome is Outcome.DONE
    assert await there.job(UUID) is None
    ended = await there.job(UUID, completed=True)
    assert ended is not None
    assert ended.downtime_ms is not None
    assert 0 < ended.downtime_ms < 1000
    with pytest.raises(NoDomain):
        await session.job(UUID)


@simulated
async def test_a_guest_that_is_stopped_holds_up_its_migration_and_no_other_read(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    lab.host.stick_guest(UUID)
    for limit_s in (10, 0):  # whoever asks again does not wait
        began = now()
        with pytest.raises(CallTimedOut):
            await session.job(UUID)
        assert now() - began == pytest.approx(limit_s, abs=0.1)
    assert len((await session.list()).records) == 1
    await asyncio.sleep(60)
    assert not moving.done()
    lab.host.unstick_guest(UUID)
    assert (await moving).outcome is Outcome.DONE


@simulated
async def test_more_migrations_than_one_connection_takes_go_on_at_once(lab: Lab) -> None:
    session = await lab.open()
    uuids = [f"33333333-3333-4333-8333-{number:012d}" for number in range(8)]
    for uuid in uuids:
        await lab.virsh.define(definition.plain(uuid, f"d{uuid[-1]}"))
        await lab.virsh.start(uuid)
    moving = [
        asyncio.create_task(session.migrate(uuid, _move(definition.plain(uuid, f"d{uuid[-1]}")), LEAVE))
        for uuid in uuids
    ]
    await until(lambda: len(lab.other.domains) == 8)
    assert all(result.outcome is Outcome.DONE for result in await asyncio.gather(*moving))


@simulated
async def test_a_migration_that_is_aborted_through_the_port_leaves_the_source_running(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    assert (await session.abort_job(UUID, LEAVE)).outcome is Outcome.DONE
    result = await moving
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == 78
    await asyncio.sleep(2)
    assert lab.ends() == (HERE, None)
    assert (await session.define(XML, LEAVE)).outcome is Outcome.DONE


@simulated
async def test_a_guest_faster_than_the_copying_never_arrives(lab: Lab) -> None:
    lab.host.temper.stalls = 1.0
    session, moving = await _on_its_way(lab)
    await asyncio.sleep(100)
    assert not moving.done()
    first, second = await session.job(UUID), await session.job(UUID)
    assert first is not None
    assert second is not None
    assert first.processed_bytes == second.processed_bytes
    await session.abort_job(UUID, LEAVE)
    assert (await moving).outcome is Outcome.FAILED
