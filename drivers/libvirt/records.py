"""libvirt's numbers in the port's words: states, reasons, events and their details.

Tables only; the position of a word is its number in libvirt's enums, and a unit test compares every one
with the constants of the libvirt that is installed. A number that a newer libvirt invented is written as
`unknown-N`: never silently one of the words that decide something (a *proving reason*, for instance).
"""

from __future__ import annotations

from drivers.hypervisor import EventKind, State

STATES = (
    State.NOSTATE,
    State.RUNNING,
    State.BLOCKED,
    State.PAUSED,
    State.SHUTDOWN,
    State.SHUTOFF,
    State.CRASHED,
    State.PMSUSPENDED,
)

REASONS: dict[State, tuple[str, ...]] = {
    State.NOSTATE: ("unknown",),
    State.RUNNING: (
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from-snapshot",
        "unpaused",
        "migration-canceled",
        "save-canceled",
        "wakeup",
        "crashed",
        "postcopy",
        "postcopy-failed",
    ),
    State.BLOCKED: ("unknown",),
    State.PAUSED: (
        "unknown",
        "user",
        "migration",
        "save",
        "dump",
        "ioerror",
        "watchdog",
        "from-snapshot",
        "shutting-down",
        "snapshot",
        "crashed",
        "starting-up",
        "postcopy",
        "postcopy-failed",
        "api-error",
    ),
    State.SHUTDOWN: ("unknown", "user"),
    State.SHUTOFF: (
        "unknown",
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from-snapshot",
        "daemon",
    ),
    State.CRASHED: ("unknown", "panicked"),
    State.PMSUSPENDED: ("unknown",),
}

EVENTS = (
    EventKind.DEFINED,
    EventKind.UNDEFINED,
    EventKind.STARTED,
    EventKind.SUSPENDED,
    EventKind.RESUMED,
    EventKind.STOPPED,
    EventKind.SHUTDOWN,
    EventKind.PMSUSPENDED,
    EventKind.CRASHED,
)

DETAILS: dict[EventKind, tuple[str, ...]] = {
    EventKind.DEFINED: ("added", "updated", "renamed", "from-snapshot"),
    EventKind.UNDEFINED: ("removed", "renamed"),
    EventKind.STARTED: ("booted", "migrated", "restored", "from-snapshot", "wakeup"),
    EventKind.SUSPENDED: (
        "paused",
        "migrated",
        "ioerror",
        "watchdog",
        "restored",
        "from-snapshot",
        "api-error",
        "postcopy",
        "postcopy-failed",
    ),
    EventKind.RESUMED: ("unpaused", "migrated", "from-snapshot", "postcopy", "postcopy-failed"),
    EventKind.STOPPED: ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot"),
    EventKind.SHUTDOWN: ("finished", "guest", "host"),
    EventKind.PMSUSPENDED: ("memory", "disk"),
    EventKind.CRASHED: ("panicked", "crashloaded"),
}

CLOSE_REASONS = ("error", "eof", "keepalive", "client")  # virConnectCloseReason


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else f"unknown-{number}"


def state_of(state: int, reason: int) -> tuple[State, str]:
    """virDomainState and the reason that belongs to it. A state that we do not know is NOSTATE: of such a
    domain nothing is concluded."""
    if not 0 <= state < len(STATES):
        return State.NOSTATE, f"unknown-{state}"
    word = STATES[state]
    return word, _word(REASONS[word], reason)


def event_of(event: int, detail: int) -> tuple[EventKind, str]:
    """virDomainEventType and the detail that belongs to it."""
    if not 0 <= event < len(EVENTS):
        return EventKind.OTHER, f"unknown-{event}"
    kind = EVENTS[event]
    return kind, _word(DETAILS[kind], detail)


def close_reason(number: int) -> str:
    return _word(CLOSE_REASONS, number)
