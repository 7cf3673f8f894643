"""The store's watch: is this still the store that we knew, or one restored from a backup, or another?

A restored etcd comes back with the same cluster id, older promises and lower revisions; acting on them could
run a domain twice. So the leader rewrites one key with a random value at every renewal, each replica keeps
the last (revision, value) that it saw on its own disk, and looks whether the store still has that past.
`judge` is the pure core; `StoreWatch` remembers, asks and keeps the verdict, over restarts too.

RESTORED stops all mutations (`Leadership.permit` asks here) until an operator's `store ack` that is younger
than the doubt; from then on, as with a store met without any memory of it (UNKNOWN_STORE), nothing is
created until every registered node was read or is named in the ack: what the store forgot stands on nodes.
A store that is doubted is watched too: set back once more, it holds an ack that did not speak of that.
Not here: raising epochs, and writing the heartbeat (`controller.election`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from controller import keys
from controller.model import Decision, StoreMemory
from drivers.errors import Compacted, StoreError
from drivers.store import Compare, Store

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
NEVER: Final = 1 << 62  # a revision that no key has: a transaction comparing it only reads
BOOKKEEPING: Final = frozenset({keys.CLUSTER, keys.LEADER, keys.LAST_LEADER, keys.HEARTBEAT})


class StoreTrust(enum.Enum):
    UNEXAMINED = "unexamined"  # nothing was read yet
    TRUSTED = "trusted"
    NEW = "new"  # no memory, and the store is empty
    UNKNOWN_STORE = "unknown-store"  # no memory, but the store is not empty
    RESTORED = "restored"  # its past is not the one remembered


class Past(enum.Enum):
    """What the store says of the revision at which the remembered heartbeat was written."""

    SAME = "same"
    OTHER = "other"
    GONE = "gone"  # compacted, or nothing to ask for


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the store. `occupied`: it holds more than the election's own keys."""

    cluster: str
    revision: int
    heartbeat_revision: int
    value: str
    occupied: bool = False
    past: Past = Past.GONE


class Horizon(NamedTuple):
    """What a transaction sent now cannot be answered below: the highest revision seen, of one past."""

    revision: int
    past: int
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    trust: StoreTrust
    sentence: str = ""


def judge(remembered: StoreMemory | None, seen: Seen) -> Verdict:
    """Compare what is remembered with what is seen now. The first rule that fits decides."""
    if remembered is None:
        if not seen.occupied:
            return Verdict(StoreTrust.NEW)
        return Verdict(
            StoreTrust.UNKNOWN_STORE,
            "this data directory has no memory of the store, which is not empty: "
            "nothing is created until every registered node was read",
        )
    contradiction = _contradiction(remembered, seen)
    if contradiction:
        return Verdict(StoreTrust.RESTORED, contradiction)
    if remembered.doubt:
        return Verdict(StoreTrust(remembered.doubt), remembered.sentence)
    return Verdict(StoreTrust.TRUSTED)


def _contradiction(remembered: StoreMemory, seen: Seen) -> str:
    """Why the store cannot be the one remembered; empty if it can."""
    high = max(remembered.high_revision, remembered.revision)
    if remembered.cluster and seen.cluster != remembered.cluster:
        found = f"cluster {seen.cluster}" if seen.cluster else "no cluster"
        return f"the store holds {found}, known is cluster {remembered.cluster}"
    if seen.revision < high:
        return f"the store is at revision {seen.revision}, it was at {high} before"
    if remembered.revision == 0:
        return ""
    if seen.heartbeat_revision < remembered.revision:
        return f"the store's heartbeat is of revision {seen.heartbeat_revision}, not {remembered.revision}"
    if seen.heartbeat_revision == remembered.revision and seen.value != remembered.value:
        return f"the store's heartbeat at revision {remembered.revision} is not the one known"
    if seen.heartbeat_revision > remembered.revision and seen.past is Past.OTHER:
        return f"at revision {remembered.revision} the store had another heartbeat than the one known"
    return ""


class StoreWatch:
    """One replica's memory of the store. `load` and `save` keep it on disk (`controller.config`)."""

    def __init__(self, load: Callable[[], bytes | None], save: Callable[[bytes], None]) -> None:
        self._save = save
        self._memory = _decode(load())
        self._saved = self._memory
        self._verdict = Verdict(StoreTrust.UNEXAMINED, "the store was not examined yet")
        self._store_revision = 0  # at the last look; after a restore lower than before
        self.past = 0  # counts acknowledged restores: evidence from before one says nothing after it
        self.set_backs = 0  # counts what was found of them: all that was read before one is of another past

    @property
    def trust(self) -> StoreTrust:
        return self._verdict.trust

    @property
    def sentence(self) -> str:
        """For people: why the store is not trusted; empty if it is."""
        return self._verdict.sentence

    @property
    def may_mutate(self) -> bool:
        return self.trust not in (StoreTrust.UNEXAMINED, StoreTrust.RESTORED)

    @property
    def may_create(self) -> bool:
        return self.trust in (StoreTrust.TRUSTED, StoreTrust.NEW)

    @property
    def high_revision(self) -> int:
        """The highest revision seen of the store that is there now. Read it before a request, for its answer
        may not be lower."""
        memory = self._memory
        if memory is not None and memory.meanwhile is not None:
            return memory.meanwhile.high_revision
        return memory.high_revision if memory is not None else 0

    def horizon(self) -> Horizon:
        return Horizon(self.high_revision, self.past)

    @property
    def saw_a_leader(self) -> bool:
        """Whether a leader's heartbeat was ever seen in the store that is remembered."""
        return self._memory is not None and self._memory.revision > 0

    async def examine(self, store: Store) -> StoreTrust:
        """Look at the store, judge and remember. Raises StoreError when it cannot be read."""
        remembered = self._memory
        seen = await _look(store, remembered)
        meanwhile = remembered.meanwhile if remembered is not None else None
        present = await _look(store, meanwhile) if meanwhile is not None else seen
        self._store_revision = present.revision
        if _doubt_of(self._memory) == _doubt_of(remembered):  # else this look began before the last word
            if meanwhile is not None and _contradiction(meanwhile, present):
                self._set_back(_contradiction(meanwhile, present))
            self._conclude(judge(remembered, seen), present)
        return self.trust

    async def run(self, store: Store) -> None:
        """Examine again and again, for as long as the replica lives."""
        while True:
            try:
                await self.examine(store)
            except StoreError as error:
                log.debug("the store cannot be examined", extra={"error": error.message})
            await asyncio.sleep(LOOK_EVERY_S)

    def answered(self, revision: int, before: Horizon, *, wrote: bool) -> None:
        """The store answered a transaction of ours at `revision`, and put something there or did not;
        `before` is of before it was sent."""
        if revision < before.revision + wrote and before.past == self.past:
            did = "wrote" if wrote else "answered"
            self._set_back(f"the store {did} at revision {revision}, it was at {before.revision} before")
        self.saw_revision(revision)

    def renewed(self, revision: int, value: str, before: Horizon) -> None:
        """This leader's heartbeat was written, in a transaction that compared the one before it."""
        self.answered(revision, before, wrote=True)
        self._remember(self._memory.cluster if self._memory else "", revision, revision, value)

    def saw_revision(self, revision: int) -> None:
        """The store showed `revision` to the informer. Only remembered: a watch may lag behind."""
        memory = self._memory
        if memory is None or revision <= self.high_revision:
            return
        if memory.meanwhile is not None:
            meanwhile = msgspec.structs.replace(memory.meanwhile, high_revision=revision)
            self._memory = msgspec.structs.replace(memory, meanwhile=meanwhile)
        elif self.trust is not StoreTrust.RESTORED:
            self._memory = msgspec.structs.replace(memory, high_revision=revision)

    def note_restored(self, sentence: str) -> None:
        """Somebody found evidence that the store was restored. The next look says since when."""
        if self.trust is not StoreTrust.RESTORED:
            self._doubt(StoreTrust.RESTORED, sentence, 0)

    def note_epoch_regression(self, uuid: str, seen: int, known: int) -> None:
        """A mark on a node carries epoch `seen`, above its assignment's `known`."""
        self.note_restored(f"domain {uuid} carries epoch {seen} on its node, its assignment has {known}")

    def would_count(self, revision: int) -> bool:
        """Whether an acknowledgement written at `revision` speaks of the doubt that stands now."""
        memory = self._memory
        return memory is not None and 0 < memory.doubt_revision < revision

    def acknowledge(self, decision: Decision, revision: int) -> bool:
        """An operator acknowledged the store, by a key of mod revision `revision`. False: nothing changed by
        it, for it was heard before, or is older than the doubt (it may come out of the very backup). Call it
        after all epochs were raised; then nothing is created until `settle`."""
        memory = self._memory
        if memory is None or not self.would_count(revision):
            return False
        excused = tuple(sorted({*memory.excused, *decision.nodes}))
        if memory.doubt == StoreTrust.RESTORED.value:
            # Its past is accepted from here on: forget the one remembered.
            self.past += 1
            sentence = (
                "the restored store was acknowledged: nothing is created until every registered node was read"
            )
            meanwhile = memory.meanwhile or StoreMemory()
            self._memory = msgspec.structs.replace(
                meanwhile,
                high_revision=max(self._store_revision, meanwhile.high_revision),
                doubt=StoreTrust.UNKNOWN_STORE.value,
                doubt_revision=memory.doubt_revision,
                sentence=sentence,
                excused=excused,
            )
            self._verdict = Verdict(StoreTrust.UNKNOWN_STORE, sentence)
            log.warning("the store was acknowledged", extra={"by": decision.by})
        elif excused == memory.excused:
            return False
        else:
            self._memory = msgspec.structs.replace(memory, excused=excused)
        self._keep()
        return True

    def settle(self, registered: Iterable[str], read: Iterable[str]) -> bool:
        """End UNKNOWN_STORE if every registered node was read by this leader or excused by an operator.
        Returns whether the store is trusted now."""
        if self.trust is StoreTrust.UNKNOWN_STORE and self._memory is not None:
            if not set(registered) <= {*read, *self._memory.excused}:
                return False
            self._memory = msgspec.structs.replace(
                self._memory, doubt="", doubt_revision=0, sentence="", excused=()
            )
            self._verdict = Verdict(StoreTrust.TRUSTED)
            self._keep()
        return self.may_create

    def unread(self, registered: Iterable[str], read: Iterable[str]) -> tuple[str, ...]:
        """The nodes that `settle` still waits for."""
        excused = self._memory.excused if self._memory is not None else ()
        return tuple(sorted(set(registered).difference(read, excused)))

    def _conclude(self, verdict: Verdict, seen: Seen) -> None:
        known = self._memory.doubt if self._memory is not None else ""
        if verdict.trust.value == known or verdict.trust in (StoreTrust.TRUSTED, StoreTrust.NEW):
            self._verdict = verdict
        else:
            self._doubt(verdict.trust, verdict.sentence, seen.revision)
        memory = self._memory
        if memory is not None and memory.doubt and not memory.doubt_revision:
            memory = msgspec.structs.replace(memory, doubt_revision=seen.revision)
        self._memory = memory
        self._remember(seen.cluster, seen.revision, seen.heartbeat_revision, seen.value)

    def _set_back(self, sentence: str) -> None:
        """Where it was doubted already, no word that was given before speaks of this."""
        if self.trust is StoreTrust.RESTORED and self._memory is not None:
            log.warning("the store was set back while it was not trusted", extra={"sentence": sentence})
            self._memory = msgspec.structs.replace(self._memory, doubt_revision=0, meanwhile=None)
            self.set_backs += 1
        self.note_restored(sentence)

    def _doubt(self, trust: StoreTrust, sentence: str, since_revision: int) -> None:
        self.set_backs += trust is StoreTrust.RESTORED
        log.warning("the store is not trusted", extra={"trust": trust.value, "sentence": sentence})
        self._verdict = Verdict(trust, sentence)
        self._memory = msgspec.structs.replace(
            self._memory or StoreMemory(),
            doubt=trust.value,
            doubt_revision=since_revision,
            sentence=sentence,
        )
        self._keep()

    def _remember(self, cluster: str, revision: int, heartbeat_revision: int, value: str) -> None:
        """Take over what was seen, unless something younger is known already; what is seen of a restored
        store is kept beside the evidence."""
        memory = self._memory or StoreMemory()
        seen = StoreMemory(cluster=cluster, revision=heartbeat_revision, value=value, high_revision=revision)
        if self.trust is StoreTrust.RESTORED:
            meanwhile = _younger(memory.meanwhile or StoreMemory(), seen)
            self._memory = msgspec.structs.replace(memory, meanwhile=meanwhile)
        else:
            self._memory = _younger(memory, seen)
        self._keep()

    def _keep(self) -> None:
        if self._memory is None or self._memory == self._saved:
            return
        try:
            self._save(msgspec.json.encode(self._memory))
        except OSError as error:
            log.warning("the memory of the store cannot be saved", extra={"error": str(error)})
        else:
            self._saved = self._memory


async def _look(store: Store, remembered: StoreMemory | None) -> Seen:
    """One transaction that only reads, and two small reads where the rules need them."""
    result = await store.txn([Compare(keys.CLUSTER, NEVER), Compare(keys.HEARTBEAT, NEVER)], [])
    cluster, beat = result.current.get(keys.CLUSTER), result.current.get(keys.HEARTBEAT)
    seen = Seen(
        cluster=_cluster_id(cluster.value) if cluster else "",
        revision=result.revision,
        heartbeat_revision=beat.mod_revision if beat else 0,
        value=beat.value.decode(errors="replace") if beat else "",
    )
    if remembered is None:
        page = await store.page(keys.ROOT, limit=len(BOOKKEEPING) + 1)
        occupied = page.more or any(kv.key not in BOOKKEEPING for kv in page.items)
        return dataclasses.replace(seen, occupied=occupied)
    if 0 < remembered.revision < seen.heartbeat_revision:
        return dataclasses.replace(seen, past=await _past(store, remembered))
    return seen


async def _past(store: Store, remembered: StoreMemory) -> Past:
    try:
        page = await store.page(keys.HEARTBEAT, limit=1, revision=remembered.revision)
    except Compacted:
        return Past.GONE
    for kv in page.items:
        if kv.key == keys.HEARTBEAT and kv.mod_revision == remembered.revision:
            same = kv.value.decode(errors="replace") == remembered.value
            return Past.SAME if same else Past.OTHER
    return Past.OTHER


def _younger(memory: StoreMemory, seen: StoreMemory) -> StoreMemory:
    if seen.revision > memory.revision:
        memory = msgspec.structs.replace(memory, revision=seen.revision, value=seen.value)
    high = max(memory.high_revision, seen.high_revision)
    return msgspec.structs.replace(memory, cluster=memory.cluster or seen.cluster, high_revision=high)


def _doubt_of(memory: StoreMemory | None) -> tuple[str, int]:
    return (memory.doubt, memory.doubt_revision) if memory is not None else ("", 0)


def _cluster_id(value: bytes) -> str:
    """The id in the cluster record; a record that cannot be read is none of the known ones."""
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return "?"
    return str(found.get("id", "?")) if isinstance(found, dict) else "?"


def _decode(data: bytes | None) -> StoreMemory | None:
    """A memory that cannot be read is no memory: the store is then unknown, not trusted."""
    if data is None:
        return None
    try:
        memory = msgspec.json.decode(data, type=StoreMemory)
        StoreTrust(memory.doubt or StoreTrust.TRUSTED.value)
    except (msgspec.DecodeError, ValueError) as error:
        log.warning("the memory of the store cannot be read", extra={"error": str(error)})
        return None
    return memory
