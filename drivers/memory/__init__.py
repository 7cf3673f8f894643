"""The Store of simulations: etcd's semantics in plain Python, in one process, kept in memory only.

Place in the flow: the simulator wraps a `MemoryStore` with delays and faults and hands it to unmodified
controllers; nothing else uses it. It passes the same contract suite as a real etcd.

Guaranteed: every call takes effect at one instant (no `await` between reading and writing); revisions
start at 1 and grow by one for each transaction that changes something; leases end by the clock it was
given, exactly at their TTL; ids are counted, so that a run can be repeated. Not here: faults, delays,
members, persistence, permissions, threads.
"""

from drivers.memory.store import EMPTY, Backup, MemoryStore

__all__ = ["EMPTY", "Backup", "MemoryStore"]
