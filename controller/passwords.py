"""Passwords that Secrets keep, on their way into a definition: read as it is sent, and kept nowhere.

Between the executor's steps and the store. Plans, assignments, digests and logs have none (`specs.graphics`);
so a Secret that is not there, or does not fit, keeps a definition from being sent at all, rather than sending
one whose screen is open to everybody. What a host answers is rid of the values before anybody reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controller.hands import Ending, Halt, Hands, Report
from controller.objects import Corrupt, NotFound
from controller.plan.types import Action
from drivers.hypervisor import Result
from specs.graphics import Unfit, password
from specs.kinds import KIND_OF
from specs.redaction import without

SECRET: Final = KIND_OF["Secret"]


async def passwords_for(hands: Hands, action: Action) -> dict[str, str]:
    """Those that the action's definition needs, by kind of screen, as they stand in the store now. Raises
    Halt, StoreError."""
    found: dict[str, str] = {}
    for use in action.secrets:
        namespace = action.key.partition("/")[0]
        try:
            stored = await hands.objects.get(SECRET, namespace, use.name)
            found[use.screen] = password((stored.body.get("data") or {}).get(use.key), use.screen)
        except (NotFound, Corrupt):
            message = f"Secret {use.name} with the password of {use.screen} is not there, or cannot be read"
            raise Halt(Report(Ending.FAILED, message)) from None
        except Unfit as error:
            message = f"key {use.key} of Secret {use.name} {error}"
            raise Halt(Report(Ending.FAILED, message)) from None
    return found


def unquoted(result: Result, secrets: Iterable[str]) -> Result:
    """The same without these values in what the host says."""
    if result.error is not None:
        result.error.message = without(result.error.message, secrets)
        result.error.args = (result.error.message,)
    return result
