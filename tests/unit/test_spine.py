"""The spine as a whole: domains that vanish, die with their node, come back or cannot be shown.

Real terms of leadership above invented hosts, in virtual time. Each test changes objects or hosts, lets time
pass and looks at both again. Letters and numbers in comments name the invariants.
"""

from __future__ import annotations

import asyncio

from controller import keys
from controller.plan import plan
from controller.plan.types import ActionKind, Reason
from drivers.errors import Cause
from drivers.hypervisor import EventKind, Listing
from tests.unit.plancase import UUID
from tests.unit.spine import (
    DELETED,
    FOREIGN_XML,
    HostDomain,
    died_on_a_and_runs_on_b,
    now,
    run,
    running_on_a,
    spine,
    until,
)

ACPI_THEN_DESTROY = [{"method": "acpi", "timeoutSeconds": 60}, {"method": "destroy"}]


# --- absence


def test_a_domain_that_was_moved_while_its_home_was_cut_off_is_not_started_at_home() -> None:
    """I22c: libvirtd of a restarts, an administrator moves the domain to b, and b's events are late."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            a, b = s.hosts["a"], s.hosts["b"]
            b.mute = True
            a.cut()
            await asyncio.sleep(0.1)
            b.domains[UUID] = a.domains.pop(UUID)
            for _ in range(600):
                await asyncio.sleep(0.05)
                assert s.running_on() == ["b"]
            assert (await s.status())[0] == "RunsElsewhere"

    run(main)


def test_a_domain_that_is_gone_everywhere_is_started_again() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            s.hosts["a"].domains.clear()
            await asyncio.sleep(30)
            assert len(s.running_on()) == 1

    run(main)


def test_absence_needs_two_listings_after_the_last_sighting() -> None:
    """I22c, at the cache: a listing without the domain is only the first of two."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            cache = leader.cache
            gone = 0
            for host in s.hosts.values():
                host.latency_s = 3600  # what follows is read by hand
            await asyncio.sleep(0)
            answers = []
            for _ in range(3):
                for node in ("a", "b"):
                    gone += cache.observed(node, Listing(now(), now() + 0.01, ()), {})
                await asyncio.sleep(0.02)
                verdict = plan(cache.snapshot(), [UUID])[UUID]
                answers.append(verdict.action.kind if verdict.action else verdict.deferred)
            assert gone == 1
            assert getattr(answers[0], "reason", None) is Reason.READING_ALL_NODES
            assert answers[1] is ActionKind.START

    run(main)


def test_a_copy_that_is_learned_of_while_defining_stops_the_start() -> None:
    """I1: between the plan and create() lie seconds."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await s.node("b")
            await asyncio.sleep(5)
            for host in s.hosts.values():
                host.define_s = 5.0
            await s.domain()
            await asyncio.sleep(1)
            home = leader.cache.assignments[UUID].assignment.node
            other = s.hosts["b" if home == "a" else "a"]
            other.domains[UUID] = HostDomain(UUID, "web", live=FOREIGN_XML)
            other.say(EventKind.STARTED, "booted")
            for _ in range(300):
                await asyncio.sleep(0.1)
                assert s.running_on() == [other.name]

    run(main)


# --- an operator's word


def test_keep_waits_until_both_sides_are_read_and_is_used_once() -> None:
    """I13: nothing is destroyed on an old sighting, nor on an old word."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            a, b = s.hosts["a"], s.hosts["b"]
            b.domains[UUID] = a.domains[UUID].copy()
            b.say(EventKind.STARTED, "booted")
            await asyncio.sleep(20)
            assert (await s.status())[0] == "Duplicate"
            a.lose()
            await asyncio.sleep(2)
            before = (await s.store.status()).revision
            await s.resolve(keep="b")
            await asyncio.sleep(60)
            assert s.running_on() == ["a", "b"]
            assert (await s.status())[0] == "NodeUnreachable"
            assert (await s.store.status()).revision - before < 40  # renewals, one move, one status

            a.reachable = True
            await until(lambda: s.running_on() == ["b"])
            await asyncio.sleep(20)
            assert not await s.exists(keys.resolution(UUID))
            assert UUID not in a.domains

            a.domains[UUID] = b.domains[UUID].copy()
            a.say(EventKind.STARTED, "booted")
            await asyncio.sleep(60)
            assert s.running_on() == ["a", "b"]
            assert (await s.status())[0] == "Duplicate"

    run(main)


# --- dead, and back


def test_a_domain_that_moved_away_from_a_dead_node_runs_as_wanted() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            assert await s.status() == ("Running", "as wanted")
            s.hosts["b"].end("crashed")
            await until(s.hosts["b"].runs, limit_s=30)

    run(main)


def test_after_a_dead_node_came_back_clean_restarts_work_and_do_not_loop() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            a, b = s.hosts["a"], s.hosts["b"]
            a.domains.clear()
            a.reachable = True
            await asyncio.sleep(60)
            crashed_at = now()
            b.end("crashed")
            await asyncio.sleep(120)
            assert s.running_on() == ["b"]
            assert b.times("define", crashed_at) == 1
            assert b.times("create", crashed_at) == 1
            assignment = await s.assignment()
            assert assignment is not None
            assert assignment.proofs == ()

    run(main)


def test_a_dead_node_that_came_back_with_a_definition_loses_it() -> None:
    """I2: the definition is the capability to run."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            a = s.hosts["a"]
            a.domains[UUID].live, a.domains[UUID].reason = None, "unknown"  # the host booted anew
            a.reachable = True
            await until(lambda: not a.domains)
            await asyncio.sleep(60)
            assert s.running_on() == ["b"]
            assert (await s.status())[0] == "Running"
            assert not await s.exists(keys.quarantine("a"))
            assert not await s.exists(keys.confirmed_dead("a"))

    run(main)


def test_a_dead_node_that_is_registered_again_is_in_quarantine_until_it_was_compared() -> None:
    """I15: its registration was taken away while it was dead, and what it kept was not."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await died_on_a_and_runs_on_b(s)
            await s.node("a", meta={"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 2})
            await until(lambda: "a" not in leader.cache.nodes)
            assert await s.exists(keys.quarantine("a"))
            s.hosts["a"].domains[UUID].live = None
            s.hosts["a"].reachable = True
            await s.node("a")
            await until(lambda: not s.hosts["a"].domains)
            await asyncio.sleep(60)
            assert s.running_on() == ["b"]
            assert not await s.exists(keys.quarantine("a"))

    run(main)


def test_a_refusal_voids_the_word_that_the_host_is_dead() -> None:
    """R3 ends when the node answers; I14: an authentication error is no sign of death."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            s.hosts["a"].denial = Cause.CLIENT_REFUSED
            s.hosts["a"].cut()
            await until(lambda: leader.cache.view("a").denies, limit_s=60)
            await s.node("b")
            await s.confirm_dead("a")
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            assert (await s.status())[0] != "Running"
            assert not await s.exists(keys.confirmed_dead("a"))
            assert await s.node_reason("a") == "ClientRefused"
            s.hosts["a"].denial = None
            await until(lambda: leader.answers("a"), limit_s=60)
            await asyncio.sleep(5)
            assert await s.node_reason("a") == "Ready"

    run(main)


def test_a_node_says_why_it_is_not_reached() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            s.hosts["a"].reachable = False
            await s.node("a")
            await asyncio.sleep(10)
            assert await s.node_reason("a") == "NoRoute"

    run(main)


# --- small repairs and their repetition


def test_autostart_is_cleared_once() -> None:
    """libvirt sends no event when it changes, so only a detail read on purpose shows that it worked."""

    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain()
            a = s.hosts["a"]
            await until(a.runs)
            await asyncio.sleep(5)
            a.domains[UUID].autostart = True
            a.say(EventKind.OTHER)
            await asyncio.sleep(120)
            assert not a.domains[UUID].autostart
            assert a.times("set_autostart") == 1

    run(main)


def test_a_deleted_domain_with_a_managed_save_stays_and_says_why() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain()
            a = s.hosts["a"]
            await until(a.runs)
            await asyncio.sleep(5)
            a.domains[UUID].managed_save = True
            a.domains[UUID].live, a.domains[UUID].reason = None, "saved"
            deleted_at = now()
            await s.domain(meta=DELETED)
            await asyncio.sleep(120)
            assert UUID in a.domains
            reason, message = await s.status()
            assert reason == "SaveInTheWay"
            assert "domctl drop-saved web" in message
            assert a.times("undefine", deleted_at) == 0
            a.domains[UUID].managed_save = False
            await asyncio.sleep(300)
            assert UUID not in a.domains
            assert not await s.exists(keys.object_key("domains", "default", "web"))

    run(main)


def test_a_shutdown_that_is_asked_for_again_begins_at_the_first_rung() -> None:
    """Ten minutes ago the guest was asked; then the user wanted it to run after all."""

    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain(shutdown=ACPI_THEN_DESTROY)
            a = s.hosts["a"]
            await until(a.runs)
            await s.domain(shutdown=ACPI_THEN_DESTROY, state="shutoff", meta={"generation": 2})
            await asyncio.sleep(30)
            assert a.runs()
            await s.domain(shutdown=ACPI_THEN_DESTROY, meta={"generation": 3})
            await asyncio.sleep(600)
            await s.domain(shutdown=ACPI_THEN_DESTROY, state="shutoff", meta={"generation": 4})
            await asyncio.sleep(50)
            assert a.runs()
            await asyncio.sleep(30)
            assert not a.runs()

    run(main)
