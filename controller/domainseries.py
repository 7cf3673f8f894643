"""The Prometheus series of what domains are: a part of `controller.metrics`.

`domctl_domain_state` has one series per domain, for the state that it is in, `domctl_domain_ready` one that
says whether it is as desired. Both are kept as finished lines, which `controller.scrape` joins.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from controller.figureseries import escaped
from controller.scrape import Lines

STATE_HELP: Final = "The state that the domain is in."
READY_HELP: Final = "1 if the domain is as desired."


class DomainSeries:
    """Two finished lines for each domain."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], tuple[str, str]] = {}
        self._states: dict[tuple[str, str], tuple[str, bool]] = {}
        self.joined = False

    def put(self, namespace: str, name: str, state: str, ready: bool) -> None:
        if self._states.get((namespace, name)) == (state, ready):
            return
        labels = f'domain="{escaped(name)}",namespace="{escaped(namespace)}"'
        self._states[namespace, name] = (state, ready)
        self._lines[namespace, name] = (
            f'domctl_domain_state{{{labels},state="{escaped(state)}"}} 1\n',
            f"domctl_domain_ready{{{labels}}} {int(ready)}\n",
        )

    def drop(self, namespace: str, name: str) -> None:
        self._states.pop((namespace, name), None)
        self._lines.pop((namespace, name), None)

    def families(self) -> Iterator[Lines]:
        found = list(self._lines.values())
        for number, (name, text) in enumerate(
            (("domctl_domain_state", STATE_HELP), ("domctl_domain_ready", READY_HELP))
        ):
            yield Lines(f"# HELP {name} {text}\n# TYPE {name} gauge\n", found, itemgetter(number))

    def collect(self) -> Iterator[Metric]:
        if self.joined:
            return
        state_of = GaugeMetricFamily(
            "domctl_domain_state", STATE_HELP, labels=["namespace", "domain", "state"]
        )
        ready = GaugeMetricFamily("domctl_domain_ready", READY_HELP, labels=["namespace", "domain"])
        for (namespace, name), (state, is_ready) in self._states.items():
            state_of.add_metric([namespace, name, state], 1)
            ready.add_metric([namespace, name], is_ready)
        yield state_of
        yield ready
