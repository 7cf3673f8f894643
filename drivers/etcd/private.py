"""A private etcd: a child process with a data directory, for `domctl serve` without endpoints.

Whoever may write to this etcd is root on all nodes, so it listens on no network at all: clients and peers
(of which there are none) are unix sockets in a directory that only our user may enter.

Guaranteed: it dies with us (PR_SET_PDEATHSIG), also when we are killed; it is started again, more and more
slowly, when it ends by itself; two never run on one data directory (a lock that parent and child hold
together, so that a child that is still ending keeps a new one out). Not here: members, backups, upgrades.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import sys
import uuid
from pathlib import Path

from drivers.errors import StoreRefused, StoreUnavailable
from drivers.etcd.client import EtcdStore
from drivers.etcd.config import EtcdConfig

_log = logging.getLogger(__name__)

# etcd wants unix URLs of the form "host:port" and makes sockets of that name in its working directory.
_CLIENT_SOCKET = "client:0"
_PEER_SOCKET = "peer:0"
_MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes
_OLDEST = (3, 4)  # progress requests on watches
_MAX_LOG_BYTES = 4 << 20
_LOCK_S = 15.0
_STOP_S = 10.0
_START_S = 60.0  # a large database takes its time to open
_LIVED_LONG_S = 60.0
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0

# Set the death signal, then become etcd. In a process of its own: code between fork and exec is not safe
# in a process with threads. The parent may have died before the signal was set.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class PrivateEtcd:
    """Start it, use `config` for stores, close those, stop it. Start it from the main thread: the child
    dies with the thread that started it."""

    def __init__(self, data_dir: Path, *, binary: str = "etcd", quota_bytes: int = 4 << 30) -> None:
        self._dir = data_dir.absolute()
        self._binary = binary
        self._quota_bytes = quota_bytes
        self._version: tuple[int, ...] = ()
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._fds: list[int] = []  # the lock, and the directory if its path is too long for a socket
        self._socket_dir = str(self._dir)

    @property
    def config(self) -> EtcdConfig:
        """How a store of this process reaches it."""
        return EtcdConfig(endpoints=(f"unix:{self._socket_dir}/{_CLIENT_SOCKET}",))

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Return when it serves. Raises StoreRefused for what a human must change, StoreUnavailable when
        it does not come up."""
        try:
            await self._check_binary()
            self._prepare_directory()
            await self._lock()
            await self._spawn()
            await self._until_it_serves()
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End the child in good order. Stopping what does not run is no error."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self._end_process()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    # --- before it runs

    async def _check_binary(self) -> None:
        path = shutil.which(self._binary)
        if path is None:
            raise StoreRefused(f"{self._binary}: no such program: install etcd-server, or set store.binary")
        self._binary = path
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StoreRefused(f"{path} --version does not end") from None
        found = re.search(rb"etcd Version: (\d+)\.(\d+)", output)
        if found is None:
            raise StoreRefused(f"{path} is no etcd: {output[:200].decode(errors='replace')!r}")
        self._version = (int(found[1]), int(found[2]))
        if self._version < _OLDEST:
            raise StoreRefused(f"{path} is etcd {found[1].decode()}.{found[2].decode()}, 3.4 is needed")

    def _prepare_directory(self) -> None:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._dir.stat().st_uid != os.geteuid():
            raise StoreRefused(f"{self._dir} belongs to another user")
        self._dir.chmod(0o700)  # it may have been made by hand; the sockets' safety is this mode
        self._socket_dir = str(self._dir)
        if len(os.fsencode(self._dir / _CLIENT_SOCKET)) > _MAX_SOCKET_PATH:
            fd = os.open(self._dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds.append(fd)
            self._socket_dir = f"/proc/self/fd/{fd}"
        log = self._dir / "etcd.log"
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.rename(self._dir / "etcd.log.1")

    async def _lock(self) -> None:
        fd = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._fds.append(fd)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOCK_S):
                while True:
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        return
                    await asyncio.sleep(0.1)
        raise StoreRefused(f"{self._dir} is in use by another domctl, or by an etcd that does not end")

    # --- while it runs

    async def _spawn(self) -> None:
        for name in (_CLIENT_SOCKET, _PEER_SOCKET):  # a killed etcd leaves them, and the next stumbles
            (self._dir / name).unlink(missing_ok=True)
        with (self._dir / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())),
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._dir,
                env=_environment(),
                pass_fds=self._fds,
                start_new_session=True,  # Ctrl-C is for us; etcd ends when we are done with it
            )

    def _command(self) -> list[str]:
        progress = "watch-progress-notify-interval"
        return [
            self._binary,
            "--name=private",
            "--data-dir=data",
            f"--listen-client-urls=unix://{_CLIENT_SOCKET}",
            f"--advertise-client-urls=unix://{_CLIENT_SOCKET}",
            f"--listen-peer-urls=unix://{_PEER_SOCKET}",
            f"--initial-advertise-peer-urls=unix://{_PEER_SOCKET}",
            f"--initial-cluster=private=unix://{_PEER_SOCKET}",
            # Read when the database is made: without it, all private etcds have the same cluster id.
            f"--initial-cluster-token={uuid.uuid4()}",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=1h",
            f"--quota-backend-bytes={self._quota_bytes}",
            "--snapshot-count=10000",
            f"--{progress if self._version >= (3, 6) else 'experimental-' + progress}=2s",
            "--logger=zap",
            "--log-level=warn",
            "--log-outputs=stderr",
        ]

    async def _until_it_serves(self) -> None:
        process = self._process
        assert process is not None
        config = EtcdConfig(endpoints=self.config.endpoints, attempt_s=0.5, deadline_s=1.0, write_s=0.5)
        store = EtcdStore(config)
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    if process.returncode is not None:
                        raise StoreUnavailable(f"etcd ended with {process.returncode}: {self._last_words()}")
                    with contextlib.suppress(StoreUnavailable):
                        await store.status()
                        return
        except TimeoutError:
            raise StoreUnavailable(f"etcd did not begin to serve: {self._last_words()}") from None
        finally:
            await store.close()

    async def _supervise(self) -> None:
        pause_s = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            started_at = loop.time()
            assert self._process is not None
            status = await self._process.wait()
            if loop.time() - started_at > _LIVED_LONG_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning("etcd ended by itself with %s; next start in %s s", status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)
            try:
                await self._spawn()
            except OSError as error:
                _log.warning("etcd cannot be started: %s", error)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_S)
                return

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return (self._dir / "etcd.log").read_bytes()[-1000:].decode(errors="replace").strip()
        return "it left no log"


def _environment() -> dict[str, str]:
    """Ours without etcd's: it takes every flag from its environment, too."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    if os.uname().machine == "aarch64":
        kept["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # 3.4 refuses to start there without
    return kept
