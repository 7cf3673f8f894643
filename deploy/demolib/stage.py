"""What the demo starts (a lab of hosts, `domctl serve` with its private etcd), and how all of it ends.

A stage is a directory below /run (without root: below /tmp). `.cache/demo` in the checkout names it as long
as anything may be up, so `--down` finds it after a crash too. Processes are known by pid and start time,
since pids come again.
`down` may be called at any moment and more than once, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .screen import Screen

CHECKOUT = Path(__file__).resolve().parents[2]
NOTE = CHECKOUT / ".cache" / "demo"
LAB = CHECKOUT / "deploy" / "lab"
DOMCTL = CHECKOUT / ".venv" / "bin" / "domctl"
READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0


class DemoError(Exception):
    """Said to the user as it is: why the demo failed."""


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True)
class Host:
    """One host of the lab. `node`: its name as a Node."""

    node: str
    name: str
    uri: str


class Stage:
    """`directory`: an existing stage, to end it."""

    def __init__(self, screen: Screen, hosts: int, directory: Path | None = None) -> None:
        self._screen = screen
        self.host_count = hosts
        self.hosts: tuple[Host, ...] = ()
        self.address = ""
        if directory is None:
            base = "/tmp" if rootless() else "/run"  # noqa: S108 - short, for the paths of sockets
            directory = Path(tempfile.mkdtemp(prefix="domctl-", dir=base))
            NOTE.parent.mkdir(exist_ok=True)
            NOTE.write_text(f"{directory}\n")
        self.directory = directory

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def images(self) -> Path:
        """Where disks of domains stand, as hosts see it. Hosts without root share this machine's files."""
        return self.directory / "images" if rootless() else Path("/var/lib/libvirt/images")

    @property
    def log(self) -> Path:
        return self.directory / "serve.log"

    # --- up ---------------------------------------------------------------------------------------------

    def start_lab(self) -> None:
        self.run(self.lab("up", "--hosts", str(self.host_count)))
        self.hosts = tuple(
            Host(f"lab-{host['number']}", host["name"], host["uri"]) for host in self.lab_status()
        )

    def lab(self, verb: str, *args: str) -> list[str]:
        """A command of the lab, whose hosts are called as their Nodes are: lab-1, lab-2, …"""
        return [str(LAB), verb, "--dir", str(self.directory), "--name", "lab", *args]

    def lab_status(self) -> list[dict[str, Any]]:
        text = self.run(self.lab("status", "-o", "json"))
        return list(json.loads(text)["hosts"])

    def copy_guests(self) -> None:
        """The ticking guest and the Linux into every host's image directory, as an administrator would put
        them there."""
        guests = self.directory / "guests"
        self.run([str(LAB), "guest", "--out", str(guests)])
        if rootless():
            self.images.mkdir()
        for name in ("tick.img",) if rootless() else ("tick.img", "vmlinuz", "initramfs.gz"):
            data = (guests / name).read_bytes()
            for host in self.hosts:
                self.run_on(host, ["sh", "-c", f"cat > {self.images}/{name}"], stdin=data)

    def start_controller(self) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        command = [str(DOMCTL), "serve", "--data-dir", str(self.data_dir), "--listen", self.address]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        (self.directory / "serve.pid").write_text(f"{process.pid} {_start_time(process.pid)}\n")
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if process.poll() is not None:
                raise DemoError(f"domctl serve ended with code {process.returncode}")
            if time.monotonic() > deadline:
                raise DemoError(f"domctl serve was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.1)

    def _answers(self) -> bool:
        done = subprocess.run(
            [str(DOMCTL), "get", "nodes", "-o", "json"],
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    # --- in use -----------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(kubeconfig(self.directory))}

    def domctl(self, *args: str, stdin: str = "") -> str:
        return self.run([str(DOMCTL), *args], stdin=stdin.encode())

    def run_on(self, host: Host, command: list[str], stdin: bytes = b"") -> str:
        return self.run(self.lab("exec", host.name, "--", *command), stdin=stdin)

    def run(self, command: list[str], stdin: bytes = b"") -> str:
        """Stdout of a command. In a session of its own: a Ctrl-C is for the demo, which then ends it."""
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=self.environment(), start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(stdin, timeout=180)
        except BaseException:
            _end(process)
            raise
        if process.returncode != 0:
            words = " ".join(Path(part).name if part.startswith("/") else part for part in command)
            raise DemoError(f"{words}: {err.decode(errors='replace').strip()}")
        return out.decode(errors="replace")

    def ways_on(self) -> list[str]:
        pki = self.data_dir / "pki"
        curl = f"curl --cacert {pki}/ca.crt --cert {pki}/admin.crt --key {pki}/admin.key"
        return [
            'eval "$(./deploy/demo --env)"',
            "domctl get domains -A",
            "domctl describe domain web-1",
            f"virsh -c {self.hosts[0].uri} list --all",
            f"{curl} https://{self.address}/metrics",
        ]

    def logs(self) -> str:
        if not self.log.exists():
            return ""
        return f"--- the end of the controller's log ---\n{self.log.read_text(errors='replace')[-4000:]}"

    # --- down -------------------------------------------------------------------------------------------

    def down(self) -> None:
        pid = _recorded(self.directory / "serve.pid")
        if pid is not None:
            _end_session(pid)
        subprocess.run(
            self.lab("down"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(FileNotFoundError):
            if NOTE.read_text().strip() == str(self.directory):
                NOTE.unlink()


def rootless() -> bool:
    """Hosts are then session-mode libvirtd processes, without networks and namespaces of their own."""
    return os.geteuid() != 0


def recall() -> Path | None:
    """The stage that was noted last and not taken down."""
    try:
        return Path(NOTE.read_text().strip())
    except FileNotFoundError:
        return None


def kubeconfig(directory: Path) -> Path:
    return directory / "data" / "kubeconfig"


def is_up(directory: Path) -> bool:
    return directory.is_dir()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def _recorded(path: Path) -> int | None:
    """The pid in a file, if that very process still is."""
    try:
        pid, start = path.read_text().split()
        return int(pid) if _start_time(int(pid)) == start else None
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_session(pid: int) -> None:
    """The controller resigns and ends its etcd; whatever of its session is left after that is killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    while _of_session(pid) and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    for left in _of_session(pid):
        sys.stderr.write(f"demo: killing {left}, which did not end by itself\n")
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _of_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
