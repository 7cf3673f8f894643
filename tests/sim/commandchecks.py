"""What must hold of every command that leaves a replica, and of every call that comes back.

I4, I6, I12, I13, I16, I20; and what is asked for once is sent once. What a host makes of a command is for
`hostchecks` to judge.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from controller import keys
from controller.model import Decision, IntentKind, Rule
from drivers.hypervisor import Outcome
from specs.domain import ACTIVE_STATES
from tests.sim.cluster import BOUNDS
from tests.sim.doors import Call
from tests.sim.heard import Heard
from tests.sim.hypervisor import Sent

DEADLINES_S: Final = {
    "open": 5.0,
    "list": 10.0,
    "detail": 10.0,
    "facts": 30.0,
    "define": 30.0,
    "create": 60.0,
    "destroy": 60.0,
    "undefine": 45.0,
    "shutdown": 30.0,
    "set_mark": 30.0,
    "set_autostart": 30.0,
    "suspend": 35.0,
    "job": 10.0,
    "migrate": 6 * 3600.0,
    "abort_job": 35.0,
    "resume": 35.0,
    "save": 600.0,
    "drop_saved": 30.0,
    "reboot": 30.0,
    "reset": 35.0,
}
SLACK_S: Final = 4.0  # a driver looks for a sign of life after a deadline
ACT_WITHIN_S: Final = 10.0
INTENTS_OF: Final = {
    "define": {IntentKind.START, IntentKind.DEFINE},
    "create": {IntentKind.START},
    "shutdown": {IntentKind.STOP},
    "suspend": {IntentKind.PAUSE},
    "destroy": {IntentKind.STOP, IntentKind.START, IntentKind.MIGRATE},  # what a start left half-done
    "undefine": {IntentKind.REVOKE, IntentKind.FORGET, IntentKind.MIGRATE},
    "migrate": {IntentKind.MIGRATE},
    "abort_job": {IntentKind.MIGRATE},
    "resume": {IntentKind.RESUME, IntentKind.MIGRATE},
    "save": {IntentKind.SAVE},
    "drop_saved": {IntentKind.DROP_SAVED},
    "reboot": {IntentKind.REBOOT},
    "reset": {IntentKind.RESET},
}
REQUEST_OF: Final = {"drop_saved": "drop-saved", "reboot": "reboot", "reset": "reset"}
RECHECKED_S: Final = 1.0
LOOKS_UP_S: Final = 5.0  # between that look and the create a slow host is asked for the domain (seed 1100174)
CALM_S: Final = 20.0
BURST: Final = 60  # L3: mutations of one domain in a minute
TRIES: Final = 3  # L3: of one request to migrate


class CommandChecks:
    """Hear of each command and each call."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._complain = heard, heard.complain

    def sent(self, sent: Sent) -> None:
        if sent.call == "create":
            self._heard.created_in[sent.client, sent.host, sent.uuid] = self._heard.cluster.pasts
        if sent.call == "migrate":
            self._heard.moved_in[sent.host, sent.uuid] = self._heard.cluster.pasts
        cluster, now = self._heard.cluster, self._heard.cluster.clock()
        cluster.trace.say(sent.client, f"sends {sent.call} {sent.uuid} to {sent.host}")
        self._heard.mutations += 1
        renewed_at = self._heard.renewed.get(sent.client)
        if renewed_at is None or now > renewed_at + ACT_WITHIN_S + 1e-6:
            late = "never" if renewed_at is None else f"{now - renewed_at:.3f} s ago"
            self._complain("I4", f"{sent.client} sends {sent.call} {sent.uuid}, its lease was renewed {late}")
        away_at = cluster.etcd_away_at
        if away_at is not None and now > away_at + ACT_WITHIN_S:
            self._complain("I12", f"{sent.client} sends {sent.call} {sent.uuid}, etcd is gone")
        self._check_intent(sent)
        if (sent.client, sent.uuid) in self._heard.outdated:
            said = f"{sent.client} sends {sent.call} {sent.uuid}, told as it recorded that etcd was set back"
            self._complain("I11", said)
        if sent.call == "destroy":
            self._check_spared(sent)
        self._check_read_again(sent)
        if sent.call == "create":
            self._check_still_due(sent, now)
            self._check_rest(sent)
        if sent.call == "migrate":
            self._check_tries(sent)
        if sent.call in REQUEST_OF:
            self._check_asked(sent, REQUEST_OF[sent.call])
        self._count(sent, now)

    def _check_spared(self, sent: Sent) -> None:
        """I9: of the two ends of a migration, never the one that goes on is destroyed."""
        held = self._heard.intents.get((sent.client, sent.uuid), ())
        host = self._heard.cluster.hosts[sent.host]
        if held and held[-1].kind is IntentKind.MIGRATE and host.active(sent.uuid):
            other = self._heard.cluster.hosts[held[-1].target].domains.get(sent.uuid)
            if other is not None and other.came_from is host.domains[sent.uuid] and not other.is_old:
                return  # a copy that its user had paused arrived late: it is as this one is (seed 108006)
            word = self._heard.cluster.etcd.peek(keys.resolution(sent.uuid))
            if word is not None and msgspec.json.decode(word.value, type=Decision).keep not in (
                "",
                sent.host,
            ):
                return  # an operator said which of two that run stays (seed 25 of doubled)
            wanted = self._heard.wanted.get(sent.uuid)
            if wanted and wanted[-1][1] in ACTIVE_STATES:
                self._complain("I9", f"{sent.client} destroys {sent.uuid} on {sent.host}, where it went on")

    def _check_asked(self, sent: Sent, name: str) -> None:
        """What is asked for once is sent once at most."""
        sent_before = self._heard.once.get((sent.uuid, name), 0)
        self._heard.once[sent.uuid, name] = sent_before + 1
        asked = len(self._heard.asked.get((sent.uuid, name), ()))
        if sent_before >= asked and self._heard.past == self._heard.cluster.pasts:
            self._complain(
                "once", f"{sent.client} sends {sent.call} {sent.uuid} again, it was asked for {asked} times"
            )

    def _check_tries(self, sent: Sent) -> None:
        """L3: a migration that fails is tried a few times, and given up."""
        held = self._heard.intents.get((sent.client, sent.uuid), ())
        if not held or not held[-1].request:
            return
        tried = self._heard.tries.get((sent.uuid, held[-1].request), 0) + 1
        self._heard.tries[sent.uuid, held[-1].request] = tried
        if tried > TRIES and self._heard.past == self._heard.cluster.pasts:
            self._complain("L3", f"{sent.client} migrates {sent.uuid} for the {tried}th time for one request")

    def _check_rest(self, sent: Sent) -> None:
        """What ended by itself and is said to rest does so until its user asks for something else, were it
        for a moment: what was decided on then may be written down later (seed 904819)."""
        ended_at = self._heard.ended_at.get(sent.uuid, float("-inf"))
        wanted = self._heard.wanted.get(sent.uuid, ())
        asked_off = any(at >= ended_at and state not in ACTIVE_STATES for at, state in wanted)
        rests = sent.uuid in self._heard.rests and not asked_off
        if rests and self._heard.past == self._heard.cluster.pasts:
            self._complain("Rest", f"{sent.client} creates {sent.uuid} on {sent.host}, which ended and rests")

    def _check_still_due(self, sent: Sent, now: float) -> None:
        """Safety 2, step 3: what justified this start was looked at again just before."""
        if not self._heard.is_calm(sent.client, now - CALM_S):
            return  # a call looks the domain up before it is sent, through whatever was cut
        looked_at = self._heard.looked.get((sent.client, sent.uuid), now)
        if looked_at < now - LOOKS_UP_S:
            looked_at = now  # that look was for another start
        since, wanted = self._heard.wanted.get(sent.uuid, ((now, "running"),))[-1]
        if wanted not in ACTIVE_STATES and since < looked_at - RECHECKED_S:
            self._complain(
                "I2", f"{sent.client} creates {sent.uuid} on {sent.host}, {wanted} for {now - since:.1f} s"
            )
        held = self._heard.cluster.assignment(sent.uuid)
        registered = self._heard.cluster.objects("nodes")
        for proof in held.proofs if held is not None else ():
            answered_at = self._heard.listed.get((sent.client, proof.node), -1.0)
            recorded_at = self._heard.proved_at.get((sent.uuid, proof.node), now)
            if proof.node not in registered:  # it answered, and was looked at before it was let go
                continue
            if proof.rule is Rule.CONFIRMED_DEAD and recorded_at < answered_at < looked_at - RECHECKED_S:
                self._complain(
                    "I2", f"{sent.client} creates {sent.uuid} on {sent.host}, the dead {proof.node} answers"
                )

    def _check_intent(self, sent: Sent) -> None:
        """I20: what is to be done stands in etcd before it is sent."""
        kinds = INTENTS_OF.get(sent.call)
        if kinds is None:
            return
        held = self._heard.intents.get((sent.client, sent.uuid), ())
        if not held or held[-1].kind not in kinds or sent.host not in (held[-1].node, held[-1].target):
            said = f"{held[-1].kind} on {held[-1].node}" if held else "nothing"
            self._complain(
                "I20",
                f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host}, recorded before was {said}",
            )

    def _check_read_again(self, sent: Sent) -> None:
        """I6: after a call whose effect is not known, the host is read before the next."""
        doubtful = (sent.client, sent.host, sent.uuid)
        if doubtful in self._heard.doubtful:
            self._complain(
                "I6", f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host} and did not look before"
            )

    def _count(self, sent: Sent, now: float) -> None:
        mine = self._heard.sent_of.setdefault(sent.uuid, deque())
        mine.append(now)
        while mine[0] < now - 60.0:
            mine.popleft()
        if len(mine) > BURST:
            self._complain("L3", f"more than {BURST} commands for {sent.uuid} in a minute")
        if sent.call != "destroy":
            return
        destroys = self._heard.destroys.setdefault(self._heard.term_of(sent.client), deque())
        destroys.append(now)
        while destroys[0] < now - 60.0:
            destroys.popleft()
        if len(destroys) > BOUNDS.destroys_per_minute:
            self._complain("I13", f"{sent.client} destroys more than {BOUNDS.destroys_per_minute} a minute")

    def called(self, call: Call) -> None:
        took_s = call.ended_at - call.began_at
        process = self._heard.cluster.replicas[call.client].process
        stopped = process is None or process.went_on_at >= call.began_at or not process.runs
        if took_s > DEADLINES_S[call.call] + SLACK_S and not stopped:
            self._complain("I16", f"{call.call} to {call.host} took {call.client} {took_s:.1f} s")
        if call.outcome is Outcome.AMBIGUOUS and call.uuid:
            self._heard.doubtful[(call.client, call.host, call.uuid)] = call.ended_at
        if call.call == "migrate":
            self._heard.moves_over[(call.client, call.uuid)] = call.ended_at
        if call.call in ("list", "detail") and (call.uuid or not call.failed):
            self._heard.read_of[(call.client, call.host, call.uuid)] = call.began_at
        if call.call not in ("list", "detail") or (call.failed and not call.absent):
            return
        read = [
            key
            for key, at in self._heard.doubtful.items()
            if key[:2] == (call.client, call.host)
            and at <= call.began_at
            and (call.call == "list" or key[2] == call.uuid)
        ]
        for key in read:
            del self._heard.doubtful[key]
        if call.call == "list":
            self._heard.first_listed.setdefault((call.client, call.host), call.ended_at)
            self._heard.listed[(call.client, call.host)] = call.ended_at
            self._heard.reads_since[(call.client, call.host)] = call.began_at
