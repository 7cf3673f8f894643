"""What a benchmark measured: every value as it comes, a table at the end, and ratios of medians."""

from __future__ import annotations

from statistics import median, quantiles


class Figures:
    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)
        print(f"  {name:<18} {value:8.3f}", flush=True)

    def table(self) -> None:
        print(f"{'seconds':<20} {'n':>3} {'min':>8} {'q1':>8} {'median':>8} {'q3':>8} {'max':>8}")
        for name, values in self.values.items():
            q1, q2, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
            row = (min(values), q1, q2, q3, max(values))
            print(f"{name:<20} {len(values):>3} " + " ".join(f"{value:8.3f}" for value in row))

    def ratio(self, ours: str, of_floor: str) -> float:
        return median(self.values[ours]) / median(self.values[of_floor])
