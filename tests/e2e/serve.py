"""`domctl serve` as a process of its own, which tests and benchmarks start, kill and start again.

A `Controller` has a data directory and an address of its own; both survive its death, as a real one's do.
It dies with the test run at the latest.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.e2e.client import Api, ApiError

DOMCTL = Path(sys.executable).parent / "domctl"
CHECKOUT = Path(__file__).resolve().parents[2]
PORT = 7443
START_TIMEOUT_S = 40.0
T = TypeVar("T")


class Controller:
    """`config` is written to the configuration file; `env` is added to the process's environment."""

    def __init__(
        self, directory: Path, config: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data_dir = directory / "data"
        self.kubeconfig = self.data_dir / "kubeconfig"
        self.log = directory / "serve.log"
        self.config = config or {}
        self.env = env or {}
        self.address = f"127.{random.randint(1, 60)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self.process: subprocess.Popen[bytes] | None = None
        self._api: Api | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "it does not run"
        return self.process.pid

    def api(self) -> Api:
        if self._api is None:
            self._api = Api(self.kubeconfig)
        return self._api

    def start(self, *, wait: bool = True, **env: str) -> Controller:
        """Start it on its data directory, new or old; `wait`: until /readyz says so."""
        assert self.process is None, "it runs already"
        command = [
            str(DOMCTL),
            "serve",
            "--data-dir",
            str(self.data_dir),
            "--listen",
            f"{self.address}:{PORT}",
        ]
        if self.config:
            path = self.directory / "config.yaml"
            path.write_text(yaml.safe_dump(self.config))
            command += ["--config", str(path)]
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONASYNCIODEBUG"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                env={**environ, **self.env, **env},
            )  # fmt: skip
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        def ready() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"domctl serve ended:\n{self.tail()}")
            try:
                return self.kubeconfig.exists() and self.api().get("/readyz") is not None
            except (OSError, ApiError):
                return False

        until(ready, timeout_s, lambda: f"domctl serve is not ready:\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it resigns. Stopping what does not run is no error."""
        self._end(signal.SIGTERM)

    def wait_end(self, timeout_s: float) -> int:
        """Its exit code, once it ended by itself."""
        assert self.process is not None, "it does not run"
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def tail(self, characters: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def domctl(self, *args: str, stdin: str = "", check: bool = True) -> str:
        """What the command printed. With `check`, anything but exit code 0 is an error."""
        done = self.run(*args, stdin=stdin)
        if check and done.returncode != 0:
            raise AssertionError(
                f"domctl {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def run(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(DOMCTL), *args], input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )  # fmt: skip

    def apply(self, *objects: dict[str, Any]) -> str:
        return self.domctl(
            "apply", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(objects, sort_keys=False)
        )

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise AssertionError(f"domctl serve did not end in 30 s:\n{self.tail()}") from None


def until(
    holds: Callable[[], T], timeout_s: float, what: str | Callable[[], str], pause_s: float = 0.05
) -> T:
    """Ask until the answer is true, and return it. AssertionError with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = holds()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
