"""`domctl doctor --probe`: the guest is gone afterwards whatever happened, and nobody else's is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import pytest

from controller.doctor import probe as probing
from controller.doctor.examine import peer_uri_of
from controller.doctor.facts import Probe, Subject
from controller.doctor.probe import Way, guest, probe
from controller.doctor.probed import DIAGNOSES, Attempt, diagnose
from drivers.errors import HostFailed, PeerUnreachable, Unreachable
from drivers.hypervisor import Job, Listing, Outcome, Record, Result, State
from tests.doctorcase import host, pair_verdict, second, the_finding

UUID = "5b1f7c52-7f0b-4e6c-9a51-3c6a2b9d1c22"
DONE = Result(Outcome.DONE)


@dataclass
class FakeHost:
    """A session with one host: its domains, and what goes wrong there. `wrong`: call → what it answers
    instead of working; `hangs`: a call that only ends when it is cancelled."""

    name: str
    peers: dict[str, FakeHost]
    domains: dict[str, tuple[str, bool, bool]] = field(default_factory=dict)  # uuid → name, active, defined
    wrong: dict[str, Result | Exception] = field(default_factory=dict)
    hangs: str = ""
    cut: int = 0  # so many reads fail
    is_open: bool = True
    kvm: bool = True

    async def _call(self, call: str) -> Result | None:
        if call == self.hangs:
            await asyncio.Event().wait()
        answer = self.wrong.get(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def list(self) -> Listing:
        if self.cut:
            self.cut -= 1
            raise Unreachable("cut")
        await self._call("list")
        records = [
            Record(uuid, name, State.RUNNING if active else State.SHUTOFF, "", active)
            for uuid, (name, active, _) in self.domains.items()
        ]
        return Listing(0, 0, tuple(records))

    async def define(self, xml: str, _permit: object) -> Result:
        if answer := await self._call("define"):
            return answer
        root = ElementTree.fromstring(xml)
        self.virt_type = root.get("type")
        self.domains[root.findtext("uuid", "")] = (root.findtext("name", ""), False, True)
        return DONE

    async def create(self, uuid: str, _permit: object) -> Result:
        if answer := await self._call("create"):
            return answer
        if self.virt_type == "kvm" and not self.kvm:
            return Result(Outcome.FAILED, HostFailed("no access to /dev/kvm"))
        self.domains[uuid] = (self.domains[uuid][0], True, True)
        return DONE

    async def undefine(self, uuid: str, _permit: object) -> Result:
        if answer := await self._call("undefine"):
            return answer
        name, active, _ = self.domains[uuid]
        if active:
            self.domains[uuid] = (name, True, False)
        else:
            del self.domains[uuid]
        return DONE

    async def destroy(self, uuid: str, _permit: object) -> Result:
        if answer := await self._call("destroy"):
            return answer
        name, _, defined = self.domains[uuid]
        self.domains[uuid] = (name, False, defined)
        if not defined:
            del self.domains[uuid]
        return DONE

    async def migrate(self, uuid: str, move: Any, _permit: object) -> Result:
        peer = self.peers[move.target_uri]
        if "both" in self.wrong:  # the reply was lost: it may be on either side
            peer.domains[uuid] = self.domains[uuid]
        if answer := await self._call("migrate"):
            return answer
        peer.domains[uuid] = self.domains.pop(uuid)
        return DONE

    async def job(self, uuid: str, *, completed: bool = False) -> Job | None:
        return Job("migration-in", 0, 0, 0, 0, 12) if completed else None

    async def abort_job(self, uuid: str, _permit: object) -> Result:
        return DONE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PAUSE_S", 0)
    monkeypatch.setattr(probing, "CLEAN_S", 0.2)


def two() -> tuple[FakeHost, FakeHost]:
    peers: dict[str, FakeHost] = {}
    one, other = FakeHost("hv1", peers), FakeHost("hv2", peers)
    peers["uri-of-hv2"] = other
    return one, other


def way(one: FakeHost, other: FakeHost) -> Way:
    async def session(name: str) -> Any:
        return {"hv1": one, "hv2": other}[name]

    return Way("hv1", "hv2", "uri-of-hv2", ("kvm", "qemu"), session)


async def test_a_guest_arrives_and_is_removed() -> None:
    one, other = two()
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert (found.stage, found.downtime_ms, found.virt_type, found.left_on) == ("", 12, "kvm", ())
    assert one.domains == other.domains == {}


FAILED = Result(Outcome.FAILED, HostFailed("no"))
LOST = Result(Outcome.AMBIGUOUS, PeerUnreachable("gone"))


@pytest.mark.parametrize(
    ("spoil", "stage"),
    [
        (lambda one, _: one.wrong.update(define=FAILED), "define"),
        (lambda one, _: one.wrong.update(create=FAILED), "start"),
        (lambda one, _: one.wrong.update(migrate=FAILED), "migrate"),
        (lambda one, _: one.wrong.update(migrate=LOST, both=LOST), "migrate"),
        (lambda one, _: one.wrong.update(migrate=DONE), "arrive"),
        (lambda one, _: setattr(one, "cut", 1), "read"),
        (lambda _, other: setattr(other, "cut", 1), "read"),
    ],
)
async def test_wherever_it_ends_nothing_is_left(spoil: Callable[..., object], stage: str) -> None:
    one, other = two()
    spoil(one, other)
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert (found.stage, found.left_on) == (stage, ())
    assert one.domains == other.domains == {}


@pytest.mark.parametrize("hangs", ["migrate", "create", "define"])
async def test_a_probe_that_is_given_up_cleans_up_first(hangs: str) -> None:
    one, other = two()
    one.hangs = hangs
    task = asyncio.create_task(probe(way(one, other), guest(UUID, "x86_64")))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.domains == other.domains == {}


async def test_what_cannot_be_seen_to_be_gone_is_said_to_be_left() -> None:
    one, other = two()
    one.wrong |= {"migrate": FAILED, "destroy": FAILED}
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert found.left_on == ("hv1",)


async def test_a_host_that_is_lost_while_cleaning_up_is_waited_for() -> None:
    one, other = two()
    one.wrong["migrate"] = FAILED
    migrate = one.migrate

    async def cut(*args: Any) -> Result:
        one.cut = 5
        return await migrate(*args)

    one.migrate = cut  # type: ignore[method-assign]
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert (found.left_on, one.domains) == ((), {})


@pytest.mark.parametrize("taken", [(UUID, "web"), ("other-uuid", guest(UUID, "x86_64").name)])
async def test_a_domain_of_somebody_else_is_never_touched(taken: tuple[str, str]) -> None:
    one, other = two()
    uuid, name = taken
    other.domains[uuid] = (name, True, True)
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert found.stage == "name"
    assert other.domains == {uuid: (name, True, True)} and one.domains == {}


async def test_where_kvm_does_not_start_emulation_is_tried_and_that_is_told() -> None:
    one, other = two()
    one.kvm = False
    found = await probe(way(one, other), guest(UUID, "x86_64"))
    assert (found.stage, found.virt_type) == ("", "qemu")
    (warned,) = pair_verdict(host(), second(), probe=found).findings
    assert "kvm: no access to /dev/kvm" in warned.seen and warned.severity == "warning"


def test_a_guest_says_what_it_is_and_ends_by_itself() -> None:
    root = ElementTree.fromstring(guest(UUID, "x86_64").xml("kvm"))
    assert root.findtext("name") == "domctl-doctor-5b1f7c52"
    assert root.findtext("on_reboot") == "destroy"
    timeout = root.find("os/bios")
    assert timeout is not None and int(timeout.get("rebootTimeout", "")) == 30_000
    assert root.find("devices/disk") is None and root.find("metadata") is None


# -- why it failed ---------------------------------------------------------------------------------------

# As libvirt 9.0 said it, but for the last ones.
SAID = (
    ("internal error: Attempt to migrate guest to the same host a8c4", "one host_uuid", "uuidgen", "hv2"),
    (
        "Unable to resolve address 'hv2' service '49152': Temporary failure in name resolution",
        "hv1 cannot resolve hv2, the name that it calls itself",
        "echo 'ADDRESS-OF-hv2 hv2' >> /etc/hosts",
        "hv1",
    ),
    ("Unable to resolve address 'hv2' service '16509': x", "the name in its URI", "/etc/hosts", "hv1"),
    ("unable to connect to server at 'hv2:49152': Connection refused", "port 49152", "49152:49215", "hv2"),
    (
        "unable to connect to server at '10.0.0.2:16509': No route to host",
        "port 16509",
        "--dport 16509",
        "hv2",
    ),
    ("unable to connect to server at 'hv2:16509': Connection refused", "16509", "libvirtd-tcp.socket", "hv2"),
    ("Cannot read CA certificate '/etc/pki/CA/cacert.pem'", "client certificate", "virt-pki-validate", "hv1"),
    ("Cannot recv data: Host key verification failed.", "host key", "ssh hv2 true", "hv1"),
    (
        "Cannot recv data: ssh: connect to host hv2 port 22: Connection refused",
        "a key",
        "ssh hv2 true",
        "hv1",
    ),
    ("migrate: no answer within 20 s", "vanish on the way", "16509,16514,49152:49215", "hv2"),
    ("authentication failed: x", "credentials of its own", "virsh -c qemu+ssh://hv2/system version", "hv1"),
    ("guest CPU doesn't match specification", "processor", "domcapabilities", ""),
    (
        "unsupported configuration: Emulator does not support machine type 'x'",
        "machine type",
        "qemu-system",
        "hv2",
    ),
    ("something new", "libvirt refuses it", "journalctl", "hv1"),
)


@pytest.mark.parametrize(("message", "why", "command", "on"), SAID)
def test_what_libvirt_says_becomes_a_reason_and_a_command(
    message: str, why: str, command: str, on: str
) -> None:
    given = Attempt(Probe("migrate", message), host(), second(), "hv1", "hv2", "qemu+ssh://hv2/system")
    (found,) = diagnose(given)
    assert message in found.seen and why in found.why
    assert [mend.on for mend in found.mend if command in mend.command] == [on], found.mend


def test_every_diagnosis_has_its_message() -> None:
    import re

    first = [next(i for i, (p, _) in enumerate(DIAGNOSES) if re.search(p, said)) for said, *_ in SAID]
    assert set(first) == set(range(len(DIAGNOSES)))


def test_a_guest_that_may_be_left_is_an_error_with_the_command_that_removes_it() -> None:
    left = Probe("migrate", "x", uuid=UUID, name="domctl-doctor-5b1f7c52", left_on=("hv2",))
    found = the_finding(pair_verdict(host(), second(), probe=left), "probe-removed")
    assert found.severity == "error"
    assert found.mend[0].command == f"virsh -c qemu+tcp://hv2/system destroy {UUID}"


@pytest.mark.parametrize(
    ("subject", "uri"),
    [
        (Subject("a", "qemu+tcp://hv1/system"), "qemu+tcp://hv1/system"),
        (Subject("a", "qemu:///system"), ""),
        (Subject("a", "qemu+unix:///system?socket=/s"), ""),
        (Subject("a", "qemu:///system", migration_uri="qemu+tls://hv1/system"), "qemu+tls://hv1/system"),
    ],
)
def test_hosts_reach_each_other_by_the_migration_uri_or_by_the_uri(subject: Subject, uri: str) -> None:
    assert peer_uri_of(subject) == uri
