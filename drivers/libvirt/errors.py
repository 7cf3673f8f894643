"""libvirt's errors in the port's types: one ordered table of (code, origin, call), first match wins.

`code` is virErrorNumber, `origin` virErrorDomain (who raised it). The same code means different things
from different origins: 38 from RPC(7) is a lost connection, 38 from STORAGE is a missing disk. The words
of libvirt are kept in the message and decide nothing, but for two refusals to which libvirt gave no code
of their own, both INTERNAL_ERROR(1): a disk that QEMU found locked, and the test driver's *already* and
*not running*. Pure: numbers instead of libvirt's constants, so that it is read and tested without libvirt
(a unit test compares them).

`outcome` says what an error means for a mutation that was sent. An answer of libvirt is Failed or
Rejected; only a lost connection is Ambiguous. What was never sent does not come here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.errors import (
    AuthFailed,
    CallTimedOut,
    DiskLocked,
    DomainBusy,
    HostBusy,
    HostFailed,
    HypervisorError,
    NameConflict,
    NoDomain,
    PeerUnreachable,
    PermitExpired,
    SaveUnreadable,
    SpecRejected,
    Unreachable,
    Unsupported,
    WrongState,
)
from drivers.hypervisor import Outcome

INTERNAL_ERROR = 1
OPERATION_FAILED = 9
SYSTEM_ERROR = 38
RPC = 39
NO_DOMAIN = 42

FROM_RPC = 7
FROM_TEST = 12

_QEMU_LOCK = re.compile(r'Failed to get (?:shared )?"[a-z ]+" lock')
_TEST_STATE = re.compile(r"is already running|not running|not paused")


@dataclass(frozen=True, slots=True)
class Rule:
    """An error of one of `codes`, raised by `origin` (None: anyone) in `call` (None: any), whose message
    contains `text` (None: whatever it says), is `error`."""

    codes: frozenset[int]
    error: type[HypervisorError]
    origin: int | None = None
    call: str | None = None
    text: re.Pattern[str] | None = None

    def matches(self, code: int, origin: int, call: str, message: str) -> bool:
        return (
            code in self.codes
            and self.origin in (None, origin)
            and self.call in (None, call)
            and (self.text is None or self.text.search(message) is not None)
        )


def _rule(error: type[HypervisorError], *codes: int) -> Rule:
    return Rule(frozenset(codes), error)


RULES = (
    # All of "no route", "refused", "unknown name", "keep-alive", "end of file" (libvirt gives no others).
    Rule(frozenset({INTERNAL_ERROR, SYSTEM_ERROR, RPC}), Unreachable, origin=FROM_RPC),
    _rule(Unreachable, 4, 6),  # UNKNOWN_HOST, INVALID_CONN (closed beside us)
    # AUTH_*: we are in already, so it is the source of a migration to which its target says so.
    Rule(frozenset({45, 79}), PeerUnreachable, call="migrate"),
    _rule(AuthFailed, 29, 45, 79, 88, 94),  # OPERATION_DENIED, AUTH_*, ACCESS_DENIED
    _rule(NoDomain, NO_DOMAIN),
    _rule(WrongState, 55),  # OPERATION_INVALID
    Rule(frozenset({INTERNAL_ERROR}), WrongState, origin=FROM_TEST, text=_TEST_STATE),
    _rule(DomainBusy, 68),  # OPERATION_TIMEOUT: the job lock was not had within 30 s, so nothing was done
    _rule(DiskLocked, 87),  # RESOURCE_BUSY: virtlockd, sanlock
    Rule(frozenset({INTERNAL_ERROR}), DiskLocked, text=_QEMU_LOCK),  # no code says it, only QEMU's words
    # OPERATION_FAILED: `already exists` when defining; elsewhere many things (a corrupt saved image).
    Rule(frozenset({OPERATION_FAILED}), NameConflict, call="define"),
    Rule(frozenset({OPERATION_FAILED}), DomainBusy, call="console"),  # somebody reads it
    Rule(frozenset({OPERATION_FAILED}), SaveUnreadable, call="create"),  # seen of corrupt saved images alone
    _rule(Unsupported, 3, 5, 74, 84),  # NO_SUPPORT, NO_CONNECT, ARGUMENT_/OPERATION_UNSUPPORTED
    # INVALID_ARG, OS_TYPE..NO_DEVICE, XML_ERROR, DOM_EXIST, CONF_SYNTAX, XML_DETAIL, INVALID_MAC,
    # CONFIG_UNSUPPORTED, MIGRATE_UNSAFE, OVERFLOW, CPU_INCOMPATIBLE, XML_INVALID_SCHEMA
    _rule(SpecRejected, 8, 16, 17, 18, 19, 20, 21, 22, 23, 27, 28, 33, 35, 44, 67, 81, 82, 91, 92),
)

OUTCOMES: dict[type[HypervisorError], Outcome] = {
    Unreachable: Outcome.AMBIGUOUS,
    CallTimedOut: Outcome.AMBIGUOUS,
    PeerUnreachable: Outcome.AMBIGUOUS,
    AuthFailed: Outcome.REJECTED,
    NameConflict: Outcome.REJECTED,
    SpecRejected: Outcome.REJECTED,
    Unsupported: Outcome.REJECTED,
    PermitExpired: Outcome.FAILED,
    NoDomain: Outcome.FAILED,
    DomainBusy: Outcome.FAILED,
    WrongState: Outcome.FAILED,
    SaveUnreadable: Outcome.FAILED,
    DiskLocked: Outcome.FAILED,
    HostBusy: Outcome.FAILED,
    HostFailed: Outcome.FAILED,
}


def translate(code: int, origin: int, message: str, call: str) -> HypervisorError:
    """The port's error for one of libvirt's."""
    for rule in RULES:
        if rule.matches(code, origin, call, message):
            return rule.error(message, code=code, origin=origin)
    return HostFailed(message, code=code, origin=origin)


def told_by_daemon(error: Unreachable, call: str) -> HypervisorError:
    """For a connection that lives on: something behind the daemon could not be reached (virtlockd; or the
    target of a migration, which the source's daemon opens), and the daemon told us so."""
    found = PeerUnreachable if call == "migrate" else HostFailed
    return found(error.message, code=error.code, origin=error.origin)


def outcome(error: HypervisorError) -> Outcome:
    """What an error means for a mutation that was sent.

    An error with the numbers of a lost connection stays Ambiguous even where the connection turned out to
    live on (`told_by_daemon`): nobody says whether the other end of it had begun."""
    if error.origin == FROM_RPC and error.code in (INTERNAL_ERROR, SYSTEM_ERROR, RPC):
        return Outcome.AMBIGUOUS
    return OUTCOMES[type(error)]
