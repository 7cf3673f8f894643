"""Screens with passwords: what a spec may say of them, and where the password is, and is not."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
import pytest

from controller import keys
from controller.passwords import unquoted
from drivers.errors import HostFailed
from drivers.hypervisor import Outcome, Result
from specs.domainxml import render
from specs.graphics import Unfit, facts_of, password, passwords_in, with_passwords
from specs.mark import Mark
from specs.redaction import MASK
from specs.validate import decode
from specs.xmldiff import missing
from tests.specscase import domain as specs_domain
from tests.unit.plancase import UUID
from tests.unit.spine import Spine, run, spine, until

SECRET = "p&ss<7>"
SPICE = "an even longer password, with 'quotes' & \"more\""
SCREEN: dict[str, Any] = {"type": "vnc", "passwordSecret": {"name": "vnc"}}


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def problems(**spec: Any) -> list[str]:
    value = {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": "web"},
        "spec": {"memory": "32Mi", "type": "qemu", **spec},
    }
    return [str(one) for one in decode(value)[1]]


@pytest.mark.parametrize(
    ("graphics", "said"),
    [
        ({"type": "vnc"}, ""),
        ({"type": "spice", "listen": "::1"}, ""),
        ({**SCREEN, "listen": "0.0.0.0"}, ""),
        ({"type": "vnc", "listen": "0.0.0.0"}, "passwordSecret: is required: others than its host reach it"),
        ({"type": "vnc", "listen": "::"}, "passwordSecret: is required"),
        ({"type": "vnc", "listen": "1.2.3"}, "listen: must be an IP address"),
        ({"type": "sdl"}, "type: must be spice or vnc"),
        ({"type": ["vnc"]}, "type: must be"),
        ({"type": {"vnc": 1}}, "type: must be"),
        ({"type": "vnc", "password": "x"}, "unknown field"),
        ({"type": "vnc", "passwordSecret": {"name": "Up"}}, "name: must be the name of a Secret"),
    ],
)
def test_a_screen_that_others_reach_needs_a_password(graphics: dict[str, Any], said: str) -> None:
    found = problems(graphics=[graphics])
    assert found == [] if not said else said in found[0]


def test_a_domain_has_one_screen_of_a_kind_and_containers_none() -> None:
    assert "is there twice" in problems(graphics=[SCREEN, {"type": "vnc"}])[0]
    root = [{"target": "/", "source": {"dir": "/srv/box"}}]
    assert "have no screen" in problems(type="lxc", filesystems=root, graphics=[SCREEN])[0]


@pytest.mark.parametrize(
    ("value", "screen", "why"),
    [
        (in_base64(""), "vnc", "is empty"),
        (in_base64("123456789"), "vnc", "is longer than the 8 characters"),
        (in_base64("a\n"), "vnc", "cannot be typed"),
        ("/w==", "vnc", "is not text"),
        (None, "spice", "is empty"),
        ("*", "spice", "is not text"),
    ],
)
def test_what_cannot_be_a_password_is_told_without_saying_what_it_is(
    value: Any, screen: str, why: str
) -> None:
    with pytest.raises(Unfit, match=why):
        password(value, screen)


def secret(value: str = SECRET, generation: int = 1, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "vnc", "namespace": "default", "uid": "s-1", "generation": generation},
        "data": {"password": in_base64(value), **data},
    }


def rendered(**more: Any) -> Any:
    domain, _ = decode(specs_domain(graphics=[SCREEN, {"type": "spice"}]))
    whose: Any = {"uuid": UUID, "mark": Mark("c", UUID, 1, ""), "macs": {}, "allowed_paths": ["/"]}
    return render(domain, **whose, xml_overlay_allowed=False, **more)  # type: ignore[arg-type]


def test_a_definition_has_no_password_and_its_digest_moves_with_the_secret() -> None:
    first, again = facts_of(secret()), facts_of(secret("other"))
    made = rendered(secrets={"vnc": first})
    assert "passwd" not in made.xml and SECRET not in made.xml
    assert made.digest == rendered(secrets={"vnc": again}).digest, "its value is in no digest"
    assert made.digest != rendered(secrets={"vnc": facts_of(secret(generation=2))}).digest
    sent = with_passwords(made.xml, {"vnc": SECRET})
    assert passwords_in(sent) == (SECRET,)
    assert missing(sent, made.xml) == missing(made.xml, sent) == ()
    with pytest.raises(LookupError):
        with_passwords("<domain><devices/></domain>", {"vnc": SECRET})


def test_what_a_host_quotes_is_rid_of_the_values() -> None:
    for value in (SECRET, SPICE):
        sent = with_passwords(rendered().xml, {"spice": value})
        said = f"cannot take {value!r} in {sent}, nor {value}"
        error = unquoted(Result(Outcome.FAILED, HostFailed(said)), [value]).error
        assert error is not None
        assert value not in error.message and value not in str(error) and MASK in error.message
        assert not any(part in error.message for part in passwords_in(sent))


async def given(s: Spine, body: dict[str, Any] | None) -> None:
    await s.write(keys.object_key("secrets", "default", "vnc"), body or {})


async def everything(s: Spine) -> str:
    """All that stands in the store but Secrets."""
    page = await s.store.list(keys.ROOT)
    there = [kv.value for kv in page.items if not kv.key.startswith(keys.object_prefix("secrets"))]
    return b"\n".join(there).decode()


def test_a_password_is_in_the_definition_that_the_host_has_and_nowhere_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")

    async def main() -> None:
        async with spine("a") as s:
            await given(s, secret())
            await s.lead()
            await s.node("a")
            await s.domain(graphics=[{**SCREEN, "listen": "0.0.0.0"}])
            await until(s.hosts["a"].runs)
            await asyncio.sleep(70)
            assert passwords_in(s.hosts["a"].domains[UUID].live or "") == (SECRET,)
            assert s.hosts["a"].times("define") == 1, "it is no drift that hosts do not show it"
            text = await everything(s) + caplog.text
            for form in (SECRET, "p&amp;ss", in_base64(SECRET), "passwd"):
                assert form not in text

    run(main)


def test_a_new_password_is_defined_and_holds_from_the_next_start_on() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await given(s, secret())
            await s.lead()
            await s.node("a")
            await s.domain(graphics=[SCREEN])
            await until(s.hosts["a"].runs)
            await asyncio.sleep(5)
            await given(s, secret("second", generation=2))
            await until(lambda: "second" in (s.hosts["a"].domains[UUID].config or ""))
            await asyncio.sleep(30)
            assert s.hosts["a"].times("define") == 2
            assert passwords_in(s.hosts["a"].domains[UUID].live or "") == (SECRET,)

    run(main)


def test_without_its_secret_a_domain_is_not_started_and_one_that_runs_goes_on() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain(graphics=[SCREEN])
            await asyncio.sleep(10)
            assert s.hosts["a"].domains == {}
            reason, message = await s.status()
            assert reason == "SpecRefused" and "there is no Secret vnc in its namespace" in message
            await given(s, secret("123456789"))
            await asyncio.sleep(5)
            assert "is longer than the 8 characters that vnc can have" in (await s.status())[1]
            await given(s, secret(generation=2))
            await until(s.hosts["a"].runs)
            await given(s, None)  # and what cannot be read is not there, either
            await asyncio.sleep(70)
            assert s.hosts["a"].runs() and s.hosts["a"].times("destroy") == 0

    run(main)


def test_a_host_that_quotes_a_definition_tells_nobody_the_password(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with spine("a") as s:
            s.hosts["a"].quotes = True
            await given(s, secret())
            await s.lead()
            await s.node("a")
            await s.domain(graphics=[SCREEN])
            await asyncio.sleep(20)
            reason, message = await s.status()
            assert "cannot take" in message and MASK in message, reason
            text = await everything(s) + caplog.text
            for form in (SECRET, "p&amp;ss", in_base64(SECRET)):
                assert form not in text
            assert msgspec.json.encode(secret()).decode() not in text

    run(main)
