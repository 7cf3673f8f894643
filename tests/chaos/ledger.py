"""What came of every run: a JSON object a line in a file, to which the next invocation adds; and a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    """One live migration and what was brought over it.

    `moment`: when; `switched`, if the switch-over was to be met and had passed. `phase`: what the Migration
    ended as. `place`: where the domain runs at the end, `source`, `target` or `elsewhere`. `guest`: `kept`,
    or `restarted` if it began to count anew. `settled_s`: from the moment on that all was whole again until
    the domain was Ready, its Migration ended and every host read clean. `wrong`: what broke a promise, that
    it ran on both hosts for one, or nothing. `said`: what the Migration says of its end, and of how many
    attempts, unless it just succeeded."""

    number: int
    seed: str
    what: str
    moment: str
    lasted_s: float
    phase: str
    place: str
    guest: str
    settled_s: float
    wrong: str = ""
    said: str = ""

    @property
    def end(self) -> str:
        return f"{self.phase}, {self.place}, {self.guest}"


class Ledger:
    def __init__(self, path: Path) -> None:
        self._path = path

    def runs(self) -> list[Run]:
        if not self._path.exists():
            return []
        return [Run(**json.loads(line)) for line in self._path.read_text().splitlines()]

    def add(self, run: Run) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")


def table(runs: Iterable[Run]) -> str:
    """By what was killed: how often, how it ended how many times, and how long it took to settle."""
    by_what: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_what[run.what].append(run)
    lines = [f"{'what':<42} {'runs':>4} {'settled':>8} {'at most':>8}  how it ended"]
    for what, some in sorted(by_what.items()):
        ends: dict[str, int] = defaultdict(int)
        for run in some:
            ends[f"WRONG ({run.wrong})" if run.wrong else run.end] += 1
        counted = sorted(ends.items(), key=lambda item: (-item[1], item[0]))
        told = "; ".join(f"{count}x {end}" for end, count in counted)
        took = [run.settled_s for run in some]
        lines.append(f"{what:<42} {len(some):>4} {median(took):>7.1f}s {max(took):>7.1f}s  {told}")
    return "\n".join(lines)
