"""The oracle of invariant I1, that no domain runs twice: ground truth, blind to what any controller thinks.

Guests write counted lines to their first serial port, which is a file on the host that runs them. One file
name (one domain) in the directories of two hosts: when the file on A grows, then that on B, then that on A
again, all within 300 ms, both guests were executing. A migration is no such case (A, A, B, B: it hands
over once, and cannot come back within 300 ms), nor is a restart elsewhere. When a file was written is
asked of the kernel (its mtime), not of this program's scheduling.

Run it as a process of its own, for tests may starve their threads: `watching(...)` does so. Blindness is
reported: `longest_gap_s` is the longest time between two looks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

WINDOW_S = 0.3
LOOK_EVERY_S = 0.02
SCAN_EVERY_S = 0.2  # for files that are new; a guest takes longer than that to come up and tick twice


@dataclass(frozen=True)
class Advance:
    host: str
    at: float


@dataclass(frozen=True)
class Violation:
    """Domain `domain` advanced on `hosts[0]`, `hosts[1]`, and `hosts[0]` again, at these instants."""

    domain: str
    hosts: tuple[str, str]
    at: tuple[float, float, float]


@dataclass
class Judge:
    """Fed with what each file looked like; remembers just enough to tell interleaving from handing over."""

    violations: list[Violation] = field(default_factory=list)
    _sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    _recent: dict[str, deque[Advance]] = field(default_factory=dict)

    def see(self, domain: str, host: str, size: int, written_at: float) -> None:
        """The file of `domain` on `host` has this size and was last written at that instant. The first
        look at a file is no advance: what stands in it may be of old."""
        before = self._sizes.get((domain, host))
        self._sizes[domain, host] = size
        if before is None or size in (before, 0):
            return  # shorter but not empty: truncated by a new QEMU, and written to since
        recent = self._recent.setdefault(domain, deque())
        recent.append(Advance(host, written_at))
        horizon = max(advance.at for advance in recent) - WINDOW_S
        self._recent[domain] = recent = deque(
            sorted((a for a in recent if a.at >= horizon), key=lambda a: a.at)
        )
        found = _interleaved(recent)
        if found is not None:
            first, second, third = found
            self.violations.append(
                Violation(domain, (first.host, second.host), (first.at, second.at, third.at))
            )
            recent.clear()  # one violation per window is enough


def _interleaved(advances: deque[Advance]) -> tuple[Advance, Advance, Advance] | None:
    """A, B, A in order of time, if they are among these."""
    for i, first in enumerate(advances):
        other = next((a for a in list(advances)[i + 1 :] if a.host != first.host and a.at > first.at), None)
        if other is not None:
            back = next((a for a in advances if a.host == first.host and a.at > other.at), None)
            if back is not None:
                return first, other, back
    return None


@dataclass
class Follower:
    """Looks at all files of the hosts' directories; `hosts` maps a host's name to its directory."""

    hosts: dict[str, Path]
    judge: Judge = field(default_factory=Judge)
    longest_gap_s: float = 0.0
    _known: list[tuple[str, str, Path]] = field(default_factory=list)
    _scanned_at: float = float("-inf")
    _looked_at: float | None = None

    def look(self, now: float) -> None:
        if self._looked_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self._looked_at)
        self._looked_at = now
        if now - self._scanned_at >= SCAN_EVERY_S:
            self._scanned_at = now
            self._known = [
                (path.name, host, path)
                for host, directory in self.hosts.items()
                for path in sorted(directory.glob("*"))
            ]
        for domain, host, path in self._known:
            try:
                seen = path.stat()
            except FileNotFoundError:
                continue
            self.judge.see(domain, host, seen.st_size, seen.st_mtime_ns / 1e9)


@dataclass(frozen=True)
class Report:
    violations: tuple[Violation, ...]
    longest_gap_s: float


class Watch:
    """A running oracle. `stop()` ends it and returns its report; `check()` may be called meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path) -> None:
        self._process = process
        self._out = out

    def violations(self) -> list[Violation]:
        return [_violation(json.loads(line)) for line in self._lines() if "domain" in line]

    def check(self) -> None:
        """AssertionError if a domain ran twice, or if the oracle itself has died."""
        assert self._process.poll() is None, "the oracle died"
        found = self.violations()
        assert not found, f"I1 is broken: {found}"

    def stop(self) -> Report:
        self._process.terminate()
        self._process.wait(10)
        found = self.violations()
        gaps = [json.loads(line)["longest_gap_s"] for line in self._lines() if "longest_gap_s" in line]
        assert gaps, "the oracle died before it was stopped"
        return Report(tuple(found), gaps[-1])

    def _lines(self) -> list[str]:
        return [line for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextlib.contextmanager
def watching(hosts: dict[str, Path], out: Path) -> Iterator[Watch]:
    """Run the oracle over these directories; at the end fail if it saw a domain run twice. `out` is the
    file it writes its findings to."""
    out.write_text("")
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(out)]
    process = subprocess.Popen([*command, *(f"{host}={path}" for host, path in hosts.items())])
    watch = Watch(process, out)
    try:
        _wait_started(out, process)
        yield watch
        report = watch.stop()
        assert not report.violations, f"I1 is broken: {report.violations}"
    finally:
        process.kill()
        process.wait()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Report every domain that runs on two hosts at once.")
    parser.add_argument(
        "--out", required=True, type=Path, help="append findings here, one JSON object a line"
    )
    parser.add_argument("hosts", nargs="+", metavar="HOST=DIRECTORY")
    args = parser.parse_args(argv)
    follower = Follower({host: Path(path) for host, _, path in (text.partition("=") for text in args.hosts)})
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    with args.out.open("a", buffering=1) as out:
        out.write('{"started": true}\n')
        told = 0
        try:
            while True:
                follower.look(time.monotonic())
                for violation in follower.judge.violations[told:]:
                    out.write(json.dumps(asdict(violation)) + "\n")
                told = len(follower.judge.violations)
                time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            out.write(json.dumps({"longest_gap_s": round(follower.longest_gap_s, 3)}) + "\n")
    return 0


def _wait_started(out: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while "started" not in out.read_text():
        assert process.poll() is None and time.monotonic() < deadline, "the oracle did not start"
        time.sleep(0.01)


def _violation(data: dict[str, object]) -> Violation:
    hosts, at = data["hosts"], data["at"]
    assert isinstance(hosts, list) and isinstance(at, list), "as `asdict` wrote it"
    return Violation(str(data["domain"]), (hosts[0], hosts[1]), (at[0], at[1], at[2]))


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
