"""Making and ending a whole lab.

`up` writes its plan before it makes anything, so that `down` can undo whatever a crashed `up` left; both
hold a lock on the lab's directory, and `down` may be repeated. An `up` that fails or is interrupted takes
down what it has made.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from . import disks, hosts, session, transports, warmth, wires
from .config import write_files, write_session_files
from .daemon import fork_recorded
from .layout import DEFAULT_BASE, IS_ROOT, Host, Lab, LabError, load, locked, save
from .processes import identify, recorded

MAX_HOSTS = 200  # addresses of a /24, less the machine's
GUARD = "guard.pid"
T = TypeVar("T")


def up(base: Path, name: str, count: int, owner: int | None = None, doors: bool = False) -> Lab:
    """All hosts powered, reachable and warm. Idempotent: on a lab that is up, what is down is started.
    `owner`: a new lab goes down by itself when that process has ended, however it ends. `doors`: with those
    of `transports`."""
    if doors and not IS_ROOT:
        raise LabError("hosts that are reached by tls, ssh and tcp need root")
    if not 1 <= count <= MAX_HOSTS:
        raise LabError(f"--hosts must be between 1 and {MAX_HOSTS}, is {count}")
    directory = base / name
    base.mkdir(mode=0o755 if IS_ROOT else 0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.geteuid():
        raise LabError(f"{base} belongs to another user")
    with locked(directory, create=True):
        lab = load(directory)
        if lab is not None and lab.complete and _is_there(lab):
            if len(lab.hosts) != count:
                raise LabError(f"lab {name!r} is up with {len(lab.hosts)} hosts; run `lab down` first")
            if lab.transports != doors:
                kind = "with" if lab.transports else "without"
                raise LabError(f"lab {name!r} is up {kind} --transports; run `lab down` first")
            _each(lab.hosts, lambda host: _revive(lab, host))
            return lab
        _clean(directory, lab)
        try:
            if owner is not None:
                hosts.run_self("_guard", str(directory), str(owner))
            return _build(directory, name, count, doors)
        except BaseException:
            _clean(directory, load(directory))
            directory.rmdir()
            raise


def down(base: Path, name: str) -> bool:
    """Nothing of the lab is left afterwards. False if there was none."""
    directory = base / name
    if not directory.is_dir():
        return False
    with locked(directory, create=False):
        _clean(directory, load(directory))
        directory.rmdir()
    if base == DEFAULT_BASE:
        with suppress(OSError):
            base.rmdir()  # the last lab takes it away; a directory that was named by --dir stays
    return True


def guard(directory: Path, owner: int) -> None:
    """Leave a process behind that takes the lab down when the owner has ended."""
    watched = identify(owner)
    if watched is None:
        raise LabError(f"there is no process {owner} that could own a lab")

    def be_guard(ready: Callable[[], None]) -> None:
        ready()
        watched.wait_end(timeout_s=None)
        down(directory.parent, directory.name)

    fork_recorded(directory / GUARD, directory / "guard.log", be_guard)


def find(base: Path, name: str) -> Lab:
    lab = load(base / name)
    if lab is None or not lab.complete:
        raise LabError(f"no lab {name!r} in {base}; run `lab up`")
    return lab


def _build(directory: Path, name: str, count: int, doors: bool) -> Lab:
    lab = (
        _with_network(directory, name, count, doors) if IS_ROOT else _without_network(directory, name, count)
    )
    for host in lab.hosts:
        host.dir.mkdir(parents=True)
        if lab.session:
            write_session_files(host)
        else:
            write_files(lab, host)
    if lab.transports:
        transports.lay_out(lab)
    # Where nothing is known of QEMU yet, the first host finds it out for all: they share the processors.
    first = () if lab.session or warmth.is_kept() else lab.hosts[:1]
    _each(first, lambda host: hosts.boot(lab, host))
    _each(lab.hosts[len(first) :], lambda host: hosts.boot(lab, host))
    lab = replace(lab, complete=True)
    save(lab)
    return lab


def _with_network(directory: Path, name: str, count: int, doors: bool) -> Lab:
    """Make the switch and claim a subnet; the lab is saved as planned."""
    switch_file = directory / "switch.pid"
    hosts.run_self("_switch", str(switch_file))
    switch = recorded(switch_file)
    assert switch is not None, "the switch records itself before it reports success"
    for octet in wires.candidate_octets(str(directory)):
        lab = replace(_planned(directory, name, count, octet), transports=doors)
        save(lab)
        if wires.claim(lab, switch):
            wires.wire_switch(lab, switch)
            return lab
    raise LabError("no free subnet in 10.231.0.0/16")


def _without_network(directory: Path, name: str, count: int) -> Lab:
    lab = _planned(directory, name, count, octet=0)
    own = lab.hosts[-1].directory
    if len(own) > session.MAX_DIRECTORY:
        raise LabError(f"{own} leaves no room for socket paths: give a shorter --dir or --name")
    save(lab)
    return lab


def _planned(directory: Path, name: str, count: int, octet: int) -> Lab:
    """`octet` 0: a session-mode lab."""
    planned = []
    for number in range(1, count + 1):
        own = directory / "hosts" / f"{name}-{number}"
        address = f"10.231.{octet}.{number + 10}" if octet else ""
        uri = f"qemu+tcp://{address}/system" if octet else session.uri(own)
        mac = f"0a:e7:00:00:{octet:02x}:{number:02x}" if octet else ""
        identity = str(uuid.uuid4())
        planned.append(Host(f"{name}-{number}", number, address, mac, identity, uri, str(own)))
    return Lab(name, str(directory), octet, session=octet == 0, complete=False, hosts=tuple(planned))


def _revive(lab: Lab, host: Host) -> None:
    with locked(host.dir, create=False):
        init, daemon = recorded(host.init_file), recorded(host.daemon_file)
        if init is None or not init.is_alive():
            hosts.boot(lab, host)
        elif daemon is None or not daemon.is_alive():
            hosts.start_daemon(lab, host)
        sshd = recorded(host.sshd_file)
        if lab.transports and (sshd is None or not sshd.is_alive()):
            hosts.start_sshd(lab, host)


def _is_there(lab: Lab) -> bool:
    """Whether what its hosts hang on is there; hosts themselves can be revived."""
    return lab.session or hosts.live_switch(lab) is not None


def _clean(directory: Path, lab: Lab | None) -> None:
    """Undo all that a lab or a part of one has made, and leave its directory empty."""
    if lab is not None:
        _each(lab.hosts, lambda host: hosts.power_off(lab, host))
    switch = recorded(directory / "switch.pid")
    if switch is not None and switch.is_alive():
        wires.remove(switch)
        switch.kill()
    disks.remove_all(directory)
    watcher = recorded(directory / GUARD)
    if watcher is not None and watcher.pid != os.getpid():
        watcher.kill()
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _each(items: Iterable[T], act: Callable[[T], object]) -> None:
    """Act on all at once; the first error is raised when all have ended."""
    todo = list(items)
    with ThreadPoolExecutor(max_workers=max(1, min(len(todo), 16))) as pool:
        for future in [pool.submit(act, item) for item in todo]:
            future.result()
