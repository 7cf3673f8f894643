"""The lab's network: a switch in a network namespace of its own, one link to each host, one to the machine.

The bridge does not stand in the machine's namespace because firewalls do: where Docker or ufw drop
forwarded packets, hosts could not reach each other. The machine gets one interface, `dlabX`, with the
address 10.231.X.1; creating it is atomic and thus claims the subnet against labs starting at the same
time. When the switch's process ends, the kernel takes bridge and links away.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import zlib

from .layout import Host, Lab
from .processes import Process

BRIDGE = "br0"


class LinkError(Exception):
    """iproute2 refused; the message is its own."""


def ip(*args: str, inside: Process | None = None, batch: str = "") -> str:
    """Run `ip`, in the network namespace of `inside` if given."""
    command = ["ip", *args]
    if inside is not None:
        command = ["nsenter", "--target", str(inside.pid), "--net", "--", *command]
    done = subprocess.run(command, input=batch, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise LinkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def taken_octets() -> set[int]:
    """Third octets of 10.231.0.0/16 that any address or route of this machine touches."""
    taken: set[int] = set()
    space = ipaddress.IPv4Network("10.231.0.0/16")
    for route in json.loads(ip("-json", "-4", "route", "show", "table", "all")):
        text = route.get("dst", "")
        try:
            network = ipaddress.IPv4Network(text, strict=False)
        except ValueError:
            continue  # "default": covers all, claims nothing
        if network.prefixlen >= 16 and network.subnet_of(space):
            first = network.network_address.packed[2]
            taken.update(range(first, network.broadcast_address.packed[2] + 1))
    return taken


def candidate_octets(seed: str) -> list[int]:
    """Free third octets, in an order that depends on the seed so that labs seldom race for one."""
    start = zlib.crc32(seed.encode()) % 254
    taken = taken_octets()
    return [octet for octet in ((start + i) % 254 + 1 for i in range(254)) if octet not in taken]


def claim(lab: Lab, switch: Process) -> bool:
    """Make the machine's interface into the lab; false if another lab has just taken the subnet."""
    try:
        ip("link", "add", lab.link, "type", "veth", "peer", "name", "uplink", "netns", str(switch.pid))
    except LinkError as error:
        if "File exists" in str(error):
            return False
        raise
    return True


def wire_switch(lab: Lab, switch: Process) -> None:
    ip("addr", "add", f"{lab.gateway}/24", "dev", lab.link)
    ip("link", "set", lab.link, "up")
    steps = f"""\
link set lo up
link add {BRIDGE} type bridge forward_delay 0 stp_state 0
link set {BRIDGE} up
link set uplink master {BRIDGE} up
"""
    ip("-batch", "-", inside=switch, batch=steps)


def plug(host: Host, switch: Process, init: Process) -> None:
    """Give a host its link and address."""
    unplug(host, switch)
    steps = f"""\
link add {host.port} type veth peer name eth0 address {host.mac} netns {init.pid}
link set {host.port} master {BRIDGE} up
"""
    ip("-batch", "-", inside=switch, batch=steps)
    steps = f"""\
link set lo up
addr add {host.address}/24 dev eth0
link set eth0 up
"""
    ip("-batch", "-", inside=init, batch=steps)


def unplug(host: Host, switch: Process) -> None:
    """Take the link away if it is there: a namespace's end removes its interfaces only a while later."""
    try:
        ip("link", "del", host.port, inside=switch)
    except LinkError as error:
        if "Cannot find device" not in str(error):
            raise


def cut(lab: Lab, host: Host, switch: Process, blackhole: bool) -> None:
    """Drop the link. Without `blackhole` new connections fail as for a dead neighbour, after 3 s; with it
    the machine goes on sending into the void, as it would through a router, and they time out."""
    ip("link", "set", host.port, "down", inside=switch)
    if blackhole:
        ip("neigh", "replace", host.address, "lladdr", host.mac, "dev", lab.link, "nud", "permanent")


def heal(lab: Lab, host: Host, switch: Process) -> None:
    ip("link", "set", host.port, "up", inside=switch)
    try:
        ip("neigh", "del", host.address, "dev", lab.link)
    except LinkError as error:
        if "No such file" not in str(error):
            raise


def is_cut(host: Host, switch: Process) -> bool:
    try:
        links = json.loads(ip("-json", "link", "show", host.port, inside=switch))
    except LinkError:
        return True
    return "UP" not in links[0]["flags"]


def remove(switch: Process) -> None:
    """Take the machine's interface away at once, by its other end: that one is surely this lab's. (If the
    switch has died, so has the interface, or will within moments.)"""
    try:
        ip("link", "del", "uplink", inside=switch)
    except LinkError as error:
        if "Cannot find device" not in str(error):
            raise
