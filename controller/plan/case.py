"""One domain's case: the facts that rules ask for, each derived once from the snapshot.

A case belongs to a UUID, not to an object: a deleted object's tombstone and an object without an
assignment are cases too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from msgspec import UNSET, UnsetType

from controller.model import BY_WORD, Assignment, Intent, IntentKind, MoveOutcome
from controller.plan.evidence import Known, Observation, is_dead, observe, proof_holds
from controller.plan.snapshot import Held, Sighting, Snapshot, StoredDomain, StoredMigration, namespace_of
from drivers.hypervisor import Capabilities
from specs.ages import span
from specs.domain import (
    Interface,
    effective_deletion_policy,
    effective_state,
    is_transient,
    wants_autostart,
)
from specs.domainxml import Rendered, RenderRefused, render
from specs.graphics import SecretFacts, uses_of
from specs.macs import choose_mac
from specs.mark import Mark
from specs.requests import AHEAD_S, LATE_S, instant_of, requests_of
from specs.xmldiff import Difference, missing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desired:
    """The definition that a domain should have on one node, or why it cannot be made."""

    rendered: Rendered | None
    macs: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Case:
    """`own` is the observation on the assigned node; `others` are sightings on any other node."""

    snap: Snapshot
    uuid: str

    @cached_property
    def stored(self) -> StoredDomain | None:
        return self.snap.domains.get(self.uuid)

    @cached_property
    def held(self) -> Held | None:
        return self.snap.assignments.get(self.uuid)

    @property
    def assignment(self) -> Assignment:
        assert self.held is not None
        return self.held.assignment

    @property
    def node(self) -> str:
        return self.held.assignment.node if self.held is not None else ""

    @cached_property
    def own(self) -> Observation:
        return observe(self.snap, self.uuid, self.node)

    def able(self, node: str) -> Capabilities | None:
        """What the driver of a node can do; None while it is not known."""
        view = self.snap.views.get(node)
        return None if view is None else view.capabilities

    @property
    def own_sighting(self) -> Sighting | None:
        return self.own.sighting if isinstance(self.own, Known) else None

    @cached_property
    def all_sightings(self) -> Mapping[str, Sighting]:
        """Sightings, but for what was last seen on a node before it was taken for dead, and that does not
        answer: the proof says that it is not there any more."""
        seen = self.snap.sightings.get(self.uuid, {})
        gone = {n for n in seen if self._taken_for_dead(n)}
        return {n: s for n, s in seen.items() if n not in gone} if gone else seen

    def _taken_for_dead(self, node: str) -> bool:
        """By a proof, or because its disks were wiped: then nothing of what was there is there, whether or
        not it was recorded when the last object of that UUID was deleted."""
        if self.held is not None and node in self.held.assignment.candidates:
            return False
        vouched = self.held is not None and any(
            p.node == node and p.rule in BY_WORD and proof_holds(self.snap, self.uuid, p)
            for p in self.held.assignment.proofs
        )
        gone = vouched or (is_dead(self.snap, node) and self.snap.dead[node].wiped)
        view = self.snap.views.get(node)
        return gone and (view is None or not view.answers)

    @property
    def last_epoch(self) -> int:
        """Of all that was ever seen of this UUID, wherever that is now: what is begun anew must not be older,
        or it would seem that the store had been set back."""
        seen = self.snap.sightings.get(self.uuid, {}).values()
        marks = (m for s in seen for m in (s.detail.config_mark, s.detail.live_mark) if m is not None)
        ours = (m.epoch for m in marks if (m.cluster, m.uuid) == (self.snap.cluster, self.uuid))
        return max(ours, default=0)

    @cached_property
    def others(self) -> tuple[tuple[str, Sighting], ...]:
        return tuple(sorted((n, s) for n, s in self.all_sightings.items() if n != self.node))

    @cached_property
    def active_on(self) -> tuple[str, ...]:
        return tuple(sorted(n for n, s in self.all_sightings.items() if s.active))

    @property
    def deleting(self) -> bool:
        """An explicit tombstone stands: the object's deletion, or the assignment's record of it (I11) once
        the object is gone. An object that stands there undeleted beside such a record is what a store that
        was set back holds, and is not taken away (seed 5 of left_armed)."""
        if self.stored is not None:
            return self.stored.domain.metadata.deletion_timestamp is not UNSET
        return self.held is not None and self.held.assignment.tombstone

    @property
    def wanted(self) -> str:
        """`running`, `paused`, `saved`, `shutoff`, or `absent` when it is being deleted."""
        if self.deleting or self.stored is None:
            return "absent"
        return effective_state(self.stored.domain.spec)

    @property
    def is_handed_back(self) -> bool:
        """Its object is being deleted, and what runs of it is to run on (deletionPolicy: Orphan)."""
        stays = self.stored is not None and effective_deletion_policy(self.stored.domain.spec) == "Orphan"
        return self.deleting and stays

    @cached_property
    def request(self) -> StoredMigration | None:
        """The Migration of this domain that is due: the oldest that nobody wants to end. None while one is
        being carried out, or does not say yet how it ended, for only the last end is kept."""
        last = self.held.assignment.last_move if self.held is not None else None
        ended = last.request if last is not None and last.outcome is not MoveOutcome.RETRYING else ""
        requests = self.snap.requests.get(self.key, ())
        intent = self.held.assignment.intent if self.held is not None else None
        busy = {ended, intent.request if intent is not None else ""} - {""}
        if any(r.migration.metadata.uid in busy for r in requests):
            return None
        return next((r for r in requests if r.migration.spec.abort is not True), None)

    @property
    def open_move(self) -> Intent | None:
        """Its migration whose end is not known yet."""
        intent = self.held.assignment.intent if self.held is not None else None
        return intent if intent is not None and intent.kind is IntentKind.MIGRATE else None

    @property
    def is_asked_cold(self) -> bool:
        return self.request is not None and self.request.migration.spec.mode == "Cold"

    @property
    def is_transient(self) -> bool:
        """Its definition is to stand in etcd alone while it runs, and nowhere else while it does not."""
        return not self.deleting and self.stored is not None and is_transient(self.stored.domain.spec)

    @property
    def wants_autostart(self) -> bool:
        """I7: the one exception."""
        if self.deleting or self.stored is None:
            return False
        able = self.able(self.node)
        return (able is None or able.autostart) and wants_autostart(self.stored.domain.spec)

    @property
    def key(self) -> str:
        """namespace/name, for people."""
        if self.held is not None:
            return f"{self.held.assignment.namespace}/{self.held.assignment.name}"
        if self.stored is not None:
            return f"{namespace_of(self.stored)}/{self.stored.domain.metadata.name}"
        return self.uuid

    @property
    def generation(self) -> int:
        if self.stored is None or isinstance(self.stored.domain.metadata.generation, UnsetType):
            return 0
        return self.stored.domain.metadata.generation

    @property
    def command_target(self) -> str:
        """The domain as an argument of domctl."""
        namespace, _, name = self.key.partition("/")
        return name if namespace == "default" else f"{name} -n {namespace}"

    @property
    def spec_macs(self) -> frozenset[str]:
        """MACs that the spec names: the API reserved them when it took the spec."""
        assert self.stored is not None
        interfaces = self.stored.domain.spec.interfaces
        return frozenset(
            i.mac
            for i in (() if isinstance(interfaces, UnsetType) else interfaces)
            if not isinstance(i.mac, UnsetType)
        )

    def macs(self) -> dict[str, str]:
        """A MAC for each interface: the spec's, else the one chosen before, else a free one by hash."""
        assert self.stored is not None
        interfaces = self.stored.domain.spec.interfaces
        kept = self.held.assignment.macs if self.held is not None else {}
        chosen: dict[str, str] = {}
        for interface in () if isinstance(interfaces, UnsetType) else interfaces:
            chosen[interface.name] = self._mac(interface, kept, chosen)
        return chosen

    def _mac(self, interface: Interface, kept: Mapping[str, str], chosen: Mapping[str, str]) -> str:
        if not isinstance(interface.mac, UnsetType):
            return interface.mac
        if interface.name in kept:
            return kept[interface.name]
        attempt = 0
        while True:
            mac = choose_mac(self.uuid, interface.name, attempt)
            if self.snap.macs.get(mac, self.uuid) == self.uuid and mac not in chosen.values():
                return mac
            attempt += 1

    def desired(self, node: str, epoch: int, machine: str = "") -> Desired:
        """Render the spec for `node`, with its `allowedPaths`; `machine` is for a spec that names none."""
        assert self.stored is not None
        domain, macs = self.stored.domain, self.macs()
        paths = self.snap.nodes[node].node.spec.allowed_paths
        allowed = () if isinstance(paths, UnsetType) else tuple(paths)
        policy, cluster, secrets = self.snap.policy, self.snap.cluster, self._secrets()
        asked = (domain.spec, domain.metadata, macs, allowed, epoch, machine, policy, cluster, secrets)
        return self._once("desired", asked, lambda: self._rendered(macs, allowed, epoch, machine))

    def _rendered(
        self, macs: Mapping[str, str], allowed: tuple[str, ...], epoch: int, machine: str
    ) -> Desired:
        assert self.stored is not None
        try:
            rendered = render(
                self.stored.domain,
                uuid=self.uuid,
                mark=Mark(self.snap.cluster, self.uuid, epoch, ""),
                macs=macs,
                allowed_paths=allowed,
                xml_overlay_allowed=self.snap.policy.xml_overlay,
                machine=machine,
                secrets=self._secrets(),
            )
        except RenderRefused as refused:
            return Desired(None, macs, "; ".join(f"{p.path}: {p.message}" for p in refused.problems))
        return Desired(rendered, macs)

    def _secrets(self) -> dict[str, SecretFacts]:
        """Those that the spec names, as far as they are there."""
        assert self.stored is not None
        uses = uses_of(self.stored.domain.spec)
        there = self.snap.secrets.get(namespace_of(self.stored), {}) if uses else {}
        return {use.name: there[use.name] for use in uses if use.name in there}

    def _once(self, question: str, asked: object, answer: Callable[[], T]) -> T:
        """The answer of before if what it was asked of is the same."""
        answers = self.snap.memo.setdefault(self.uuid, {})
        before = answers.get(question)
        if before is None or before[0] != asked:
            before = answers[question] = (asked, answer())
        found: T = before[1]
        return found

    @cached_property
    def desired_here(self) -> Desired:
        return self.desired(self.node, self.assignment.epoch)

    @cached_property
    def config_drift(self) -> tuple[Difference, ...]:
        """What the spec sets and the persistent definition lacks."""
        seen, rendered = self.own_sighting, self.desired_here.rendered
        if seen is None or rendered is None or seen.detail.config_xml is None:
            return ()
        return self._compared("config", rendered.xml, seen.detail.config_xml)

    @cached_property
    def live_drift(self) -> tuple[Difference, ...]:
        """What the spec sets and the running domain lacks: it waits for the next start."""
        seen, rendered = self.own_sighting, self.desired_here.rendered
        if seen is None or rendered is None or seen.detail.live_xml is None:
            return ()
        return self._compared("live", rendered.xml, seen.detail.live_xml)

    @cached_property
    def saved_drift(self) -> tuple[Difference, ...] | None:
        """What the spec sets and saved memory will go on without; None where the host does not tell."""
        seen, rendered = self.own_sighting, self.desired_here.rendered
        if seen is None or rendered is None or seen.detail.saved_xml is None:
            return None
        return self._compared("saved", rendered.xml, seen.detail.saved_xml)

    @property
    def is_saved(self) -> bool:
        """Saved memory stands at home, from which the next start goes on."""
        seen = self.own_sighting
        return seen is not None and not seen.record.active and seen.detail.managed_save

    @cached_property
    def unanswered(self) -> Mapping[str, str]:
        """Requests that were not answered yet, with their values."""
        if self.stored is None:
            return {}
        answered = self.held.assignment.requests if self.held is not None else {}
        asked = requests_of(self.stored.domain.metadata)
        return {n: v for n, v in asked.items() if n not in answered or answered[n].value != v}

    @cached_property
    def requests(self) -> Mapping[str, str]:
        """Those of them that are to be carried out."""
        return {name: value for name, value in self.unanswered.items() if not self.void(name)}

    def void(self, name: str) -> str:
        """Why an unanswered request asks for nothing; "" if it asks for something. Clocks may differ a
        little; a time that is yet to come must not keep all others from being later (`Answered.latest`)."""
        at = instant_of(self.unanswered[name])
        last = self.held.assignment.requests.get(name) if self.held is not None else None
        latest = instant_of(last.counts_to) if last is not None else None
        if at is None:
            return "its value is no time"
        if latest is not None and at <= latest:
            assert last is not None
            return f"the one of {last.counts_to} was answered before"
        age_s = self.snap.wall_s - at
        if age_s > LATE_S:
            return f"asked for {span(age_s)} ago"
        if age_s < -AHEAD_S:
            return f"its time is {span(-age_s)} ahead of the controller's clock"
        return ""

    def _compared(self, which: str, desired: str, actual: str) -> tuple[Difference, ...]:
        return self._once(which, (desired, actual), lambda: missing(desired, actual))
