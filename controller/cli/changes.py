"""What all changing verbs share: `--dry-run`, and waiting for the outcome.

Kept apart from `apply`, so that a verb which only names an object does not load what checks files.
"""

from __future__ import annotations

import sys

from controller.cli import until
from controller.cli.errors import UsageError, printable
from specs.ages import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from controller.cli.client import Client
    from controller.cli.flags import Flags

VALIDATE_TEXT = "What becomes of unknown fields: strict (refused), warn or ignore."
_DRY = {"none": "", "client": " (dry run)", "server": " (server dry run)"}
_DRY_TEXT = (
    'Must be "none", "server", or "client". Client: print what would be done. '
    "Server: let the server check the request without persisting it."
)


def configure_dry_run(flags: Flags) -> None:
    flags.value(
        "--dry-run",
        default="none",
        text='Must be "none", "server", or "client". Client: print what would '
        "be done. Server: let the server check the request without persisting it.",
    )


def checked_dry_run(args: argparse.Namespace) -> str:
    if args.dry_run not in _DRY:
        raise UsageError(f'Invalid dry-run value ({args.dry_run}). Must be "none", "server", or "client".')
    return str(args.dry_run)


def dry_words(mode: str) -> str:
    return _DRY[mode]


def wait_ready(client: Client, waiting: Sequence[until.Awaited], timeout_s: float, since: str = "") -> int:
    """Wait for Ready, telling what is met and what holds the rest; how many did not get there. An object that
    is Stalled needs a human: it is not waited for."""
    wait = until.Wait(
        client, lambda value: value is not None and until.is_condition(value, "Ready"), timeout_s
    )
    wait.since = since
    wait.on_met = lambda one: _say(f"{one.label} condition met")
    wait.on_pending = pending_teller()
    wait.hopeless = lambda value: "stalled" if until.is_condition(value, "Stalled") else ""
    left = wait.run(waiting)
    for one in left:
        value = one.last or {}
        stalled = bool(value) and until.is_condition(value, "Stalled")
        why = "stalled" if stalled else f"timed out after {span(timeout_s)} waiting for the condition"
        sys.stderr.write(
            f"error: {why} on {one.resource.plural}/{printable(one.name)}: {until.reason_of(one.last)}\n"
        )
    return len(left)


def wait_gone(client: Client, waiting: Sequence[until.Awaited], timeout_s: float) -> int:
    """Wait until objects are gone, telling what holds them; how many are left."""
    wait = until.Wait(client, lambda value: value is None, timeout_s)
    wait.on_pending = pending_teller()
    left = wait.run(waiting)
    for one in left:
        why = until.reason_of(one.last)
        sys.stderr.write(
            f"error: timed out waiting for {one.resource.plural}/{printable(one.name)} to be gone: {why}\n"
        )
    return len(left)


def pending_teller() -> Callable[[until.Awaited], None]:
    """Tells what an object waits for, once for each reason."""
    told: dict[str, str] = {}

    def tell(one: until.Awaited) -> None:
        reason = until.reason_of(one.last)
        if told.get(one.label) != reason:
            told[one.label] = reason
            _say(f"{one.label} waiting: {reason}")

    return tell


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
