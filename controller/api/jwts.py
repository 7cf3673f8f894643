"""Who a JWT of the configured OIDC issuer says its bearer is. Signatures and claims are checked by PyJWT.

Keys come from a file, or from the issuer: by discovery, again when a token names a key that is not known
(so that a rotation needs no restart, and at most once in REFETCH_S, so that made-up names are no lever), and
after an hour in any case, so that a withdrawn key ends. While the issuer does not answer, the keys that are
known go on to hold. What an issuer says can make nobody an administrator, nor one of the names that begin
with `system:` or `domctl:`: such groups are dropped, such users refused. What is wrong with a token is logged
and never told to its bearer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import msgspec

from controller.api.auth import AUTHENTICATED
from controller.api.rates import Buckets
from controller.api.rbac import User
from controller.oidc import OidcConfig

log = logging.getLogger(__name__)

REFETCH_S: Final = 10.0
_FRESH_S: Final = 3600.0
_FETCH_S: Final = 10.0
_MAX_DOCUMENT: Final = 1 << 20
_MAX_TOKEN: Final = 16 << 10
_MAX_GROUPS: Final = 1000
_KEPT: Final = 1024  # tokens whose signature need not be checked again
_LEEWAY_S: Final = 10.0  # between the issuer's clock and ours
_TOLD_BURST: Final = 20  # refusals that are logged at once
_TOLD_EACH_S: Final = 5.0  # and one in so many seconds after these
_OURS: Final = ("system:", "domctl:")


class Jwts:
    """`now`: monotonic seconds."""

    def __init__(self, config: OidcConfig, now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._told = Buckets(now, 1 / _TOLD_EACH_S, _TOLD_BURST)
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._tried_at = -_FRESH_S
        self._fetching = asyncio.Lock()
        self._known: dict[bytes, tuple[User, float]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Raises OSError, ValueError when a file that is named cannot be used. An issuer that does not answer
        yet is no failure."""
        config = self._config
        if config.jwks_file:
            self._keys = keys_in(await asyncio.to_thread(Path(config.jwks_file).read_bytes))
            return
        context = ssl.create_default_context(cafile=config.ca_file or None)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=_FETCH_S)
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def user(self, token: str, wall_s: float) -> User | None:
        """Whose token it is at `wall_s` (seconds since 1970); None when it is not good."""
        if len(token) > _MAX_TOKEN or token.count(".") != 2:
            return None
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        if (known := self._known.get(digest)) is not None and self._is_fresh():
            return known[0] if wall_s < known[1] else None
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in self._config.algorithms:
                raise jwt.InvalidAlgorithmError(f"algorithm {head.get('alg')!r} is not accepted")
            claims = await self._verified(token, head)
            user = self._user(claims)
        except (jwt.PyJWTError, _Unfit) as error:
            # Whoever reaches the server makes such lines.
            level = logging.INFO if self._told.wait_s("") == 0 else logging.DEBUG
            log.log(level, "a JWT was refused", extra={"why": str(error)[:200]})
            return None
        self._remember(digest, user, float(claims["exp"]))
        return user

    async def _verified(self, token: str, head: Mapping[str, Any]) -> dict[str, Any]:
        """The claims, signed by a key of the issuer, in force, from it and for us. Raises PyJWTError."""
        named = str(head.get("kid") or "")
        if not self._is_fresh() or not self._fitting(named):
            await self._fetch()
        algorithm = str(head["alg"])
        failure: jwt.PyJWTError = jwt.InvalidKeyError("no key of the issuer has this name")
        for key in self._fitting(named):
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[algorithm],
                    audience=self._config.client_id,
                    issuer=self._config.issuer,
                    leeway=_LEEWAY_S,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except jwt.PyJWTError as error:
                failure = error
            except (TypeError, ValueError) as error:  # a key of another kind than the algorithm's
                failure = jwt.InvalidKeyError(str(error))
        raise failure

    def _fitting(self, named: str) -> tuple[jwt.PyJWK, ...]:
        """Keys that may have signed; a token need not name one."""
        return tuple(key for key in self._keys if not named or key.key_id == named)

    def _user(self, claims: Mapping[str, Any]) -> User:
        config = self._config
        for claim, wanted in config.required:
            if claims.get(claim) != wanted:
                raise _Unfit(f"claim {claim} is not {wanted!r}")
        name = claims.get(config.username_claim)
        if not isinstance(name, str) or not name:
            raise _Unfit(f"claim {config.username_claim} is no text")
        if config.username_claim == "email" and claims.get("email_verified", True) is not True:
            raise _Unfit("the email is not verified")
        name = config.username_prefix + name
        if name.startswith(_OURS):
            raise _Unfit(f"the user {name[:80]!r} is of names that no issuer may give")
        found = claims.get(config.groups_claim) if config.groups_claim else []
        listed = [found] if isinstance(found, str) else found or []
        if not isinstance(listed, list) or not all(isinstance(group, str) for group in listed):
            raise _Unfit(f"claim {config.groups_claim} is no list of text")
        groups = [config.groups_prefix + group for group in listed[:_MAX_GROUPS]]
        allowed = [group for group in groups if not group.startswith(_OURS)]
        return User(name, tuple(dict.fromkeys((*allowed, AUTHENTICATED))))

    def _remember(self, digest: bytes, user: User, ends_at: float) -> None:
        self._known[digest] = (user, ends_at)
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]

    def _is_fresh(self) -> bool:
        return self._session is None or self._now() - self._tried_at < _FRESH_S

    async def _fetch(self) -> None:
        """The issuer's keys anew, by whoever comes first; the others wait for him."""
        if self._session is None:
            return
        async with self._fetching:
            if self._now() - self._tried_at < REFETCH_S:
                return
            self._tried_at = self._now()
            try:
                found = await self._ask(self._session)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                log.warning("the OIDC issuer's keys cannot be had", extra={"error": str(error)[:200]})
                return
            self._keys = found
            self._known.clear()  # what a withdrawn key has signed ends with it

    async def _ask(self, session: aiohttp.ClientSession) -> tuple[jwt.PyJWK, ...]:
        """Raises ClientError, TimeoutError, ValueError."""
        issuer = self._config.issuer
        raw = await _get(session, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        said = msgspec.json.decode(raw)
        if not isinstance(said, dict) or said.get("issuer") != issuer:
            raise ValueError("the issuer's discovery document names another issuer")
        where = said.get("jwks_uri")
        if not isinstance(where, str) or not where.startswith("https://"):
            raise ValueError("the issuer's jwks_uri is not https")
        return keys_in(await _get(session, where))


class _Unfit(Exception):
    """A token that is well signed, and yet tells no user."""


def keys_in(raw: bytes) -> tuple[jwt.PyJWK, ...]:
    """The public keys of a JWKS; what is for encryption, secret or not understood is left out. Raises
    ValueError."""
    found = msgspec.json.decode(raw)
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("not a JSON Web Key Set")
    keys = []
    for one in found["keys"]:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
            continue
        try:
            keys.append(jwt.PyJWK(one))
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            log.info("a key of the OIDC issuer is left out", extra={"error": str(error)[:200]})
    return tuple(keys)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answers {response.status}")
        parts = bytearray()
        async for part in response.content.iter_any():
            parts += part
            if len(parts) > _MAX_DOCUMENT:
                raise ValueError(f"{url} answers more than {_MAX_DOCUMENT} bytes")
        return bytes(parts)
