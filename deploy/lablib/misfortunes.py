"""The misfortunes that tests bring over single hosts, and their cures.

Each holds a lock on its host alone and returns when the effect is complete: after `poweron` or `restart`
the daemon answers (unless the host is cut off).
"""

from __future__ import annotations

import os
import signal

from . import hosts, session, wires
from .layout import Host, Lab, LabError, locked
from .processes import recorded


def kill(host: Host) -> None:
    """SIGKILL to libvirtd alone. Guests live on."""
    with locked(host.dir, create=False):
        daemon = recorded(host.daemon_file)
        if daemon is not None:
            daemon.kill()


def restart(lab: Lab, host: Host) -> None:
    """Kill libvirtd if it runs, start it again in the same namespaces, return when it answers."""
    with locked(host.dir, create=False):
        daemon = recorded(host.daemon_file)
        if daemon is not None:
            daemon.kill()
        hosts.start_daemon(lab, host)


def signal_daemon(host: Host, signum: signal.Signals) -> None:
    daemon = recorded(host.daemon_file)
    if daemon is None or not daemon.send(signum):
        raise LabError(f"libvirtd of {host.name} is not running")
    if signum is signal.SIGSTOP:
        daemon.wait_stopped()


def cut(lab: Lab, host: Host, blackhole: bool) -> None:
    _needs_link(lab)
    with locked(host.dir, create=False):
        hosts.powered(host)
        wires.cut(lab, host, hosts.needed_switch(lab), blackhole)


def heal(lab: Lab, host: Host) -> None:
    _needs_link(lab)
    with locked(host.dir, create=False):
        hosts.powered(host)
        wires.heal(lab, host, hosts.needed_switch(lab))


def poweroff(lab: Lab, host: Host) -> None:
    """A power cut: guests, libvirtd and all else of the host end at once. Its files stay, but for /run."""
    with locked(host.dir, create=False):
        hosts.power_off(lab, host)
        if not lab.session:
            wires.unplug(host, hosts.needed_switch(lab))


def poweron(lab: Lab, host: Host) -> None:
    """Boot a host that is off; its link comes up healed."""
    with locked(host.dir, create=False):
        init = recorded(host.init_file)
        if init is not None and init.is_alive():
            raise LabError(f"{host.name} is on")
        hosts.boot(lab, host)


def command_inside(lab: Lab, host: Host, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line that runs `command` as one of the host's own, and its environment."""
    init = hosts.powered(host)
    if lab.session:
        return command, {**os.environ, **session.environment(host)}
    namespaces = ("--mount", "--uts", "--net", "--pid", "--cgroup")
    inside = ["nsenter", "--target", str(init.pid), *namespaces, "--wd=/", "--", *command]
    return inside, dict(os.environ)


def _needs_link(lab: Lab) -> None:
    if lab.session:
        raise LabError("hosts without root share the machine's network: cut and heal need root")
