"""The Prometheus series of what nodes and domains use: a part of `controller.metrics`, made the same way.

Counters are the hosts' own, so rates are Prometheus' to make; a domain's begins anew when it is started, or
has moved. Labels of a domain are its name and namespace, no UUID and no node, so that a series goes on where
it moves. A series ends with its domain, and when its node is read without it, or no longer answers. Each is
kept as a finished line, which `controller.scrape` joins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from controller.scrape import Lines
from drivers.hypervisor import DomainFigures, Figures

Name = tuple[str, str]  # namespace and name
Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: str
    text: str

    @property
    def head(self) -> str:
        return f"# HELP {self.name} {self.text}\n# TYPE {self.name} {self.kind}\n"

    def collected(self, labels: list[str], found: Iterator[tuple[tuple[str, ...], float]]) -> Metric:
        made = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = made(self.name, self.text, labels=labels)
        for values, value in found:
            family.add_metric(values, value)
        return family


OF_DOMAINS: Final = (
    Family("domctl_domain_cpu_seconds_total", "counter", "Processor time since the domain was started."),
    Family("domctl_domain_memory_used_bytes", "gauge", "Memory of the host that the domain takes."),
    Family("domctl_domain_memory_given_bytes", "gauge", "Memory that the guest has."),
)
OF_NODES: Final = (
    Family("domctl_node_cpu_seconds_total", "counter", "Busy time of all processors since the host booted."),
    Family("domctl_node_memory_used_bytes", "gauge", "Memory that is neither free nor a cache of files."),
    Family("domctl_node_memory_size_bytes", "gauge", "Memory that the host has."),
    Family("domctl_node_figures_age_seconds", "gauge", "Seconds since the node was asked for its figures."),
)


class FigureSeries:
    """`now`: the world's clock, for ages."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._domains: dict[Name, tuple[str, Values]] = {}  # with the node that told of it
        self._lines: dict[Name, tuple[str, ...]] = {}
        self._nodes: dict[str, tuple[Values, float]] = {}
        self._of: dict[str, dict[Name, None]] = {}  # node -> what it told of
        self._asked = dict.fromkeys(("read", "busy", "failed"), 0)
        self.joined = False  # lines are being rendered by themselves just now

    def asked(self, result: str) -> None:
        """`result`: read, busy (it was not worth waiting) or failed."""
        self._asked[result] += 1

    def put(self, node: str, figures: Figures, names: Mapping[str, Name]) -> None:
        """`names`: of the domains that are shown, by UUID."""
        told: dict[Name, None] = {}
        for one in figures.domains:
            name = names.get(one.uuid)
            if name is not None:
                told[name] = None
                self._put_domain(name, node, one)
        for name in self._of.get(node, {}):
            if name not in told:
                self._drop_domain(name, node)
        self._of[node] = told
        host = figures.host
        values = (None, None, None) if host is None else (host.cpu_s, host.used_bytes, host.total_bytes)
        self._nodes[node] = values, figures.sent_at

    def _put_domain(self, name: Name, node: str, one: DomainFigures) -> None:
        values = (one.cpu_s, one.used_bytes, one.given_bytes)
        labels = f'{{domain="{escaped(name[1])}",namespace="{escaped(name[0])}"}}'
        self._domains[name] = node, values
        self._lines[name] = tuple(
            "" if value is None else f"{family.name}{labels} {value}\n"
            for family, value in zip(OF_DOMAINS, values, strict=True)
        )

    def _drop_domain(self, name: Name, node: str) -> None:
        if self._domains.get(name, ("",))[0] == node:
            del self._domains[name], self._lines[name]

    def forget_domain(self, namespace: str, name: str) -> None:
        self._domains.pop((namespace, name), None)
        self._lines.pop((namespace, name), None)

    def drop(self, node: str) -> None:
        for name in self._of.pop(node, {}):
            self._drop_domain(name, node)
        self._nodes.pop(node, None)

    def clear(self) -> None:
        for kept in (self._domains, self._lines, self._nodes, self._of):
            kept.clear()

    def families(self) -> Iterator[Lines]:
        for number, family in enumerate(OF_DOMAINS):
            yield Lines(family.head, list(self._lines.values()), itemgetter(number))

    def collect(self) -> Iterator[Metric]:
        yield Family(
            "domctl_figures_total",
            "counter",
            "Times that a node was asked for its figures, by what came of it.",
        ).collected(["result"], (((result,), count) for result, count in self._asked.items()))
        now = self._now()
        for number, family in enumerate(OF_NODES):
            rows = (((node,), (*v, now - at)[number]) for node, (v, at) in self._nodes.items())
            yield family.collected(["node"], _known(rows))
        if self.joined:
            return
        for number, family in enumerate(OF_DOMAINS):
            found = (((name, ns), v[number]) for (ns, name), (_, v) in self._domains.items())
            yield family.collected(["domain", "namespace"], _known(found))


def _known(
    rows: Iterator[tuple[tuple[str, ...], float | None]],
) -> Iterator[tuple[tuple[str, ...], float]]:
    return ((labels, value) for labels, value in rows if value is not None)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
