"""Every duration and bound of the controller, in one place. Sources: measured behaviour of libvirt and etcd.

`QUIET_S` is the sum of what may still deliver a dead leader's command: a keep-alive of 20 s, a user time-out
of 10 s and the daemon's own delays; it starts for each node when that node first completed a list on a
connection of this leader (safety §4). `tunnel_quiet_s` allows for sockets that are not ours, which a relay
may go on emptying for as long as the kernel sends again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, all monotonic."""

    lease_ttl_s: int = 15
    renew_every_s: float = 5.0
    act_within_s: float = 10.0  # no mutation later than this after the last good keep-alive was sent
    quiet_s: float = 35.0
    tunnel_quiet_s: float = 120.0  # the same for nodes behind ssh or a program, counted from the lease's end
    resync_s: float = 60.0
    suspect_after_s: float = 25.0
    probe_max_s: float = 15.0  # back-off between attempts to open a node
    retry_max_s: float = 300.0  # back-off between attempts to mend a domain
    event_batch_s: float = 0.002  # events that arrive together cause one list
    stuck_s: float = 40.0  # paused by a migration or a start for so long: nobody is at work on it any more
    stable_after_s: float = 600.0  # a domain that ran this long has its restart back-off forgotten


@dataclass(frozen=True, slots=True)
class Bounds:
    """Counts and sizes."""

    workers: int = 4096  # domains acted on at once in the whole cluster: no few frozen hosts fill that
    workers_each: int = 16  # on one node, which carries out four at once
    destroys_per_minute: int = 60  # I13; more than this and destroys wait
    body_bytes: int = 1 << 20
    document_bytes: int = 256 << 10
    watchers: int = 1000
    watchers_each: int = 250  # of one identity that is no administrator
    watch_queue: int = 1000
    connections: int = 4000  # and never more than half of what files the process may open
    requests_at_once: int = 16  # worked on; those that wait, read or write are not
    requests_each: int = 128  # under way for one identity, bodies and answers included
    requests_per_second: int = 100  # of one identity that is no administrator, after a burst
    requests_burst: int = 400
    client_events: int = 5000  # that clients write in ten minutes
    client_events_each: int = 1000  # one of them
    console_bytes: int = 256 << 10  # kept of what one console wrote last
    consoles_bytes: int = 256 << 20  # and of all of them together
