"""Random passwords, planted wherever one could come from, and looked for in everything that leaves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.api import audit
from controller.api.auth import User
from controller.api.errors import ApiError, Cause, Subject, invalid
from controller.logs import set_up
from drivers.errors import HostFailed, StoreRefused
from specs.redaction import MASK, MAX_TEXT, redacted, redacted_value, redacted_xml, without
from specs.xmldiff import missing
from tests.unit.test_events import newsroom, tell


def marked(text: str) -> str:
    """Never found by chance in what stands around it: Hypothesis also tries the words of the program itself,
    such as "password". In the middle, so that both ends stay whatever they were."""
    return f"{text[:4]}q7Zq7{text[4:]}"


ANY = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("C", "Z")), min_size=8
).map(marked)
PLAIN = st.text("abcdefghijkXYZ0123456789-_.:,/+=!%^()[]{}|~#$*?@&;", min_size=8).map(marked)


def in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def in_base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode() * 2).decode().rstrip("=")


Form = Callable[[str], str]
QUOTED: Final[dict[str, Form]] = {
    "an attribute of XML": lambda p: f"<graphics type='vnc' passwd={quoteattr(p)} port='5900'/>",
    "an attribute in a sentence": lambda p: f"XML error: unexpected passwd={quoteattr(p)} of graphics",
    "a member of JSON": lambda p: f'{{"a": 1, "password": {in_json(p)}, "b": 2}}',
    "a member of JSON in a string": lambda p: in_json(f'{{"execute":"set","password":{in_json(p)}}}'),
    "what a client of QEMU says": lambda p: f"monitor: {{'vnc_password': {p!r}}} refused",
    "an element": lambda p: f"<cookies><cookie name='a'>{escape(p)}</cookie>",
}
BARE: Final[dict[str, Form]] = {
    "a parameter": lambda p: f"domctl --password={p} refused",
    "an object of QEMU": lambda p: f"-object secret,id=s0,data={quote(p, safe='')},format=raw",
    "a URI": lambda p: f"cannot open qemu+tcp://ann:{quote(p, safe='')}@hv1/system",
    "a query": lambda p: f"GET /api/v1/nodes?password={quote(p, safe='')}&limit=1",
    "a bearer": lambda p: f"Authorization: Bearer {in_base64url(p)} was",
    "a token of JSON": lambda p: (
        f"user-eyJ{in_base64url(p)}.eyJ{in_base64url(p)}.{in_base64url(p)} is unknown"
    ),
    "a private key": lambda p: f"-----BEGIN PRIVATE KEY-----\n{p}\n-----END PRIVATE KEY-----",
}


def planted(password: str, forms: dict[str, Form]) -> Iterator[tuple[str, str]]:
    for what, form in forms.items():
        yield what, form(password)


def spellings(password: str) -> set[str]:
    found = {password, quote(password, safe=""), in_json(password)[1:-1], quoteattr(password)[1:-1]}
    found |= {repr(password)[1:-1], in_base64url(password)}
    return {one for one in found if one not in MASK}


def assert_hidden(password: str, text: str, what: str = "") -> None:
    for one in spellings(password):
        assert one not in text, (what, one, text)


@given(ANY)
@example("pass'word\"mixed")
@example("ends with\\")
@example("\\\\\"'\\")
def test_a_quoted_secret_is_masked_whatever_it_is(password: str) -> None:
    for what, text in planted(password, QUOTED):
        assert_hidden(password, redacted(text), what)


@given(PLAIN)
def test_a_bare_secret_is_masked(password: str) -> None:
    for what, text in planted(password, BARE):
        assert_hidden(password, redacted(text), what)


@given(ANY)
def test_what_was_redacted_once_stays_as_it_is(password: str) -> None:
    for _, text in (*planted(password, QUOTED), *planted(password, BARE)):
        once = redacted(text)
        assert redacted(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "data.password: must be base64",
        "spec.graphics[0].passwordSecret: there is no Secret vnc in namespace default",
        "x509: the client's certificate is of another CA",
        "qemu+tcp://hv1:16509/system does not answer; keep-alive 5 x 3",
        "to end this: domctl node confirm-dead hv1",
        "the key file of encryption.keyFile lacks the key k1: its password is not there",
        "username: NAME and password: SECRET, in YAML",
    ],
)
def test_what_only_speaks_of_secrets_stays_readable(text: str) -> None:
    assert redacted(text) == text


def test_a_text_without_end_is_cut() -> None:
    text = redacted("x" * MAX_TEXT + "password='hidden'")
    assert "hidden" not in text and len(text) == MAX_TEXT + len(MASK)


@pytest.mark.parametrize(
    "part",
    [
        *("eyJ", "-eyJ", "-eyJaaaaaaaa", "-eyJaaaaaaaa.", "eyJaaaaaaaa.eyJ", "domctl-", "bearer "),
        *("password=", "password='", 'password=\\"', "<password>", "a://b", "secret,", "-----BEGIN "),
    ],
)
def test_a_text_that_is_full_of_beginnings_costs_no_more_than_another(part: str) -> None:
    text = (part * MAX_TEXT)[:MAX_TEXT]
    began_s = time.process_time()
    redacted(text)
    assert time.process_time() - began_s < 0.5, "it is some milliseconds"


@given(ANY, st.sampled_from(["error: %s refused", "'%s'", "%s%s", "{%s}"]))
def test_a_value_that_is_known_is_taken_out_however_it_is_spelled(password: str, around: str) -> None:
    text = around.replace("%s", password) + quoteattr(password) + in_json(password)
    assert_hidden(password, without(text, [password]))


@given(ANY)
def test_xml_is_shown_without_its_secrets(password: str) -> None:
    escaped = quoteattr(password)
    xml = (
        f"<domain><name>web</name><devices><graphics type='vnc' passwd={escaped} port='1'/>"
        f"<disk><source><cookies><cookie name='a'>{escaped}</cookie></cookies></source></disk></devices>"
        f"<sysinfo type='smbios'><system><entry name='serial'>{escaped}</entry></system></sysinfo></domain>"
    )
    shown = redacted_xml(xml)
    assert_hidden(password, shown)
    assert "<name>web</name>" in shown and 'port="1"' in shown
    assert redacted_xml(xml[:-3]) == MASK


# Everything that leaves


@contextmanager
def log_lines() -> Iterator[io.StringIO]:
    """What the process would write, by its own formatter."""
    root, real = logging.getLogger(), sys.stderr
    before, level = root.handlers[:], root.level
    sys.stderr = found = io.StringIO()
    try:
        set_up("debug")
        yield found
    finally:
        sys.stderr = real
        root.handlers[:] = before
        root.setLevel(level)


@given(ANY)
@settings(max_examples=20)
def test_no_log_line_has_one(password: str) -> None:
    log = logging.getLogger("test.redaction")
    with log_lines() as found:
        for what, text in planted(password, QUOTED):
            log.warning("libvirt refused", extra={"why": text, "domain": what})
            log.info("said %s", text)
            try:
                raise ValueError(text)
            except ValueError:
                log.exception("failed")
    assert_hidden(password, found.getvalue())
    assert found.getvalue().count("libvirt refused") == len(QUOTED)


@given(ANY)
def test_no_error_of_a_host_or_the_store_has_one(password: str) -> None:
    for what, text in planted(password, QUOTED):
        for error in (HostFailed(text, code=1), StoreRefused(text)):
            assert_hidden(password, error.message + str(error) + repr(error), what)


@given(ANY)
def test_no_refusal_of_the_api_has_one(password: str) -> None:
    for what, text in planted(password, QUOTED):
        for error in (
            ApiError(400, "BadRequest", text),
            invalid(Subject("Domain", "web"), [Cause("spec.xml", text)]),
        ):
            assert_hidden(password, json.dumps(error.status(), ensure_ascii=False), what)


@given(ANY)
@settings(max_examples=20)
def test_no_line_of_the_audit_log_has_one(password: str) -> None:
    user, at = User("ann", ("dev",)), "2026-01-01T00:00:00Z"
    for what, text in planted(password, QUOTED):
        line = audit.event(
            audit_id="a",
            stage="ResponseComplete",
            verb="create",
            user=user,
            times=(at, at),
            requestURI=f"/api?password={quote(password, safe='')}",
            userAgent=text,
            requestObject={"why": text, "password": password},
            responseStatus={"code": 403, "message": text},
            annotations={"authorization.k8s.io/reason": text},
        )
        assert_hidden(password, json.dumps(line, ensure_ascii=False), what)


@given(ANY)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_no_event_has_one(password: str) -> None:
    async def main() -> None:
        async with newsroom() as room:
            recorder = await room.recorder()
            for what, text in planted(password, QUOTED):
                tell(recorder, text, name=what.replace(" ", "-").lower())
            await asyncio.sleep(1)
            written = await room.written()
            assert len(written) == len(QUOTED)
            assert_hidden(password, json.dumps(written, ensure_ascii=False))

    asyncio.run(main())


@given(PLAIN)
def test_no_drift_has_one(password: str) -> None:
    desired = "<domain><os><cmdline>quiet</cmdline></os><devices><graphics type='vnc' {}/></devices></domain>"
    escaped = quoteattr(f"root password={password}")[1:-1]
    actual = desired.replace("{}", f"passwd={quoteattr(password)} port='1'").replace("quiet", escaped)
    found = missing(desired.replace("{}", "port='2' passwd='other'"), actual)
    assert {one.path for one in found} == {"os/cmdline", "devices/graphics[vnc]/@port"}
    assert_hidden(password, str(found))


@given(PLAIN)
def test_no_drift_of_a_containers_environment_has_one(password: str) -> None:
    form = (
        "<domain><os><initenv name='DB_PASSWORD'>{}</initenv><initenv name='LANG'>{}</initenv></os></domain>"
    )
    found = missing(form.format("hunter2", "C"), form.format(escape(password), "de"))
    assert [one.path for one in found] == ["os/initenv[DB_PASSWORD]", "os/initenv[LANG]"]
    assert (found[1].desired, found[1].actual) == ("C", "de")
    assert_hidden(password, str(found))
    assert "hunter2" not in str(found)


@given(ANY)
def test_members_with_a_secret_name_are_masked_whole(password: str) -> None:
    value = {
        "vnc_password": password,
        "spec": [{"passwd": {"deep": password}}],
        "passwordSecret": {"name": "a"},
    }
    shown: Any = redacted_value(value)
    assert_hidden(password, json.dumps(shown, ensure_ascii=False))
    assert shown["passwordSecret"] == {"name": "a"}


def test_hosts_are_never_asked_for_the_secrets_of_their_domains() -> None:
    """VIR_DOMAIN_XML_SECURE is needed nowhere: passwords are put into XML, and never read from it. What
    `domctl dumpxml --security-info` shows are Secrets, with their reader's own rights."""
    root = Path(__file__).resolve().parents[2]
    found = [
        str(path)
        for folder in ("specs", "drivers", "controller", "deploy")
        for path in (root / folder).rglob("*.py")
        if "XML_SECURE" in path.read_text()
    ]
    assert found == []
