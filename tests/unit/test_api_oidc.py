"""JWTs of an OIDC issuer, which runs on loopback with TLS of its own, and TokenReviews of every token."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import json
import logging
import ssl
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controller import oidc, pki
from controller.api import jwts
from controller.oidc import OidcConfig, OidcSection
from drivers.memory import MemoryStore
from specs.problems import Keys
from tests.apiserver import Api, Options, client_context, serving

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Issuer:
    """An issuer: its keys by their names, what it serves, and how often it was asked."""

    url: str = ""
    ca: Path = Path()
    keys: dict[str, Key] = field(default_factory=dict)
    asked: int = 0
    names: str = ""  # another issuer in its discovery document

    def add(self, name: str, key: Key | None = None) -> None:
        self.keys[name] = key or rsa.generate_private_key(65537, 2048)

    def jwks(self) -> dict[str, Any]:
        found = []
        for name, key in self.keys.items():
            rsa_key = isinstance(key, rsa.RSAPrivateKey)
            algorithm: Any = jwt.algorithms.RSAAlgorithm if rsa_key else jwt.algorithms.ECAlgorithm
            found.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": name, "use": "sig"})
        return {"keys": found}

    def token(self, key: str = "k1", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        whole = {"iss": self.url, "aud": "domctl", "sub": "ann", "iat": now, "exp": now + 60, **claims}
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, self.keys[key], algorithm, headers={"kid": key})

    async def discovery(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"issuer": self.names or self.url, "jwks_uri": f"{self.url}/keys"})

    async def serve_keys(self, request: web.Request) -> web.Response:
        return web.json_response(self.jwks())


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
async def issuer(tmp_path: Path, key: rsa.RSAPrivateKey) -> AsyncGenerator[Issuer, None]:
    (tmp_path / "issuer").mkdir()
    files = pki.ensure(tmp_path / "issuer", "127.0.0.1", 0, datetime.datetime.now(datetime.UTC))
    found = Issuer(ca=files.ca_cert)
    found.add("k1", key)
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", found.discovery)
    app.router.add_get("/keys", found.serve_keys)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_cert, files.server_key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    found.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


def config(issuer: Issuer, **more: Any) -> OidcConfig:
    given = {"username_prefix": "sso:", "groups_claim": "groups", "groups_prefix": "sso:", **more}
    return OidcConfig(issuer.url, "domctl", ca_file=str(issuer.ca), **given)


@pytest.fixture
async def api(tmp_path: Path, issuer: Issuer) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(oidc=config(issuer))) as found:
        yield found
    await store.close()


async def whoami(api: Api, token: str) -> tuple[int, Any]:
    context = client_context(api.pki.ca_cert)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.post(api.url + WHOAMI, json={}, headers={"Authorization": f"Bearer {token}"}) as response,
    ):
        return response.status, await response.json()


async def test_a_token_of_the_issuer_is_its_user_with_his_groups(api: Api, issuer: Issuer) -> None:
    status, body = await whoami(api, issuer.token(groups=["dev", "ops"]))
    assert status == 201, body
    assert body["status"]["userInfo"] == {
        "username": "sso:ann",
        "groups": ["sso:dev", "sso:ops", "system:authenticated"],
    }
    assert (await whoami(api, issuer.token(groups="dev")))[1]["status"]["userInfo"]["groups"][0] == "sso:dev"
    assert issuer.asked == 1, "the keys are kept"


def resigned(token: str, head: dict[str, Any], secret: bytes) -> str:
    """The token's claims under another head, signed by an HMAC or not at all."""

    def packed(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    begin = f"{packed(json.dumps(head).encode())}.{token.split('.')[1]}"
    signature = hmac.new(secret, begin.encode(), hashlib.sha256).digest() if secret else b""
    return f"{begin}.{packed(signature)}"


async def test_tokens_that_are_not_the_issuers_for_us_and_in_force_are_refused(
    api: Api, issuer: Issuer, key: rsa.RSAPrivateKey
) -> None:
    good, now = issuer.token(), int(time.time())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stranger = Issuer(url=issuer.url)
    stranger.add("k1")
    head, claims, signature = good.split(".")
    bad = {
        "for others": issuer.token(aud="grafana"),
        "for nobody": issuer.token(aud=None),
        "expired": issuer.token(exp=now - 60),
        "without an end": issuer.token(exp=None),
        "not yet": issuer.token(nbf=now + 600),
        "of another issuer": issuer.token(iss="https://evil.example"),
        "of nobody": issuer.token(sub=None),
        "of a number": issuer.token(sub=7),
        "by another key of that name": stranger.token(),
        "unsigned": resigned(good, {"alg": "none", "kid": "k1"}, b""),
        "signed with the public key as a secret": resigned(good, {"alg": "HS256", "kid": "k1"}, public),
        "by an algorithm that is not accepted": issuer.token(algorithm="RS512"),
        "cut": good[:-10],
        "of other claims": f"{head}.{issuer.token(sub='root').split('.')[1]}.{signature}",
        "no token": "a.b.c",
        "too long": f"{head}.{claims}.{'x' * 5000}",
    }
    assert (await whoami(api, good))[0] == 201
    for what, token in bad.items():
        status, body = await whoami(api, token)
        assert (status, body["message"]) == (401, "Unauthorized"), what


async def test_refusals_of_tokens_fill_no_log(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = jwts.Jwts(config(issuer), lambda: 0.0)
    for _ in range(200):
        assert await found.user("a.b.c", time.time()) is None
    assert 1 <= sum("JWT was refused" in record.message for record in caplog.records) <= 20


async def test_no_issuer_makes_administrators_or_names_of_ours(tmp_path: Path, issuer: Issuer) -> None:
    found = jwts.Jwts(config(issuer, username_prefix="", groups_prefix=""), asyncio.get_running_loop().time)
    await found.start()
    user = await found.user(issuer.token(groups=["system:masters", "domctl:admins", "dev"]), time.time())
    assert user is not None
    assert user.groups == ("dev", "system:authenticated")
    assert await found.user(issuer.token(sub="system:admin"), time.time()) is None
    assert await found.user(issuer.token(groups=[7]), time.time()) is None
    await found.stop()


async def test_claims_that_are_required_and_unverified_emails(issuer: Issuer) -> None:
    settings = config(issuer, username_claim="email", username_prefix="", required=(("hd", "a.org"),))
    found = jwts.Jwts(settings, asyncio.get_running_loop().time)
    await found.start()
    for more, good in (
        ({"email": "a@a.org", "hd": "a.org"}, True),
        ({"email": "a@a.org", "hd": "a.org", "email_verified": True}, True),
        ({"email": "a@a.org", "hd": "a.org", "email_verified": False}, False),
        ({"email": "a@a.org", "hd": "b.org"}, False),
        ({"email": "a@a.org"}, False),
        ({"hd": "a.org"}, False),
    ):
        assert (await found.user(issuer.token(**more), time.time()) is not None) == good, more
    await found.stop()


async def test_keys_are_rotated_without_a_restart_and_made_up_names_are_no_lever(issuer: Issuer) -> None:
    now = [1000.0]
    found = jwts.Jwts(config(issuer), lambda: now[0])
    await found.start()
    old = issuer.token()
    assert await found.user(old, time.time()) is not None
    issuer.add("k2", ec.generate_private_key(ec.SECP256R1()))
    issuer.add("k3")
    new = issuer.token("k3")
    assert await found.user(new, time.time()) is None, "it was asked a moment ago"
    now[0] += jwts.REFETCH_S
    assert await found.user(new, time.time()) is not None
    assert issuer.asked == 2
    stranger = Issuer(url=issuer.url)
    for n in range(20):
        stranger.add(f"made-up-{n}", ec.generate_private_key(ec.SECP256R1()))
        assert await found.user(stranger.token(f"made-up-{n}", "ES256"), time.time()) is None
    assert issuer.asked == 2
    del issuer.keys["k1"]
    now[0] += 3601
    assert await found.user(old, time.time()) is None, "a withdrawn key ends within the hour"
    assert await found.user(new, time.time()) is not None
    await found.stop()


async def test_known_keys_hold_while_the_issuer_does_not_answer(issuer: Issuer) -> None:
    now = [1000.0]
    found = jwts.Jwts(config(issuer), lambda: now[0])
    await found.start()
    old = issuer.token()
    assert await found.user(old, time.time()) is not None
    issuer.names = "https://evil.example"  # its document names another: as good as no answer
    issuer.keys["k1"] = rsa.generate_private_key(65537, 2048)
    fooled = issuer.token()
    now[0] += 3601
    assert await found.user(fooled, time.time()) is None
    assert await found.user(old, time.time()) is not None
    await found.stop()


async def test_a_remembered_token_ends_at_its_time(issuer: Issuer) -> None:
    found = jwts.Jwts(config(issuer), asyncio.get_running_loop().time)
    await found.start()
    token, now = issuer.token(), time.time()
    assert await found.user(token, now) is not None
    assert await found.user(token, now + 3600) is None
    await found.stop()


async def test_keys_of_a_file_need_no_issuer(tmp_path: Path, issuer: Issuer) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(issuer.jwks()))
    settings = config(issuer, jwks_file=str(tmp_path / "keys.json"))
    found = jwts.Jwts(settings, asyncio.get_running_loop().time)
    await found.start()
    assert await found.user(issuer.token(), time.time()) is not None
    assert issuer.asked == 0
    await found.stop()
    (tmp_path / "keys.json").write_text("{}")
    with pytest.raises(ValueError, match="Key Set"):
        await jwts.Jwts(settings, asyncio.get_running_loop().time).start()


def test_secret_keys_and_those_for_encryption_are_left_out(key: rsa.RSAPrivateKey) -> None:
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "kid": "s"}
    listed = {"keys": [secret, {**public, "use": "enc"}, {"kty": "new"}, 7, {**public, "kid": "good"}]}
    assert [one.key_id for one in jwts.keys_in(json.dumps(listed).encode())] == ["good"]


# --- TokenReview


async def test_a_review_says_whose_a_token_is_and_what_is_enforced(api: Api, issuer: Issuer) -> None:
    async def review(**spec: Any) -> Any:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        reply = await api.call("POST", REVIEWS, body)
        assert reply.status == 201, reply.text
        return reply.body["status"]

    told = await review(token=issuer.token(groups=["dev"]))
    assert (told["authenticated"], told["user"]["username"]) == (True, "sso:ann")
    assert "audiences" not in told
    told = await review(token=issuer.token(), audiences=["x", "domctl.io"])
    assert (told["authenticated"], told["audiences"]) == (True, ["domctl.io"])
    assert (await review(token=issuer.token(), audiences=["x"]))["authenticated"] is False
    assert (await review(token=issuer.token(aud="x")))["authenticated"] is False
    assert (await review(token="domctl-" + "a" * 43))["authenticated"] is False
    reply = await api.call("POST", REVIEWS, {"spec": {}})
    assert (reply.status, list(reply.causes)) == (422, ["spec.token"])


async def test_to_review_tokens_takes_a_right(api: Api, issuer: Issuer) -> None:
    context = client_context(api.pki.ca_cert)
    head = {"Authorization": f"Bearer {issuer.token()}"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.post(api.url + REVIEWS, json={"spec": {"token": "x"}}, headers=head) as response,
    ):
        assert response.status == 403


# --- settings


def problems(section: OidcSection, directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(keys: Keys, message: str) -> None:
        found[str(keys[-1])] = message

    oidc.checked(section, directory, add)
    return found


def test_settings_that_would_accept_too_much_are_refused(tmp_path: Path) -> None:
    good = OidcSection(issuer_url="https://id.example.org/realm", client_id="domctl")
    assert problems(good, tmp_path) == {}
    assert problems(OidcSection(), tmp_path) == {}
    for section, where in (
        (OidcSection(issuer_url="http://id.example.org", client_id="domctl"), "issuerUrl"),
        (OidcSection(issuer_url="https://id.example.org"), "clientId"),
        (OidcSection(issuer_url="https://a", client_id="d", signing_algs=["HS256"]), "signingAlgs"),
        (OidcSection(issuer_url="https://a", client_id="d", signing_algs=["none"]), "signingAlgs"),
        (OidcSection(issuer_url="https://a", client_id="d", signing_algs=[]), "signingAlgs"),
        (OidcSection(issuer_url="https://a", client_id="d", jwks_file="keys.json"), "jwksFile"),
        (OidcSection(groups_claim="groups"), "issuerUrl"),
    ):
        assert where in problems(section, tmp_path), section


def test_the_command_line_says_it_as_kube_apiserver_does(tmp_path: Path) -> None:
    flags = {
        "oidc_issuer_url": "https://id.example.org",
        "oidc_client_id": "domctl",
        "oidc_signing_algs": "RS256,ES256",
        "oidc_required_claim": "hd=a.org,x=y",
        "oidc_groups_claim": "groups",
    }
    section = oidc.with_flags(OidcSection(client_id="other"), flags, lambda keys, message: None)
    made = oidc.checked(section, tmp_path, lambda keys, message: None)
    assert made is not None
    assert (made.client_id, made.algorithms) == ("domctl", ("RS256", "ES256"))
    assert made.required == (("hd", "a.org"), ("x", "y"))
    assert made.username_prefix == "https://id.example.org#"
