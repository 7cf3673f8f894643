"""`domctl doctor` run as a user would run it, and what it reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.labhost import LabHost

DOMCTL = [sys.executable, "-c", "from controller.cli.main import main; raise SystemExit(main())"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    took_s: float

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def shown(self, host: LabHost) -> dict[str, Any]:
        return next(one for one in self.report["hosts"] if one["uri"] == host.uri)

    def findings(self, host: LabHost) -> dict[str, list[dict[str, Any]]]:
        """By check."""
        shown = self.shown(host)
        found: dict[str, list[dict[str, Any]]] = {}
        for one in shown["findings"]:
            found.setdefault(one["check"], []).append(one)
        return found

    def of_pair(self, source: LabHost, target: LabHost) -> dict[str, Any]:
        pairs = self.report["pairs"]
        return next(one for one in pairs if (one["from"], one["to"]) == (source.uri, target.uri))


def doctor(*argv: str) -> Ran:
    environ = {**os.environ, "KUBECONFIG": "/nonexistent/kubeconfig"}
    began = time.monotonic()
    done = subprocess.run(
        [*DOMCTL, "doctor", *argv], env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - began)
