"""One host on and off, of either kind: in namespaces (`power`, `wires`) or in session mode (`session`).

On means: booted, linked, its libvirtd answering, and QEMU probed. A first capabilities call is by far the
slowest a libvirtd ever answers; here it is waited for, so that nobody times it by accident.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from . import power, session, warmth, wires
from .config import network_xml
from .layout import SSH_PORT, TCP_PORT, Host, Lab, LabError
from .processes import Process, recorded

ANSWER_TIMEOUT_S = 90.0  # a first capabilities call took 8 s with a cold page cache on two cores
OPEN_NETWORK = "etc-libvirt/default-open.xml"  # its presence says that NAT did not work
SCRIPT = Path(__file__).resolve().parent.parent / "lab"


def boot(lab: Lab, host: Host) -> None:
    """Switch on a host that is off."""
    run_self("_boot", lab.directory, host.name)
    if not lab.session:
        wires.plug(host, needed_switch(lab), powered(host))
    start_daemon(lab, host)
    if lab.transports:
        start_sshd(lab, host)


def start_sshd(lab: Lab, host: Host) -> None:
    """Start the sshd of a host with doors; returns when it accepts (at once if the host is cut off)."""
    run_self("_daemon", lab.directory, host.name, "sshd")
    sshd = recorded(host.sshd_file)
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while not wires.is_cut(host, needed_switch(lab)) and not _accepts(host, SSH_PORT):
        if sshd is None or not sshd.is_alive() or time.monotonic() > deadline:
            raise LabError(
                f"sshd of {host.name} did not come up:\n{(host.dir / 'sshd.log').read_text()[-2000:]}"
            )
        time.sleep(0.02)


def start_daemon(lab: Lab, host: Host) -> None:
    """Start a libvirtd that does not run; returns when it answers (at once if the host is cut off)."""
    init = powered(host)
    if lab.session:
        session.start_daemon(host, init)
        _warm(host)
        return
    warmth.give(host)
    run_self("_daemon", lab.directory, host.name, "libvirtd")
    if not wires.is_cut(host, needed_switch(lab)):
        _warm(host)
        warmth.keep(host)
        if "default" not in _virsh(host, "net-list --name").stdout.split() and not _network_starts(host):
            _open_network(host)


def _warm(host: Host) -> None:
    """Return when the daemon has probed QEMU: the first capabilities call is by far the slowest."""
    daemon = recorded(host.daemon_file)
    assert daemon is not None, "the daemon was started before it is warmed"
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while not _accepts(host):
        if not daemon.is_alive() or time.monotonic() > deadline:
            raise LabError(f"libvirtd of {host.name} did not come up:\n{_log_tail(host)}")
        time.sleep(0.02)
    done = _virsh(host, "capabilities")
    if done.returncode != 0:
        raise LabError(f"{host.name} does not answer: {done.stderr.strip()}\n{_log_tail(host)}")


def _network_starts(host: Host) -> bool:
    return _virsh(host, "net-start default").returncode == 0


def _open_network(host: Host) -> None:
    """Where the kernel or iptables cannot do NAT, `default` does without; `status` says so."""
    xml = host.dir / OPEN_NETWORK
    xml.write_text(network_xml(host, nat=False))
    done = _virsh(host, f"net-define {xml}; net-start default; net-autostart default")
    if done.returncode != 0:
        sys.stderr.write(f"lab: {host.name}: no default network: {done.stderr.strip()}\n")


def _virsh(host: Host, commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "-q", "-k", "5", "-K", "3", "-c", _local_uri(host), commands],
        capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S, stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip


def _local_uri(host: Host) -> str:
    """By its socket: whatever its ports may ask of others, here root asks. As its init sees it, since a
    socket's path may have 107 bytes, and a lab may lie in a directory as deep as it likes."""
    if not host.address:
        return host.uri
    return f"qemu+unix:///system?socket=/proc/{powered(host).pid}/root/run/libvirt/libvirt-sock"


def _accepts(host: Host, port: int = TCP_PORT) -> bool:
    try:
        if host.address:
            socket.create_connection((host.address, port), timeout=1.0).close()
        else:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(session.socket_path(host.dir)))
    except OSError:
        return False
    return True


def _log_tail(host: Host) -> str:
    parts = []
    for path in (host.dir / "libvirtd.out", host.dir / "log/libvirtd.log", host.dir / "libvirtd.log"):
        with suppress(FileNotFoundError):
            parts.append(path.read_text(errors="replace")[-2000:])
    return "".join(parts)


def power_off(lab: Lab, host: Host) -> None:
    """Returns when nothing of the host runs any more."""
    if lab.session:
        session.power_off(host)
    else:
        power.power_off(lab, host)


def live_switch(lab: Lab) -> Process | None:
    switch = recorded(lab.switch_file)
    return switch if switch is not None and switch.is_alive() else None


def needed_switch(lab: Lab) -> Process:
    switch = live_switch(lab)
    if switch is None:
        raise LabError(f"the switch of lab {lab.name!r} is gone; run `lab up`")
    return switch


def powered(host: Host) -> Process:
    init = recorded(host.init_file)
    if init is None or not init.is_alive():
        raise LabError(f"{host.name} is off")
    return init


def run_self(*args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(SCRIPT), *args],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise LabError(f"lab {' '.join(args)}: {done.stderr.strip()}")
