"""`--probe`: does a migration work? A guest without disks is started, moved from one host to another, and
removed again.

It is defined under a random UUID and a name that says what it is, started, and its definition is taken away
while it runs: from then on it is transient, and leaves nothing when it ends. Should this process be killed in
the middle, it ends by itself: its firmware finds nothing to boot and resets after FORGOTTEN_S, on which it is
destroyed. It carries no mark, so that every controller takes it for foreign.

Whatever happens, also when this is cancelled, the guest is removed from both hosts, and that is only believed
when both were read twice without it. The migration is peer to peer, as the controller's are, and is given up
after MIGRATE_S. A domain of anybody else is never touched: the guest is known by its UUID and its name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree

from controller.doctor.contents import PROBE_PREFIX
from controller.doctor.facts import Probe
from drivers.errors import HypervisorError
from drivers.hypervisor import Move, Outcome, Permit, Result, Session

T = TypeVar("T")

MEMORY_MIB = 16
MIGRATE_S = 20.0
CALL_S = 60.0  # the leave to send each other call
CLEAN_S = 90.0  # for a host that comes back only now
PAUSE_S = 0.5
FORGOTTEN_S = 30  # libvirt's schema ends at 32.767 s
_CLEAN_READS = 2
_WITH_SEABIOS = ("x86_64", "i686")
_LONGEST_NAME = 8  # characters of the UUID that stand in the name


@dataclass(frozen=True, slots=True)
class Guest:
    uuid: str
    name: str
    arch: str

    def xml(self, virt_type: str) -> str:
        domain = ElementTree.Element("domain", type=virt_type)
        for tag, text in (("name", self.name), ("uuid", self.uuid)):
            ElementTree.SubElement(domain, tag).text = text
        ElementTree.SubElement(domain, "memory", unit="MiB").text = str(MEMORY_MIB)
        ElementTree.SubElement(domain, "vcpu").text = "1"
        system = ElementTree.SubElement(domain, "os")
        ElementTree.SubElement(system, "type", arch=self.arch).text = "hvm"
        if self.arch in _WITH_SEABIOS:
            ElementTree.SubElement(system, "bios", rebootTimeout=str(FORGOTTEN_S * 1000))
        for tag in ("on_poweroff", "on_reboot", "on_crash"):
            ElementTree.SubElement(domain, tag).text = "destroy"
        devices = ElementTree.SubElement(domain, "devices")
        ElementTree.SubElement(devices, "controller", type="usb", model="none")
        ElementTree.SubElement(devices, "memballoon", model="none")
        return ElementTree.tostring(domain, encoding="unicode")


def guest(uuid: str, arch: str) -> Guest:
    return Guest(uuid, PROBE_PREFIX + uuid[:_LONGEST_NAME], arch)


@dataclass(frozen=True, slots=True)
class Way:
    """From one host to another. `peer_uri` is what the source's libvirtd opens. `virt_types`: those that both
    hosts have, the best first. `session`: a host's session by its name, opened again if it has ended."""

    source: str
    target: str
    peer_uri: str
    virt_types: Sequence[str]
    session: Callable[[str], Awaitable[Session]]


class _Failed(Exception):
    """One step did not work."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.message = message


async def probe(way: Way, wanted: Guest) -> Probe:
    """Never raises but for a bug, or when it is cancelled; it has cleaned up in any case."""
    kept: dict[str, str] = {}
    cleaned: list[tuple[str, ...]] = []
    try:
        found = await _go(way, wanted, kept)
    except _Failed as failed:
        found = Probe(failed.stage, failed.message)
    except HypervisorError as error:
        found = Probe("read", error.message)
    finally:
        if "taken" not in kept:
            cleaned.append(await _surely(_clean_up(way, wanted)))
    left = cleaned[0] if cleaned else ()
    return Probe(
        found.stage, found.message, found.took_s, found.downtime_ms, kept.get("type", ""),
        kept.get("refused", ""), wanted.uuid, wanted.name, left,
    )  # fmt: skip


async def _go(way: Way, wanted: Guest, kept: dict[str, str]) -> Probe:
    source, target = await way.session(way.source), await way.session(way.target)
    for session in (source, target):
        for record in (await session.list()).records:
            if record.uuid == wanted.uuid or record.name == wanted.name:
                kept["taken"] = record.name  # it is somebody else's: clean nothing up
                raise _Failed("name", f"there is a domain {record.name} already")
    await _start(source, way, wanted, kept)
    _done("undefine", await source.undefine(wanted.uuid, _permit()))
    began = time.monotonic()
    moved = await source.migrate(wanted.uuid, Move(way.peer_uri, None, MIGRATE_S), _permit())
    took_s = time.monotonic() - began
    _done("migrate", moved)
    records = [record for record in (await target.list()).records if record.uuid == wanted.uuid]
    if not records or not records[0].active:
        raise _Failed("arrive", f"libvirt called it done, and it does not run on {way.target}")
    job = await target.job(wanted.uuid, completed=True)
    return Probe(took_s=took_s, downtime_ms=None if job is None else job.downtime_ms)


async def _start(source: Session, way: Way, wanted: Guest, kept: dict[str, str]) -> None:
    """With the best virtualisation that starts; why a better one does not is kept."""
    for position, virt_type in enumerate(way.virt_types):
        kept["type"] = virt_type
        _done("define", await source.define(wanted.xml(virt_type), _permit()))
        started = await source.create(wanted.uuid, _permit())
        if started.outcome is Outcome.DONE or position == len(way.virt_types) - 1:
            _done("start", started)
            return
        kept["refused"] = f"{virt_type}: {_words(started)}"
        _done("undefine", await source.undefine(wanted.uuid, _permit()))


def _done(stage: str, result: Result) -> None:
    if result.outcome is not Outcome.DONE:
        raise _Failed(stage, _words(result))


def _words(result: Result) -> str:
    return result.outcome.value if result.error is None else result.error.message


def _permit() -> Permit:
    return Permit(time.monotonic() + CALL_S)


# -- away with it ----------------------------------------------------------------------------------------


async def _surely(work: Coroutine[object, object, T]) -> T:
    """To its end, however often we are cancelled meanwhile; the cancellation is then heard."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def _clean_up(way: Way, wanted: Guest) -> tuple[str, ...]:
    """The hosts on which the guest may still be: none, if both were read twice without it. The source comes
    first: with its end a migration under way ends too, at both sides."""
    until = time.monotonic() + CLEAN_S
    reads = 0
    while True:
        left = [name for name in (way.source, way.target) if not await _is_rid_of(way, name, wanted)]
        reads = 0 if left else reads + 1
        if reads >= _CLEAN_READS:
            return ()
        if time.monotonic() > until:
            return tuple(left)
        await asyncio.sleep(PAUSE_S if left else 0)


async def _is_rid_of(way: Way, name: str, wanted: Guest) -> bool:
    """Remove it there. True: this read was complete, and without it."""
    try:
        session = await way.session(name)
        records = [record for record in (await session.list()).records if record.uuid == wanted.uuid]
        if not records:
            return True
        if records[0].name != wanted.name:
            return True  # it cannot be: but then it is not ours
        if records[0].active:
            job = await session.job(wanted.uuid)
            if job is not None and job.operation == "migration-out":
                await session.abort_job(wanted.uuid, _permit())
            await session.destroy(wanted.uuid, _permit())
        else:
            await session.undefine(wanted.uuid, _permit())
    except HypervisorError:
        pass  # unknown is not absent: read again
    return False
