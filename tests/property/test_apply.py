"""What must hold of any sequence of applies and updates, over objects that Hypothesis invents."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.fieldsets import flatten, from_v1, shown, to_v1
from controller.api.managed import (
    APPLY,
    UPDATE,
    Application,
    Conflicts,
    Manager,
    Owned,
    applied,
    shape_for,
    tracked,
    updated,
)

SHAPE = shape_for("Domain")
NAMES = ("a", "b", "c")


def optional(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


def devices(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries({"name": st.sampled_from(NAMES)}, optional=fields)
    return st.lists(one, min_size=1, max_size=3, unique_by=lambda item: item["name"])


WORDS = st.sampled_from(("x", "y"))
SPECS = optional(
    {
        "memory": WORDS,
        "vcpus": st.integers(1, 2),
        "os": optional({"arch": WORDS, "machine": WORDS}).filter(bool),
        "disks": devices(
            {"bus": WORDS, "source": optional({"file": WORDS, "shared": st.booleans()}).filter(bool)}
        ),
        "interfaces": devices({"network": WORDS}),
        "shutdown": st.lists(st.fixed_dictionaries({"method": WORDS}), min_size=1, max_size=2),
        "placement": optional({"nodeSelector": optional({"r": WORDS, "s": WORDS}).filter(bool)}).filter(bool),
    }
)
METADATA = optional(
    {
        "labels": optional({"l": WORDS, "m": WORDS}).filter(bool),
        "finalizers": st.lists(st.sampled_from(("f/1", "f/2", "f/3")), min_size=1, unique=True),
    }
)


def body(metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {"apiVersion": "domctl.io/v1", "kind": "Domain"}
    return {**whole, "metadata": {"name": "d", **metadata}, **({"spec": spec} if spec else {})}


BODIES = st.builds(body, METADATA, SPECS)
STATE = tuple[dict[str, Any], dict[Manager, Owned]]
BLANK: STATE = (body({}, {}), {})


def fields(whole: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """An object as what it says, whatever the order of items."""
    return flatten(tracked(whole, ""), SHAPE)


def apply(state: STATE, who: str, config: dict[str, Any], *, force: bool = False) -> STATE:
    return applied(state[0], Application(Manager(APPLY, who), config, "t", force), state[1])


def update(state: STATE, who: str, after: dict[str, Any]) -> STATE:
    return after, updated(state[0], after, state[1], Manager(UPDATE, who), "t")


STEPS = st.lists(st.tuples(st.sampled_from(("one", "two", "edit")), BODIES), max_size=6)


def reached(steps: list[tuple[str, dict[str, Any]]]) -> STATE:
    """Some history: forced applies of two managers and updates of a third."""
    state = BLANK
    for who, said in steps:
        if who == "edit" and state[1]:
            state = update(state, who, said)
        elif who != "edit":
            state = apply(state, who, said, force=True)
    return state


@settings(deadline=None, max_examples=60)
@given(STEPS, BODIES)
def test_applying_again_changes_nothing(
    steps: list[tuple[str, dict[str, Any]]], config: dict[str, Any]
) -> None:
    once = apply(reached(steps), "one", config, force=True)
    assert apply(once, "one", config) == once


@settings(deadline=None, max_examples=60)
@given(STEPS, BODIES)
def test_a_forced_apply_says_what_it_said_and_ends_all_conflicts(
    steps: list[tuple[str, dict[str, Any]]], config: dict[str, Any]
) -> None:
    live, managers = apply(reached(steps), "one", config, force=True)
    said, found = fields(config), fields(live)
    assert {path: found.get(path) for path in said} == said
    for who, owned in managers.items():
        assert owned.fields, "no manager without fields"
        if who != Manager(APPLY, "one"):
            assert owned.fields <= found.keys(), "nobody owns what is not there"


@settings(deadline=None, max_examples=60)
@given(STEPS, BODIES)
def test_applying_and_then_giving_all_up_returns_to_what_the_others_said(
    steps: list[tuple[str, dict[str, Any]]], config: dict[str, Any]
) -> None:
    others = [(who, said) for who, said in steps if who != "one"]
    before = reached(others)
    try:
        during = apply(before, "one", config)
    except Conflicts:
        return
    after = apply(during, "one", body({}, {}))
    owned = frozenset().union(*(o.fields for o in before[1].values()))
    unowned = fields(before[0]).keys() - owned
    shared = unowned & fields(config).keys()
    left = fields(after[0])
    assert left.keys() >= fields(before[0]).keys() - shared - {p for p in unowned if covered(p, shared)}
    assert left.keys() <= fields(before[0]).keys(), "nothing of it stays"
    assert all(fields(before[0])[path] == value for path, value in left.items())
    if before[1]:
        assert after[1] == before[1]


def covered(path: tuple[str, ...], gone: Any) -> bool:
    """Whether an item that nobody owned, and so went, held it."""
    return any(path[: len(one)] == one for one in gone)


@settings(deadline=None, max_examples=60)
@given(STEPS, BODIES)
def test_no_item_is_left_that_says_nothing_but_its_key(
    steps: list[tuple[str, dict[str, Any]]], config: dict[str, Any]
) -> None:
    """What one manager alone has applied goes whole, and no list or map that it began stays empty."""
    state = apply(BLANK, "one", config)
    state = apply(state, "one", body({}, {}))
    assert state == BLANK


@settings(deadline=None, max_examples=60)
@given(BODIES, BODIES)
def test_the_order_of_managers_does_not_matter_where_they_do_not_conflict(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    try:
        a = apply(apply(BLANK, "one", first), "two", second)
    except Conflicts:
        return
    b = apply(apply(BLANK, "two", second), "one", first)
    assert fields(a[0]) == fields(b[0])
    assert a[1] == b[1]


@settings(deadline=None, max_examples=60)
@given(BODIES, BODIES)
def test_a_conflict_is_the_same_seen_from_both_sides(first: dict[str, Any], second: dict[str, Any]) -> None:
    def conflicting(one: dict[str, Any], two: dict[str, Any]) -> set[str]:
        try:
            apply(apply(BLANK, "one", one), "two", two)
        except Conflicts as conflicts:
            return {path for _, path in conflicts.listed()}
        return set()

    assert conflicting(first, second) == conflicting(second, first)
    said, other = fields(first), fields(second)
    assert conflicting(first, second) == {shown(p) for p in said.keys() & other.keys() if said[p] != other[p]}


@settings(deadline=None, max_examples=60)
@given(BODIES)
def test_sets_of_fields_survive_fields_v1(config: dict[str, Any]) -> None:
    found = frozenset(fields(config))
    assert from_v1(to_v1(found)) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("name", "spec", "disks", "labels", "metadata", "os", "x")), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(JSON, JSON)
def test_values_of_any_type_are_merged_without_failing(live: Any, config: Any) -> None:
    one = {**body({}, {}), "spec": live}
    apply(apply(BLANK, "one", one, force=True), "two", {**body({}, {}), "spec": config}, force=True)
