"""Secrets over HTTP: Kubernetes' rules, who sees them, and that a store in clear takes none."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controller.cli.describe import described
from controller.cli.diffreport import Difference
from drivers.memory.store import MemoryStore
from specs.secret import without_string_data
from specs.validate import decode
from tests.apiserver import APPLY, JSON_PATCH, MERGE, TABLE, Api, Options, Reply, serving
from tests.unit.test_api_rights import as_bob, give, rule

SECRETS = "/api/v1/namespaces/default/secrets"
PASSWORD = "correct-horse-4711"
HEAD = {"apiVersion": "v1", "kind": "Secret"}


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(name: str = "vnc", **parts: Any) -> dict[str, Any]:
    return {**HEAD, "metadata": {"name": name}, "data": {"password": in_base64(PASSWORD)}, **parts}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(MemoryStore(asyncio.get_running_loop().time), tmp_path) as found:
        yield found


async def made(api: Api, body: dict[str, Any]) -> Reply:
    reply = await api.call("POST", SECRETS, body)
    assert reply.status == 201, reply.text
    return reply


async def test_a_secret_is_kept_with_its_type_and_what_was_text_is_data(api: Api) -> None:
    reply = await made(api, {**secret(stringData={"user": "ann"}), "type": ""})
    body = reply.body
    assert body["data"] == {"password": in_base64(PASSWORD), "user": in_base64("ann")}
    assert (body["type"], "stringData" in body) == ("Opaque", False)
    assert (await api.call("GET", f"{SECRETS}/vnc")).body["data"] == body["data"]


async def test_text_wins_over_data_of_the_same_key_in_every_way_of_writing(api: Api) -> None:
    await made(api, secret(stringData={"password": "other"}))

    async def now() -> Any:
        body = (await api.call("GET", f"{SECRETS}/vnc")).body
        assert "stringData" not in body
        return base64.b64decode(body["data"]["password"]).decode(), body

    assert (await now())[0] == "other"
    assert (
        await api.call("PATCH", f"{SECRETS}/vnc", {"stringData": {"password": "b"}}, type=MERGE)
    ).status == 200
    assert (await now())[0] == "b"
    put = {**(await now())[1], "stringData": {"password": "c"}}
    assert (await api.call("PUT", f"{SECRETS}/vnc", put)).status == 200
    assert (await now())[0] == "c"
    applied = {**HEAD, "metadata": {"name": "vnc"}, "stringData": {"password": "d"}}
    path = f"{SECRETS}/vnc?fieldManager=gitops&force=true"
    assert (await api.call("PATCH", path, applied, type=APPLY)).status == 200
    value, body = await now()
    assert value == "d"
    (entry,) = [one for one in body["metadata"]["managedFields"] if one["manager"] == "gitops"]
    assert entry["fieldsV1"] == {"f:data": {"f:password": {}}}


async def test_what_is_no_longer_applied_as_text_is_taken_away(api: Api) -> None:
    for keys in (("a", "b"), ("a",)):
        applied = {**HEAD, "metadata": {"name": "set"}, "stringData": dict.fromkeys(keys, PASSWORD)}
        reply = await api.call("PATCH", f"{SECRETS}/set?fieldManager=x", applied, type=APPLY)
        assert reply.status in {200, 201}, reply.text
    assert list(reply.body["data"]) == ["a"]


async def test_a_store_in_clear_takes_no_secret_and_says_what_to_do(tmp_path: Path) -> None:
    async with serving(MemoryStore(asyncio.get_running_loop().time), tmp_path, Options(sealed=False)) as api:
        reply = await api.call("POST", SECRETS, secret())
        assert reply.status == 422
        assert "encryption.keyFile" in reply.causes["data"]
        assert in_base64(PASSWORD) not in reply.text
        assert (await api.call("POST", SECRETS, secret(data=None))).status == 201, "it holds nothing"
        change = {"stringData": {"password": PASSWORD}}
        assert (await api.call("PATCH", f"{SECRETS}/vnc", change, type=MERGE)).status == 422


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data": {"a b": ""}}, "data"),
    ({"data": {"a": "not base64"}}, "data.a"),
    ({"data": {"a": 4711}}, "data.a"),
    ({"data": PASSWORD}, "data"),
    ({"stringData": {"a": [PASSWORD]}}, "stringData.a"),
    ({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, "data[tls.key]"),
    ({"type": "kubernetes.io/ssh-auth", "data": {}}, "data[ssh-privatekey]"),
    ({"type": "kubernetes.io/basic-auth", "data": {}}, "data"),
    ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "eA=="}}, "data[.dockercfg]"),
    ({"type": 5}, "type"),
    ({"immutable": "yes"}, "immutable"),
]


@pytest.mark.parametrize(("change", "path"), WRONG)
def test_a_secret_has_kubernetes_rules_and_no_problem_shows_a_value(
    change: dict[str, Any], path: str
) -> None:
    good = {**secret(), "metadata": {"name": "a.b", "namespace": "default"}}
    assert decode(good)[1] == []
    problems = decode({**good, **change})[1]
    assert [problem.path for problem in problems] == [path]
    assert not any(word in str(problem) for problem in problems for word in (PASSWORD, "4711", "not base64"))


async def test_a_secret_over_the_bound_of_a_document_is_refused(api: Api) -> None:
    reply = await api.call("POST", SECRETS, secret(stringData={"big": "x" * (200 << 10)}))
    assert reply.status == 413, reply.text


async def test_what_is_immutable_stays_and_a_type_is_for_good(api: Api) -> None:
    await made(api, secret())
    reply = await api.call("PATCH", f"{SECRETS}/vnc", {"type": "example.org/own"}, type=MERGE)
    assert (reply.status, "cannot be changed" in reply.causes["type"]) == (422, True)
    assert (await api.call("PATCH", f"{SECRETS}/vnc", {"immutable": True}, type=MERGE)).status == 200
    for change in ({"data": {"password": "eA=="}}, {"immutable": False}):
        reply = await api.call("PATCH", f"{SECRETS}/vnc", change, type=MERGE)
        assert "it is immutable" in reply.causes[next(iter(change))]
    label = {"metadata": {"labels": {"a": "b"}}}
    assert (await api.call("PATCH", f"{SECRETS}/vnc", label, type=MERGE)).status == 200


async def test_a_table_shows_how_many_keys_and_never_what(api: Api) -> None:
    await made(api, secret())
    reply = await api.call("GET", SECRETS, Accept=TABLE)
    assert [c["name"] for c in reply.body["columnDefinitions"]] == ["Name", "Type", "Data", "Age"]
    assert reply.body["rows"][0]["cells"][:3] == ["vnc", "Opaque", "1"]
    assert in_base64(PASSWORD) not in reply.text
    typed = await api.call("GET", f"{SECRETS}?fieldSelector=type%3Dkubernetes.io%2Ftls")
    assert typed.body["items"] == []


async def test_a_patch_that_fails_quotes_nothing_of_the_secret(api: Api) -> None:
    await made(api, secret())
    for change in (
        [{"op": "replace", "path": "/data/nothing", "value": "eA=="}],
        [{"op": "test", "path": "/data/password", "value": "eA=="}],
        [{"op": "remove", "path": "/nothing/password"}],
        [{"op": "copy", "from": "/nothing", "path": "/data/a"}],
        [{"op": "add", "path": "/data/password/deeper", "value": "eA=="}],
    ):
        reply = await api.call("PATCH", f"{SECRETS}/vnc", change, type=JSON_PATCH)
        assert reply.status == 422, reply.text
        assert in_base64(PASSWORD) not in reply.text


def test_a_difference_of_secrets_says_that_it_is_one_and_not_which() -> None:
    old = {**secret(), "data": {"same": "AAAA", "other": in_base64(PASSWORD), "old": "eA=="}}
    new = {**secret(), "data": {"same": "AAAA", "other": "bmV3", "new": "eQ=="}}
    text = "".join(Difference("secret/vnc", "secrets/default/vnc", old, new).lines)
    assert "-  other: '*** (before)'" in text.replace('"', "'")
    assert "+  other: '*** (after)'" in text.replace('"', "'")
    for value in (in_base64(PASSWORD), "bmV3", "AAAA", "eA==", "eQ=="):
        assert value not in text
    gone = "".join(Difference("secret/vnc", "secrets/default/vnc", old, None).lines)
    assert in_base64(PASSWORD) not in gone and "***" in gone


def test_describe_says_how_long_the_values_are() -> None:
    text = "\n".join(described(secret(type="Opaque"), None))
    assert f"{len(PASSWORD)} bytes" in text
    assert in_base64(PASSWORD) not in text


def test_what_is_no_text_stays_to_be_refused_by_name() -> None:
    odd = {**HEAD, "stringData": {"a": 1, "b": "x"}, "data": {"c": "eA=="}}
    assert without_string_data(odd) == {
        **HEAD,
        "data": {"c": "eA==", "b": in_base64("x")},
        "stringData": {"a": 1},
    }
    for same in ({**HEAD, "stringData": "x"}, {**HEAD, "data": [1], "stringData": {"a": "b"}}):
        assert without_string_data(same) == same


async def test_the_audit_log_has_who_changed_a_secret_and_nothing_of_it(api: Api) -> None:
    await made(api, secret())
    await api.call("PATCH", f"{SECRETS}/vnc", {"stringData": {"password": PASSWORD * 2}}, type=MERGE)
    text = api.audit_log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["objectRef"]["resource"] for line in lines} == {"secrets"}
    assert PASSWORD not in text and in_base64(PASSWORD) not in text


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_but_the_secret_itself_ever_shows_its_values(
    api: Api, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """Random passwords through every verb, well-formed and not; then all that came out is searched."""
    rng = random.Random(seed)
    caplog.set_level(logging.DEBUG)
    words = ["".join(rng.choices("abcdefghijkmnpqrstuvwxyzABCDEF_-.:/@!", k=14)) for _ in range(6)]
    heard: list[str] = []
    watched = asyncio.create_task(_tables(api, heard))
    data = [{"password": in_base64(word)} for word in words]
    texts = [{"password": word} for word in words]
    one, other = f"{SECRETS}/vnc", f"{SECRETS}/none"
    applied = {**HEAD, "metadata": {"name": "vnc"}, "data": data[3]}
    calls: list[tuple[str, str, Any, str]] = [
        ("PATCH", one, {"stringData": texts[1]}, MERGE),
        ("PATCH", one, {"stringData": words[2]}, MERGE),
        ("PATCH", one, {"data": texts[3]}, MERGE),
        ("PATCH", one, {"data": {"a b": words[1]}, "type": words[2]}, MERGE),
        ("PATCH", one, [{"op": "test", "path": "/data/password", "value": words[4]}], JSON_PATCH),
        ("PATCH", one, [{"op": "add", "path": "/data", "value": words[4]}], JSON_PATCH),
        ("PATCH", f"{one}?fieldManager=a", applied, APPLY),
        ("PATCH", f"{one}?fieldManager=b", {**applied, "data": data[4]}, APPLY),
        ("PATCH", f"{one}?fieldManager=b", {**applied, "data": {"password": 5}}, APPLY),
        ("PUT", one, {**secret(), "data": texts[5]}, "application/json"),
        ("PUT", other, secret("none", data=data[5]), "application/json"),
        ("POST", SECRETS, secret("vnc", data=data[5]), "application/json"),
        ("POST", SECRETS, secret("b", type="kubernetes.io/tls", data=data[5]), "application/json"),
        ("DELETE", one, {"preconditions": {"uid": "x"}}, "application/json"),
        ("DELETE", other, None, "application/json"),
    ]
    await made(api, secret(data=data[0]))
    for method, path, body, kind in calls:
        sent = await api.call(method, path, body, type=kind)
        assert sent.status < 500, sent.text
        if sent.status >= 400:
            heard += [sent.text, *sent.warnings]
    for path in (SECRETS, "/api/v1/secrets"):
        heard.append((await api.call("GET", path, Accept=TABLE)).text)
    heard += [
        (await api.call("GET", path)).text for path in ("/metrics", "/api/v1/events", "/openapi/v3/api/v1")
    ]
    assert (await api.call("DELETE", one)).status == 200
    await asyncio.wait_for(watched, 10)
    heard += [api.audit_log.read_text(), caplog.text]
    assert len(heard) > 15
    for text in heard:
        for word in words:
            assert word not in text and in_base64(word) not in text, text


async def test_who_may_not_read_a_secret_is_shown_nothing_of_it_by_whatever_he_does(api: Api) -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(secret())}
    await made(api, secret(metadata={"name": "vnc", "finalizers": ["a/b"], "annotations": applied}))
    await give(api, rule("patch update delete deletecollection dryrun", "secrets", ""))
    one, whole = f"{SECRETS}/vnc", (await api.call("GET", f"{SECRETS}/vnc")).body
    config = {**HEAD, "metadata": {"name": "vnc", "labels": {"a": "b"}}}
    calls: list[tuple[str, str, Any, str]] = [
        ("PATCH", f"{one}?dryRun=All", {}, MERGE),
        ("PATCH", one, {"metadata": {"labels": {"x": "y"}}}, MERGE),
        ("PATCH", f"{one}?fieldManager=me", config, APPLY),
        ("PUT", f"{one}?dryRun=All", {**whole, "metadata": {"name": "vnc"}}, "application/json"),
        ("DELETE", f"{SECRETS}?dryRun=All", None, "application/json"),
        ("DELETE", one, None, "application/json"),
        ("DELETE", one, None, "application/json"),
    ]
    for method, path, body, kind in calls:
        reply = await as_bob(api, method, path, body, type=kind)
        assert (reply.status, in_base64(PASSWORD) in reply.text) == (200, False), (method, path, reply.text)
        assert '"vnc"' in reply.text
    assert in_base64(PASSWORD) in (await api.call("PATCH", f"{one}?dryRun=All", {}, type=MERGE)).text


@pytest.mark.parametrize("verb", ["dryrun", "patch"])
async def test_no_json_patch_reads_a_secret_for_who_may_not(api: Api, verb: str) -> None:
    await made(api, secret())
    await give(api, rule(verb, "secrets", ""))
    path = f"{SECRETS}/vnc?dryRun=All"
    kept, held = "/metadata/annotations", "/data/password"
    reading: list[list[dict[str, Any]]] = [
        [{"op": "add", "path": kept, "value": {}}, {"op": "copy", "from": held, "path": f"{kept}/a"}],
        [{"op": "add", "path": kept, "value": {}}, {"op": "move", "from": held, "path": f"{kept}/a"}],
        [{"op": "move", "from": "/data", "path": kept}],
        [{"op": "test", "path": held, "value": in_base64(PASSWORD)}],
        [{"op": "test", "path": held, "value": "x"}],
    ]
    for operations in reading:
        reply = await as_bob(api, "PATCH", path, operations, type=JSON_PATCH)
        assert (reply.status, reply.body["reason"]) == (403, "Forbidden"), reply.text
        assert in_base64(PASSWORD) not in reply.text
        assert '"get"' in reply.body["message"]
    written = [{"op": "replace", "path": held, "value": in_base64("new")}]
    assert (await as_bob(api, "PATCH", path, written, type=JSON_PATCH)).status == 200
    assert in_base64(PASSWORD) in (await api.call("PATCH", path, reading[0], type=JSON_PATCH)).text


async def _tables(api: Api, heard: list[str]) -> None:
    """What a terminal that watches is sent, to the end of the secret."""
    async with api.watch(f"{SECRETS}?watch=1", Accept=TABLE) as events:
        async for event in events:
            heard.append(json.dumps(event))
            if event["type"] == "DELETED":
                return
