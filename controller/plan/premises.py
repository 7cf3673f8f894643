"""What in etcd an action rests on beside the assignment: what users ask for, an operator's word, a node's
quarantine.

The watch that feeds the cache may lag, by as much as a slow member of etcd does, and reads that decide are
linearizable (I18). So the transaction that records an action also compares the objects that justify it; where
one of them moved, what it means now is held against what it meant when the action was decided on. Status,
labels and other annotations may move beneath an action; the spec, a deletion and a request may not. Which
kinds of action ask for that stands in a table here, `controller.recording` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Struct, UnsetType

from controller import keys
from controller.model import Decision, Quarantine
from controller.plan.case import Case
from controller.plan.snapshot import Snapshot, StoredMigration
from controller.plan.types import Action, ActionKind, Premise
from specs.domain import Domain
from specs.migration import Migration, MigrationSpec
from specs.node import Node
from specs.requests import requests_of

RESTS_ON_OBJECTS: Final[Mapping[ActionKind, bool]] = MappingProxyType(
    {
        ActionKind.START: False,  # looked at again after the definition, just before the create
        ActionKind.DEFINE: False,  # starts and ends nothing; the next definition replaces it
        ActionKind.SHUTDOWN: True,
        ActionKind.DESTROY: True,
        ActionKind.PAUSE: True,
        ActionKind.RESUME: True,
        ActionKind.SAVE: True,
        ActionKind.FORGET: True,
        ActionKind.DROP_SAVED: True,
        ActionKind.REBOOT: True,
        ActionKind.RESET: True,
        ActionKind.REVOKE: True,
        ActionKind.RELEASE: False,  # rests on what was read of a node, or on a word about it: see `deaths`
        ActionKind.RECORD: False,  # nothing is sent
        ActionKind.MARK: False,  # whose it is does not hang on its spec
        ActionKind.AUTOSTART: True,
        ActionKind.HAND_BACK: True,
        ActionKind.FINISH: False,  # reads the object itself, and compares what it read
        ActionKind.MIGRATE: True,
        ActionKind.ABORT: False,  # the guest goes on at its source; neither reason is ever taken back
        ActionKind.GO_ON: False,  # table M: whatever is wanted, the end that is whole goes on
        ActionKind.UNPLANT: False,  # table M: no end of a migration should have that definition
    }
)
"""Whether an action of this kind holds only while its user wants what he wanted when it was decided on."""

ASKED_BY_MIGRATIONS: Final = frozenset(
    {ActionKind.SHUTDOWN, ActionKind.DESTROY, ActionKind.REVOKE, ActionKind.MIGRATE}
)


GIVES_A_PLACE: Final = frozenset({ActionKind.START, ActionKind.DEFINE})
"""The first record of a domain rests on its object: one whose object a restored store has forgotten would be
of nobody, and stay for ever (seed 908639)."""

SENDS_NOTHING: Final = frozenset({ActionKind.RECORD, ActionKind.RELEASE, ActionKind.FINISH})
"""All other kinds change something on a node, and rest on its Node, too: it may be observed only by now."""


class NodeMeaning(Struct, frozen=True):
    observe_only: bool


class DomainMeaning(Struct, frozen=True):
    """`generation` counts the changes of spec; `requests` are the annotations that ask for something."""

    generation: int
    deleted: bool
    requests: Mapping[str, str]


class MigrationMeaning(Struct, frozen=True):
    uid: str
    deleted: bool
    spec: MigrationSpec


def premises_of(case: Case, kind: ActionKind, node: str) -> tuple[Premise, ...]:
    """What an action of this kind for this domain on this node rests on."""
    place = not_in_quarantine(case, node) if kind in GIVES_A_PLACE else ()
    return (*_objects(case, kind), *place, *(() if kind in SENDS_NOTHING else changes(case, node)))


def changes(case: Case, node: str) -> tuple[Premise, ...]:
    """Something on this node is changed, which it must allow."""
    stored = case.snap.nodes.get(node)
    if stored is None:
        return ()
    key = keys.object_key("nodes", "", node)
    return (Premise(key=key, revision=stored.revision, meaning=_of_node(stored.node)),)


def not_in_quarantine(case: Case, node: str) -> tuple[Premise, ...]:
    """Nothing new goes to a node in quarantine (I15): one that was lifted stands again in a restored store,
    which the leader may still write to before it knows of it (seed 13 of came_back)."""
    if node in case.snap.quarantine:
        return ()  # what belongs there already
    return (Premise(key=keys.quarantine(node), revision=0, meaning=None),)


def _objects(case: Case, kind: ActionKind) -> tuple[Premise, ...]:
    if not RESTS_ON_OBJECTS[kind] and not (case.held is None and kind in GIVES_A_PLACE):
        return ()
    namespace, _, name = case.key.partition("/")
    stored = case.stored
    own = Premise(
        key=keys.object_key("domains", namespace, name),
        revision=stored.revision if stored is not None else 0,
        meaning=None if stored is None else _of_domain(stored.domain, case.uuid),
    )
    request = case.request if kind in ASKED_BY_MIGRATIONS and case.held is not None else None
    return (own,) if request is None else (own, _of_request(namespace, request))


def word(snap: Snapshot, uuid: str, decision: Decision) -> Premise:
    """An operator's resolution, which stands until the action that rests on it had its effect."""
    key = keys.resolution(uuid)
    return Premise(key=key, revision=snap.revisions.get(key), meaning=decision)


def deaths(snap: Snapshot, nodes: Iterable[str]) -> tuple[Premise, ...]:
    """Somebody said that these nodes are dead. He may take that back until it was acted on."""
    at = {node: keys.confirmed_dead(node) for node in nodes if node in snap.dead}
    return tuple(Premise(key, snap.revisions.get(key), snap.dead[node]) for node, key in at.items())


def _of_node(node: Node) -> NodeMeaning:
    return NodeMeaning(node.spec.observe_only is True)


def _of_request(namespace: str, request: StoredMigration) -> Premise:
    name = request.migration.metadata.name
    key = keys.object_key("migrations", namespace, name)
    return Premise(key=key, revision=request.revision, meaning=_of_migration(request.migration))


def _of_domain(domain: Domain, uuid: str) -> DomainMeaning | None:
    """None: another object under this name says nothing of this domain."""
    meta = domain.metadata
    if meta.uid != uuid:
        return None
    generation = 0 if isinstance(meta.generation, UnsetType) else meta.generation
    deleted = not isinstance(meta.deletion_timestamp, UnsetType)
    return DomainMeaning(generation, deleted, requests_of(meta))


def _of_migration(migration: Migration) -> MigrationMeaning:
    meta = migration.metadata
    deleted = not isinstance(meta.deletion_timestamp, UnsetType)
    return MigrationMeaning(str(meta.uid), deleted, migration.spec)


def once_recorded(action: Action) -> tuple[Premise, ...]:
    """What must be so still once the action was recorded, beside what users ask for: that nodes may be
    changed, and what operators decided. A word that the record used up is gone, and no other was given."""
    used_up = keys.resolution(action.uuid) if action.consumes else ""
    asked = (keys.object_prefix("domains"), keys.object_prefix("migrations"))
    kept = tuple(p for p in action.premises if p.key != used_up and not p.key.startswith(asked))
    if not used_up or action.left is not None:
        return kept
    return (*kept, Premise(key=used_up, revision=0, meaning=None))


def still_means(premise: Premise, uuid: str, value: bytes | None) -> bool:
    """Whether what stands at the premise's key now means the same. Raises MsgspecError, or another
    ValueError, when it cannot be read."""
    if value is None:
        return premise.meaning is None
    read = next(read for prefix, read in _READERS if premise.key.startswith(prefix))
    return read(value, uuid) == premise.meaning


_READERS: Final[tuple[tuple[str, Callable[[bytes, str], object]], ...]] = (
    (
        keys.object_prefix("domains"),
        lambda value, uuid: _of_domain(msgspec.json.decode(value, type=Domain), uuid),
    ),
    (
        keys.object_prefix("migrations"),
        lambda value, _: _of_migration(msgspec.json.decode(value, type=Migration)),
    ),
    (keys.object_prefix("nodes"), lambda value, _: _of_node(msgspec.json.decode(value, type=Node))),
    (keys.QUARANTINE, lambda value, _: msgspec.json.decode(value, type=Quarantine)),
    (keys.CONFIRMED_DEAD, lambda value, _: msgspec.json.decode(value, type=Decision)),
    (keys.RESOLUTIONS, lambda value, _: msgspec.json.decode(value, type=Decision)),
)
