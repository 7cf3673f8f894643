"""Strategic merge patches as Kubernetes has them for metadata; and over HTTPS, as kubectl sends them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api.errors import ApiError
from controller.api.strategic import merged
from tests.apiserver import DOMAINS, Api, domain

STRATEGIC = "application/strategic-merge-patch+json"
MAPS = "/api/v1/namespaces/default/configmaps"


def owner(uid: str, **more: Any) -> dict[str, Any]:
    return {"uid": uid, "kind": "Node", "name": uid, "apiVersion": "v1", **more}


FINALIZERS: list[tuple[list[str] | None, dict[str, Any], list[str] | None]] = [
    # what there is, what the patch says of metadata, what there is then
    (["a/x"], {"finalizers": ["b/x"]}, ["a/x", "b/x"]),
    (["a/x"], {"finalizers": ["a/x"]}, ["a/x"]),
    (None, {"finalizers": ["b/x"]}, ["b/x"]),
    (["a/x"], {"finalizers": None}, None),
    (["a/x"], {"finalizers": []}, ["a/x"]),
    (["a/x", "b/x"], {"$deleteFromPrimitiveList/finalizers": ["a/x"]}, ["b/x"]),
    (["a/x"], {"finalizers": ["b/x"], "$deleteFromPrimitiveList/finalizers": ["a/x"]}, ["b/x"]),
    (["a/x"], {"finalizers": ["b/x"], "$setElementOrder/finalizers": ["b/x", "a/x"]}, ["b/x", "a/x"]),
    (["a/x", "b/x"], {"$setElementOrder/finalizers": ["b/x"]}, ["b/x", "a/x"]),
    (None, {"$deleteFromPrimitiveList/finalizers": ["a/x"]}, None),
]


@pytest.mark.parametrize(("before", "says", "after"), FINALIZERS)
def test_finalizers_are_a_set(
    before: list[str] | None, says: dict[str, Any], after: list[str] | None
) -> None:
    current = {"metadata": {"name": "x"} | ({} if before is None else {"finalizers": before})}
    assert merged(current, {"metadata": says})["metadata"].get("finalizers") == after


def test_what_is_set_must_be_among_the_keys_that_are_retained() -> None:
    current = {"data": {"a": "1", "b": "2"}}
    says = {"$retainKeys": ["a", "c"], "c": "3", "b": None}
    assert merged(current, {"data": says}) == {"data": {"a": "1", "c": "3"}}
    with pytest.raises(ApiError, match="does not name 'b'") as refused:
        merged(current, {"data": {"$retainKeys": ["a"], "b": "3"}})
    assert refused.value.code == 400


def test_owners_are_told_apart_by_uid() -> None:
    current = {"metadata": {"ownerReferences": [owner("1"), owner("2")]}}

    def owners(says: list[Any], **more: Any) -> list[Any]:
        found: list[Any] = merged(current, {"metadata": {"ownerReferences": says, **more}})["metadata"][
            "ownerReferences"
        ]
        return found

    assert owners([{"uid": "1", "controller": True}]) == [owner("1", controller=True), owner("2")]
    assert owners([owner("3")]) == [owner("1"), owner("2"), owner("3")]
    assert owners([{"uid": "1", "$patch": "delete"}]) == [owner("2")]
    assert owners([{"$patch": "replace"}, owner("3")]) == [owner("3")]
    order = {"$setElementOrder/ownerReferences": [{"uid": "3"}, {"uid": "2"}]}
    assert owners([owner("3")], **order) == [owner("3"), owner("2"), owner("1")]
    assert current == {"metadata": {"ownerReferences": [owner("1"), owner("2")]}}


@pytest.mark.parametrize(
    ("says", "after"),
    [
        ({"data": {"b": "2", "a": None}}, {"data": {"b": "2"}, "rules": [1, 2]}),
        ({"rules": [3]}, {"data": {"a": "1"}, "rules": [3]}),
        ({"data": {"$patch": "replace", "c": "3", "d": None}}, {"data": {"c": "3"}, "rules": [1, 2]}),
        ({"data": {"$patch": "delete"}}, {"data": {}, "rules": [1, 2]}),
        ({"data": {"$patch": "merge", "b": "2"}}, {"data": {"a": "1", "b": "2"}, "rules": [1, 2]}),
        ({"data": {"$retainKeys": ["b"], "b": "2"}}, {"data": {"b": "2"}, "rules": [1, 2]}),
        (
            {"status": {"$setElementOrder/conditions": []}},
            {"data": {"a": "1"}, "rules": [1, 2], "status": {}},
        ),
    ],
)
def test_all_else_is_merged_as_a_merge_patch_is(says: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged({"data": {"a": "1"}, "rules": [1, 2]}, says) == after


@pytest.mark.parametrize(
    "says",
    [
        {"data": {"$patch": "shuffle"}},
        {"$setElementOrder/rules": [1]},
        {"metadata": {"$setElementOrder/labels": ["a"]}},
        {"metadata": {"$setElementOrder/finalizers": "a/x"}},
        {"metadata": {"$setElementOrder/finalizers": [{}]}},
        {"metadata": {"$retainKeys": "name"}},
        {"metadata": {"$replace": {}}},
        {"metadata": {"finalizers": ["a/x", 1]}},
        {"metadata": {"ownerReferences": [{"name": "x"}]}},
    ],
)
def test_words_without_a_meaning_are_refused(says: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        merged({"metadata": {"finalizers": ["a/x"]}}, says)
    assert caught.value.code == 400


async def test_what_kubectl_takes_away_goes_and_what_others_added_stays(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["a/x", "b/x"]}}
    await api.call("POST", MAPS, body)
    says = {
        "$deleteFromPrimitiveList/finalizers": ["a/x"],
        "$setElementOrder/finalizers": ["c/x"],
        "finalizers": ["c/x"],
    }
    reply = await api.call("PATCH", f"{MAPS}/c", {"metadata": says}, type=STRATEGIC)
    assert (reply.status, reply.body["metadata"]["finalizers"]) == (200, ["c/x", "b/x"]), reply.text
    assert "$" not in reply.text and reply.warnings == ()
    refused = await api.call("PATCH", f"{MAPS}/c", {"$setElementOrder/rules": []}, type=STRATEGIC)
    assert refused.status == 400 and "has no meaning there" in refused.text
    await api.call("POST", DOMAINS, domain())
    ours = await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}}, type=STRATEGIC)
    assert ours.status == 415
