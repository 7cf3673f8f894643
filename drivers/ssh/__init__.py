"""The Shell port on OpenSSH's client, as a child process for each command.

Never asks (BatchMode), never believes a key that it does not know (StrictHostKeyChecking), forwards nothing,
runs nothing here (PermitLocalCommand), and no option of a configuration file can turn these off, since those
of the command line come first. The child has no terminal; it is killed at the deadline, and gone when `run`
returns; what it says beyond a bound is forgotten. ssh hands a command over as text, so the words are quoted
for the shell there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from collections.abc import Sequence

from drivers.shell import Answer, Destination, ShellFailed

CONNECT_S = 5
COMMAND_S = 15.0
MAX_BYTES = 256 * 1024
_SSH_FAILED = 255
_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    f"ConnectTimeout={CONNECT_S}",
    "ConnectionAttempts=1",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=2",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "ControlMaster=no",
    "ControlPath=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
)


class OpenSsh:
    def __init__(self, command_s: float = COMMAND_S, max_bytes: int = MAX_BYTES) -> None:
        self._command_s = command_s
        self._max_bytes = max_bytes

    async def run(self, to: Destination, argv: Sequence[str]) -> Answer:
        began_at = time.time()
        try:
            process = await asyncio.create_subprocess_exec(
                *command_line(to, argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env=_environment(),
            )
        except OSError as error:
            raise ShellFailed(f"ssh cannot be run here: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._command_s):
                out, err = await asyncio.gather(self._read(process.stdout), self._read(process.stderr))
                code = await process.wait()
        except TimeoutError:
            raise ShellFailed(f"ssh {to.text}: no answer within {self._command_s:g} s") from None
        finally:
            await _end(process)
        if code == _SSH_FAILED:
            raise ShellFailed(f"ssh {to.text}: {_last_words(err)}")
        return Answer(code, out, err, began_at, time.time())

    async def _read(self, stream: asyncio.StreamReader | None) -> str:
        """What it says, up to the bound. What comes beyond is read and forgotten, until the deadline."""
        assert stream is not None, "both are pipes"
        kept = bytearray()
        while chunk := await stream.read(1 << 16):
            kept += chunk[: max(0, self._max_bytes - len(kept))]
        return kept.decode(errors="replace")


def command_line(to: Destination, argv: Sequence[str]) -> list[str]:
    line = ["ssh", "-T"]
    for option in _OPTIONS:
        line += ["-o", option]
    if to.config:
        line += ["-F", to.config]
    if to.known_hosts:
        line += ["-o", f"UserKnownHostsFile={to.known_hosts}", "-o", "GlobalKnownHostsFile=none"]
    if to.key_file:
        line += ["-i", to.key_file, "-o", "IdentitiesOnly=yes"]
    if to.user:
        line += ["-l", to.user]
    if to.port:
        line += ["-p", str(to.port)]
    return [*line, "--", to.host, shlex.join(argv)]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    """An agent and a home it may have; no language, for its words are shown, and no askpass."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "USER", "SSH_AUTH_SOCK") if name in os.environ
    }
    return {**kept, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}


def _last_words(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip(" @\t")]
    changed = [line for line in lines if "IDENTIFICATION HAS CHANGED" in line]
    return (changed or lines or ["it says nothing"])[0 if changed else -1].strip("@ ")
