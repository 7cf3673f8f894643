"""Rights beyond the verb: what a change needs because of what stands in it.

Some fields make root on a host of whoever sets them, and some objects make more of whoever writes them than
he is. The right to write the object is not enough for those:

    use domains/xml            to set or change spec.xml of a Domain
    use domains/container      to make a container, or to change what one runs or sees of its host
    use nodes/uri              to set or change spec.uri, connection, migrationURI or insecure of a Node
    use nodes/allowedpaths     to let domains name more of a Node's directories
    impersonate users, groups  to create a Token for them
    escalate roles             to write a role with rights that one does not have
    bind roles                 to bind a role with rights that one does not have

Checked after admission, in dry runs too, on the object as it would be stored. What becomes less needs none.

And a right less than the verb: `dryrun` on a resource lets one ask what creating, updating or patching an
object would do (dryRun=All), and do nothing. So a pipeline can compare what nobody has reviewed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from controller.api import errors
from controller.api.aggregation import AGGREGATION
from controller.api.auth import authorize, impersonation
from controller.api.errors import ApiError, Subject
from controller.api.managed import LAST_APPLIED
from controller.api.rbac import EVERYTHING, Ask, Piece, Rules, TooWide, User, rule_of, rule_text, uncovered
from controller.api.requests import Call
from controller.api.resources import Resource
from controller.api.rights import Rights
from controller.api.roles import rules_in
from controller.objects import Body
from specs.hypervisors import HYPERVISORS
from specs.meta import GROUP
from specs.rights import RBAC_GROUP

DRY_RUN: Final = "dryrun"
_TRIED: Final = frozenset({"create", "update", "patch"})  # whose objects are computed before they are stored
_NOTHING: Final[Body] = {}
_SHOWN: Final = 20
_HELD: Final = frozenset({"data", "stringData"})
_READING: Final = frozenset({"copy", "move", "test"})  # operations of a JSON patch


def authorize_call(rights: Rights, call: Call, verb: str = "") -> str:
    """By what the request (or another verb on the same object) is allowed. Raises ApiError (403)."""
    ask = replace(call.ask, verb=verb) if verb else call.ask
    stored = (
        call.target.resource is not None and not ask.subresource
    )  # else there is nothing to try: a review
    if ask.verb in _TRIED and stored and call.dry_run:  # answers whoever may ask, dry or not
        tried = rights.decide(call.user, replace(ask, verb=DRY_RUN))
        if tried.allowed:
            return tried.reason
    return authorize(rights, call.user, ask)


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is empty for a new object."""

    resource: Resource
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        return str(self.after["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        return str(self.after["metadata"]["name"])

    def spec(self, field: str) -> tuple[Any, Any]:
        return (self.before.get("spec") or {}).get(field), (self.after.get("spec") or {}).get(field)

    def use(self, subresource: str) -> Ask:
        return Ask("use", GROUP, self.resource.plural, subresource, self.namespace, self.name)


class Guard:
    def __init__(self, rights: Rights) -> None:
        self._rights = rights

    def check(self, call: Call, before: Body | None, after: Body) -> None:
        """Raises ApiError (403; 404 when a role that is to be bound is not there)."""
        change = Change(call.stored, before or _NOTHING, after)
        if before is None and call.verb != "create":  # a patch that is applied may create, too
            authorize_call(self._rights, call, "create")
        for ask, why in _NEEDED.get(call.stored.kind, _none)(change):
            authorize(self._rights, call.user, ask, why)
        if call.stored.kind in {"Role", "ClusterRole"}:
            self._check_role(call.user, change)
        if call.stored.kind in {"RoleBinding", "ClusterRoleBinding"}:
            self._check_binding(call.user, change)

    def shown(self, call: Call, body: Body) -> Body:
        """What somebody may see of an object that he has written or deleted: of a Secret that he may not
        read, not what it holds. Dry runs of nothing would show it else."""
        if call.stored.kind != "Secret":
            return body
        metadata = body["metadata"]
        if self._reads_secret(call.user, metadata["namespace"], metadata["name"]):
            return body
        annotations = metadata.get("annotations") or {}
        kept = {name: value for name, value in annotations.items() if name != LAST_APPLIED}
        hidden = {**metadata, "annotations": kept} if annotations else metadata
        return {k: v for k, v in {**body, "metadata": hidden}.items() if k not in _HELD}

    def check_patch(self, call: Call, value: object) -> None:
        """Raises ApiError (403) for a JSON patch that would read a Secret for who may not: what is copied or
        moved to a label or an annotation is shown there, and a test says whether a guess is right."""
        if call.stored.kind != "Secret" or not isinstance(value, list):
            return
        asked = {str(one.get("op")) for one in value if isinstance(one, dict)}
        reading = ", ".join(sorted(asked & _READING))
        if reading and not self._reads_secret(call.user, call.target.namespace, call.target.name):
            why = f'a JSON patch with {reading} reads the secret: that takes the verb "get" on it, too'
            raise errors.forbidden(call.subject, why)

    def _reads_secret(self, user: User, namespace: str, name: str) -> bool:
        return self._rights.decide(user, Ask("get", "", "secrets", "", namespace, name)).allowed

    def _check_role(self, user: User, change: Change) -> None:
        """Into a role that is made of others anything may come, whoever wrote that: it takes every right."""
        ask = Ask("escalate", RBAC_GROUP, change.resource.plural, "", change.namespace, change.name)
        if not self._rights.decide(user, ask).allowed:
            made = AGGREGATION in change.before or AGGREGATION in change.after
            self._confirm(user, change, (*rules_in(change.after), *(EVERYTHING if made else ())))

    def _check_binding(self, user: User, change: Change) -> None:
        role = change.after["roleRef"]
        plural = f"{role['kind'].lower()}s"
        if self._rights.decide(
            user, Ask("bind", RBAC_GROUP, plural, "", change.namespace, role["name"])
        ).allowed:
            return
        rules = self._rights.role(change.namespace if role["kind"] == "Role" else "", role["name"])
        if rules is None:
            raise errors.not_found(Subject(plural, role["name"], RBAC_GROUP))
        self._confirm(user, change, rules)

    def _confirm(self, user: User, change: Change, rules: Rules) -> None:
        try:
            lacking = uncovered(rules, self._rights.rules_of(user, change.namespace))
        except TooWide:
            raise errors.forbidden(
                Subject(change.resource.plural, change.name, change.resource.group),
                f'user "{user.name}" is attempting to grant rules that name too many combinations to be '
                "compared with what is held: write less of them into one rule, or ask somebody who may "
                '"escalate" or "bind" roles',
            ) from None
        if lacking:
            raise _escalation(user, change, lacking)


def _escalation(user: User, change: Change, lacking: Sequence[Piece]) -> ApiError:
    groups = " ".join(f'"{group}"' for group in user.groups)
    listed = "\n".join(rule_text(rule_of(piece)) for piece in lacking[:_SHOWN])
    more = f"\nand {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return errors.forbidden(
        Subject(change.resource.plural, change.name, change.resource.group),
        f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently '
        f"held:\n{listed}{more}",
    )


Needed = Iterator[tuple[Ask, str]]


def _none(change: Change) -> Needed:
    yield from ()


def _of_domain(change: Change) -> Needed:
    before, after = change.spec("xml")
    if after is not None and after != before:
        yield change.use("xml"), "spec.xml is as good as root on the host"
    hypervisor = HYPERVISORS.get(change.spec("type")[1])
    fields = [f for f in ("type", "filesystems", "os") if _differs(*change.spec(f))]
    if fields and hypervisor is not None and hypervisor.container:
        listed = " and ".join(f"spec.{field}" for field in fields)
        yield change.use("container"), f"{listed} of a container: its root is root of the host"


def _of_node(change: Change) -> Needed:
    fields = [f for f in ("uri", "connection", "migrationURI", "insecure") if _differs(*change.spec(f))]
    if fields:
        listed = " and ".join(f"spec.{field}" for field in fields)
        yield change.use("uri"), f"{listed} decides which host domctl talks to, and with which keys"
    before, after = change.spec("allowedPaths")
    if set(after or ()) - set(before or ()):
        yield change.use("allowedpaths"), "spec.allowedPaths opens directories of the host to domains"


def _differs(before: Any, after: Any) -> bool:
    return bool(before != after)


def _of_token(change: Change) -> Needed:
    if change.before:
        return  # whom it is for cannot be changed
    spec = change.after["spec"]
    why = "whoever creates a token can be its bearer"
    yield impersonation("users", spec["user"]), why
    for group in spec.get("groups") or ():
        yield impersonation("groups", group), why


_NEEDED: Final[Mapping[str, Callable[[Change], Needed]]] = {
    "Domain": _of_domain,
    "Node": _of_node,
    "Token": _of_token,
}
