"""An administrator with virsh, logged in on one host: the operations of libvirtd, by another hand.

No network lies between, no lease is asked, nothing is recorded in etcd. Every command answers None, or the
error as libvirt says it; `by` in the host's changes is "virsh".
"""

from __future__ import annotations

import asyncio
from random import Random

from drivers.errors import HypervisorError
from drivers.hypervisor import Mark, StopMethod
from specs import mark as marks
from tests.sim import definition
from tests.sim.host import SimHost
from tests.sim.migration import Manner

Said = HypervisorError | None
TYPING_S = (0.05, 0.5)


class Virsh:
    """`host` is where the commands are typed."""

    def __init__(self, host: SimHost, rng: Random, name: str = "virsh") -> None:
        self.host = host
        self.name = name
        self._rng = rng

    async def _do(self, call: str, *arguments: object) -> Said:
        await asyncio.sleep(self._rng.uniform(*TYPING_S) * self.host.temper.pace)
        answer = await self.host.desk.ask(call, arguments, self.name)
        return answer if isinstance(answer, HypervisorError) else None

    async def define(self, xml: str) -> Said:
        return await self._do("define", xml)

    async def start(self, uuid: str) -> Said:
        return await self._do("create", uuid)

    async def destroy(self, uuid: str) -> Said:
        return await self._do("destroy", uuid)

    async def undefine(self, uuid: str) -> Said:
        """Also while it runs: it is transient then."""
        return await self._do("undefine", uuid, frozenset())

    async def shutdown(self, uuid: str) -> Said:
        return await self._do("shutdown", uuid, StopMethod.ACPI)

    async def suspend(self, uuid: str) -> Said:
        return await self._do("suspend", uuid)

    async def resume(self, uuid: str) -> Said:
        return await self._do("resume", uuid)

    async def managed_save(self, uuid: str) -> Said:
        return await self._do("managed_save", uuid)

    async def autostart(self, uuid: str, on: bool = True) -> Said:
        return await self._do("set_autostart", uuid, on)

    async def set_mark(self, uuid: str, mark: Mark | None, *, live: bool, config: bool) -> Said:
        return await self._do("set_mark", uuid, mark, live, config)

    async def migrate(self, uuid: str, target: SimHost, manner: Manner | None = None) -> Said:
        """`virsh migrate --live --p2p --persistent --undefinesource`, unless `manner` says otherwise. Returns
        when it has ended."""
        return await self._do("migrate", uuid, target, manner or Manner())

    async def abort(self, uuid: str) -> Said:
        """`virsh domjobabort`, at the source."""
        return await self._do("abort", uuid)

    def free_start(self, uuid: str) -> None:
        """For a start that libvirtd does not let go of: stop libvirtd, check that no QEMU runs it, remove its
        state file, start libvirtd."""
        host, domain = self.host, self.host.domains.get(uuid)
        host.kill_daemon()
        if domain is not None and domain.live is not None and domain.reason == "starting-up":
            host.end(domain, "unknown", None, self.name)
        host.start_daemon()

    # --- edits

    def shown(self, uuid: str) -> str | None:
        """The persistent definition, or the live one of a transient domain, as `virsh dumpxml` shows it."""
        domain = self.host.domains.get(uuid)
        if domain is None:
            return None
        return domain.config or (None if domain.live is None else definition.inactive(domain.live))

    async def set_memory(self, uuid: str, mebibytes: int) -> Said:
        """`virsh edit`: another size from the next start on."""
        xml = self.shown(uuid)
        return None if xml is None else await self.define(definition.with_memory(xml, mebibytes))

    async def snapshot(self, uuid: str, image: str, overlay: str) -> bool:
        """`virsh snapshot-create-as --disk-only --no-metadata`: it goes on in another image, which its
        definition names from then on, too. libvirt tells nobody."""
        await asyncio.sleep(self._rng.uniform(*TYPING_S) * self.host.temper.pace)
        domain = self.host.domains.get(uuid)
        if domain is None or not domain.holds_disks or image not in (domain.live or ""):
            return False
        domain.live = (domain.live or "").replace(image, overlay)
        domain.config = None if domain.config is None else domain.config.replace(image, overlay)
        domain.moved_to = overlay
        return True

    async def strip_mark(self, uuid: str) -> Said:
        """Define it again from a file that never had the mark."""
        xml = self.shown(uuid)
        return None if xml is None else await self.define(definition.marked(xml, None))

    async def clone(self, uuid: str, new_uuid: str, name: str) -> Said:
        """As careless tools do: everything is copied, the mark too."""
        xml = self.shown(uuid)
        return None if xml is None else await self.define(definition.renamed(xml, new_uuid, name))

    async def copy_definition(self, uuid: str, target: Virsh) -> Said:
        """`virsh dumpxml | virsh -c TARGET define`: a stale definition on another host."""
        xml = self.shown(uuid)
        return None if xml is None else await target.define(xml)

    async def foreign(self, uuid: str, name: str, mark: Mark | None = None) -> Said:
        """A domain that is none of ours, with whatever name; with a mark, another cluster's."""
        metadata = "" if mark is None else marks.element(mark)
        return await self.define(definition.plain(uuid, name, metadata))

    async def remove(self, uuid: str) -> None:
        """Whatever it takes: destroy, and undefine."""
        await self.destroy(uuid)
        await self.undefine(uuid)
