"""The command line of the lab: arguments in, one operation, text or JSON out.

Exit codes: 0 done; 1 it did not work (or, for `status`, there is no such lab); 2 wrong usage or no root;
130 interrupted, with everything cleaned up. `exec` ends with the code of its command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from . import agent, disks, guest, misfortunes, operations, power, session, transports
from .layout import DEFAULT_BASE, Host, Lab, LabError, load
from .processes import recorded
from .status import status
from .wires import LinkError

HOST_VERBS = {
    "kill": "SIGKILL libvirtd of HOST; its guests live on",
    "restart": "start libvirtd of HOST again (after killing it if it runs) and wait until it answers",
    "stop": "SIGSTOP libvirtd of HOST",
    "cont": "SIGCONT libvirtd of HOST",
    "cut": "drop the network link of HOST",
    "heal": "bring the network link of HOST back",
    "poweroff": "cut the power of HOST: libvirtd and guests end at once",
    "poweron": "boot HOST and wait until its libvirtd answers",
}


def main(argv: list[str]) -> int:
    if argv and argv[0].startswith("_"):
        return _inner(argv[0], argv[1:])
    args = _parser().parse_args(argv)
    if args.verb == "guest":
        return _make_guests(Path(args.out))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(args)
    except (LabError, LinkError, disks.DiskError, LookupError, OSError) as error:
        sys.stderr.write(f"lab: {error.args[0] if isinstance(error, LookupError) else error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("lab: interrupted\n")
        return 130


def _run(args: argparse.Namespace) -> int:
    base = Path(args.dir).absolute()
    if args.verb == "up":
        lab = operations.up(base, args.name, args.hosts, args.owner, args.transports)
        _print_status(lab, args.output)
        if lab.transports and args.output == "text":
            print("`lab status` shows how to register them by tls, tcp and ssh")
        return 0
    if args.verb == "down":
        gone = operations.down(base, args.name)
        print(f"lab {args.name} is down" if gone else f"no lab {args.name}")
        return 0
    lab = operations.find(base, args.name)
    if args.verb == "status":
        if args.transport:
            _print_nodes(lab, (args.transport,))
        else:
            _print_status(lab, args.output)
            if lab.transports and args.output == "text":
                print("\nOne Node for each host, by any of its ways (those of one: --transport):\n")
                _print_nodes(lab, transports.TRANSPORTS)
        return 0
    if args.verb == "disk":
        if lab.session:
            raise LabError("a disk shared by hosts needs root")
        print(disks.add(lab, args.size << 20))
        return 0
    host = lab.host(args.host)
    if args.verb == "exec":
        wanted = args.command[args.command[:1] == ["--"] :] or ["/bin/sh"]
        command, environment = misfortunes.command_inside(lab, host, wanted)
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted
    _misfortune(args, lab, host)
    return 0


def _misfortune(args: argparse.Namespace, lab: Lab, host: Host) -> None:
    match args.verb:
        case "kill":
            misfortunes.kill(host)
        case "restart":
            misfortunes.restart(lab, host)
        case "stop":
            misfortunes.signal_daemon(host, signal.SIGSTOP)
        case "cont":
            misfortunes.signal_daemon(host, signal.SIGCONT)
        case "cut":
            misfortunes.cut(lab, host, args.blackhole)
        case "heal":
            misfortunes.heal(lab, host)
        case "poweroff":
            misfortunes.poweroff(lab, host)
        case "poweron":
            misfortunes.poweron(lab, host)


def _inner(verb: str, args: list[str]) -> int:
    """The processes that cannot come back from where they go; called by `operations` alone."""
    if verb == "_switch":
        power.boot_switch(Path(args[0]))
        return 0
    if verb == "_guard":
        operations.guard(Path(args[0]), int(args[1]))
        return 0
    lab = load(Path(args[0]))
    assert lab is not None, "a lab is planned before its hosts are booted"
    host = lab.host(args[1])
    if verb == "_boot":
        if lab.session:
            session.boot(host)
        else:
            power.boot_host(lab, host)
        return 0
    init = recorded(host.init_file)
    assert verb == "_daemon" and init is not None, "a host is booted before its daemons start"
    power.start_daemon(lab, host, init, {"libvirtd": power.LIBVIRTD, "sshd": power.SSHD}[args[2]])
    return 0


def _make_guests(directory: Path) -> int:
    try:
        guests = guest.make(directory)
        with_agent = agent.make(guests)
    except (guest.GuestError, OSError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return 1
    for path in (guests.tick, guests.deaf, guests.kernel, guests.initramfs, with_agent):
        if path is not None:
            print(path)
    return 0


def _print_status(lab: Lab, output: str) -> None:
    hosts = status(lab)
    if output == "json":
        print(
            json.dumps(
                {"name": lab.name, "directory": lab.directory, "hosts": [asdict(h) for h in hosts]}, indent=1
            )
        )
        return
    rows = [("HOST", "URI", "POWER", "LINK", "LIBVIRTD", "NETWORK", "HOST UUID")]
    for host in hosts:
        on = "on" if host.power else "off"
        rows.append(
            (
                host.name,
                host.uri,
                on,
                "up" if host.link else "down",
                host.libvirtd,
                host.network,
                host.host_uuid,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_nodes(lab: Lab, wanted: tuple[str, ...]) -> None:
    """YAML that can be applied as it is, and what lets a controller use the files that it names."""
    if not lab.transports:
        raise LabError(
            f"lab {lab.name!r} is up without --transports: its hosts are reached by qemu+tcp alone"
        )
    print(f"# domctl serve --config {lab.clients}/domctl.yaml")
    for transport in wanted:
        for host in lab.hosts:
            print(f"---\n# {host.name} by {transport}\n{transports.node(lab, host, transport)}", end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Real libvirt hosts on one machine.")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--dir", default=str(DEFAULT_BASE), help="directory that holds labs (default: %(default)s)"
    )
    where.add_argument(
        "--name",
        default="lab",
        type=_name,
        help="which lab; several can run side by side (default: %(default)s)",
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("-o", "--output", choices=["text", "json"], default="text")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", parents=[where, output], help="start a lab and wait until every host answers")
    up.add_argument("--hosts", type=int, default=3, metavar="N", help="how many hosts (default: %(default)s)")
    up.add_argument("--owner", type=int, metavar="PID", help="take the lab down when this process has ended")
    verbs.add_parser("down", parents=[where], help="end a lab and remove all it made")
    up.add_argument(
        "--transports",
        action="store_true",
        help="reach the hosts by tls, ssh and tcp with a password, instead of by tcp without",
    )
    shown = verbs.add_parser("status", parents=[where, output], help="show the hosts")
    shown.add_argument(
        "--transport", choices=transports.TRANSPORTS, help="only their Nodes, to be reached so, as YAML"
    )
    for verb, text in HOST_VERBS.items():
        one = verbs.add_parser(verb, parents=[where], help=text)
        one.add_argument("host", metavar="HOST", help="name or number")
        if verb == "cut":
            one.add_argument(
                "--blackhole",
                action="store_true",
                help="let packets vanish instead of failing as for a dead neighbour",
            )
    disk = verbs.add_parser("disk", parents=[where], help="make a block device that all hosts share")
    disk.add_argument("--size", type=int, default=64, metavar="MIB", help="default: %(default)s")
    make = verbs.add_parser("guest", help="make guests to boot: a ticking boot sector and a small Linux")
    make.add_argument("--out", required=True, metavar="DIR", help="where to write them")
    run = verbs.add_parser(
        "exec", parents=[where], help="run a command inside HOST: lab exec [OPTIONS] HOST -- CMD..."
    )
    run.add_argument("host", metavar="HOST")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError("must be lower-case letters, digits and dashes, at most 42")
    return text


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
