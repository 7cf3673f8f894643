"""Bearer tokens of every kind: domctl's own, and the JWTs of the OIDC issuer if one is configured.

The same answers serve requests and TokenReviews, so that a review is true to what is enforced.
"""

from __future__ import annotations

import datetime

from controller.api.jwts import Jwts
from controller.api.rbac import User
from controller.api.rights import Rights
from controller.oidc import OidcConfig
from controller.world import World


class Bearers:
    def __init__(self, rights: Rights, oidc: OidcConfig | None, world: World) -> None:
        self._rights = rights
        self._world = world
        self._jwts = None if oidc is None else Jwts(oidc, world.now)

    async def start(self) -> None:
        """Raises OSError, ValueError when the issuer's files cannot be used."""
        if self._jwts is not None:
            await self._jwts.start()

    async def stop(self) -> None:
        if self._jwts is not None:
            await self._jwts.stop()

    async def user(self, token: str) -> User | None:
        """Whose token it is; None when it is nobody's, or no longer."""
        found = self._rights.bearer(token)
        if found is not None or self._jwts is None:
            return found
        wall_s = datetime.datetime.fromisoformat(self._world.wall()).timestamp()
        return await self._jwts.user(token, wall_s)
