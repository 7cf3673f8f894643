"""Real kubectl of every version that is found on this machine, and the API on a real etcd for it to talk to.

Where there is none at all its tests are skipped, which the end of a run says loudly; where etcd is required
(`--require etcd`, as root always) a skipped one of them is a failure, for bootstrap installs a kubectl there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drivers.etcd import EtcdConfig, EtcdStore
from tests.apiserver import Api, serving
from tests.etcdserver import EtcdServer

NONE = "no kubectl was found on this machine"


def kubectls() -> list[str]:
    """The oldest first. `kubectl` without a number is Debian's, say, and counts like the others; beside
    numbered ones it may also be a mere switch between them, or one of them again."""
    folders = [Path("/usr/lib/google-cloud-sdk/bin"), *map(Path, os.environ["PATH"].split(":"))]
    found = {str(path) for folder in folders for path in folder.glob("kubectl.1.*")}
    plain = shutil.which("kubectl")
    if plain and (not found or _version(plain) not in {"", *map(_version, found)}):
        found.add(plain)
    return sorted(found, key=lambda binary: (_minor(binary), binary))


@functools.cache
def _version(binary: str) -> str:
    """1.MINOR, as its name or else it itself says; "" of a switch, which has none of its own."""
    _, numbered, minor = binary.rpartition("kubectl.1.")
    if numbered:
        return f"1.{minor}"
    done = subprocess.run([binary, "version", "--client", "-o", "json"], capture_output=True, check=False)
    try:
        client = json.loads(done.stdout)["clientVersion"]
        version = f"{client['major']}.{client['minor'].rstrip('+')}"
    except (ValueError, KeyError):
        return ""
    return "" if "dispatcher" in client["gitVersion"] else version


def _minor(binary: str) -> int:
    """1.MINOR; 0 where it does not tell."""
    return int(_version(binary).rpartition(".")[2] or 0)


def newest(minor: int = 0) -> str:
    """The newest, of 1.`minor` at least (Debian's own is 1.20). Skips the test where there is none."""
    found = [binary for binary in kubectls() if _minor(binary) >= minor]
    if not found:
        pytest.skip(f"no kubectl 1.{minor} was found on this machine" if minor else NONE)
    return found[-1]


@dataclass
class Kubectl:
    binary: str
    kubeconfig: Path
    home: Path

    @property
    def minor(self) -> int:
        return _minor(self.binary)

    async def start(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self.binary,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "KUBECONFIG": str(self.kubeconfig),
                "HOME": str(self.home),
                "PATH": os.environ["PATH"],
                **env,
            },
        )

    async def run(self, *arguments: str, stdin: str = "", **env: str) -> tuple[int, str, str]:
        process = await self.start(*arguments, **env)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def good(self, *arguments: str, stdin: str = "", **env: str) -> str:
        code, out, err = await self.run(*arguments, stdin=stdin, **env)
        assert code == 0, (arguments, err)
        return out

    async def bad(self, *arguments: str, stdin: str = "") -> str:
        code, out, err = await self.run(*arguments, stdin=stdin)
        assert code == 1, (arguments, code, out, err)
        return err


def versions(found: Sequence[str], always: Sequence[str]) -> list[Any]:
    """Parameters of a test: those of `always`, and the others with --long."""
    if not found:
        return [pytest.param("", marks=pytest.mark.skip(reason=NONE))]
    return [
        pytest.param(one, id=Path(one).name, marks=() if one in always else pytest.mark.long)
        for one in dict.fromkeys((*always, *found))
    ]


@contextlib.asynccontextmanager
async def real_api(etcd: EtcdServer, directory: Path) -> AsyncGenerator[Api, None]:
    store = EtcdStore(EtcdConfig(endpoints=(etcd.endpoint,)))
    etcd.api("kv/deleterange", {"key": "AA==", "range_end": "AA=="})
    async with serving(store, directory) as found:
        yield found
    await store.close()
