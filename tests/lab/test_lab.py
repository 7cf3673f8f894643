"""What the lab promises, on the real thing: hosts that are hosts, misfortunes that are what they are called,
and nothing left behind. Times are bounds with room for a busy machine; without the reaper a destroy takes
2 s, without warming a first start takes as long as a probe of QEMU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.labhost import LAB, CommandError, Guest, Lab, LabHost, lab_up, linux_xml, tick_xml
from tests.oracle import watching

Hosts = tuple[LabHost, ...]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def start_ticking(host: LabHost, name: str, domain_uuid: str | None = None) -> str:
    """Define and start the boot sector; returns its UUID once it runs."""
    made = domain_uuid or str(uuid.uuid4())
    host.define(tick_xml(name, made))
    host.virsh("start", name)
    wait_until(lambda: host.ticks(name) > 2)
    return made


def is_ticking(host: LabHost, name: str) -> bool:
    before = host.ticks(name)
    time.sleep(0.4)
    return host.ticks(name) > before


def answers(host: LabHost) -> bool:
    try:
        socket.create_connection((host.address, 16509), timeout=0.5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def own_base(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """For tests that start and end labs of their own, named `own`, beside the session's: in a directory
    deeper than the path of a socket may be long. Asks for `lab` only to be skipped with it."""
    base = (
        tmp_path
        / "a-directory-deeper-than-the-path-of-a-socket-may-be-long"
        / "as-checkouts-in-a-home-may-lie"
    )
    base.mkdir(parents=True)
    assert len(str(base)) > 120
    yield base
    _lab_command("down", base)


@contextlib.contextmanager
def _started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the block, whatever happens in it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _lab_command(verb: str, base: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_lab_args(verb, base, *args), capture_output=True, text=True, check=False)


def _lab_args(verb: str, base: Path, *args: str) -> list[str]:
    return [sys.executable, str(LAB), verb, "--dir", str(base), "--name", "own", *args]


def test_hosts_have_names_addresses_and_uuids_of_their_own(hosts: Hosts) -> None:
    seen = [host.virsh("capabilities").partition("<uuid>")[2].partition("</uuid>")[0] for host in hosts]
    assert seen == [host.host_uuid for host in hosts]
    assert len(set(seen)) == len(hosts)
    assert [host.virsh("hostname").strip() for host in hosts] == [host.name for host in hosts]


def test_hosts_reach_each_other_by_name(hosts: Hosts) -> None:
    for host in hosts:
        for other in hosts:
            assert (
                host.run("virsh", "-q", "-c", f"qemu+tcp://{other.name}/system", "hostname").strip()
                == other.name
            )


def test_a_host_has_a_network_and_a_pool_named_default(hosts: Hosts) -> None:
    for host in hosts:
        assert host.virsh("net-list", "--name").split() == ["default"]
        assert host.virsh("pool-list", "--name").split() == ["default"]


def test_a_guest_runs_and_ticks_on_every_host(hosts: Hosts) -> None:
    for host in hosts:
        start_ticking(host, "web")
    assert all(is_ticking(host, "web") for host in hosts)
    assert [len(host.qemu_pids()) for host in hosts] == [1] * len(hosts)


def test_the_boot_sector_powers_off_when_asked_and_its_deaf_twin_does_not(hosts: Hosts) -> None:
    start_ticking(hosts[0], "web")
    hosts[1].define(tick_xml("web", str(uuid.uuid4()), Guest.DEAF))
    hosts[1].virsh("start", "web")
    wait_until(lambda: hosts[1].ticks("web") > 2)
    for host in hosts[:2]:
        host.virsh("shutdown", "web")
    wait_until(lambda: hosts[0].virsh("domstate", "web", "--reason").strip() == "shut off (shutdown)")
    assert is_ticking(hosts[1], "web")


def test_the_linux_guest_boots_ticks_and_powers_off_when_asked(hosts: Hosts) -> None:
    hosts[0].define(linux_xml("tux", str(uuid.uuid4())))
    hosts[0].virsh("start", "tux")
    wait_until(lambda: hosts[0].ticks("tux") > 2, timeout_s=60)
    hosts[0].virsh("shutdown", "tux")
    wait_until(lambda: hosts[0].virsh("domstate", "tux").strip() == "shut off")


def test_destroy_is_not_held_up_by_zombies(hosts: Hosts) -> None:
    took = []
    start_ticking(hosts[0], "web")
    for _ in range(3):
        began = time.monotonic()
        hosts[0].virsh("destroy", "web")
        took.append(time.monotonic() - began)
        hosts[0].virsh("start", "web")
    assert min(took) < 1.0


def test_guests_outlive_a_killed_libvirtd_and_keep_their_ids(hosts: Hosts) -> None:
    host = hosts[0]
    start_ticking(host, "web")
    identity = host.virsh("domid", "web"), host.qemu_pids()
    host.kill_libvirtd()
    assert host.status()["libvirtd"] == "dead"
    assert not answers(host)
    assert is_ticking(host, "web")
    host.restart_libvirtd()
    assert (host.virsh("domid", "web"), host.qemu_pids()) == identity
    assert is_ticking(host, "web")


def test_a_frozen_libvirtd_answers_nobody_until_thawed(hosts: Hosts) -> None:
    host = hosts[0]
    host.freeze()
    assert host.status()["libvirtd"] == "stopped"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["virsh", "-q", "-c", host.uri, "hostname"], capture_output=True, timeout=1, check=False
        )
    host.thaw()
    assert host.virsh("hostname").strip() == host.name


@pytest.mark.parametrize("blackhole", [False, True])
def test_a_cut_link_parts_a_host_from_all_and_heals(hosts: Hosts, blackhole: bool) -> None:
    start_ticking(hosts[0], "web")
    hosts[0].cut(blackhole)
    assert not hosts[0].status()["link"]
    assert not answers(hosts[0])
    with pytest.raises(CommandError):
        hosts[1].run("timeout", "1", "virsh", "-q", "-c", f"qemu+tcp://{hosts[0].name}/system", "hostname")
    assert answers(hosts[1])
    assert is_ticking(hosts[0], "web")
    hosts[0].heal()
    assert hosts[0].virsh("hostname").strip() == hosts[0].name


def test_a_power_cut_ends_all_of_a_host_and_only_that(hosts: Hosts) -> None:
    start_ticking(hosts[0], "web")
    start_ticking(hosts[1], "web")
    gone = hosts[0].status()["pids"]
    hosts[0].poweroff()
    assert not any(_runs(pid) for pid in gone)
    assert is_ticking(hosts[1], "web")
    hosts[0].poweron()
    assert hosts[0].virsh("domstate", "web").strip() == "shut off"
    hosts[0].virsh("start", "web")
    wait_until(lambda: is_ticking(hosts[0], "web"))
    assert hosts[0].host_uuid in hosts[0].virsh("capabilities")


def test_a_guest_migrates_peer_to_peer_and_the_oracle_is_silent(
    lab: Lab, hosts: Hosts, tmp_path: Path
) -> None:
    source, target = hosts[:2]
    start_ticking(source, "web")
    with watching(lab.serial_directories(), tmp_path / "oracle") as watch:
        for here, there in ((source, target), (target, source)):
            here.virsh(
                "migrate", "--live", "--p2p", "--persistent", "--undefinesource", "web",
                f"qemu+tcp://{there.name}/system",
            )  # fmt: skip
            wait_until(lambda there=there: is_ticking(there, "web"))  # type: ignore[misc]
            assert here.virsh("list", "--all", "--uuid").split() == []
        watch.check()


def test_the_oracle_catches_two_copies_of_one_domain(lab: Lab, hosts: Hosts, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="I1 is broken"),
        watching(lab.serial_directories(), tmp_path / "o") as w,
    ):
        domain_uuid = start_ticking(hosts[0], "web")
        start_ticking(hosts[1], "web", domain_uuid)
        wait_until(lambda: bool(w.violations()))


def test_a_migrating_guest_may_have_a_disk_shared_by_the_hosts(lab: Lab, hosts: Hosts) -> None:
    device = lab.shared_disk(1)
    disk = (
        "<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        f"<source dev='{device}'/><target dev='vdb' bus='virtio'/></disk>"
    )
    hosts[0].define(tick_xml("web", str(uuid.uuid4())).replace("<serial", f"{disk}<serial"))
    hosts[0].virsh("start", "web")
    hosts[0].virsh("migrate", "--live", "--p2p", "web", f"qemu+tcp://{hosts[1].name}/system")
    wait_until(lambda: is_ticking(hosts[1], "web"))


BOX = """\
<domain type='lxc'><name>box</name><uuid>{}</uuid><memory unit='MiB'>32</memory>
<os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
<devices><console type='pty'/></devices></domain>"""


def test_containers_of_one_name_run_on_two_hosts(hosts: Hosts) -> None:
    for host in hosts[:2]:
        file = host.directory / "box.xml"
        file.write_text(BOX.format(uuid.uuid4()))
        lxc = ["virsh", "-q", "-c", f"lxc+tcp://{host.address}/system"]
        subprocess.run([*lxc, f"define {file}; start box"], check=True, capture_output=True)
    groups = [list(Path("/sys/fs/cgroup").glob(f"*/*.{n}/machine/lxc-*-box.libvirt-lxc")) for n in (1, 2)]
    assert groups[0] and groups[1] and not set(groups[0]) & set(groups[1])
    for host in hosts[:2]:
        lxc = ["virsh", "-q", "-c", f"lxc+tcp://{host.address}/system"]
        subprocess.run([*lxc, "destroy box; undefine box"], check=True, capture_output=True)


def test_the_plug_of_a_host_can_be_pulled_while_a_container_is_frozen(hosts: Hosts) -> None:
    """What is frozen does not die of SIGKILL."""
    host = hosts[1]
    file = host.directory / "box.xml"
    file.write_text(BOX.format(uuid.uuid4()))
    lxc = ["virsh", "-q", "-c", f"lxc+tcp://{host.address}/system"]
    subprocess.run([*lxc, f"define {file}; start box; suspend box"], check=True, capture_output=True)
    began = time.monotonic()
    host.poweroff()
    assert time.monotonic() - began < 10
    host.poweron()
    subprocess.run([*lxc, "undefine box"], check=True, capture_output=True)


def test_down_leaves_nothing_behind(own_base: Path) -> None:
    own = lab_up(own_base, "own", hosts=2)
    link = _link(own_base)
    own.make_guests()
    own.shared_disk(1)
    start_ticking(own.hosts[0], "web")
    own.hosts[0].kill_libvirtd()
    own.hosts[1].freeze()
    states = own.status()["hosts"]
    namespaces = {link for state in states for link in state["namespaces"].values()}
    inside = _processes_in(namespaces)
    assert len(namespaces) == 8 and len(inside) > 4 and link in _links() and _loops(own_base)
    own.down()
    assert not any(_runs(pid) for pid in inside)
    assert link not in _links()
    assert _loops(own_base) == []
    assert str(own_base) not in Path("/proc/self/mountinfo").read_text()
    assert list(own_base.iterdir()) == []
    own.down()  # again, and nothing is wrong


def test_an_interrupted_up_cleans_up_after_itself(own_base: Path) -> None:
    with _started(*_lab_args("up", own_base)) as process:
        wait_until(lambda: len(list(own_base.glob("own/hosts/*/init.pid"))) > 0)
        link = _link(own_base)
        assert link in _links()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"lab: interrupted\n")
    assert list(own_base.iterdir()) == []
    assert link not in _links()


def test_up_clears_away_what_a_killed_up_has_left(own_base: Path) -> None:
    with _started(*_lab_args("up", own_base)):
        wait_until(lambda: len(list(own_base.glob("own/hosts/*/init.pid"))) > 0)
    left = [int(path.read_text().split()[0]) for path in own_base.glob("own/hosts/*/init.pid")]
    own = lab_up(own_base, "own", hosts=1)
    assert not any(_runs(pid) for pid in left)
    assert own.hosts[0].virsh("hostname").strip() == "own-1"


def test_up_on_a_lab_that_is_up_starts_what_is_down(own_base: Path) -> None:
    own = lab_up(own_base, "own", hosts=2)
    start_ticking_pids = own.hosts[0].status()["init_pid"]
    own.hosts[0].kill_libvirtd()
    own.hosts[1].poweroff()
    again = lab_up(own_base, "own", hosts=2)
    assert again.hosts == own.hosts
    assert [host.virsh("hostname").strip() for host in again.hosts] == ["own-1", "own-2"]
    assert again.hosts[0].status()["init_pid"] == start_ticking_pids
    other = _lab_command("up", own_base, "--hosts", "3")
    assert other.returncode == 1 and "is up with 2 hosts" in other.stderr


def test_a_lab_goes_down_with_its_owner(own_base: Path) -> None:
    with _started("sleep", "600") as owner:
        assert _lab_command("up", own_base, "--hosts", "1", "--owner", str(owner.pid)).returncode == 0
        inits = [int(path.read_text().split()[0]) for path in own_base.glob("own/hosts/*/init.pid")]
        time.sleep(0.3)
        assert [_runs(pid) for pid in inits] == [True]
    wait_until(lambda: list(own_base.iterdir()) == [])
    assert not any(_runs(pid) for pid in inits)


def test_commands_say_what_is_wrong(own_base: Path) -> None:
    none = _lab_command("status", own_base)
    assert (none.returncode, none.stderr.startswith("lab: no lab 'own'")) == (1, True)
    lab_up(own_base, "own", hosts=1)
    unknown = _lab_command("kill", own_base, "own-9")
    assert (unknown.returncode, unknown.stderr) == (1, "lab: no host 'own-9' in lab 'own'; it has own-1\n")
    assert _lab_command("poweron", own_base, "1").stderr == "lab: own-1 is on\n"
    _lab_command("poweroff", own_base, "1")
    assert _lab_command("cut", own_base, "1").stderr == "lab: own-1 is off\n"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _processes_in(namespaces: set[str]) -> set[int]:
    found = set()
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        for kind in ("mnt", "net", "pid", "uts"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/{kind}") in namespaces:
                    found.add(pid)
    return found


def _link(base: Path) -> str:
    """The machine's interface into the lab `own`."""
    return f"dlab{json.loads((base / 'own/lab.json').read_text())['third_octet']}"


def _links() -> set[str]:
    shown = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout
    return {link["ifname"] for link in json.loads(shown)}


def _loops(base: Path) -> list[str]:
    backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [file for file in backing if file.startswith(str(base))]
