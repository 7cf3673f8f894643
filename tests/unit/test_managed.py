"""Who owns which fields after applies and other changes, as Kubernetes documents it.

Cases marked SMD are re-expressed from the published tests of structured-merge-diff (merge/conflict_test.go,
merge/multiple_appliers_test.go, merge/nested_test.go, merge/leaf_test.go), those marked DOC from Kubernetes'
documentation "Server-Side Apply" (kubernetes.io/docs/reference/using-api/server-side-apply). No code taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from controller.api.fieldsets import Malformed, from_v1, to_v1
from controller.api.managed import (
    ANCIENT,
    APPLY,
    BEFORE_FIRST_APPLY,
    LAST_APPLIED,
    UPDATE,
    Application,
    Conflicts,
    Manager,
    Owned,
    applied,
    decode,
    encode,
    updated,
)


def domain(metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": "a", **(metadata or {})},
        **({"spec": spec} if spec else {}),
    }


@dataclass
class Cluster:
    """One object and its managers; `at` counts up."""

    live: dict[str, Any] = field(default_factory=domain)
    managers: dict[Manager, Owned] = field(default_factory=dict)
    clock: int = 0

    def apply(self, who: str, body: dict[str, Any], *, force: bool = False, door: str = "") -> None:
        self.clock += 1
        asked = Application(Manager(APPLY, who, door), body, f"t{self.clock}", force)
        self.live, self.managers = applied(self.live, asked, self.managers)

    def update(self, who: str, body: dict[str, Any], *, door: str = "", new: bool = False) -> None:
        self.clock += 1
        before = {} if new else self.live
        self.managers = updated(before, body, self.managers, Manager(UPDATE, who, door), f"t{self.clock}")
        self.live = body

    @property
    def spec(self) -> Any:
        return self.live.get("spec")

    def owned(self, who: str, operation: str = APPLY, door: str = "") -> Any:
        found = self.managers.get(Manager(operation, who, door))
        return None if found is None else to_v1(found.fields)


def disk(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


def test_an_applier_owns_what_it_names() -> None:
    """DOC: Field management."""
    cluster = Cluster()
    cluster.apply("one", domain({"labels": {"l": "v"}}, vcpus=2, disks=[disk("a", bus="sata")]))
    assert cluster.owned("one") == {
        "f:metadata": {"f:labels": {"f:l": {}}},
        "f:spec": {
            "f:vcpus": {},
            "f:disks": {'k:{"name":"a"}': {".": {}, "f:name": {}, "f:bus": {}}},
        },
    }


def test_a_conflict_names_manager_and_field() -> None:
    """DOC: Conflicts. SMD: conflict_test."""
    cluster = Cluster()
    cluster.update("kubectl-edit", domain(memory="1Gi", vcpus=1), new=True)
    before = cluster.live
    with pytest.raises(Conflicts) as caught:
        cluster.apply("ci", domain(memory="2Gi", vcpus=1))
    assert caught.value.message() == (
        'Apply failed with 1 conflict: conflict with "kubectl-edit" using domctl.io/v1: .spec.memory'
    )
    assert cluster.live == before
    with pytest.raises(Conflicts) as caught:
        cluster.apply("ci", domain(memory="2Gi", vcpus=2))
    assert caught.value.message() == (
        'Apply failed with 2 conflicts: conflicts with "kubectl-edit" using domctl.io/v1:\n'
        "- .spec.memory\n- .spec.vcpus"
    )


def test_a_conflict_with_an_applier_says_no_version_and_a_subresource_is_named() -> None:
    owned = Owned(frozenset({("f:x",)}), "", "v1")
    words = {
        Manager(APPLY, "a"): '"a"',
        Manager(UPDATE, "b", "status"): '"b" with subresource "status" using v1',
    }
    assert Conflicts(dict.fromkeys(words, owned)).listed() == [(text, ".x") for text in words.values()]


def test_force_takes_fields_over() -> None:
    """DOC: Conflicts, overwrite value."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", vcpus=1))
    cluster.apply("two", domain(memory="2Gi"), force=True)
    assert cluster.spec == {"memory": "2Gi", "vcpus": 1}
    assert cluster.owned("one") == {"f:spec": {"f:vcpus": {}}}
    assert cluster.owned("two") == {"f:spec": {"f:memory": {}}}


def test_the_same_value_is_shared_and_stays_until_the_last_gives_it_up() -> None:
    """DOC: Conflicts, share ownership. SMD: multiple_appliers_test."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", vcpus=1))
    cluster.apply("two", domain(memory="1Gi", vcpus=1))
    cluster.apply("one", domain(memory="1Gi"))
    assert cluster.spec == {"memory": "1Gi", "vcpus": 1}
    cluster.apply("two", domain(memory="1Gi"))
    assert cluster.spec == {"memory": "1Gi"}


def test_what_is_no_longer_applied_goes_but_not_what_others_own() -> None:
    """DOC: Field management, removal. SMD: nested_test."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", disks=[disk("a", bus="sata"), disk("b", bus="scsi")]))
    cluster.apply("two", domain(disks=[disk("b", cache="none"), disk("c")]))
    cluster.apply("one", domain(memory="1Gi"))
    assert cluster.spec == {"memory": "1Gi", "disks": [disk("b", cache="none"), disk("c")]}
    cluster.apply("two", domain({"labels": {}}))
    assert cluster.spec == {"memory": "1Gi"}


def test_an_item_that_an_update_only_touched_keeps_its_key() -> None:
    """SMD: nested_test, an item that is owned in part."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", disks=[disk("a", bus="sata", cache="none")]))
    cluster.update("two", domain(memory="1Gi", disks=[disk("a", bus="scsi", cache="none")]))
    assert cluster.owned("two", UPDATE) == {"f:spec": {"f:disks": {'k:{"name":"a"}': {"f:bus": {}}}}}
    cluster.apply("one", domain(memory="1Gi"))
    assert cluster.spec == {"memory": "1Gi", "disks": [disk("a", bus="scsi")]}


def test_an_item_goes_with_what_nobody_owns_in_it() -> None:
    """SMD: nested_test, dangling fields."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", disks=[disk("a")]))
    cluster.live["spec"]["disks"][0]["bus"] = "sata"
    cluster.apply("one", domain(memory="1Gi"))
    assert cluster.spec == {"memory": "1Gi"}


def test_an_atomic_list_has_one_owner() -> None:
    """SMD: conflict_test, atomic lists."""
    cluster = Cluster()
    cluster.apply("one", domain(shutdown=[{"method": "acpi"}]))
    with pytest.raises(Conflicts) as caught:
        cluster.apply("two", domain(shutdown=[{"method": "acpi"}, {"method": "destroy"}]))
    assert caught.value.listed() == [('"one"', ".spec.shutdown")]
    cluster.apply("two", domain(shutdown=[{"method": "destroy"}]), force=True)
    assert cluster.owned("one") is None, "who owns nothing is no manager"


def test_an_update_owns_what_it_changes_and_takes_it_from_others() -> None:
    """DOC: Field management, updates."""
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi", vcpus=1))
    cluster.update("two", domain(memory="1Gi", vcpus=4))
    assert cluster.owned("one") == {"f:spec": {"f:memory": {}}}
    assert cluster.owned("two", UPDATE) == {"f:spec": {"f:vcpus": {}}}
    cluster.update("three", domain(memory="1Gi"))
    assert cluster.owned("two", UPDATE) is None
    assert cluster.owned("three", UPDATE) is None, "taking away owns nothing"


def test_two_labels_of_two_owners_do_not_conflict() -> None:
    """SMD: leaf_test, granular maps."""
    cluster = Cluster()
    cluster.apply("one", domain({"labels": {"a": "1"}}))
    cluster.apply("two", domain({"labels": {"b": "1"}}))
    cluster.apply("one", domain({"labels": {"c": "1"}}))
    assert cluster.live["metadata"]["labels"] == {"b": "1", "c": "1"}


def test_an_object_from_before_is_owned_by_what_was_before_the_first_apply() -> None:
    """DOC: before-first-apply."""
    cluster = Cluster(domain(memory="1Gi", vcpus=1))
    cluster.update("two", domain(memory="1Gi", vcpus=2))
    assert cluster.managers == {}, "nobody is followed until somebody applies"
    with pytest.raises(Conflicts) as caught:
        cluster.apply("one", domain(memory="2Gi"))
    assert caught.value.listed() == [(f'"{BEFORE_FIRST_APPLY}" using domctl.io/v1', ".spec.memory")]
    cluster.apply("one", domain(memory="2Gi"), force=True)
    assert cluster.owned(BEFORE_FIRST_APPLY, UPDATE) == {"f:spec": {"f:vcpus": {}}}


def test_status_is_owned_apart() -> None:
    """DOC: subresources."""
    cluster = Cluster()
    cluster.apply("one", {**domain(memory="1Gi"), "status": {"phase": "x"}})
    assert "status" not in cluster.live
    cluster.update("kopf", {**cluster.live, "status": {"phase": "Running"}}, door="status")
    assert cluster.owned("kopf", UPDATE, "status") == {"f:status": {"f:phase": {}}}
    cluster.apply("one", {**domain(vcpus=3), "status": {"node": "hv1"}}, door="status")
    assert cluster.spec == {"memory": "1Gi"}, "spec does not pass the status door"
    assert cluster.live["status"] == {"phase": "Running", "node": "hv1"}
    assert cluster.owned("one") == {"f:spec": {"f:memory": {}}}
    assert cluster.owned("one", APPLY, "status") == {"f:status": {"f:node": {}}}


def test_kubectl_does_not_conflict_with_what_it_applied_from_its_own_side() -> None:
    """DOC: Upgrading from client-side apply to server-side apply."""
    last = json.dumps(domain(memory="1Gi", vcpus=1))
    cluster = Cluster()
    first = domain({"annotations": {LAST_APPLIED: last}}, memory="1Gi", vcpus=1)
    cluster.update("kubectl-client-side-apply", first, new=True)
    with pytest.raises(Conflicts):
        cluster.apply("ci", domain(memory="2Gi"))
    cluster.apply("kubectl", domain(memory="2Gi", vcpus=1))
    assert cluster.spec == {"memory": "2Gi", "vcpus": 1}
    scaled = {**cluster.live, "spec": {"memory": "2Gi", "vcpus": 8}}
    cluster.update("scaler", scaled)
    with pytest.raises(Conflicts):
        cluster.apply("kubectl", domain(memory="2Gi", vcpus=1))


def test_more_updaters_than_ten_become_ancient_changes() -> None:
    cluster = Cluster()
    labels: dict[str, str] = {}
    cluster.update("m0", domain(memory="1Gi"), new=True)
    for n in range(1, 15):
        labels = {**labels, f"l{n}": "x"}
        cluster.update(f"m{n}", domain({"labels": labels}, memory="1Gi"))
    names = {who.name for who in cluster.managers}
    assert len(names) == 10
    assert ANCIENT in names
    assert "m14" in names
    everything = frozenset().union(*(o.fields for o in cluster.managers.values()))
    assert len(everything) == 15, "nothing is lost"


def test_times_change_only_with_the_fields() -> None:
    cluster = Cluster()
    cluster.apply("one", domain(memory="1Gi"))
    cluster.apply("one", domain(memory="1Gi"))
    assert cluster.managers[Manager(APPLY, "one")].time == "t1"
    cluster.apply("one", domain(memory="2Gi"))
    assert cluster.managers[Manager(APPLY, "one")].time == "t3"


def test_entries_read_back_as_they_were_written() -> None:
    managers = {
        Manager(APPLY, "a", "status"): Owned(frozenset({("f:status", "f:x")}), "t"),
        Manager(UPDATE, "b"): Owned(frozenset({("f:spec", 'k:{"name":"é<"}', "f:y")}), "u"),
        Manager(UPDATE, "nothing"): Owned(frozenset(), "u"),
    }
    entries = encode(managers)
    assert [e["manager"] for e in entries] == ["a", "b"]
    assert decode(json.loads(json.dumps(entries))) == {k: v for k, v in managers.items() if v.fields}
    assert decode([{}]) == {}


@pytest.mark.parametrize(
    "entries",
    [
        {},
        "x",
        [1],
        [{"manager": "a"}],
        [{"operation": "Delete"}],
        [{"operation": "Apply", "manager": 1}],
        [{"operation": "Apply", "manager": "x" * 129}],
        [{"operation": "Apply", "fieldsType": "FieldsV2"}],
        [{"operation": "Apply", "fieldsV1": [1]}],
        [{"operation": "Apply", "fieldsV1": {"f:a": {"b": {}}}}],
        [{"operation": "Apply"}] * 101,
    ],
)
def test_entries_that_make_no_sense_are_malformed(entries: Any) -> None:
    with pytest.raises(Malformed):
        decode(entries)


def test_fields_of_versions_before_stay_owned() -> None:
    old = {Manager(APPLY, "a"): Owned(from_v1({"f:spec": {"f:retired": {}, "f:vcpus": {}}}), "t")}
    cluster = Cluster(domain(memory="1Gi", vcpus=1), old)
    cluster.apply("a", domain(vcpus=1))
    assert cluster.spec == {"memory": "1Gi", "vcpus": 1}


def test_conflicts_are_told_one_by_one_as_far_as_anybody_reads() -> None:
    cluster = Cluster()
    labels = {f"l{n:04}": "x" for n in range(1400)}
    for who in ("a", "b"):
        cluster.apply(who, domain({"labels": labels}))
    with pytest.raises(Conflicts) as caught:
        cluster.apply("c", domain({"labels": dict.fromkeys(labels, "y")}))
    message, listed = caught.value.message(), caught.value.listed()
    assert (len(listed), listed[0], listed[-1][1]) == (
        500,
        ('"a"', ".metadata.labels.l0000"),
        ".metadata.labels.l0499",
    )
    assert message.startswith(
        'Apply failed with 2800 conflicts: conflicts with "a":\n- .metadata.labels.l0000\n'
    )
    assert message.endswith("- .metadata.labels.l0499\nand 2300 more")
