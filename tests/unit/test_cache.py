"""The cache by itself: what it makes of lists and glances that come in any order."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from controller import keys
from controller.cache import Cache, Setting
from controller.expectations import Expectations
from controller.limits import Timing
from controller.model import Assignment
from controller.plan.snapshot import Link, NodeView, Policy, Term
from drivers.hypervisor import Detail, EventKind, HostEvent, Listing, Mark, Record, State
from drivers.store import KeyValue
from tests.unit.plancase import UUID, facts
from tests.unit.spine import FOREIGN_XML

PROMISE = Assignment(
    cluster="c",
    uuid="x",
    namespace="default",
    name="web",
    libvirt_name="web",
    node="a",
    epoch=3,
    candidates=("a",),
)
FOREIGN = "f0f0f0f0-0000-4000-8000-000000000001"


# --- the cache by itself


def test_what_a_glance_read_counts_though_a_later_list_came_first() -> None:
    """The list read no detail of its own; what it would have found is what the glance brings."""
    cache = empty_cache()
    see(cache, 10.0, ("x", "web"))
    cache.await_observation("x", "a")
    record = Record("x", "web", State.RUNNING, "booted", True)
    cache.observed("a", Listing(12.0, 12.1, (record,)), {})
    again = Detail(record, 11.6, True, True, False, FOREIGN_XML, FOREIGN_XML, None, None, 2, 2 << 30)
    cache.glanced("a", "x", again, 11.5)
    seen = cache.seen.find("x", "a")
    assert seen is not None
    assert (seen.detail.vcpus, seen.seen_at) == (2, 12.0)


@pytest.mark.parametrize(
    ("state", "reason", "is_kept"),
    [
        (State.RUNNING, "migrated", True),
        (State.PAUSED, "migration", False),
    ],
)
def test_that_a_domain_was_seen_to_run_elsewhere_is_kept_when_no_event_told(
    state: State, reason: str, is_kept: bool
) -> None:
    """It ends there before anybody asks whether its paused source may go on (drill moves_deaf, seed 18)."""
    cache = empty_cache()
    record = Record("x", "web", state, reason, True)
    there = Detail(record, 11.6, True, True, False, FOREIGN_XML, FOREIGN_XML, None, None, 2, 2 << 30)
    cache.glanced("b", "x", there, 11.5)
    cache.glanced("b", "x", None, 12.5)
    assert cache.seen.resumes == ({("x", "b"): 11.5} if is_kept else {})


def test_requests_of_one_domain_keep_their_turns_when_their_status_is_written() -> None:
    """Seed 13 of moves_without_way: a later one took its turn after each failure, so that the failures of
    neither were counted to their end."""
    cache = empty_cache()

    def put(number: int, revision: int) -> dict[str, bytes]:
        meta = {"name": f"m{number}", "namespace": "default", "uid": f"u{number}"}
        body = {"metadata": {**meta, "resourceVersion": str(revision)}, "spec": {"domain": "web"}}
        return {keys.object_key("migrations", "default", f"m{number}"): msgspec.json.encode(body)}

    first = [KeyValue(key, value, n, n) for n in (1, 2) for key, value in put(n, 0).items()]
    cache.reset(tuple(first), 2)
    for number, revision in ((2, 5), (1, 6), (2, 7)):
        cache.wrote(put(number, revision), revision)
        waiting = [r.migration.metadata.uid for r in cache.migrations.waiting["default/web"]]
        assert waiting == ["u1", "u2"], revision


def test_a_list_in_which_a_revision_fell_says_so_and_is_believed() -> None:
    cache = empty_cache()
    node = keys.object_key("nodes", "", "a")

    def body(uri: str) -> bytes:
        return msgspec.json.encode(
            {"apiVersion": "domctl.io/v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"uri": uri}}
        )

    assert not cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 9)
    cache.wrote({node: body("qemu:///two")}, 12)
    assert not cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 11), "a list that is older"
    assert cache.nodes["a"].node.spec.uri == "qemu:///two"
    assert "12" in cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 13)
    assert cache.nodes["a"].node.spec.uri == "qemu:///one"


def test_a_mark_is_ahead_until_its_promise_has_caught_up_or_it_is_gone() -> None:
    cache = empty_cache()
    there = Record("x", "web", State.SHUTOFF, "shutdown", False)

    def promise(epoch: int, revision: int) -> None:
        held = replace(PROMISE, epoch=epoch)
        cache.wrote({keys.assignment("x"): msgspec.json.encode(held)}, revision)

    def look(at: float, mark: Mark | None) -> None:
        detail = Detail(there, at, True, False, False, FOREIGN_XML, None, mark, None, 1, 1 << 30)
        cache.glanced("a", "x", None if mark is None else detail, at)

    look(1.0, Mark("c", "x", 4, "digest"))
    assert cache.ahead == {}, "nothing was promised that it could be ahead of"
    promise(3, 5)
    assert cache.ahead == {"x": 4}
    promise(4, 6)
    assert cache.ahead == {}
    at = 2.0
    for another in (Mark("of another", "x", 6, "digest"), Mark("c", "a clone's", 6, "digest"), None):
        look(at := at + 1.0, Mark("c", "x", 5, "digest"))
        assert cache.ahead == {"x": 5}
        look(at := at + 1.0, another)
        assert cache.ahead == {}


def promise(cache: Cache, revision: int, *, stopped: bool = False) -> None:
    """It belongs on node a."""
    held = Assignment(
        cluster="c", uuid="x", namespace="default", name="web", libvirt_name="web", node="a", epoch=1,
        candidates=("a",), stopped=stopped,
    )  # fmt: skip
    cache.wrote({keys.assignment("x"): msgspec.json.encode(held)}, revision)


def test_starts_after_a_stop_that_was_wanted_are_no_crash_loop() -> None:
    cache = empty_cache()
    for revision in range(1, 7, 2):
        promise(cache, revision)
        cache.attempts.started("x", now=float(revision))
        promise(cache, revision + 1, stopped=True)
    assert "x" not in cache.attempts.restarts
    promise(cache, 8)
    for at in (8.0, 9.0):
        cache.attempts.started("x", now=at)
        promise(cache, int(at) + 1)
    assert cache.attempts.restarts["x"].count == 2, "those that nobody stopped between are counted"


@pytest.mark.parametrize("locked", [True, False])
def test_a_node_that_returns_ends_back_offs_but_not_those_over_a_disk_that_is_locked(locked: bool) -> None:
    cache = empty_cache()
    promise(cache, 1)
    see(cache, 1.0)
    silent = cache.view("a")
    cache.attempts.failed("x", "in vain", 2.0, disk_locked=locked)
    returned = replace(silent, link=Link.READY, identity_pinned=True)
    assert returned.answers and not silent.answers
    cache.set_view("a", returned)
    assert ("x" in cache.attempts.backoffs) == locked


def empty_cache() -> Cache:
    setting = Setting("c", Term(0.0, True), Timing(), Policy(), lambda: 0.0, lambda: "then")
    return Cache(setting, lambda _key: None)


def see(cache: Cache, at: float, *domains: tuple[str, str]) -> None:
    """A listing of node a with these (uuid, name), all running with 1 GiB."""
    records = tuple(Record(uuid, name, State.RUNNING, "booted", True) for uuid, name in domains)
    details = {
        r.uuid: Detail(r, at, True, False, False, FOREIGN_XML, FOREIGN_XML, None, None, 1, 1 << 30)
        for r in records
    }
    cache.observed("a", Listing(at, at + 1, records), details)


def test_foreign_domains_of_a_node_that_was_forgotten_are_counted_once() -> None:
    cache = empty_cache()
    view = NodeView(link=Link.READY, facts=facts("a"), identity_pinned=True, session=1)
    for at in (1.0, 5.0, 9.0):
        cache.set_view("a", view)
        see(cache, at, (FOREIGN, "old"))
        assert cache.capacity.used["host-a"].memory_bytes == 1 << 30
        cache.forget_node("a")


def test_nodes_of_one_host_are_looked_at_together_when_either_is_used() -> None:
    dirty: set[str] = set()
    cache = Cache(Setting("c", Term(0.0, True), Timing(), Policy(), lambda: 0.0, lambda: "then"), dirty.add)
    for name, host in (("a", "one"), ("a-lxc", "one"), ("b", "two")):
        view = NodeView(link=Link.READY, facts=facts(name, host_uuid=host), identity_pinned=True, session=1)
        cache.set_view(name, view)
    dirty.clear()
    see(cache, 1.0, (FOREIGN, "guest"))
    assert {key for key in dirty if key.startswith("node/")} == {"node/a", "node/a-lxc"}
    assert cache.capacity.used["one"].memory_bytes == 1 << 30
    cache.forget_node("a-lxc")
    assert cache.capacity.sharing("a") == {"a"}


def test_a_domain_whose_name_was_taken_over_is_still_seen_to_go() -> None:
    cache = empty_cache()
    see(cache, 1.0, ("x", "web"))
    see(cache, 3.0, ("z", "web"), ("x", "old"))
    assert cache.seen.names["a"] == {"web": "z", "old": "x"}
    see(cache, 5.0)
    assert not cache.seen.by_uuid


def test_a_definition_that_was_not_answered_is_counted_from_the_first_list_after_it() -> None:
    expectations = Expectations()
    expectations.expect(UUID, "a", 10.0)
    expectations.doubt(UUID, "a", 10.0)
    expectations.settle("b", 11.0, 11.5)
    expectations.settle("a", 9.0, 9.5)
    expectations.settle_one(UUID, "a", 11.0)
    expectations.settle("a", 9.9, 11.1)
    assert expectations.unanswered == {(UUID, "a"): None}, "only a complete list says that it answers"
    expectations.settle("a", 12.0, 12.5)
    expectations.settle("a", 20.0, 20.5)
    assert expectations.unanswered == {(UUID, "a"): 12.5}
    expectations.expect(UUID, "a", 30.0)
    expectations.doubt(UUID, "a", 30.0)
    expectations.settle("a", 29.0, 31.0)
    assert expectations.unanswered == {(UUID, "a"): None}
    expectations.settle("a", 40.0, 40.5)
    expectations.settle("a", 4000.0, 4000.5)
    assert not expectations.unanswered


@pytest.mark.parametrize(
    ("known", "reopened", "session"),
    [("listed", False, 1), ("heard", False, 1), ("listed", True, 0), ("heard", True, 0), ("", True, 0)],
)
def test_an_end_is_witnessed_only_of_what_was_known_to_run_on_its_connection(
    known: str, reopened: bool, session: int
) -> None:
    """I22a, seed 46 of armed_behind_a_cut: it was moved while nobody listened, and libvirtd started anew."""
    cache = empty_cache()
    cache.wrote({keys.assignment("x"): msgspec.json.encode(PROMISE)}, 5)
    cache.seen.connected("a")
    if known == "listed":
        see(cache, 1.0, ("x", "web"))
    elif known:
        cache.heard("a", 1, HostEvent("x", "web", EventKind.STARTED, "booted", 1.0))
    if reopened:
        cache.seen.connected("a")
    cache.heard("a", 1, HostEvent("x", "web", EventKind.STOPPED, "failed", 9.0))
    assert cache.seen.ends["x", "a"].session == session


def test_what_was_paused_by_a_migration_when_it_ended_was_not_known_to_run() -> None:
    cache = empty_cache()
    cache.wrote({keys.assignment("x"): msgspec.json.encode(PROMISE)}, 5)
    record = Record("x", "web", State.PAUSED, "migration", True)
    detail = Detail(record, 1.0, True, False, False, FOREIGN_XML, FOREIGN_XML, None, None, 1, 1 << 30)
    cache.observed("a", Listing(1.0, 2.0, (record,)), {"x": detail})
    cache.heard("a", 1, HostEvent("x", "web", EventKind.STOPPED, "failed", 9.0))
    assert cache.seen.ends["x", "a"].session == 0
