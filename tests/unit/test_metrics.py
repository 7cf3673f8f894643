"""Metrics as a scrape sees them: Prometheus' own parser reads what `render` gives."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller import scrape as scraping
from controller.meteredstore import MeteredStore
from controller.metrics import Metrics
from controller.plan.types import Action, ActionKind, Deferred, Reason, Situation, Verdict
from controller.workqueue import Backoff, WorkQueue
from drivers.errors import StoreUnavailable, Unreachable
from drivers.hypervisor import DomainFigures, Figures, HostFigures
from drivers.memory import MemoryStore
from tests import virtualtime
from tests.faultystore import FaultyStore

FIGURES = Figures(
    90, 91, (DomainFigures("u", 12.5, 2048, None), DomainFigures("v", 1, 2, 3)), HostFigures(99, 3, 9)
)


def make(now_s: float = 100.0) -> Metrics:
    return Metrics(lambda: now_s, "1.2.3")


def scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return scrape(metrics).get((name, frozenset(labels.items())))


def names(metrics: Metrics) -> set[str]:
    return {name for name, _ in scrape(metrics)}


def action() -> Action:
    return Action(ActionKind.START, "u", "default/a", "n", "why", 0, 0, 1, None)


def test_a_work_queue_shows_under_the_names_that_dashboards_know() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        metrics = Metrics(loop.time, "1")
        queue = WorkQueue(loop.time, metrics.queue("domain"), Backoff())
        metrics.watch_queue("domain", queue)
        for key in ("a", "b", "a"):
            queue.add(key)
        assert value(metrics, "workqueue_depth", name="domain") == 2
        assert value(metrics, "workqueue_adds_total", name="domain") == 2
        await asyncio.sleep(2)
        queue.take()
        await asyncio.sleep(3)
        assert value(metrics, "workqueue_unfinished_work_seconds", name="domain") == 6
        assert value(metrics, "workqueue_longest_running_processor_seconds", name="domain") == 3
        assert value(metrics, "controller_runtime_active_workers", controller="domain") == 2
        queue.retry("a")
        queue.done("a")
        assert value(metrics, "workqueue_depth", name="domain") == 0
        assert value(metrics, "workqueue_retries_total", name="domain") == 1
        assert value(metrics, "workqueue_queue_duration_seconds_sum", name="domain") == 4
        assert value(metrics, "workqueue_work_duration_seconds_sum", name="domain") == 3

    virtualtime.run(main())


def test_the_age_of_an_observation_grows_by_itself_and_ends_with_the_node() -> None:
    now_s = 100.0
    metrics = Metrics(lambda: now_s, "1")
    metrics.node_up("n", True)
    metrics.observed("n", 98.5)
    metrics.libvirt_call("n", "list", 0.01, None)
    metrics.libvirt_call("n", "define", 0.5, Unreachable("gone"))
    assert value(metrics, "domctl_node_up", node="n") == 1
    assert value(metrics, "domctl_observation_age_seconds", node="n") == 1.5
    now_s = 160.0
    assert value(metrics, "domctl_observation_age_seconds", node="n") == 61.5
    assert value(metrics, "domctl_libvirt_rpc_duration_seconds_count", node="n", call="list") == 1
    assert (
        value(metrics, "domctl_libvirt_rpc_errors_total", node="n", call="define", error="Unreachable") == 1
    )
    metrics.forget_node("n")
    assert not [labels for _, labels in scrape(metrics) if ("node", "n") in labels]


def test_a_domain_shows_its_present_state_alone_and_nothing_once_it_is_gone() -> None:
    metrics = make()
    metrics.domain("default", "a", "running", ready=True)
    metrics.domain("default", "a", "paused", ready=False)
    assert value(metrics, "domctl_domain_state", namespace="default", domain="a", state="paused") == 1
    assert value(metrics, "domctl_domain_state", namespace="default", domain="a", state="running") is None
    assert value(metrics, "domctl_domain_ready", namespace="default", domain="a") == 0
    metrics.forget_domain("u", "default", "a")
    assert not {"domctl_domain_state", "domctl_domain_ready"} & names(metrics)


def test_whoever_reads_the_registry_gets_the_same_series_as_a_rendered_page() -> None:
    metrics = make()
    metrics.domain("default", "a", "running", ready=True)
    metrics.domain("team", "b", "shutoff", ready=False)
    metrics.figures.put("n", FIGURES, {"u": ("default", "a"), "v": ("team", "b")})
    for seconds in (0.0005, 0.001, 7.5, 1000):
        metrics.libvirt_call('n"', "list", seconds, None)
    metrics.libvirt_call("o", "define", 0.1, None)
    rendered, read = metrics.render().decode(), generate_latest(metrics.registry).decode()
    kept = ("domctl_domain_", "domctl_libvirt_rpc_duration_")

    def heads(text: str) -> list[str]:
        return sorted(
            line for line in text.splitlines() if line.startswith("# ") and any(k in line for k in kept)
        )

    def samples(text: str) -> list[tuple[str, str, float]]:
        families = text_string_to_metric_families(text)
        found = [(s.name, str(s.labels), s.value) for family in families for s in family.samples]
        return sorted(one for one in found if one[0].startswith(kept))

    assert len(samples(rendered)) == 4 + 2 + 1 + 2 + 2 * (9 + 2)
    assert samples(rendered) == samples(read)
    assert len(heads(rendered)) == 12
    assert heads(rendered) == heads(read)


def test_calls_of_a_node_are_counted_in_the_buckets_that_they_took() -> None:
    metrics = make()
    for seconds in (0.001, 0.02, 1000):
        metrics.libvirt_call("n", "list", seconds, None)
    name = "domctl_libvirt_rpc_duration_seconds"
    found = {
        le: value(metrics, f"{name}_bucket", node="n", call="list", le=le)
        for le in ("0.001", "0.005", "0.025", "60.0", "+Inf")
    }
    assert found == {"0.001": 1, "0.005": 1, "0.025": 2, "60.0": 2, "+Inf": 3}
    assert value(metrics, f"{name}_count", node="n", call="list") == 3
    assert value(metrics, f"{name}_sum", node="n", call="list") == 1000.021


def test_a_page_comes_in_parts_and_no_family_mixes_two_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "LINES", 50)
    metrics = make()
    everything = {f"d{n:04}" for n in range(3 * scraping.LINES)}
    for name in sorted(everything):
        metrics.domain("default", name, "running", ready=True)
        metrics.libvirt_call(name, "list", 0.01, None)
    text, changed = "", False
    for part in metrics.parts():
        assert len(part) < scraping.PART_BYTES * 3
        text += part.decode()
        assert len(generate_latest(metrics.registry)) > len(everything), "whoever else collects gets all"
        if not changed and 'domctl_domain_state{domain="d0000"' in text:
            changed = True
            for name in sorted(everything)[: scraping.LINES * 2]:
                metrics.forget_domain("u", "default", name)
                metrics.domain("default", f"new-{name}", "paused", ready=False)
    assert changed
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for family in ("domctl_domain_state", "domctl_domain_ready"):
        found = families[family].samples
        assert {sample.labels["domain"] for sample in found} in (everything, after(everything)), family
        assert len(found) == len(everything)


def after(everything: set[str]) -> set[str]:
    """What the domains are once some of them have made way for others."""
    gone = set(sorted(everything)[: scraping.LINES * 2])
    return everything - gone | {f"new-{name}" for name in gone}


def test_what_is_used_is_shown_as_far_as_it_is_known_and_goes_with_whom_it_is_of() -> None:
    metrics = make()
    metrics.figures.put("n", FIGURES, {"u": ("default", "a"), "v": ("team", "b")})
    a = {"domain": "a", "namespace": "default"}
    assert value(metrics, "domctl_domain_cpu_seconds_total", **a) == 12.5
    assert value(metrics, "domctl_domain_memory_used_bytes", **a) is None
    assert value(metrics, "domctl_domain_memory_given_bytes", **a) == 2048
    assert value(metrics, "domctl_node_cpu_seconds_total", node="n") == 99
    assert value(metrics, "domctl_node_memory_used_bytes", node="n") == 3
    assert value(metrics, "domctl_node_memory_size_bytes", node="n") == 9
    assert value(metrics, "domctl_node_figures_age_seconds", node="n") == 10
    moved = Figures(95, 96, FIGURES.domains[:1], None)
    metrics.figures.put("m", moved, {"u": ("default", "a")})
    metrics.figures.drop("n")
    assert value(metrics, "domctl_domain_cpu_seconds_total", **a) == 12.5, "it is told of by another node"
    assert value(metrics, "domctl_domain_cpu_seconds_total", domain="b", namespace="team") is None
    assert value(metrics, "domctl_node_cpu_seconds_total", node="n") is None
    metrics.forget_domain("u", "default", "a")
    assert value(metrics, "domctl_domain_cpu_seconds_total", **a) is None
    metrics.figures.put("m", moved, {})
    assert names(metrics) & {"domctl_domain_cpu_seconds_total", "domctl_node_cpu_seconds_total"} == set()


def test_deferred_domains_are_counted_by_their_present_reason() -> None:
    metrics = make()
    waiting = Verdict(Situation.UNKNOWN, deferred=Deferred(Reason.NODE_NOT_READ, ""))
    metrics.verdict("u1", waiting)
    metrics.verdict("u1", waiting)
    metrics.verdict("u2", waiting)
    metrics.verdict("u3", Verdict(Situation.UNKNOWN, deferred=Deferred(Reason.QUIET_TIME, "")))
    metrics.verdict("u2", Verdict(Situation.CONVERGED))
    metrics.forget_domain("u3", "default", "c")
    assert value(metrics, "domctl_deferred_domains", reason="NodeNotRead") == 1
    assert value(metrics, "domctl_deferred_domains", reason="QuietTime") == 0
    assert value(metrics, "controller_runtime_reconcile_total", controller="domain", result="success") == 1
    assert (
        value(metrics, "controller_runtime_reconcile_total", controller="domain", result="requeue_after") == 4
    )


@pytest.mark.parametrize(
    ("ending", "result"),
    [("done", "success"), ("stale", "requeue"), ("failed", "error"), ("rejected", "error")],
)
def test_an_action_counts_as_a_reconciliation_with_its_result(ending: str, result: str) -> None:
    metrics = make()
    metrics.verdict("u", Verdict(Situation.NEW, action=action()))
    metrics.acted("start", ending, 0.3)
    assert value(metrics, "domctl_actions_total", action="start", result=ending) == 1
    assert value(metrics, "domctl_action_duration_seconds_sum", action="start") == 0.3
    assert value(metrics, "controller_runtime_reconcile_total", controller="domain", result=result) == 1
    errors = value(metrics, "controller_runtime_reconcile_errors_total", controller="domain")
    assert errors == (1 if result == "error" else 0)


def test_names_that_need_escaping_come_out_as_they_went_in() -> None:
    metrics = make()
    metrics.domain("default", 'a"b\\c\nd', "running", ready=True)
    assert value(metrics, "domctl_domain_ready", namespace="default", domain='a"b\\c\nd') == 1


def test_the_rest_is_there_from_the_start_or_when_first_told() -> None:
    metrics = make()
    metrics.leading(True)
    metrics.planned(60, 0.002)
    metrics.converged(3.0)
    metrics.event("written")
    metrics.store_trusted(False)
    assert value(metrics, "leader_election_master_status", name="domctl") == 1
    assert value(metrics, "domctl_planned_domains_total") == 60
    assert value(metrics, "domctl_convergence_seconds_count") == 1
    assert value(metrics, "domctl_events_total", result="written") == 1
    assert value(metrics, "domctl_store_trusted") == 0
    assert {"domctl_build_info", "process_cpu_seconds_total", "workqueue_depth"} <= names(metrics) | {
        family.name for family in text_string_to_metric_families(metrics.render().decode())
    }


def test_etcd_requests_are_timed_by_call_and_their_errors_counted() -> None:
    async def main() -> None:
        world = virtualtime.world()
        metrics = Metrics(world.now, "1")
        faulty = FaultyStore(MemoryStore(world.now))
        store = MeteredStore(faulty, metrics, world)
        await store.get("k")
        await store.keep_alive(await store.grant(5))
        faulty.silent = True
        with pytest.raises(StoreUnavailable):
            await store.list("k")
        assert value(metrics, "domctl_etcd_request_duration_seconds_count", call="get") == 1
        assert value(metrics, "domctl_etcd_request_duration_seconds_count", call="list") == 1
        assert value(metrics, "domctl_etcd_request_errors_total", call="list", error="StoreUnavailable") == 1
        await faulty.close()

    virtualtime.run(main())


def test_promtool_finds_nothing_to_say_about_our_own_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (package prometheus)")
    metrics = make()
    metrics.domain("default", "a", "running", ready=True)
    metrics.node_up("n", True)
    metrics.figures.put("n", FIGURES, {"v": ("default", "a")})
    metrics.observed("n", 99)
    metrics.queue("domain").added(1)
    metrics.verdict("u", Verdict(Situation.UNKNOWN, deferred=Deferred(Reason.QUIET_TIME, "")))
    metrics.etcd_request("get", 0.001, None)
    metrics.libvirt_call("n", "list", 0.001, Unreachable("x"))
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )
    said = [line for line in checked.stderr.decode().splitlines() if not line.startswith("process_")]
    assert (said, checked.stdout) == ([], b"")
