"""Who may do what, as a table: each row is a role, a question and Kubernetes' answer."""

from __future__ import annotations

import contextlib
import gc
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.rbac import (
    Ask,
    Binding,
    Holder,
    Policy,
    Rule,
    TooWide,
    User,
    allows,
    rule_of,
    rule_text,
    uncovered,
)

BOB = User("bob", ("dev", "system:authenticated"))
G = "domctl.io"
READ = ("get", "list", "watch")


def ask(verb: str, resource: str, name: str = "", namespace: str = "default", group: str = G) -> Ask:
    plain, _, sub = resource.partition("/")
    return Ask(verb, group, plain, sub, namespace, name)


RULES = [
    # rule, question, answer
    (Rule(READ, (G,), ("domains",)), ask("get", "domains", "web"), True),
    (Rule(READ, (G,), ("domains",)), ask("delete", "domains", "web"), False),
    (Rule(READ, (G,), ("domains",)), ask("get", "nodes"), False),
    (Rule(READ, ("",), ("domains",)), ask("get", "domains"), False),
    (Rule(("*",), (G,), ("domains",)), ask("confiscate", "domains"), True),
    (Rule(READ, ("*",), ("domains",)), ask("get", "domains", group="other.io"), True),
    # subresources are named on their own
    (Rule(READ, (G,), ("domains",)), ask("get", "domains/status", "web"), False),
    (Rule(READ, (G,), ("domains/status",)), ask("get", "domains/status", "web"), True),
    (Rule(READ, (G,), ("domains/status",)), ask("get", "domains", "web"), False),
    (Rule(READ, (G,), ("*",)), ask("get", "domains/status", "web"), True),
    (Rule(READ, (G,), ("*/status",)), ask("get", "domains/status", "web"), True),
    (Rule(READ, (G,), ("*/scale",)), ask("get", "domains/status", "web"), False),
    (Rule(READ, (G,), ("*/status",)), ask("get", "status", "web"), False),
    (Rule(READ, (G,), ("domains/*",)), ask("get", "domains/status", "web"), False),  # no wildcard there
    (Rule(READ, (G,), ("dom*",)), ask("get", "domains", "web"), False),
    # names: a collection, or a new object, has none
    (Rule(READ, (G,), ("domains",), ("web",)), ask("get", "domains", "web"), True),
    (Rule(READ, (G,), ("domains",), ("web",)), ask("get", "domains", "web-2"), False),
    (Rule(READ, (G,), ("domains",), ("web",)), ask("list", "domains"), False),
    (Rule(("create",), (G,), ("domains",), ("web",)), ask("create", "domains"), False),
    (Rule(READ, (G,), ("domains",), ("*",)), ask("get", "domains", "web"), False),
    # paths
    (Rule(("get",), paths=("/metrics",)), Ask("get", path="/metrics"), True),
    (Rule(("get",), paths=("/metrics",)), Ask("get", path="/metrics/x"), False),
    (Rule(("get",), paths=("/apis/*",)), Ask("get", path="/apis/domctl.io"), True),
    (Rule(("get",), paths=("/apis/*",)), Ask("get", path="/apis"), False),
    (Rule(("get",), paths=("/api*",)), Ask("get", path="/apis"), True),
    (Rule(("get",), paths=("*",)), Ask("post", path="/apis"), False),
    (Rule(("*",), paths=("*",)), Ask("post", path="/apis"), True),
    # neither kind of rule reaches into the other
    (Rule(("*",), ("*",), ("*",)), Ask("get", path="/metrics"), False),
    (Rule(("*",), paths=("*",)), ask("get", "domains"), False),
    (Rule((), ("*",), ("*",)), ask("get", "domains"), False),
    (Rule(("*",), ("*",), ()), ask("get", "domains"), False),
]


@pytest.mark.parametrize(("rule", "question", "answer"), RULES)
def test_a_rule_matches_as_on_kubernetes(rule: Rule, question: Ask, answer: bool) -> None:
    assert allows(rule, question) is answer


VIEW = (Rule(READ, (G,), ("domains",)),)
ROLES = {("", "view"): VIEW, ("default", "local"): VIEW, ("prod", "local"): VIEW}


def bound(holder: Holder, role: str = "view", kind: str = "ClusterRole", namespace: str = "") -> Policy:
    return Policy(ROLES, (Binding("b", namespace, kind, role, (holder,)),))


USER, GROUP = Holder("User", "bob"), Holder("Group", "dev")
BINDINGS = [
    (bound(USER), "default", 'ClusterRoleBinding "b" of ClusterRole "view" to User "bob"'),
    (bound(GROUP), "default", 'ClusterRoleBinding "b" of ClusterRole "view" to Group "dev"'),
    (bound(USER), "", 'ClusterRoleBinding "b" of ClusterRole "view" to User "bob"'),
    (bound(Holder("User", "eve")), "default", None),
    (bound(Holder("Group", "bob")), "default", None),  # a group is no user of that name
    (bound(Holder("User", "dev")), "default", None),
    (
        bound(USER, namespace="default"),
        "default",
        'RoleBinding "b/default" of ClusterRole "view" to User "bob"',
    ),
    (bound(USER, namespace="default"), "prod", None),
    (bound(USER, namespace="default"), "", None),  # all namespaces are more than one
    (
        bound(USER, "local", "Role", "default"),
        "default",
        'RoleBinding "b/default" of Role "local" to User "bob"',
    ),
    (bound(USER, "local", "Role", "default"), "prod", None),
    (bound(USER, "view", "Role", "default"), "default", None),  # that is a ClusterRole's name
]


@pytest.mark.parametrize(("policy", "namespace", "by"), BINDINGS)
def test_a_binding_grants_where_and_to_whom_it_says(policy: Policy, namespace: str, by: str | None) -> None:
    verdict = policy.decide(BOB, ask("get", "domains", "web", namespace))
    assert verdict.allowed is (by is not None)
    if by is not None:
        assert verdict.reason == f"RBAC: allowed by {by}"


def test_a_service_account_is_the_user_of_its_long_name() -> None:
    policy = bound(Holder("ServiceAccount", "ci", "prod"))
    assert policy.decide(User("system:serviceaccount:prod:ci"), ask("get", "domains")).allowed
    assert not policy.decide(User("ci"), ask("get", "domains")).allowed


def test_a_role_that_is_not_there_grants_nothing_and_is_named() -> None:
    policy = bound(USER, "gone")
    verdict = policy.decide(BOB, ask("get", "domains"))
    assert not verdict.allowed
    assert verdict.reason == 'RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found'


@pytest.mark.parametrize("group", ["domctl:admins", "system:masters"])
def test_an_administrator_needs_no_binding(group: str) -> None:
    admin = User("root", (group,))
    for question in (ask("delete", "nodes", "hv1"), Ask("get", path="/metrics"), ask("use", "domains/xml")):
        assert Policy().decide(admin, question).allowed
        assert not Policy().decide(User("root"), question).allowed


COVERED = [
    # wanted, held, what of it is not covered
    (VIEW, VIEW, 0),
    (VIEW, (Rule(("*",), ("*",), ("*",)),), 0),
    (VIEW, (Rule(("get",), (G,), ("domains",)), Rule(("list", "watch"), (G,), ("*",))), 0),
    (VIEW, (Rule(("get",), (G,), ("domains",)),), 2),
    (VIEW, (Rule(READ, (G,), ("domains",), ("web",)),), 3),
    ((Rule(READ, (G,), ("domains",), ("web",)),), VIEW, 0),
    ((Rule(("get",), (G,), ("domains",), ("a", "b")),), (Rule(("get",), (G,), ("domains",), ("a",)),), 1),
    ((Rule(("*",), (G,), ("domains",)),), VIEW, 1),
    ((Rule(("get",), ("*",), ("domains",)),), VIEW, 1),
    ((Rule(("get",), (G,), ("*",)),), VIEW, 1),
    ((Rule(("get",), (G,), ("domains/xml",)),), VIEW, 1),
    ((Rule(("get",), (G,), ("domains/xml",)),), (Rule(("get",), (G,), ("*/xml",)),), 0),
    ((Rule(("get",), paths=("/a/*",)),), (Rule(("get",), paths=("/a*",)),), 0),
    ((Rule(("get",), paths=("/a*",)),), (Rule(("get",), paths=("/a/*",)),), 1),
    ((Rule(("get",), paths=("*",)),), (Rule(("*",), ("*",), ("*",)),), 1),
]


@pytest.mark.parametrize(("wanted", "held", "count"), COVERED)
def test_rights_are_covered_piece_by_piece(
    wanted: tuple[Rule, ...], held: tuple[Rule, ...], count: int
) -> None:
    assert len(uncovered(wanted, held)) == count


def words(count: int, start: str = "w") -> tuple[str, ...]:
    return tuple(f"{start}{n}" for n in range(count))


WIDE = [
    (Rule(words(300), words(300), words(300), words(300)),),  # eight thousand million pieces
    (Rule(words(20), words(20), words(20)),) * 40,
    (Rule(words(700), paths=words(700)),),
    tuple(Rule((verb,), ("",), ("pods",)) for verb in words(1400)),
]


@pytest.mark.parametrize("wanted", WIDE, ids=["one rule", "many rules", "paths", "many small ones"])
@pytest.mark.parametrize("held", [VIEW, tuple(Rule(words(2), ("w1",), (one,)) for one in words(1000))])
def test_rules_that_multiply_are_not_taken_apart(wanted: tuple[Rule, ...], held: tuple[Rule, ...]) -> None:
    gc.collect()
    began = time.thread_time()
    with contextlib.suppress(TooWide):
        assert uncovered(wanted, held)
    assert time.thread_time() - began < 0.1
    with pytest.raises(TooWide):
        uncovered(WIDE[0], held)
    assert uncovered(WIDE[0], (Rule(("*",), ("*",), ("*",)),)) == (), "held as a whole"


def test_a_rule_reads_as_kubernetes_writes_it() -> None:
    rule = Rule(("get", "use"), (G,), ("domains",), ("web",))
    assert rule_text(rule) == (
        '{APIGroups:["domctl.io"], Resources:["domains"], ResourceNames:["web"], Verbs:["get", "use"]}'
    )


# --- invented policies

VERBS, WORDS, NAMES = ("get", "use", "*"), ("a", "a/s", "*/s", "*"), ("x", "y")
PATHS = ("/p", "/p/*", "/p/q", "*")


def several(words: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(words), max_size=3, unique=True).map(tuple)


rules = st.one_of(
    st.builds(Rule, several(VERBS), several(("", "g", "*")), several(WORDS), several(NAMES)),
    st.builds(Rule, several(VERBS), paths=several(PATHS)),
)
asks = st.one_of(
    st.builds(
        Ask,
        st.sampled_from(("get", "use")),
        st.sampled_from(("", "g")),
        st.sampled_from(("a", "b")),
        st.sampled_from(("", "s", "t")),
        st.sampled_from(("", "n", "m")),
        st.sampled_from(("", *NAMES)),
    ),
    st.builds(Ask, st.sampled_from(("get", "use")), path=st.sampled_from(("/p", "/p/q", "/r"))),
)
holders = st.builds(Holder, st.sampled_from(("User", "Group")), st.sampled_from(("bob", "dev", "eve")))
bindings = st.builds(
    Binding,
    st.just("b"),
    st.sampled_from(("", "n", "m")),
    st.sampled_from(("Role", "ClusterRole")),
    st.sampled_from(("r", "q")),
    st.lists(holders, max_size=2).map(tuple),
)
roles = st.dictionaries(
    st.tuples(st.sampled_from(("", "n", "m")), st.sampled_from(("r", "q"))),
    st.lists(rules, max_size=3).map(tuple),
)


@given(rules, asks)
def test_no_rule_grants_what_it_does_not_name(rule: Rule, question: Ask) -> None:
    if not allows(rule, question):
        return
    assert {question.verb, "*"} & set(rule.verbs)
    if question.path:
        assert any(
            p == question.path or (p[-1] == "*" and question.path.startswith(p[:-1])) for p in rule.paths
        )
        return
    assert {question.group, "*"} & set(rule.groups)
    named = {question.combined, "*"} | ({f"*/{question.subresource}"} if question.subresource else set())
    assert named & set(rule.resources)
    assert not rule.names or question.name in rule.names


@given(roles, st.lists(bindings, max_size=4), bindings, asks)
def test_another_binding_never_takes_a_right_away(
    given_roles: dict[tuple[str, str], tuple[Rule, ...]], held: list[Binding], more: Binding, question: Ask
) -> None:
    before = Policy(given_roles, tuple(held)).decide(BOB, question)
    after = Policy(given_roles, (*held, more)).decide(BOB, question)
    assert after.allowed or not before.allowed


@given(roles, st.lists(bindings, max_size=4), asks)
def test_what_is_allowed_is_exactly_what_is_listed(
    given_roles: dict[tuple[str, str], tuple[Rule, ...]], held: list[Binding], question: Ask
) -> None:
    policy = Policy(given_roles, tuple(held))
    listed = any(allows(rule, question) for rule in policy.rules_of(BOB, question.namespace))
    assert policy.decide(BOB, question).allowed is listed


@given(st.lists(rules, max_size=3), st.lists(rules, max_size=3), asks)
def test_who_grants_only_what_is_covered_gives_nothing_he_has_not(
    wanted: list[Rule], held: list[Rule], question: Ask
) -> None:
    if not uncovered(wanted, tuple(held)) and any(allows(rule, question) for rule in wanted):
        assert any(allows(rule, question) for rule in held)


@given(st.lists(rules, max_size=3), st.lists(rules, max_size=3))
def test_what_is_uncovered_is_each_piece_that_no_single_rule_covers(
    wanted: list[Rule], held: list[Rule]
) -> None:
    lacking = {rule_of(piece) for piece in uncovered(wanted, tuple(held))}
    assert lacking == {
        piece for rule in wanted for piece in apart(rule) if not any(covers(own, piece) for own in held)
    }


def apart(rule: Rule) -> list[Rule]:
    by_path = [Rule((verb,), paths=(path,)) for verb in rule.verbs for path in rule.paths]
    names = [(name,) for name in rule.names] or [()]
    return by_path + [
        Rule((verb,), (group,), (resource,), name)
        for verb in rule.verbs
        for group in rule.groups
        for resource in rule.resources
        for name in names
    ]


def covers(own: Rule, piece: Rule) -> bool:
    """By what it says alone, without the shortcuts of `uncovered`."""

    def named(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
        return "*" in mine or theirs[0] in mine

    if not named(own.verbs, piece.verbs):
        return False
    if piece.paths:
        return any(
            one in ("*", piece.paths[0]) or (one.endswith("*") and piece.paths[0].startswith(one.rstrip("*")))
            for one in own.paths
        )
    _, _, sub = piece.resources[0].partition("/")
    by_sub = bool(sub) and f"*/{sub}" in own.resources
    return (
        named(own.groups, piece.groups)
        and (named(own.resources, piece.resources) or by_sub)
        and (not own.names or (bool(piece.names) and piece.names[0] in own.names))
    )
