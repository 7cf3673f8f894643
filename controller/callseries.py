"""The Prometheus series of calls to libvirt, by node and call: a part of `controller.metrics`.

A histogram like prometheus_client's own, but kept as plain numbers: a hundred nodes have tens of thousands of
its lines, which are made in parts (`controller.scrape`). A node's series end with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric

from controller.figureseries import escaped
from controller.scrape import Lines

NAME: Final = "domctl_libvirt_rpc_duration_seconds"
HELP: Final = "How long libvirt took."
Row = tuple[str, str, tuple[int, ...], float]  # node, call, how many in each bucket, the sum of seconds


class CallSeries:
    """`buckets`: their upper bounds in seconds, ascending; one without a bound comes last."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = tuple(buckets)
        self._bounds = (*(str(float(bound)) for bound in buckets), "+Inf")
        self._counts: dict[str, dict[str, list[int]]] = {}
        self._sums: dict[str, dict[str, float]] = {}
        self.joined = False

    def observe(self, node: str, call: str, seconds: float) -> None:
        counts, sums = self._counts.setdefault(node, {}), self._sums.setdefault(node, {})
        if call not in counts:
            counts[call], sums[call] = [0] * len(self._bounds), 0.0
        counts[call][bisect_left(self._buckets, seconds)] += 1
        sums[call] += seconds

    def forget(self, node: str) -> None:
        self._counts.pop(node, None)
        self._sums.pop(node, None)

    def families(self) -> Iterator[Lines]:
        yield Lines(f"# HELP {NAME} {HELP}\n# TYPE {NAME} histogram\n", self._rows(), self._text)

    def collect(self) -> Iterator[Metric]:
        if self.joined:
            return
        family = HistogramMetricFamily(NAME, HELP, labels=["node", "call"])
        for node, call, counts, total in self._rows():
            family.add_metric([node, call], list(zip(self._bounds, accumulate(counts), strict=True)), total)
        yield family

    def _rows(self) -> list[Row]:
        return [
            (node, call, tuple(counts), self._sums[node][call])
            for node, calls in self._counts.items()
            for call, counts in calls.items()
        ]

    def _text(self, row: Row) -> str:
        node, call, counts, total = row
        before, after = f'{{call="{escaped(call)}",', f'node="{escaped(node)}"}} '
        lines = [
            f'{NAME}_bucket{before}le="{bound}",{after}{count}.0\n'
            for bound, count in zip(self._bounds, accumulate(counts), strict=True)
        ]
        lines.append(f"{NAME}_count{before}{after}{sum(counts)}.0\n")
        lines.append(f"{NAME}_sum{before}{after}{total}\n")
        return "".join(lines)
