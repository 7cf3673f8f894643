"""What a user is told when something went wrong, and the exit code that goes with it.

    CliError                the command cannot be done; printed as `error: …`
    ├── UsageError          the command line itself is wrong
    ├── Unreached           no answer from the server: refused, timed out, not trusted, cut off
    ├── StatusError         the server answered with a Status that is not a success
    └── Reported            all has been said already; only the exit code is left

Texts are kubectl's own where it has them, since people search for them. A `hint` says what to do next, on a
line of its own. What the server or a file says is shown without control characters: it must not be able to
write on the user's terminal. Nothing here prints but `report`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

HINTS = {
    "Conflict": "somebody changed it meanwhile; run the same command again",
    "Forbidden": "your certificate or token is known to the server, but may not do this",
}
FIELD_CONFLICT = "FieldManagerConflict"
OWNED_BY_OTHERS = (
    "--force-conflicts takes these fields over; without them in the file they stay as the other has set them"
)


class CliError(Exception):
    """`message` may have several lines."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def text(self) -> str:
        return f"error: {self.message}"


class UsageError(CliError):
    def text(self) -> str:
        return self.message if self.message.startswith("error:") else f"error: {self.message}"


class Unreached(CliError):
    """`maybe_done`: the request was sent, so that a change may have been made."""

    def __init__(self, message: str, *, hint: str = "", maybe_done: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.maybe_done = maybe_done

    def text(self) -> str:
        return self.message


class StatusError(CliError):
    """The server's answer. `doing` says what was tried, when there is more than one thing in a command."""

    def __init__(self, status: dict[str, Any], *, doing: str = "") -> None:
        self.code: int = _number(status.get("code"))
        self.reason = str(status.get("reason") or "")
        details = status.get("details")
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}
        self.doing = doing
        hint = OWNED_BY_OTHERS if self.field_conflicts else HINTS.get(self.reason, "")
        super().__init__(str(status.get("message") or "unknown"), hint=hint)

    @property
    def is_not_found(self) -> bool:
        """The object is not there. A path that the server does not know is something else."""
        return self.code == 404 and bool(self.details.get("name"))

    @property
    def is_expired(self) -> bool:
        return self.code == 410

    @property
    def field_conflicts(self) -> list[dict[str, Any]]:
        """What server-side apply would change and another manager owns: causes with message and field."""
        causes = self.details.get("causes") or []
        return [cause for cause in causes if cause.get("reason") == FIELD_CONFLICT]

    def while_(self, doing: str) -> StatusError:
        """The same answer, with what was being done."""
        status = {"code": self.code, "reason": self.reason, "details": self.details, "message": self.message}
        return StatusError(status, doing=doing)

    def text(self) -> str:
        if self.code == 401:
            return "error: You must be logged in to the server (Unauthorized)"
        if self.reason == "Invalid":
            return self._invalid()
        doing = f"{self.doing}: " if self.doing else ""
        origin = f"Error from server ({self.reason})" if self.reason else "Error from server"
        return f"{origin}: {doing}{self.message}"

    def _invalid(self) -> str:
        kind, name = self.details.get("kind", ""), self.details.get("name", "")
        subject = f'The {kind} "{name}" is invalid' if kind or name else "The request is invalid"
        where = f" ({self.doing})" if self.doing else ""
        causes = self.details.get("causes") or []
        if not causes:
            return f"{subject}{where}: {self.message}"
        lines = []
        for cause in causes:
            field, message = cause.get("field", ""), cause.get("message", "")
            lines.append(f"{field}: {message}" if field else str(message))
        lines = list(dict.fromkeys(lines))
        return (
            f"{subject}{where}: {lines[0]}"
            if len(lines) == 1
            else "\n* ".join([f"{subject}{where}:", *lines])
        )


class Reported(CliError):
    """Everything was printed where it happened."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("", exit_code=exit_code)

    def text(self) -> str:
        return ""


def report(failed: Sequence[CliError]) -> None:
    """What could not be done, after what was. Raises Reported if there is anything."""
    sys.stdout.flush()
    for error in failed:
        sys.stderr.write(rendered(error))
    if failed:
        raise Reported


def rendered(error: CliError) -> str:
    """All that goes to stderr for `error`, ending in a newline; "" when there is nothing to add."""
    lines = [error.text()] if error.text() else []
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "".join(printable(line, keep="\n\t") + "\n" for line in lines)


def printable(text: str, keep: str = "") -> str:
    """`text` without anything that steers a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return "\\x" + format(ord(char), "02x") if ord(char) < 256 else "\\u" + format(ord(char), "04x")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
