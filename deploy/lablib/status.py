"""What a lab's hosts are like now, asked of the kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from . import session, transports, wires
from .hosts import OPEN_NETWORK, live_switch
from .layout import Host, Lab
from .processes import Process, recorded, sharing_pid_namespace


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
    sshd: str  # "" where there is none to be, running or dead
    nodes: dict[str, str]  # by transport, how a host with doors is registered: Nodes in YAML


def status(lab: Lab) -> list[HostStatus]:
    switch = live_switch(lab)
    return [_host_status(lab, host, switch) for host in lab.hosts]


def _host_status(lab: Lab, host: Host, switch: Process | None) -> HostStatus:
    init, daemon = recorded(host.init_file), recorded(host.daemon_file)
    on = init if init is not None and init.is_alive() else None
    letter = daemon.state() if daemon is not None else ""
    return HostStatus(
        name=host.name,
        number=host.number,
        address=host.address,
        uri=host.uri,
        host_uuid=host.host_uuid,
        alive=on is not None and letter != "",
        power=on is not None,
        link=on is not None and (lab.session or (switch is not None and not wires.is_cut(host, switch))),
        libvirtd={"": "dead", "T": "stopped"}.get(letter, "running"),
        libvirtd_pid=daemon.pid if daemon is not None and letter else None,
        init_pid=on.pid if on is not None else None,
        namespaces=_namespaces(on) if on is not None and not lab.session else {},
        pids=_pids(lab, on) if on is not None else (),
        network=_network(lab, host),
        directory=host.directory,
        sshd=_sshd(lab, host),
        nodes={one: transports.node(lab, host, one) for one in transports.TRANSPORTS if lab.transports},
    )


def _sshd(lab: Lab, host: Host) -> str:
    if not lab.transports:
        return ""
    process = recorded(host.sshd_file)
    return "running" if process is not None and process.is_alive() else "dead"


def _network(lab: Lab, host: Host) -> str:
    if lab.session:
        return "none"
    return "open" if (host.dir / OPEN_NETWORK).exists() else "nat"


def _pids(lab: Lab, init: Process) -> tuple[int, ...]:
    if lab.session:
        return (init.pid, *sorted(process.pid for process in session.descendants(init.pid)))
    return tuple(sharing_pid_namespace(init))


def _namespaces(init: Process) -> dict[str, str]:
    with suppress(OSError):
        return {kind: os.readlink(f"/proc/{init.pid}/ns/{kind}") for kind in ("mnt", "net", "pid", "uts")}
    return {}
