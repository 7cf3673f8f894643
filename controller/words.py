"""Since when operators' words stand, and the proofs that rest on them, by this leader's clock.

A node that answered after somebody said that it is dead, or that a domain is not there, speaks for itself.
So each word counts from an instant that cannot be later than its writing: from when the last transaction of
this leader was sent that the store answered at a revision below the word's. A watch that lags, or a word
that is written anew for the nodes that are left of it, makes none of it younger. A proof counts from the
instant of its word; one whose word this leader did not hear counts from before all that it read itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.model import BY_WORD, Assignment, Decision, Rule

KEPT, APART_S = 4096, 0.05  # answers remembered: minutes of them, longer than a watch may lag


class Clock:
    """At which revision the store was, at the earliest, when transactions of ours were sent."""

    def __init__(self) -> None:
        self._answers: list[tuple[float, int]] = []  # sent at, revision; both rise

    def answered(self, sent_at: float, revision: int) -> None:
        """A transaction that was sent then was answered at this revision."""
        last = self._answers[-1] if self._answers else (-APART_S, 0)
        if sent_at < last[0] + APART_S or revision < last[1]:
            return
        self._answers.append((sent_at, revision))
        del self._answers[:-KEPT]

    def before(self, revision: int) -> float:
        """An instant at which what has this revision was not written yet; 0.0 if none is known."""
        return next((sent_at for sent_at, at in reversed(self._answers) if at < revision), 0.0)


@dataclass(slots=True)
class Words:
    """`dead` is by node, `resolved` and `proved` by UUID and node."""

    clock: Clock = field(default_factory=Clock)
    dead: dict[str, float] = field(default_factory=dict)
    resolved: dict[tuple[str, str], float] = field(default_factory=dict)
    proved: dict[tuple[str, str], float] = field(default_factory=dict)

    def dies(self, node: str, revision: int | None) -> None:
        """Somebody said that it is dead, in what has this revision; None: nobody says so any more."""
        if revision is None:
            self.dead.pop(node, None)
        else:
            self.dead[node] = self.clock.before(revision)

    def resolve(self, uuid: str, before: Decision | None, after: Decision | None, revision: int) -> None:
        """A word about a domain changed. Nodes that the one before named are not vouched for again."""
        spoken = _named(before)
        for node in spoken - _named(after):
            self.resolved.pop((uuid, node), None)
        for node in _named(after) - spoken:
            self.resolved[uuid, node] = self.clock.before(revision)

    def prove(self, uuid: str, before: Assignment | None, after: Assignment | None) -> None:
        """The proofs of an assignment changed. Called while the word that they rest on still stands."""
        old, new = _by_word(before), _by_word(after)
        for node, _ in old - new:
            self.proved.pop((uuid, node), None)
        for node, rule in new - old:
            word = self.dead.get(node) if rule is Rule.CONFIRMED_DEAD else self.resolved.get((uuid, node))
            self.proved[uuid, node] = 0.0 if word is None else word


def _named(decision: Decision | None) -> set[str]:
    return set() if decision is None else {*decision.not_on, *([decision.keep] if decision.keep else ())}


def _by_word(assignment: Assignment | None) -> set[tuple[str, Rule]]:
    return set() if assignment is None else {(p.node, p.rule) for p in assignment.proofs if p.rule in BY_WORD}
