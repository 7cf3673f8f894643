"""What guests do by themselves: end, panic, stop reacting, and shut down when they are asked, or not.

It is true at once. libvirtd sees it when it runs and gets round to it, and until then shows the domain as
before; of an end that it did not see it makes up the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from drivers.hypervisor import EventKind, State
from tests.sim import definition
from tests.sim.domain import SimDomain

if TYPE_CHECKING:
    from tests.sim.host import SimHost


class Guests:
    def __init__(self, host: SimHost) -> None:
        self._host = host

    def notice_late(self, domain: SimDomain) -> None:
        """A guest that ended while nobody looked: the reason that libvirtd makes up."""
        if domain.gone == "shutdown":
            self._host.end(domain, "shutdown", "shutdown", "host")
        elif domain.gone == "crashed":
            reason = self._host.rng.choice(("crashed", "crashed", "failed", "daemon", "unknown"))
            self._host.end(domain, reason, self._host.rng.choice(("failed", None)), "host")
        else:
            self._host.end(domain, domain.gone, None, "host")

    def crash(self, uuid: str) -> None:
        """QEMU is killed."""
        self._ends(uuid, "crashed", self._see_crash)

    def poweroff(self, uuid: str) -> None:
        """The guest powers itself off; one that is paused or stuck cannot."""
        domain = self._host.domains.get(uuid)
        if domain is not None and domain.state is State.RUNNING and not domain.stuck:
            self._ends(uuid, "shutdown", self._see_shutdown)

    def panic(self, uuid: str) -> None:
        """What comes of it says the domain's on_crash."""
        domain = self._host.domains.get(uuid)
        if domain is None or domain.live is None or domain.state is not State.RUNNING or domain.stuck:
            return
        if definition.known(domain.live).preserves_crash:
            domain.become(State.CRASHED, "panicked")
            self._host.changed(domain, "panicked", "host")
            self._host.say(domain, EventKind.CRASHED, "panicked")
        else:
            self._ends(uuid, "crashed", self._see_panic)

    def _ends(self, uuid: str, how: str, see: Callable[[SimDomain, int], None]) -> None:
        domain = self._host.domains.get(uuid)
        if domain is None or domain.live is None or domain.gone or domain.handed_over:
            return
        domain.gone = how
        host = self._host
        host.changed(domain, "stopped", "host", how)
        if host.daemon != "down":
            host.later(host.temper.notices_s, partial(host.when_up, partial(see, domain, domain.boots)))

    def _is_still(self, domain: SimDomain, boots: int) -> bool:
        return bool(domain.gone) and domain.boots == boots and self._host.domains.get(domain.uuid) is domain

    def _see_crash(self, domain: SimDomain, boots: int) -> None:
        if self._is_still(domain, boots):
            self._host.end(domain, "crashed", "failed", "host")

    def _see_panic(self, domain: SimDomain, boots: int) -> None:
        if self._is_still(domain, boots):
            self._host.say(domain, EventKind.CRASHED, "panicked")
            self._host.end(domain, "crashed", "crashed", "host")

    def _see_shutdown(self, domain: SimDomain, boots: int) -> None:
        """In two steps: it shuts down, and then it is off."""
        if not self._is_still(domain, boots):
            return
        domain.become(State.SHUTDOWN, "unknown")
        self._host.say(domain, EventKind.SHUTDOWN, "guest")
        off = partial(self._see_off, domain, boots)
        self._host.later(self._host.temper.notices_s, partial(self._host.when_up, off))

    def _see_off(self, domain: SimDomain, boots: int) -> None:
        if self._is_still(domain, boots):
            self._host.end(domain, "shutdown", "shutdown", "host")

    def stick(self, uuid: str) -> None:
        """SIGSTOP to QEMU: it holds its disks and answers nobody."""
        domain = self._host.domains.get(uuid)
        if domain is not None and domain.live is not None and not domain.gone:
            domain.stuck = True

    def unstick(self, uuid: str) -> None:
        domain = self._host.domains.get(uuid)
        if domain is None or not domain.stuck:
            return
        domain.stuck, domain.thawed_at = False, self._host.clock()
        self._host.operations.answered(domain, True)
        if domain.asked:
            self.obey(domain)

    def agent_comes_up(self, domain: SimDomain, boots: int) -> None:
        """Somebody in the guest opens the agent's channel."""
        there = domain.boots == boots and self._host.domains.get(domain.uuid) is domain
        if there and domain.agent and not domain.gone and not domain.stuck:
            domain.agent_up = True
            self._host.say(domain, EventKind.OTHER, "agent")

    def obey(self, domain: SimDomain) -> None:
        """The guest was asked to shut down."""
        domain.asked = True
        if not domain.deaf and not domain.stuck:
            takes_s = self._host.seconds(self._host.temper.obeys_s)
            domain.obeys_at = self._host.clock() + takes_s
            asyncio.get_running_loop().call_later(takes_s, partial(self._obeys, domain, domain.boots))

    def _obeys(self, domain: SimDomain, boots: int) -> None:
        if domain.boots == boots and self._host.domains.get(domain.uuid) is domain:
            self.poweroff(domain.uuid)
