"""JSON that says something twice, over HTTPS: told, refused or passed over, as the request asks."""

from __future__ import annotations

import pytest

from tests.apiserver import APPLY, DOMAINS, MERGE, Api, domain

DOUBLED = (
    b'{"apiVersion":"domctl.io/v1","kind":"Domain","metadata":{"name":"web-1"},"spec":{"memory":"1Gi","vcpus":1,'
    b'"disks":[{"name":"a","name":"b","source":{"file":"/b"}}],"vcpus":8,"vcpus":2}}'
)
PATHS = ['duplicate field "spec.disks[0].name"', 'duplicate field "spec.vcpus"']


@pytest.mark.parametrize(("mode", "warned"), [("", 2), ("Warn", 2), ("Ignore", 0)])
async def test_what_is_said_twice_counts_as_said_last_and_is_told_as_asked(
    api: Api, mode: str, warned: int
) -> None:
    reply = await api.call("POST", f"{DOMAINS}?fieldValidation={mode}", DOUBLED)
    assert (reply.status, reply.body["spec"]["vcpus"]) == (201, 2), reply.text
    escaped = [path.replace('"', '\\"') for path in PATHS[:warned]]
    assert list(reply.warnings) == [f'299 - "{path}"' for path in escaped]
    assert (await api.call("GET", f"{DOMAINS}/web-1")).warnings == ()


async def test_what_is_said_twice_is_refused_where_that_is_asked(api: Api) -> None:
    strict = "fieldValidation=Strict"
    refused = await api.call("POST", f"{DOMAINS}?{strict}", DOUBLED)
    said = f'Domain in version "v1" cannot be handled as a Domain: strict decoding error: {", ".join(PATHS)}'
    assert (refused.status, refused.body["reason"], refused.body["message"]) == (400, "BadRequest", said)
    also = await api.call("POST", f"{DOMAINS}?{strict}", DOUBLED.replace(b'"memory"', b'"memroy":1,"memory"'))
    assert (also.status, also.body["message"]) == (
        400,
        f'{said}, unknown field "spec.memroy" (did you mean memory?)',
    )
    wrong = await api.call("POST", f"{DOMAINS}?{strict}", DOUBLED.replace(b'"vcpus":2}', b'"vcpus":0}'))
    assert (wrong.status, wrong.body["reason"]) == (422, "Invalid"), "all that is wrong, at once"
    assert all(path in wrong.body["message"] for path in (*PATHS, "spec.vcpus: must be between"))
    await api.call("POST", DOMAINS, domain())
    path, twice, once = f"{DOMAINS}/web-1", b'{"spec":{"vcpus":4,"vcpus":5}}', b'{"spec":{"vcpus":5}}'
    patched = await api.call("PATCH", f"{path}?{strict}", twice, type=MERGE)
    assert (patched.status, patched.causes) == (
        422,
        {"patch": 'strict decoding error: duplicate field "spec.vcpus"'},
    )
    applied = DOUBLED.replace(b'"vcpus":8,', b"")
    reply = await api.call("PATCH", f"{path}?fieldManager=a&force=1&{strict}", applied, type=APPLY)
    said = f"error strict decoding YAML: {', '.join(PATHS)}"
    assert (reply.status, reply.body["message"]) == (400, said)
    assert "vcpus" not in (await api.call("GET", path)).body["spec"]
    assert (await api.call("PATCH", f"{path}?{strict}", once, type=MERGE)).status == 200


async def test_a_field_that_nothing_has_is_no_part_of_a_whole_object_and_of_no_valid_patch(api: Api) -> None:
    strict = "fieldValidation=Strict"
    said = (
        'Domain in version "v1" cannot be handled as a Domain: strict decoding error: '
        'unknown field "spec.cpus" (did you mean vcpus?)'
    )
    for mode, status in (("", 201), ("Warn", 201), ("Ignore", 201), ("Strict", 400)):
        path = f"{DOMAINS}?dryRun=All&fieldValidation={mode}"
        reply = await api.call("POST", path, domain(cpus=2))
        assert reply.status == status
        told = '299 - "unknown field \\"spec.cpus\\" (did you mean vcpus?)"'
        assert list(reply.warnings) == ([told] if mode in {"", "Warn"} else [])
    assert (reply.body["reason"], reply.body["message"]) == ("BadRequest", said)
    made = (await api.call("POST", DOMAINS, domain())).body
    path = f"{DOMAINS}/web-1?{strict}"
    put = await api.call("PUT", path, {**made, "spec": {"cpus": 2, **made["spec"]}})
    assert (put.status, put.body["message"]) == (400, said)
    patched = await api.call("PATCH", path, {"spec": {"cpus": 2}}, type=MERGE)
    assert (patched.status, "spec.cpus" in patched.causes) == (422, True)
    both = await api.call("POST", f"{DOMAINS}?{strict}", domain("b", cpus=2, vcpus=0))
    assert (both.status, set(both.causes)) == (422, {"spec.cpus", "spec.vcpus"})
