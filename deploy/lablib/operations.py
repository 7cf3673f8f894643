"""What one does to a lab: up, down, status, and the misfortunes that tests bring over single hosts.

`up` writes its plan before it makes anything, so that `down` can undo whatever a crashed `up` left; both
hold a lock on the lab's directory, and `down` may be repeated. A host's misfortunes (kill, stop, cut,
poweroff) and their cures each hold a lock on that host alone, and return when the effect is complete:
after `poweron` or `restart` the daemon answers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from . import disks, warmth, wires
from .config import network_xml, write_files
from .layout import DEFAULT_BASE, TCP_PORT, Host, Lab, load, save
from .power import power_off
from .processes import Process, recorded, sharing_pid_namespace

MAX_HOSTS = 200  # addresses of a /24, less the machine's
ANSWER_TIMEOUT_S = 90.0  # a first capabilities call took 8 s with a cold page cache on two cores
T = TypeVar("T")
SCRIPT = Path(__file__).resolve().parent.parent / "lab"


class LabError(Exception):
    """Said to the user as it is; exit code 1."""


@dataclass(frozen=True)
class HostStatus:
    """`alive`: powered on and its libvirtd not dead (it may be stopped or cut off). `libvirtd`: running,
    stopped or dead."""

    name: str
    number: int
    address: str
    uri: str
    host_uuid: str
    alive: bool
    power: bool
    link: bool
    libvirtd: str
    libvirtd_pid: int | None
    init_pid: int | None
    namespaces: dict[str, str]
    pids: tuple[int, ...]
    network: str
    directory: str


def up(base: Path, name: str, count: int) -> Lab:
    """All hosts powered, reachable and warm. Idempotent: on a lab that is up, what is down is started."""
    if not 1 <= count <= MAX_HOSTS:
        raise LabError(f"--hosts must be between 1 and {MAX_HOSTS}, is {count}")
    directory = base / name
    with _locked(directory, create=True):
        lab = load(directory)
        if lab is not None and lab.complete and _switch(lab) is not None:
            if len(lab.hosts) != count:
                raise LabError(f"lab {name!r} is up with {len(lab.hosts)} hosts; run `lab down` first")
            _each(lab.hosts, lambda host: _revive(lab, host))
            return lab
        _clean(directory, lab)
        try:
            return _build(directory, name, count)
        except BaseException:
            _clean(directory, load(directory))
            directory.rmdir()
            raise


def down(base: Path, name: str) -> bool:
    """Nothing of the lab is left afterwards. False if there was none."""
    directory = base / name
    if not directory.is_dir():
        return False
    with _locked(directory, create=False):
        _clean(directory, load(directory))
        directory.rmdir()
    if base == DEFAULT_BASE:
        with suppress(OSError):
            base.rmdir()  # the last lab takes it away; a directory that was named by --dir stays
    return True


def find(base: Path, name: str) -> Lab:
    lab = load(base / name)
    if lab is None or not lab.complete:
        raise LabError(f"no lab {name!r} in {base}; run `lab up`")
    return lab


def status(lab: Lab) -> list[HostStatus]:
    switch = _switch(lab)
    return [_host_status(host, switch) for host in lab.hosts]


def kill(host: Host) -> None:
    """SIGKILL to libvirtd alone. Guests live on."""
    with _locked(host.dir, create=False):
        daemon = recorded(host.daemon_file)
        if daemon is not None:
            daemon.kill()


def restart(lab: Lab, host: Host) -> None:
    """Kill libvirtd if it runs, start it again in the same namespaces, return when it answers."""
    with _locked(host.dir, create=False):
        daemon = recorded(host.daemon_file)
        if daemon is not None:
            daemon.kill()
        _start_daemon(lab, host)


def signal_daemon(host: Host, signum: signal.Signals) -> None:
    daemon = recorded(host.daemon_file)
    if daemon is None or not daemon.send(signum):
        raise LabError(f"libvirtd of {host.name} is not running")


def cut(lab: Lab, host: Host, blackhole: bool) -> None:
    with _locked(host.dir, create=False):
        _powered(host)
        wires.cut(lab, host, _needed_switch(lab), blackhole)


def heal(lab: Lab, host: Host) -> None:
    with _locked(host.dir, create=False):
        _powered(host)
        wires.heal(lab, host, _needed_switch(lab))


def poweroff(lab: Lab, host: Host) -> None:
    """A power cut: guests, libvirtd and all else of the host end at once. Its files stay, but for /run."""
    with _locked(host.dir, create=False):
        power_off(lab, host)
        wires.unplug(host, _needed_switch(lab))


def poweron(lab: Lab, host: Host) -> None:
    """Boot a host that is off; its link comes up healed."""
    with _locked(host.dir, create=False):
        init = recorded(host.init_file)
        if init is not None and init.is_alive():
            raise LabError(f"{host.name} is on")
        _boot(lab, host, _needed_switch(lab))


def command_inside(host: Host, command: list[str]) -> list[str]:
    """The command line that runs `command` in the host's namespaces."""
    init = _powered(host)
    namespaces = ("--mount", "--uts", "--net", "--pid", "--cgroup")
    return ["nsenter", "--target", str(init.pid), *namespaces, "--wd=/", "--", *command]


def _build(directory: Path, name: str, count: int) -> Lab:
    switch_file = directory / "switch.pid"
    _run_self("_switch", str(switch_file))
    switch = recorded(switch_file)
    assert switch is not None, "the switch records itself before it reports success"
    for octet in wires.candidate_octets(str(directory)):
        lab = _planned(directory, name, count, octet)
        save(lab)
        if wires.claim(lab, switch):
            break
    else:
        raise LabError("no free subnet in 10.231.0.0/16")
    wires.wire_switch(lab, switch)
    for host in lab.hosts:
        host.dir.mkdir(parents=True)
        write_files(lab, host)
    # Where nothing is known of QEMU yet, the first host finds it out for all: they share the processors.
    first = () if warmth.is_kept() else lab.hosts[:1]
    _each(first, lambda host: _boot(lab, host, switch))
    _each(lab.hosts[len(first) :], lambda host: _boot(lab, host, switch))
    lab = replace(lab, complete=True)
    save(lab)
    return lab


def _planned(directory: Path, name: str, count: int, octet: int) -> Lab:
    hosts = tuple(
        Host(
            name=f"{name}-{number}",
            number=number,
            address=f"10.231.{octet}.{number + 10}",
            mac=f"0a:e7:00:00:{octet:02x}:{number:02x}",
            host_uuid=str(uuid.uuid4()),
            directory=str(directory / "hosts" / f"{name}-{number}"),
        )
        for number in range(1, count + 1)
    )
    return Lab(name=name, directory=str(directory), third_octet=octet, complete=False, hosts=hosts)


def _boot(lab: Lab, host: Host, switch: Process) -> None:
    _run_self("_boot", lab.directory, host.name)
    init = recorded(host.init_file)
    assert init is not None, "a host records its init before it reports success"
    wires.plug(host, switch, init)
    _start_daemon(lab, host)


def _start_daemon(lab: Lab, host: Host) -> None:
    _powered(host)
    warmth.give(host)
    _run_self("_daemon", lab.directory, host.name)
    if not wires.is_cut(host, _needed_switch(lab)):
        _warm(host)


def _revive(lab: Lab, host: Host) -> None:
    with _locked(host.dir, create=False):
        init, daemon = recorded(host.init_file), recorded(host.daemon_file)
        if init is None or not init.is_alive():
            _boot(lab, host, _needed_switch(lab))
        elif daemon is None or not daemon.is_alive():
            _start_daemon(lab, host)


def _warm(host: Host) -> None:
    """Return when the daemon has probed QEMU: the first capabilities call is by far the slowest."""
    daemon = recorded(host.daemon_file)
    assert daemon is not None, "the daemon was started before it is warmed"
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while not _accepts(host):
        if not daemon.is_alive() or time.monotonic() > deadline:
            raise LabError(f"libvirtd of {host.name} did not come up:\n{_log_tail(host)}")
        time.sleep(0.02)
    done = _virsh(host, "capabilities; net-list --name")
    if done.returncode != 0:
        raise LabError(f"{host.name} does not answer: {done.stderr.strip()}\n{_log_tail(host)}")
    warmth.keep(host)
    if "default" not in done.stdout.rsplit("</capabilities>", 1)[-1].split():
        _isolate_network(host)


def _isolate_network(host: Host) -> None:
    """Where the kernel cannot do NAT, `default` is an isolated network; `status` says so."""
    xml = host.dir / "etc-libvirt" / "default-isolated.xml"
    xml.write_text(network_xml(host, nat=False))
    done = _virsh(host, f"net-define {xml}; net-start default; net-autostart default")
    if done.returncode != 0:
        sys.stderr.write(f"lab: {host.name}: no default network: {done.stderr.strip()}\n")


def _virsh(host: Host, commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "-q", "-k", "5", "-K", "3", "-c", host.uri, commands],
        capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S, stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip


def _accepts(host: Host) -> bool:
    try:
        socket.create_connection((host.address, TCP_PORT), timeout=1.0).close()
    except OSError:
        return False
    return True


def _log_tail(host: Host) -> str:
    parts = []
    for path in (host.dir / "libvirtd.out", host.dir / "log" / "libvirtd.log"):
        with suppress(FileNotFoundError):
            parts.append(path.read_text(errors="replace")[-2000:])
    return "".join(parts)


def _host_status(host: Host, switch: Process | None) -> HostStatus:
    init, daemon = recorded(host.init_file), recorded(host.daemon_file)
    power = init is not None and init.is_alive()
    letter = daemon.state() if daemon is not None else ""
    network = (host.dir / "etc-libvirt" / "default-isolated.xml").exists()
    namespaces = {}
    if init is not None and power:
        with suppress(OSError):
            namespaces = {
                kind: os.readlink(f"/proc/{init.pid}/ns/{kind}") for kind in ("mnt", "net", "pid", "uts")
            }
    return HostStatus(
        name=host.name,
        number=host.number,
        address=host.address,
        uri=host.uri,
        host_uuid=host.host_uuid,
        alive=power and letter != "",
        power=power,
        link=power and switch is not None and not wires.is_cut(host, switch),
        libvirtd={"": "dead", "T": "stopped"}.get(letter, "running"),
        libvirtd_pid=daemon.pid if daemon is not None and letter else None,
        init_pid=init.pid if init is not None and power else None,
        namespaces=namespaces,
        pids=tuple(sharing_pid_namespace(init)) if init is not None and power else (),
        network="isolated" if network else "nat",
        directory=host.directory,
    )


def _clean(directory: Path, lab: Lab | None) -> None:
    """Undo all that a lab or a part of one has made, and leave its directory empty."""
    if lab is not None:
        _each(lab.hosts, lambda host: power_off(lab, host))
    switch = recorded(directory / "switch.pid")
    if switch is not None and switch.is_alive():
        wires.remove(switch)
        switch.kill()
    disks.remove_all(directory)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _switch(lab: Lab) -> Process | None:
    switch = recorded(lab.switch_file)
    return switch if switch is not None and switch.is_alive() else None


def _needed_switch(lab: Lab) -> Process:
    switch = _switch(lab)
    if switch is None:
        raise LabError(f"the switch of lab {lab.name!r} is gone; run `lab up`")
    return switch


def _powered(host: Host) -> Process:
    init = recorded(host.init_file)
    if init is None or not init.is_alive():
        raise LabError(f"{host.name} is off")
    return init


def _run_self(*args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(SCRIPT), *args],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise LabError(f"lab {' '.join(args)}: {done.stderr.strip()}")


def _each(items: Iterable[T], act: Callable[[T], object]) -> None:
    """Act on all at once; the first error is raised when all have ended."""
    todo = list(items)
    with ThreadPoolExecutor(max_workers=max(1, min(len(todo), 16))) as pool:
        for future in [pool.submit(act, item) for item in todo]:
            future.result()


@contextmanager
def _locked(directory: Path, create: bool) -> Iterator[None]:
    """One at a time in this directory. Whoever waited while it was removed and made anew waits again."""
    while True:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"{directory} is gone") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_same(fd, directory):
                yield
                return
        finally:
            os.close(fd)


def _is_same(fd: int, directory: Path) -> bool:
    try:
        there = directory.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
