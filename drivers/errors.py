"""What can go wrong between the controller and the world, and what to do next.

    DriverError                 every failure that crosses a port; carries `advice`
    ├── HypervisorError         libvirt said so, or the connection to it did
    │   ├── Unreachable         the node does not answer: nothing is known of what it holds
    │   ├── AuthFailed          it answers, but not to us: a configuration error, never a reason to fence
    │   ├── CallTimedOut        no reply within the call's deadline: the effect may still happen
    │   ├── PermitExpired       our leave to act ended before the call was sent: nothing was sent
    │   ├── NoDomain            a healthy connection says that the UUID is neither active nor defined
    │   ├── DomainBusy          another job holds the domain (libvirt 68)
    │   ├── WrongState          the domain is not in a state for this call (libvirt 55): read again
    │   ├── NameConflict        another domain has the name or the UUID (libvirt 9)
    │   ├── SpecRejected        libvirt will never accept this definition as it stands
    │   ├── Unsupported         this driver cannot do that at all
    │   ├── SaveUnreadable      the saved memory that a start should go on with cannot be read
    │   ├── DiskLocked          an image lock or lock manager refused a second user of a disk
    │   ├── HostBusy            nothing was asked: what would have been asked for is not worth waiting
    │   ├── PeerUnreachable     the source of a migration cannot reach, or has lost, its target's daemon
    │   └── HostFailed          any other answer: the host tried and could not
    └── StoreError              etcd said so, or the connection to it did
        ├── StoreUnavailable    no answer; `maybe_committed` tells whether a write may have happened
        ├── Compacted           the revision asked for is gone: list again
        ├── LeaseLost           the lease is gone, or a keep-alive brought no TTL
        ├── StoreDenied         wrong user, password, certificate or missing permission
        └── StoreRefused        the request itself is wrong (too large, too many operations)

Errors are translated once, at the driver's boundary, from tables; the words of libvirt and etcd are
kept in `message`. Callers decide by type and `advice`, never by text.
"""

from __future__ import annotations

import enum

from specs.redaction import redacted


class Cause(enum.StrEnum):
    """Why a host cannot be talked to, where that is known: a Node's REASON. Each stands for something else
    that somebody has to do; the message says what."""

    NO_ANSWER = "NoAnswer"  # not even a refusal: off, cut off, or a firewall that drops
    PORT_REFUSED = "PortRefused"  # the machine is there, and nothing listens
    NO_ROUTE = "NoRoute"
    DAEMON_DOWN = "DaemonDown"  # we are let in, and libvirt's daemon does not run
    NAME_UNKNOWN = "NameUnknown"
    HOST_KEY_UNKNOWN = "HostKeyUnknown"
    HOST_KEY_CHANGED = "HostKeyChanged"
    KEY_REFUSED = "KeyRefused"
    SHELL_UNFIT = "ShellUnfit"  # we are let in, but what answers is not libvirt
    SERVER_CERTIFICATE_UNTRUSTED = "ServerCertificateUntrusted"
    SERVER_CERTIFICATE_EXPIRED = "ServerCertificateExpired"
    SERVER_CERTIFICATE_MISNAMED = "ServerCertificateMisnamed"
    CLIENT_CERTIFICATE_EXPIRED = "ClientCertificateExpired"
    CLIENT_CERTIFICATE_INVALID = "ClientCertificateInvalid"
    CLIENT_REFUSED = "ClientRefused"
    PASSWORD_REFUSED = "PasswordRefused"  # noqa: S105 - a word for it
    PASSWORD_NEEDED = "PasswordNeeded"  # noqa: S105
    PASSWORD_NOT_ASKED = "PasswordNotAsked"  # noqa: S105
    CREDENTIALS_MISSING = "CredentialsMissing"  # a file of ours is not named, not there or not fit
    CREDENTIALS_NOT_ALLOWED = "CredentialsNotAllowed"  # the configuration does not allow its use
    COMMAND_NOT_ALLOWED = "CommandNotAllowed"


SAID_BY_HOST = frozenset(
    {
        *(Cause.HOST_KEY_UNKNOWN, Cause.HOST_KEY_CHANGED, Cause.KEY_REFUSED, Cause.SHELL_UNFIT),
        *(Cause.SERVER_CERTIFICATE_UNTRUSTED, Cause.SERVER_CERTIFICATE_EXPIRED),
        *(Cause.SERVER_CERTIFICATE_MISNAMED, Cause.CLIENT_REFUSED),
        *(Cause.PASSWORD_REFUSED, Cause.PASSWORD_NEEDED, Cause.PASSWORD_NOT_ASKED),
    }
)
"""Causes that something at the host's address has answered with: whatever else it is, it is not dead."""


class Advice(enum.Enum):
    """What the caller should do after an error."""

    RETRY = "retry"  # the same call may be sent again now
    REOBSERVE = "reobserve"  # the effect is unknown: read before anything else
    STALL = "stall"  # a human or a changed spec is needed; do not repeat
    REPLAN = "replan"  # the world moved: plan again from fresh state
    BACKOFF = "backoff"  # try again later, more and more slowly
    STOP = "stop"  # leadership or the store is lost: stop acting
    CRASH = "crash"  # an invariant is broken: end the process


class DriverError(Exception):
    """A failure that crossed a port. `message` is for humans, `advice` for the caller. What a host or the
    store quotes is in it without its secrets: from here it goes into logs, Events and status."""

    advice: Advice = Advice.BACKOFF

    def __init__(self, message: str) -> None:
        message = redacted(message)
        super().__init__(message)
        self.message = message


class HypervisorError(DriverError):
    """libvirt's error, with its own numbers: `code` (virErrorNumber) and `origin` (virErrorDomain). `phase`:
    how far the opening of a connection had come, in words; "" for any other call. `cause`, of one that kept
    us from connecting: what is the matter, if we know it better than libvirt says."""

    phase = ""

    def __init__(self, message: str, *, code: int = 0, origin: int = 0, cause: Cause | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.origin = origin
        self.cause = cause


class Unreachable(HypervisorError):
    advice = Advice.REOBSERVE


class AuthFailed(HypervisorError):
    advice = Advice.STALL


class CallTimedOut(HypervisorError):
    advice = Advice.REOBSERVE


class PermitExpired(HypervisorError):
    advice = Advice.REPLAN


class NoDomain(HypervisorError):
    advice = Advice.REPLAN


class DomainBusy(HypervisorError):
    advice = Advice.BACKOFF


class WrongState(HypervisorError):
    advice = Advice.REPLAN


class NameConflict(HypervisorError):
    advice = Advice.STALL


class SpecRejected(HypervisorError):
    advice = Advice.STALL


class Unsupported(HypervisorError):
    advice = Advice.STALL


class SaveUnreadable(HypervisorError):
    advice = Advice.STALL


class DiskLocked(HypervisorError):
    advice = Advice.STALL


class HostBusy(HypervisorError):
    advice = Advice.BACKOFF


class PeerUnreachable(HypervisorError):
    """The same numbers say that no link was had and that it broke in the middle: read both ends."""

    advice = Advice.REOBSERVE


class HostFailed(HypervisorError):
    advice = Advice.BACKOFF


class StoreError(DriverError):
    advice = Advice.BACKOFF


class StoreUnavailable(StoreError):
    """`maybe_committed` is True when a write was sent and its reply never came."""

    advice = Advice.REOBSERVE

    def __init__(self, message: str, *, maybe_committed: bool = False) -> None:
        super().__init__(message)
        self.maybe_committed = maybe_committed


class Compacted(StoreError):
    """`compact_revision`: the oldest revision that can still be read, 0 if unknown."""

    advice = Advice.REPLAN

    def __init__(self, message: str, *, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class LeaseLost(StoreError):
    advice = Advice.STOP


class StoreDenied(StoreError):
    advice = Advice.STALL


class StoreRefused(StoreError):
    advice = Advice.STALL
