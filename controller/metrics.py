"""The controller's metrics: what it does, how long that takes, and what it knows, for Prometheus.

Callers use the typed methods of `Metrics` and never see prometheus_client. Existing names are kept verbatim
(`workqueue_*`, `controller_runtime_*`, `leader_election_master_status`, `process_*`), ours begin with
`domctl_`. A scrape asks nobody: what a node or a domain is like is set when it was observed, and served
with its age. Series of a node or domain end with it.

What there is one of for each domain, or for each call to each node, is kept by `controller.domainseries`,
`figureseries` and `callseries`, and a page is made in parts by `controller.scrape` (through prometheus_client
50,000 domains take a second, which whoever reads `registry` by itself still gets).
"""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.callseries import CallSeries
from controller.domainseries import DomainSeries
from controller.figureseries import FigureSeries
from controller.plan.types import Verdict
from controller.scrape import Kept, parts
from controller.workqueue import WorkQueue
from drivers.errors import DriverError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

CALL_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
WORK_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LONG_BUCKETS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
QUEUE_BUCKETS: Final = (
    0.00001,
    0.0001,
    0.001,
    0.01,
    0.1,
    1.0,
    10.0,
)  # a part of client-go's, which go by ten

RESULTS: Final = ("success", "error", "requeue", "requeue_after")
RESULT_OF: Final = {"done": "success", "stale": "requeue", "failed": "error", "rejected": "error"}


class _QueueMeter:
    """One work queue's, bound to its labels once."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._depth = metrics.queue_depth.labels(name)
        self._adds = metrics.queue_adds.labels(name)
        self._retries = metrics.queue_retries.labels(name)
        self._waited = metrics.queue_waited.labels(name)
        self._worked = metrics.queue_worked.labels(name)

    def added(self, depth: int) -> None:
        self._adds.inc()
        self._depth.set(depth)

    def retried(self) -> None:
        self._retries.inc()

    def taken(self, depth: int, waited_s: float) -> None:
        self._depth.set(depth)
        self._waited.observe(waited_s)

    def finished(self, worked_s: float) -> None:
        self._worked.observe(worked_s)


class _Known:
    """What is known of nodes and deferrals, collected at a scrape from plain maps."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.node_up: dict[str, float] = {}
        self.observed_at: dict[str, float] = {}
        self.reasons: dict[str, str] = {}  # domain's uuid -> why nothing is done about it
        self.deferred: Tally[str] = Tally()

    def defer(self, uuid: str, reason: str) -> None:
        """`reason` empty: not deferred."""
        before = self.reasons.pop(uuid, "")
        if before:
            self.deferred[before] -= 1
        if reason:
            self.reasons[uuid] = reason
            self.deferred[reason] += 1

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("domctl_node_up", "1 if the node answers.", labels=["node"])
        for node, value in self.node_up.items():
            up.add_metric([node], value)
        yield up
        age = GaugeMetricFamily(
            "domctl_observation_age_seconds",
            "Seconds since the node's last complete listing was asked for.",
            labels=["node"],
        )
        now = self.now()
        for node, at in self.observed_at.items():
            age.add_metric([node], now - at)
        yield age
        deferred = GaugeMetricFamily(
            "domctl_deferred_domains", "Domains for which nothing is done, by reason.", labels=["reason"]
        )
        for reason, count in self.deferred.items():
            deferred.add_metric([reason], count)
        yield deferred


class _Adapter(Collector):
    """prometheus_client asks for its own base class; this is all that it is used for."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


class _Maker:
    """Makes metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self._registry)

    def histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=buckets, registry=self._registry)


class Metrics:
    """All metrics of one process, in a registry of their own. `now` is the world's clock."""

    def __init__(self, now: Callable[[], float], version: str) -> None:
        self.registry = CollectorRegistry()
        self._known = _Known(now)
        self._domains = DomainSeries()
        self.figures = FigureSeries(now)
        self._calls = CallSeries(CALL_BUCKETS)
        self._errors_of: dict[str, set[tuple[str, ...]]] = {}
        make = _Maker(self.registry)
        self._add_queues(make)
        self._add_reconciling(make)
        self._add_calls(make)
        self.registry.register(_Adapter(self._known.collect))
        for kept in self._kept:
            self.registry.register(_Adapter(kept.collect))
        ProcessCollector(registry=self.registry)
        build = make.gauge("domctl_build_info", "Always 1.", "version", "python")
        build.labels(version, platform.python_version()).set(1)

    def _add_queues(self, make: _Maker) -> None:
        self.queue_depth = make.gauge("workqueue_depth", "Keys that are ready.", "name")
        self.queue_adds = make.counter("workqueue_adds", "Keys added.", "name")
        self.queue_retries = make.counter("workqueue_retries", "Keys that failed and come back.", "name")
        self.queue_waited = make.histogram(
            "workqueue_queue_duration_seconds", "How long keys were ready.", QUEUE_BUCKETS, "name"
        )
        self.queue_worked = make.histogram(
            "workqueue_work_duration_seconds", "How long keys were processed.", QUEUE_BUCKETS, "name"
        )
        self._unfinished = make.gauge(
            "workqueue_unfinished_work_seconds", "Summed age of all keys being processed.", "name"
        )
        self._longest = make.gauge(
            "workqueue_longest_running_processor_seconds", "Age of the oldest key being processed.", "name"
        )

    def _add_reconciling(self, make: _Maker) -> None:
        self._reconciles = make.counter(
            "controller_runtime_reconcile", "Reconciliations by result.", "controller", "result"
        )
        self._reconcile_errors = make.counter(
            "controller_runtime_reconcile_errors", "Reconciliations that failed.", "controller"
        )
        self._reconcile_time = make.histogram(
            "controller_runtime_reconcile_time_seconds",
            "How long a reconciliation took.",
            WORK_BUCKETS,
            "controller",
        )
        self._workers = make.gauge("controller_runtime_active_workers", "Keys being worked on.", "controller")
        self._leader = make.gauge("leader_election_master_status", "1 if this replica leads.", "name")
        self._actions = make.counter("domctl_actions", "Actions by kind and result.", "action", "result")
        self._action_time = make.histogram(
            "domctl_action_duration_seconds", "How long an action took.", WORK_BUCKETS, "action"
        )
        self._plan_time = make.histogram(
            "domctl_plan_duration_seconds", "How long one plan took.", CALL_BUCKETS
        )
        self._noop_time = make.histogram(
            "domctl_noop_pass_seconds", "A look at all nodes that found nothing to do.", CALL_BUCKETS
        )
        self._planned = make.counter("domctl_planned_domains", "Domains planned.")
        self._convergence = make.histogram(
            "domctl_convergence_seconds",
            "From a change of the spec until the domain was ready.",
            LONG_BUCKETS,
        )
        self._reaction = make.histogram(
            "domctl_reaction_seconds",
            "From the event of a domain's first end until its create was sent.",
            WORK_BUCKETS,
        )
        self._migrations = make.counter("domctl_migrations", "Migrations that ended, by how.", "result")
        self._downtime = make.histogram(
            "domctl_migration_downtime_seconds", "How long guests stood still while they moved.", WORK_BUCKETS
        )
        self._events = make.counter("domctl_events", "Events by what became of them.", "result")
        self._trust = make.gauge("domctl_store_trusted", "1 if the store is the one remembered.")
        self._verdicts = {result: self._reconciles.labels("domain", result) for result in RESULTS}
        self._reconcile_errors.labels("domain")

    def _add_calls(self, make: _Maker) -> None:
        self._rpc_errors = make.counter(
            "domctl_libvirt_rpc_errors", "Calls that failed, by the kind of error.", "node", "call", "error"
        )
        self._etcd_time = make.histogram(
            "domctl_etcd_request_duration_seconds", "How long etcd took.", CALL_BUCKETS, "call"
        )
        self._etcd_errors = make.counter(
            "domctl_etcd_request_errors", "Requests that failed, by the kind of error.", "call", "error"
        )

    # --- queues and reconciling

    def queue(self, name: str) -> _QueueMeter:
        """The meter to make a WorkQueue with."""
        return _QueueMeter(self, name)

    def watch_queue(self, name: str, queue: WorkQueue) -> None:
        """Let scrapes ask `queue` for what it has under way, and for its age."""
        self._workers.labels("domain").set_function(lambda: queue.processing)
        self._unfinished.labels(name).set_function(queue.unfinished_s)
        self._longest.labels(name).set_function(queue.longest_running_s)

    def reconciled(self, controller: str, result: str, seconds: float) -> None:
        """`result`: success, error, requeue or requeue_after."""
        self._reconciles.labels(controller, result).inc()
        self._reconcile_time.labels(controller).observe(seconds)
        if result == "error":
            self._reconcile_errors.labels(controller).inc()

    def planned(self, domains: int, seconds: float) -> None:
        self._planned.inc(domains)
        self._plan_time.observe(seconds)

    def noop_pass(self, seconds: float) -> None:
        """All nodes were listed and nothing had changed."""
        self._noop_time.observe(seconds)

    def verdict(self, uuid: str, verdict: Verdict) -> None:
        """What the plan makes of one domain; without an action this was its reconciliation."""
        self._known.defer(uuid, verdict.deferred.reason.value if verdict.deferred is not None else "")
        if verdict.action is None:
            result = "success" if verdict.deferred is None else "requeue_after"
            self._verdicts[result].inc()

    def acted(self, action: str, ending: str, seconds: float) -> None:
        """One action ended; its domain's reconciliation with it."""
        self._actions.labels(action, ending).inc()
        self._action_time.labels(action).observe(seconds)
        self.reconciled("domain", RESULT_OF.get(ending, "error"), seconds)

    def converged(self, seconds: float) -> None:
        self._convergence.observe(seconds)

    def reacted(self, seconds: float) -> None:
        self._reaction.observe(seconds)

    def migrated(self, result: str, downtime_s: float | None) -> None:
        """A migration ended; `downtime_s` as libvirt counted it, where it said so."""
        self._migrations.labels(result).inc()
        if downtime_s is not None:
            self._downtime.observe(downtime_s)

    def leading(self, is_leader: bool) -> None:
        self._leader.labels("domctl").set(is_leader)

    def store_trusted(self, is_trusted: bool) -> None:
        self._trust.set(is_trusted)

    def event(self, result: str) -> None:
        """`result`: written, merged or dropped."""
        self._events.labels(result).inc()

    # --- what is known

    def node_up(self, node: str, is_up: bool) -> None:
        self._known.node_up[node] = is_up

    def observed(self, node: str, sent_at: float) -> None:
        """A complete listing was asked for at `sent_at` and came."""
        self._known.observed_at[node] = sent_at

    def forget_node(self, node: str) -> None:
        self._known.node_up.pop(node, None)
        self._known.observed_at.pop(node, None)
        self._calls.forget(node)
        for labels in self._errors_of.pop(node, ()):
            self._rpc_errors.remove(*labels)

    def domain(self, namespace: str, name: str, state: str, *, ready: bool) -> None:
        self._domains.put(namespace, name, state, ready)

    def forget_domain(self, uuid: str, namespace: str, name: str) -> None:
        self._known.defer(uuid, "")
        self._domains.drop(namespace, name)
        self.figures.forget_domain(namespace, name)

    # --- calls

    def libvirt_call(self, node: str, call: str, seconds: float, error: DriverError | None) -> None:
        self._calls.observe(node, call, seconds)
        if error is not None:
            labels = (node, call, type(error).__name__)
            self._errors_of.setdefault(node, set()).add(labels)
            self._rpc_errors.labels(*labels).inc()

    def etcd_request(self, call: str, seconds: float, error: DriverError | None) -> None:
        self._etcd_time.labels(call).observe(seconds)
        if error is not None:
            self._etcd_errors.labels(call, type(error).__name__).inc()

    # --- serving

    @property
    def _kept(self) -> Sequence[Kept]:
        return (self._calls, self._domains, self.figures)

    def parts(self) -> Iterator[bytes]:
        """Everything, in Prometheus' text format (CONTENT_TYPE); see `controller.scrape`."""
        return parts(self.registry, self._kept)

    def render(self) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts())
