"""The executor: carries out one action, step by step, and decides nothing.

Steps are a table. Each begins and ends at a named fault point; a controller that dies at any of them leaves
a state from which a fresh one reaches the same place (rule: progress can be derived again). First the
intent is recorded by a fenced transaction (`recording`), then the node is asked (`calls`, and `departures`
where a migration begins), and what was done, or may have been done, is Unknown until a listing sent
afterwards shows it (I6). What they act with, and how a step ends its action early, stands in `hands`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from controller import faults, keys
from controller.calls import Calls
from controller.departures import Departures
from controller.hands import Ending, Halt, Hands, Progress, Report
from controller.ledger import NEVER, CommitOutcome, Fenced
from controller.model import BY_WORD, Proof
from controller.plan.case import Case
from controller.plan.evidence import is_void, proof_holds
from controller.plan.premises import once_recorded
from controller.plan.types import Action, ActionKind
from controller.recording import Recording, check, still_standing
from drivers.errors import StoreError
from drivers.store import Compare
from specs.domain import ACTIVE_STATES, Domain, effective_state

TOGETHER_S, TOGETHER_LOOKS = 0.005, 10
WORDS_AT_ONCE = 100  # compared in one transaction

Step = Callable[[Progress], Awaitable[None]]


@dataclass(slots=True)
class Executor:
    hands: Hands
    _recording: Recording = field(init=False)
    _steps: Mapping[str, Step] = field(init=False)
    _preparing: dict[str, str] = field(default_factory=dict)  # starts that are not checked yet: uuid, node

    def __post_init__(self) -> None:
        self._recording = records = Recording(self.hands)
        calls = Calls(self.hands)
        departures = Departures(self.hands, calls)
        self._steps = {
            "record": records.record,
            "settle": records.settle,
            "finish": records.finish,
            "recheck": self.recheck,
            "define": calls.define,
            "create": calls.create,
            "ask": calls.ask,
            "destroy": calls.destroy,
            "suspend": calls.suspend,
            "resume": calls.resume,
            "room": calls.room,
            "save": calls.save,
            "drop_saved": calls.drop_saved,
            "reboot": calls.reboot,
            "reset": calls.reset,
            "undefine": calls.undefine,
            "listed": calls.listed,
            "mark": calls.mark,
            "autostart": calls.autostart,
            "abort": calls.abort,
            "give_up": departures.give_up,
            "look": departures.look,
            "migrate": departures.migrate,
        }

    async def run(self, action: Action) -> Report:
        """All steps of the action, or those up to the first that halts it. Raises Fenced."""
        progress = Progress(self._recording.stamped(action), action.before_revision)
        if action.kind is ActionKind.START:
            self._preparing[action.uuid] = action.node
        try:
            for name in STEPS[action.kind]:
                self.hands.faults.reach(f"{action.kind}.{name}.before")
                await self._steps[name](progress)
                self.hands.faults.reach(f"{action.kind}.{name}.after")
        except Halt as halt:
            return halt.report
        except Fenced:
            raise
        except StoreError as error:
            return Report(Ending.FAILED, error.message)
        finally:
            self._preparing.pop(action.uuid, None)
            self.hands.cache.capacity.unreserve(action.uuid)
            self.hands.cache.seen.expectations.release(action.uuid)
            self.hands.observer.look(progress.touched, action.uuid)
        return Report(Ending.DONE)

    async def recheck(self, progress: Progress) -> None:
        """Safety §2.3: by linearizable reads, nothing that justified this start has changed."""
        action = progress.action
        assert action.after is not None
        await self._together(action)
        await self._still_said(action)
        own = keys.assignment(action.uuid)
        key = keys.object_key("domains", action.after.namespace, action.after.name)
        known = self.hands.cache.domains.get(action.uuid)
        rests = once_recorded(action)
        compares = [Compare(p.key, NEVER if p.revision is None else p.revision) for p in rests]
        compares += [Compare(own, progress.revision)]
        compares += [Compare(key, known.revision if known is not None else NEVER)]
        commit = await self.hands.ledger.commit(compares, [])
        if commit.outcome is CommitOutcome.UNKNOWN:
            check(commit)
        domain = known.domain if known is not None else None
        if commit.outcome is CommitOutcome.REFUSED:
            held, kv = commit.current.get(own), commit.current.get(key)
            if held is None or held.mod_revision != progress.revision:
                check(commit)
            for premise in rests:
                still_standing(action, premise, commit.current.get(premise.key))
            domain = None if kv is None else msgspec.json.decode(kv.value, type=Domain)
        if domain is None or not self._still_wanted(domain, action):
            raise Halt(Report(Ending.STALE, "the object changed while it was being started"))
        seen = Case(self.hands.cache.snapshot(), action.uuid).all_sightings
        elsewhere = [n for n in seen if n != action.node]
        if elsewhere:
            raise Halt(Report(Ending.STALE, f"it was seen on {', '.join(elsewhere)} meanwhile"))
        for proof in action.after.proofs:
            if proof.rule in BY_WORD and self._speaks(action.uuid, proof):
                raise Halt(Report(Ending.STALE, f"node {proof.node}, taken for dead, answers, or did since"))

    async def _still_said(self, action: Action) -> None:
        """Words that a node is dead, and which copy is to be kept, may be taken back until they are acted on,
        and the watch that would tell may lag; what was heard of them since this start was decided on says so
        by its revision."""
        cache = self.hands.cache
        said = [keys.confirmed_dead(node) for node in action.dead]
        said += [keys.resolution(action.uuid)] if action.uuid in cache.resolutions else []
        for first in range(0, len(said), WORDS_AT_ONCE):
            some = said[first : first + WORDS_AT_ONCE]
            commit = await self.hands.ledger.commit([Compare(k, cache.revision_of(k)) for k in some], [])
            for key, kv in commit.current.items():  # what was found out is known from now on
                if kv is None:
                    cache.wrote({key: None}, commit.revision)
            check(commit)

    async def _together(self, action: Action) -> None:
        """Wait a moment for other starts on this node that are about to be defined: while libvirt 9 launches
        one domain it holds up the definition of others, for up to a second (measured)."""
        self._preparing.pop(action.uuid, None)
        for _ in range(TOGETHER_LOOKS):
            if action.node not in self._preparing.values() and not self.hands.observer.is_glancing(
                action.node
            ):
                return
            await asyncio.sleep(TOGETHER_S)

    def _speaks(self, uuid: str, proof: Proof) -> bool:
        view, snap = self.hands.cache.view(proof.node), self.hands.cache.snapshot()
        return view.answers or view.denies or is_void(snap, proof) or not proof_holds(snap, uuid, proof)

    @staticmethod
    def _still_wanted(domain: Domain, action: Action) -> bool:
        meta = domain.metadata
        return (
            meta.uid == action.uuid
            and meta.generation == action.generation
            and isinstance(meta.deletion_timestamp, msgspec.UnsetType)
            and effective_state(domain.spec) in ACTIVE_STATES
        )


STEPS: Final[Mapping[ActionKind, tuple[str, ...]]] = MappingProxyType(
    {
        ActionKind.START: ("record", "define", "recheck", "create", "settle"),
        ActionKind.DEFINE: ("record", "define", "settle"),
        ActionKind.SHUTDOWN: ("record", "ask"),
        ActionKind.DESTROY: ("record", "destroy"),
        ActionKind.REVOKE: ("record", "undefine", "listed", "settle"),
        ActionKind.RELEASE: ("record",),
        ActionKind.RECORD: ("record",),
        ActionKind.MARK: ("mark",),
        ActionKind.AUTOSTART: ("record", "autostart", "settle"),
        ActionKind.FORGET: ("record", "undefine", "settle"),
        ActionKind.PAUSE: ("record", "suspend", "settle"),
        ActionKind.RESUME: ("record", "resume", "settle"),
        ActionKind.SAVE: ("room", "record", "save", "settle"),
        ActionKind.DROP_SAVED: ("record", "drop_saved", "settle"),
        ActionKind.REBOOT: ("record", "reboot", "settle"),
        ActionKind.RESET: ("record", "reset", "settle"),
        ActionKind.HAND_BACK: ("record", "mark", "finish"),
        ActionKind.FINISH: ("finish",),
        ActionKind.MIGRATE: ("record", "give_up", "look", "migrate"),
        ActionKind.ABORT: ("record", "abort"),
        ActionKind.GO_ON: ("record", "resume"),
        ActionKind.UNPLANT: ("record", "undefine"),
    }
)
"""What each action does, in order."""

FAULT_POINTS: Final = faults.points({kind.value: steps for kind, steps in STEPS.items()})
