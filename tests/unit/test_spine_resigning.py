"""A leader that once had no answer resigns when what it asked is known to be over (safety §4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller import keys
from drivers.errors import CallTimedOut
from drivers.hypervisor import Outcome, Result
from tests.unit.spine import HostSession, run, spine, until

LADDER = [{"method": "agent", "timeoutSeconds": 5}, {"method": "destroy"}]


async def _never_answered(self: HostSession, *_: Any, limit_s: float | None = None) -> Result:
    await asyncio.sleep(limit_s or 1)
    return Result(Outcome.AMBIGUOUS, CallTimedOut("no answer"))


@pytest.mark.parametrize(("waits_s", "resigns"), [(3, False), (90, True)])
def test_an_agent_that_never_answered_keeps_a_leader_from_resigning_for_the_quiet_time_alone(
    monkeypatch: pytest.MonkeyPatch, waits_s: float, resigns: bool
) -> None:
    monkeypatch.setattr(HostSession, "shutdown", _never_answered)

    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await s.domain(shutdown=LADDER)
            await until(s.hosts["a"].runs)
            await asyncio.sleep(5)
            await s.domain(meta={"generation": 2}, shutdown=LADDER, state="shutoff")
            await until(lambda: not s.hosts["a"].runs())
            await asyncio.sleep(waits_s)
            await leader.stop()
            assert (not await s.exists(keys.LEADER)) == resigns

    run(main)
