"""Options of lists and watches as Kubernetes reads them: refused where they cannot be meant, not ignored."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api.errors import ApiError
from controller.api.listoptions import of_list, of_watch
from tests.apiserver import DOMAINS, Api, domain

MATCH, INITIAL = "resourceVersionMatch", "sendInitialEvents"
# what is asked for, and the fields of the refusal's causes (none: it is taken)
LISTS: list[tuple[dict[str, str], list[str]]] = [
    ({}, []),
    ({"resourceVersion": "0"}, []),
    ({"resourceVersion": "5", MATCH: "Exact"}, []),
    ({"resourceVersion": "0", MATCH: "NotOlderThan", "limit": "5"}, []),
    ({"continue": "t", "resourceVersion": "0"}, []),
    ({MATCH: "Exact"}, [MATCH]),
    ({MATCH: "NotOlderThan", "resourceVersion": ""}, [MATCH]),
    ({MATCH: "exact", "resourceVersion": "5"}, [MATCH]),
    ({MATCH: "Exact", "resourceVersion": "0"}, [MATCH]),
    ({MATCH: "Sometimes", "continue": "t"}, [MATCH, MATCH, MATCH]),
    ({MATCH: "NotOlderThan", "resourceVersion": "0", "continue": "t"}, [MATCH]),
    ({INITIAL: "true"}, [INITIAL]),
    ({INITIAL: "false"}, [INITIAL]),
]
WATCHES: list[tuple[dict[str, str], list[str]]] = [
    ({}, []),
    ({"resourceVersion": "5", "allowWatchBookmarks": "true"}, []),
    ({INITIAL: "true", MATCH: "NotOlderThan"}, []),
    ({INITIAL: "false", MATCH: "NotOlderThan", "resourceVersion": "5"}, []),
    ({INITIAL: "true"}, [MATCH]),
    ({INITIAL: "false"}, [MATCH]),
    ({INITIAL: "true", MATCH: "Exact"}, [MATCH, MATCH]),
    ({MATCH: "NotOlderThan"}, [MATCH]),
    ({INITIAL: "true", MATCH: "NotOlderThan", "continue": "t"}, [MATCH]),
]


@pytest.mark.parametrize(
    ("read", "query", "fields"),
    [*((of_list, *row) for row in LISTS), *((of_watch, *row) for row in WATCHES)],
)
def test_options_that_cannot_be_meant_are_refused_with_every_cause(
    read: Any, query: dict[str, str], fields: list[str]
) -> None:
    if not fields:
        read(query)
        return
    with pytest.raises(ApiError) as caught:
        read(query)
    assert caught.value.code == 422
    assert [cause["field"] for cause in caught.value.details["causes"]] == fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("True", True), ("1", True), ("", True), ("0", False), ("False", False), (None, None)],
)
async def test_a_flag_is_set_by_anything_but_false_and_0(
    api: Api, text: str | None, expected: bool | None
) -> None:
    query = {} if text is None else {INITIAL: text}
    if expected is not None:
        assert of_watch({**query, MATCH: "NotOlderThan"}).initial is expected
    asked = "" if text is None else f"?watch={text}&timeoutSeconds=1"
    reply = await api.call("GET", f"{DOMAINS}{asked}")
    assert (reply.status, reply.text == "") == (200, expected is True)


@pytest.mark.parametrize(
    "query",
    ["resourceVersion={}", "resourceVersion={}&resourceVersionMatch=Exact", "resourceVersion={}&limit=1"],
)
async def test_a_revision_that_the_store_has_not_reached_is_told_as_such(api: Api, query: str) -> None:
    """Not answered with what there is: whoever has seen that revision would see the past."""
    rv = int((await api.call("POST", DOMAINS, domain("a"))).rv)
    assert (await api.call("GET", f"{DOMAINS}?{query.format(rv)}")).status == 200
    reply = await api.call("GET", f"{DOMAINS}?{query.format(rv + 1000)}")
    assert (reply.status, reply.body["reason"]) == (504, "Timeout"), reply.text
    assert reply.body["message"] == f"Too large resource version: {rv + 1000}, current: {rv}"
    assert [cause["reason"] for cause in reply.body["details"]["causes"]] == ["ResourceVersionTooLarge"]


async def test_an_object_of_a_revision_that_the_store_has_not_reached_is_told_as_such(api: Api) -> None:
    rv = int((await api.call("POST", DOMAINS, domain("a"))).rv)
    for asked in ("", "0", "1", rv):
        assert (await api.call("GET", f"{DOMAINS}/a?resourceVersion={asked}")).status == 200, asked
    newest = int((await api.call("POST", DOMAINS, domain("b"))).rv)
    assert (await api.call("GET", f"{DOMAINS}/a?resourceVersion={newest}")).status == 200
    assert (await api.call("GET", f"{DOMAINS}/none?resourceVersion={newest}")).status == 404
    for name in ("a", "none"):
        reply = await api.call("GET", f"{DOMAINS}/{name}?resourceVersion={newest + 1}")
        assert (reply.status, reply.body["reason"]) == (504, "Timeout"), reply.text
        assert [cause["reason"] for cause in reply.body["details"]["causes"]] == ["ResourceVersionTooLarge"]
    assert (await api.call("GET", f"{DOMAINS}/a?resourceVersion=new")).status == 400


async def test_a_watch_does_not_begin_with_less_than_was_seen(api: Api) -> None:
    rv = int((await api.call("POST", DOMAINS, domain("a"))).rv)
    query = f"watch=1&{INITIAL}=true&{MATCH}=NotOlderThan&resourceVersion={rv + 1000}"
    assert (await api.call("GET", f"{DOMAINS}?{query}")).status == 504


async def test_a_page_of_a_revision_is_of_just_that_one(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    await api.call("POST", DOMAINS, domain("b"))
    page = await api.call("GET", f"{DOMAINS}?limit=5&resourceVersion={rv}")
    assert [item["metadata"]["name"] for item in page.body["items"]] == ["a"] and page.rv == rv
    whole = await api.call("GET", f"{DOMAINS}?resourceVersion={rv}")
    assert [item["metadata"]["name"] for item in whole.body["items"]] == ["a", "b"]


async def test_a_page_goes_on_at_its_own_revision_alone(api: Api) -> None:
    for name in ("a", "b"):
        await api.call("POST", DOMAINS, domain(name))
    first = await api.call("GET", f"{DOMAINS}?limit=1")
    path = f"{DOMAINS}?limit=1&continue={first.body['metadata']['continue']}"
    refused = await api.call("GET", f"{path}&resourceVersion={first.rv}")
    assert (refused.status, "not allowed when using continue" in refused.text) == (400, True)
    assert (await api.call("GET", f"{path}&resourceVersion=0")).status == 200


async def test_a_watch_that_wants_no_initial_events_is_told_none(api: Api) -> None:
    await api.call("POST", DOMAINS, domain("a"))
    async with api.watch(f"{DOMAINS}?watch=1&{INITIAL}=false&{MATCH}=NotOlderThan") as events:
        await api.call("POST", DOMAINS, domain("b"))
        assert (await anext(events))["object"]["metadata"]["name"] == "b"
