"""Both ends of a migration of ours, as this leader read them: what each shows, and what was heard of them.

Every migration is asked for so that its copy at the target arrives paused. For a domain that ran when it
left that copy *stands*: it has not run, and does not until this controller resumes it, which is recorded
before it is sent (`controller.plan.standing`). What the target shows does not tell: one that its user paused
looks the same. Nothing here decides; table M does (`controller.plan.migrating`).
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Final

from controller.model import Copy, Intent
from controller.plan.case import Case
from controller.plan.evidence import PROVING_REASONS, is_dead
from controller.plan.snapshot import Link, MoveWatch, NodeView, Sighting
from specs.domain import effective_on_doubt

USER_PAUSED: Final = ("paused", "user")


class End(enum.Enum):
    """What one end of a migration shows."""

    ACTIVE = "active"  # it holds the disk
    STANDS = "paused until it is let go"  # at the target alone: whole, and it has not run
    MIG = "paused by the migration"
    ENDED = "shut off, and it ended there"  # by one of I22's proving reasons, or crashed
    OFF = "shut off, for a reason that proves nothing"
    ABSENT = "absent"
    SILENT = "does not answer"


@dataclass(frozen=True)
class Ends:
    """A migration as both ends show it."""

    case: Case
    intent: Intent
    watch: MoveWatch
    source: str
    target: str
    at_source: End
    at_target: End

    def sighting(self, node: str) -> Sighting | None:
        return self.case.all_sightings.get(node)

    def since(self, node: str) -> float:
        """When it was first read there as it is, absent included."""
        seen = self.sighting(node)
        return seen.since if seen is not None else self.case.snap.vanished.get((self.case.uuid, node), 0.0)

    @property
    def kept(self) -> str:
        """The side that is right, by an operator's word; "" if he said nothing of it."""
        decision = self.case.snap.resolutions.get(self.case.uuid)
        keep = decision.keep if decision is not None else ""
        return keep if keep in (self.source, self.target) else ""

    @property
    def is_taken_away(self) -> bool:
        """It is deleted, and nothing of it is to stay. One that is to be handed back is ended by nobody but
        an operator."""
        return self.case.deleting and not self.case.is_handed_back

    @property
    def reboots(self) -> bool:
        """In doubt it is ended, and started again, which what is being deleted never is."""
        stored = self.case.stored
        asked = stored is not None and effective_on_doubt(stored.domain.spec) == "Reboot"
        return asked and not self.case.deleting

    @property
    def or_else(self) -> str:
        """The other way out of a doubt over the copy that is named first. Where disks were copied, nothing
        starts it again but a word on which are right."""
        if self.case.deleting:
            return ""
        if self.intent.copies:
            return f", or --keep {self.source} to start it again with the disks that are there"
        return ", or spec.migration.onDoubt: Reboot to start it again"

    @property
    def both(self) -> str:
        """For people."""
        return f"on {self.source} it is {self.at_source.value}, on {self.target} it is {self.at_target.value}"

    @property
    def went_on(self) -> bool:
        """The target's copy was heard to resume, or seen to run, since it was sent."""
        resumed_at = self.case.snap.resumes.get((self.case.uuid, self.target), -1.0)
        return resumed_at >= 0 and resumed_at >= self.watch.began_at

    @property
    def stands(self) -> bool:
        """The target's copy is as it arrived, for all that was heard; its resume may have been sent."""
        seen = self.sighting(self.target)
        paused = seen is not None and (seen.record.state, seen.record.reason) == USER_PAUSED
        return paused and self.intent.goes_on and not self.went_on

    def is_heard(self, node: str, session: int) -> bool:
        """Over one connection, `session`, since before it was sent."""
        view = self.case.snap.views.get(node)
        return session != 0 and view is not None and view.session == session

    @property
    def _shut_itself_down(self) -> bool:
        """At the target: a guest that never ran cannot have."""
        seen = self.sighting(self.target)
        return seen is not None and not seen.active and seen.record.reason == "shutdown"

    @property
    def may_have_run(self) -> bool:
        """At the target, and written to its disks. One that stands until it is let go has not, before that
        was recorded, whoever listened, unless its guest shut itself down there: somebody let it go by hand.
        Any other is known not to have only if this leader heard the target over one connection since before
        the migration began, and never that it resumed (table M)."""
        if self.went_on or self.intent.goes_on:
            return self.went_on or self.intent.copy is Copy.LET_GO or self._shut_itself_down
        return not self.is_heard(self.target, self.watch.target_session)


def ends_of(case: Case, intent: Intent) -> Ends:
    watch = case.snap.watches.get(case.uuid, MoveWatch())
    source, target = intent.node, intent.target
    ends = Ends(case, intent, watch, source, target, _end(case, source), _end(case, target))
    if ends.at_target is End.ACTIVE and ends.stands and intent.copy is not Copy.LET_GO:
        return dataclasses.replace(ends, at_target=End.STANDS)
    return ends


def _end(case: Case, node: str) -> End:
    view = case.snap.views.get(node)
    if node not in case.snap.nodes or view is None or not view.answers:
        return End.ABSENT if is_dead(case.snap, node) and not _is_connecting(view) else End.SILENT
    seen = case.all_sightings.get(node)
    if seen is None:
        return End.ABSENT
    if seen.in_migration:
        return End.MIG
    if seen.active:
        return End.ACTIVE
    return End.ENDED if seen.record.reason in PROVING_REASONS else End.OFF


def _is_connecting(view: NodeView | None) -> bool:
    return view is None or view.link is Link.CONNECTING
