"""The domctl command against a real API server, over HTTPS, with kubectl beside it where there is one.

`running` starts the server before a Store in memory. No controller runs: what its leader would do to an
object is done through the store (`Cli.become`, `Cli.change`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import keys
from controller.cli.main import main
from drivers.memory import MemoryStore
from drivers.store import Delete, Put
from tests.apiserver import Api, serving
from tests.kubectl import newest

DOMCTL = [sys.executable, "-c", "from controller.cli.main import main; raise SystemExit(main())"]


FROM = 29  # kubectl 1.29: what older ones say and do differs


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """Runs domctl as a user would: `quick` in this process, `start` as a process of its own."""

    api: Api
    directory: Path
    environ: dict[str, str]

    async def __call__(self, command: str, *more: str, stdin: str = "") -> Ran:
        return await asyncio.to_thread(self._quick, [*command.split(), *more], stdin)

    def _quick(self, argv: list[str], stdin: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(argv)
        finally:
            sys.stdin = before
        return Ran(code, out.getvalue(), err.getvalue())

    async def start(
        self, command: str, stdin: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *DOMCTL, *command.split(), env=self.environ, stdout=pipe, stderr=pipe, stdin=stdin
        )

    async def kubectl(self, command: str) -> Ran:
        done = await asyncio.to_thread(
            subprocess.run,
            [newest(FROM), *command.split()],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def file(self, text: str, name: str = "f.yaml") -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    async def body(self, name: str, plural: str = "domains", namespace: str = "default") -> dict[str, Any]:
        kv = await self.api.store.get(keys.object_key(plural, "" if plural == "nodes" else namespace, name))
        assert kv is not None
        found: dict[str, Any] = json.loads(kv.value)
        return found

    async def exists(self, name: str) -> bool:
        return await self.api.store.get(keys.object_key("domains", "default", name)) is not None

    async def is_terminating(self, name: str) -> bool:
        return "deletionTimestamp" in (await self.body(name))["metadata"]

    async def change(
        self, name: str, change: Callable[[dict[str, Any]], None], plural: str = "domains"
    ) -> None:
        """As the leader writes: status and finalizers are its own."""
        body = await self.body(name, plural)
        change(body)
        key = keys.object_key(plural, "" if plural == "nodes" else "default", name)
        await self.api.store.txn([], [Put(key, json.dumps(body).encode())])

    async def become(self, name: str, ready: str, reason: str = "Running", stalled: str = "False") -> None:
        def change(body: dict[str, Any]) -> None:
            generation = body["metadata"]["generation"]
            states = {"Ready": ready, "Reconciling": "False", "Stalled": stalled}
            body["status"] = {
                "observedGeneration": generation,
                "reason": reason,
                "conditions": [
                    {
                        "type": k,
                        "status": v,
                        "reason": reason,
                        "message": "words",
                        "observedGeneration": generation,
                    }
                    for k, v in states.items()
                ],
            }

        await self.change(name, change)

    async def remove(self, name: str) -> None:
        await self.api.store.txn([], [Delete(keys.object_key("domains", "default", name))])


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)


def domain(name: str = "web", **spec: Any) -> str:
    value = {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"type": "qemu", "memory": "64Mi", **spec},
    }
    return yaml.safe_dump(value)


def node(name: str = "hv1") -> str:
    spec = {"uri": f"qemu+tcp://{name}/system", "insecure": True}
    return yaml.safe_dump(
        {"apiVersion": "domctl.io/v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}
    )


async def applied(cli: Cli, *texts: str) -> None:
    ran = await cli("apply -f -", stdin="---\n".join(texts))
    assert ran.code == 0, ran.err


@contextlib.asynccontextmanager
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cli]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path / "data") as api:
        kubeconfig = str(api.pki.kubeconfig)
        monkeypatch.setenv("KUBECONFIG", kubeconfig)
        environ = {**os.environ, "KUBECONFIG": kubeconfig, "HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
        yield Cli(api, tmp_path / "files", environ)
    await store.close()
