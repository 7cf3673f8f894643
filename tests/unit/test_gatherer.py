"""Figures of nodes and domains: gathered by a leader from invented hosts, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controller import gatherer
from controller.figures import Use, reading
from drivers.errors import CallTimedOut, HostBusy, Unreachable
from drivers.hypervisor import DomainFigures, Figures, HostFigures
from tests.unit.plancase import UUID
from tests.unit.spine import DELETED, HostDomain, Leader, Spine, now, run, spine, until

OTHER = "99999999-9999-4999-8999-999999999999"


def figures(at: float, cpu_s: float | None, used: int | None = 7, host: HostFigures | None = None) -> Figures:
    return Figures(at, at + 1, (DomainFigures(UUID, cpu_s, 5, used),), host)


# --- two readings make a rate


def test_what_was_used_is_the_difference_over_the_time_between_the_questions() -> None:
    before = figures(100, 20, host=HostFigures(1000, 1, 9))
    found = reading(before, figures(130, 35, 77, HostFigures(1060, 5, 9)), "then", 200)
    assert (found.at, found.window_s, found.until) == ("then", 30, 200)
    assert found.domains == {UUID: Use(0.5, 77)}
    assert found.host == Use(2.0, 5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (figures(100, None), figures(130, 35)),
        (figures(100, 20), figures(130, None)),
        (figures(100, 20), figures(130, 35, None)),
        (figures(100, 20), figures(130, 3)),  # it was started anew
        (figures(100, 20), figures(100, 20)),
        (Figures(100, 101, (), None), figures(130, 35)),
    ],
)
def test_what_cannot_be_known_is_absent_and_not_zero(before: Figures, after: Figures) -> None:
    found = reading(before, after, "then", 200)
    assert found.domains == {}
    assert found.host is None


# --- the beat


@asynccontextmanager
async def leading(*hosts: str) -> AsyncIterator[tuple[Spine, Leader]]:
    async with spine(*hosts) as s:
        leader = await s.lead()
        for name in hosts:
            await s.node(name)
        await until(lambda: all(leader.answers(name) for name in hosts))
        yield s, leader


def asked(leader: Leader, result: str) -> float:
    name = f'domctl_figures_total{{result="{result}"}} '
    text = leader.metrics.render().decode()
    return float(text.partition(name)[2].partition("\n")[0])


def test_a_node_that_answers_has_figures_a_few_seconds_later() -> None:
    async def main() -> None:
        async with leading("a") as (s, leader):
            s.hosts["a"].domains[OTHER] = HostDomain(OTHER, "theirs", live="<domain/>")
            assert leader.figures.of("a") is None
            took = await until(lambda: leader.figures.of("a"))
            found = leader.figures.of("a")
            assert took <= gatherer.SECOND_S + 2 * gatherer.BUSY_S
            assert found is not None and found.host is not None
            assert found.host.cores == pytest.approx(2)
            assert found.domains[OTHER].cores == pytest.approx(0.5)
            assert found.domains[OTHER].memory_bytes == 40 << 20
            await asyncio.sleep(5)
            read = asked(leader, "read")
            await asyncio.sleep(10 * gatherer.BEAT_S)
            assert 8 <= asked(leader, "read") - read <= 12

    run(main)


@pytest.mark.parametrize("error", [CallTimedOut("no answer"), Unreachable("gone"), RuntimeError("a bug")])
def test_figures_that_fail_are_absent_once_they_are_old_and_disturb_nothing(error: Exception) -> None:
    async def main() -> None:
        async with leading("a", "b") as (s, leader):
            await until(lambda: leader.figures.of("a") and leader.figures.of("b"))
            s.hosts["a"].figures = error
            await until(lambda: leader.figures.of("a") is None)
            assert asked(leader, "failed") >= 1
            assert leader.figures.of("b") is not None
            assert leader.answers("a")
            s.hosts["a"].figures = None
            await until(lambda: leader.figures.of("a"))

    run(main)


def test_a_host_that_is_busy_is_asked_again_soon() -> None:
    async def main() -> None:
        async with leading("a") as (s, leader):
            s.hosts["a"].figures = HostBusy("not now")
            await until(lambda: asked(leader, "busy") >= 3)
            s.hosts["a"].figures = None
            assert await until(lambda: leader.figures.of("a")) <= gatherer.SECOND_S + 3 * gatherer.BUSY_S

    run(main)


def test_a_node_that_does_not_answer_has_no_figures_though_old_ones_were_good() -> None:
    async def main() -> None:
        async with leading("a") as (s, leader):
            await until(lambda: leader.figures.of("a"))
            s.hosts["a"].lose()
            assert await until(lambda: leader.figures.of("a") is None) <= 2 * gatherer.BUSY_S
            assert 'domctl_node_cpu_seconds_total{node="a"}' not in leader.metrics.render().decode()

    run(main)


def test_counters_of_another_session_are_not_compared() -> None:
    async def main() -> None:
        async with leading("a") as (s, leader):
            await until(lambda: leader.figures.of("a"))
            first, began = leader.figures.of("a"), now()
            s.hosts["a"].cut()
            await until(lambda: leader.figures.of("a") is not first)
            found = leader.figures.of("a")
            assert found is not None
            assert found.window_s < now() - began

    run(main)


def test_a_node_on_which_something_is_changed_is_left_alone() -> None:
    async def main() -> None:
        async with leading("a") as (_, leader):
            await until(lambda: leader.figures.of("a"))
            leader.cache.seen.expectations.hold(UUID, "a")
            await asyncio.sleep(2 * gatherer.BUSY_S)
            read = asked(leader, "read")
            await asyncio.sleep(5 * gatherer.BEAT_S)
            assert asked(leader, "read") == read
            leader.cache.seen.expectations.release(UUID)
            await asyncio.sleep(2 * gatherer.BUSY_S)
            assert asked(leader, "read") == read + 1

    run(main)


def test_the_beat_grows_with_the_number_of_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatherer, "DOMAINS_PER_S", 0.01)

    async def main() -> None:
        async with leading("a") as (s, leader):
            s.hosts["a"].domains[OTHER] = HostDomain(OTHER, "theirs", live="<domain/>")
            await until(lambda: leader.figures.of("a"))
            read = asked(leader, "read")
            await asyncio.sleep(1000)
            assert asked(leader, "read") - read <= 12
            assert leader.figures.of("a") is not None

    run(main)


def test_whoever_does_not_lead_any_more_keeps_no_figures() -> None:
    async def main() -> None:
        async with leading("a") as (_, leader):
            await until(lambda: leader.figures.of("a"))
            assert leader.figures.is_kept
            await leader.stop()
            assert not leader.figures.is_kept
            assert leader.figures.of("a") is None
            assert 'domctl_node_cpu_seconds_total{node="a"}' not in leader.metrics.render().decode()

    run(main)


def test_the_series_of_a_domain_come_and_go_with_it() -> None:
    async def main() -> None:
        async with leading("a") as (s, leader):
            series = 'domctl_domain_cpu_seconds_total{domain="web",namespace="default"}'

            def is_shown() -> bool:
                return series in leader.metrics.render().decode()

            await s.domain()
            await until(is_shown)
            text = leader.metrics.render().decode()
            assert 'domctl_domain_memory_used_bytes{domain="web",namespace="default"} 41943040' in text
            await s.domain(meta=DELETED, shutdown=[{"method": "destroy"}])
            await until(lambda: not is_shown())
            assert not s.hosts["a"].domains

    run(main)
