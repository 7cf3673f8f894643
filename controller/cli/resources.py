"""Kinds as users write them, and where they are served.

The kinds that are certain are known here, so that the common commands ask the server nothing extra; any
other word is looked up in the server's discovery, so that later kinds need no new client. Deliberately not
taken from `specs.kinds`: that costs more time than the whole command.
"""

from __future__ import annotations

import copy
from urllib.parse import quote

from controller.cli.errors import CliError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.client import Client

GROUP = "domctl.io"
VERSION = "v1"
UNKNOWN_TYPE = "the server doesn't have a resource type"


class Resource:
    """One collection. `word` is how mutations name it: `domain.domctl.io`. `within`: the namespace that
    a file says, whatever the command says."""

    def __init__(
        self, plural: str, singular: str, kind: str, *, namespaced: bool, short: Sequence[str] = ()
    ) -> None:
        self.plural = plural
        self.singular = singular
        self.kind = kind
        self.namespaced = namespaced
        self.short = short
        self.group = GROUP
        self.version = VERSION
        self.categories: Sequence[str] = ()
        self.within = ""

    @property
    def word(self) -> str:
        return f"{self.singular}.{self.group}" if self.group else self.singular

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def names(self) -> set[str]:
        return {self.plural, self.singular, self.kind.lower(), *self.short}

    def inside(self, namespace: str) -> Resource:
        """The same, of this namespace alone ("" for cluster-scoped kinds)."""
        one = copy.copy(self)
        one.within = namespace
        return one

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """Of the collection in `namespace` ("" for all of a namespaced kind) or of one object."""
        namespace = self.within or namespace
        path = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace:
            path += f"/namespaces/{quote(namespace, safe='')}"
        path += f"/{self.plural}"
        if name:
            path += f"/{quote(name, safe='')}"
        return f"{path}/{sub}" if sub else path


DOMAINS = Resource("domains", "domain", "Domain", namespaced=True, short=("dom",))
NODES = Resource("nodes", "node", "Node", namespaced=False, short=("no",))
MIGRATIONS = Resource("migrations", "migration", "Migration", namespaced=True, short=("mig",))
EVENTS = Resource("events", "event", "Event", namespaced=True, short=("ev",))
ASSIGNMENTS = Resource("assignments", "assignment", "Assignment", namespaced=False)
TOKENS = Resource("tokens", "token", "Token", namespaced=False)
RBAC = "rbac.authorization.k8s.io"


def _right(kind: str, *, namespaced: bool) -> Resource:
    word = kind.lower()
    resource = Resource(f"{word}s", word, kind, namespaced=namespaced)
    resource.group = RBAC
    return resource


def _core(kind: str, short: str, *, namespaced: bool) -> Resource:
    word = kind.lower()
    resource = Resource(f"{word}s", word, kind, namespaced=namespaced, short=(short,))
    resource.group = ""
    return resource


SECRETS = Resource("secrets", "secret", "Secret", namespaced=True)
SECRETS.group = ""

KNOWN = (
    *(DOMAINS, NODES, MIGRATIONS, EVENTS, ASSIGNMENTS, TOKENS),
    _core("Namespace", "ns", namespaced=False),
    _core("ConfigMap", "cm", namespaced=True),
    SECRETS,
    *(_right(kind, namespaced=True) for kind in ("Role", "RoleBinding")),
    *(_right(kind, namespaced=False) for kind in ("ClusterRole", "ClusterRoleBinding")),
)


def find(client: Client, word: str) -> Resource:
    """What `word` means: domain, domains, dom, Domain, domains.domctl.io, domains.v1.domctl.io; of the core
    group configmaps.v1 or, as kubectl writes it, configmaps.v1 with a dot behind."""
    name, _, group = word.lower().partition(".")
    for resource in KNOWN:
        if name in resource.names and group in {"", resource.group, f"{VERSION}.{resource.group}"}:
            return resource
    for served in ("", GROUP) if group.rstrip(".") == VERSION else (GROUP, ""):
        if group in {"", served, f"{VERSION}.{served}", f"{VERSION}.{served}".rstrip(".")}:
            for resource in discovered(client, served):
                if name in resource.names:
                    return resource
    raise CliError(f'{UNKNOWN_TYPE} "{word}"', hint="domctl api-resources lists what there is")


def all_of(client: Client, word: str) -> list[Resource]:
    """What `word` means: a type, or a category, whose types are those of the server. Raises CliError."""
    try:
        return [find(client, word)]
    except CliError:
        of_category = [
            one for group in (GROUP, "") for one in discovered(client, group) if word in one.categories
        ]
        if not of_category:
            raise
        return of_category


def of_kind(kind: str) -> Resource:
    """The resource of an object that was checked offline."""
    return next(resource for resource in KNOWN if resource.kind == kind)


def of_group_kind(client: Client, kind: str, group: str) -> Resource:
    """Raises CliError where the server has no such kind."""
    for resource in KNOWN:
        if (resource.kind, resource.group) == (kind, group):
            return resource
    for resource in discovered(client, group):
        if resource.kind == kind:
            return resource
    raise CliError(f'{UNKNOWN_TYPE} "{kind}.{group}"', hint="domctl api-resources lists what there is")


def discovered(client: Client, group: str = GROUP) -> list[Resource]:
    """What the server serves of a group."""
    found = client.get(f"/apis/{group}/{VERSION}" if group else f"/api/{VERSION}")
    entries = [entry for entry in found.get("resources") or () if "/" not in entry["name"]]
    return [from_discovery(entry, group) for entry in entries if "get" in (entry.get("verbs") or ("get",))]


def from_discovery(entry: dict[str, Any], group: str) -> Resource:
    resource = Resource(
        entry["name"],
        entry.get("singularName") or entry["kind"].lower(),
        entry["kind"],
        namespaced=bool(entry.get("namespaced")),
        short=entry.get("shortNames") or (),
    )
    resource.group = group
    resource.categories = entry.get("categories") or ()
    return resource


def named(client: Client, words: Sequence[str]) -> list[tuple[Resource, list[str]]]:
    """`TYPE NAME…`, `TYPE[,TYPE]` or `TYPE/NAME…` as resources with names (none: all of that type)."""
    if not words:
        raise UsageError("Required resource not specified.", hint="domctl api-resources lists what there is")
    with_slash = [word for word in words if "/" in word]
    if with_slash and len(with_slash) < len(words):
        raise UsageError(
            "there is no need to specify a resource type as a separate argument when passing "
            "arguments in resource/name form (e.g. 'domctl get resource/<resource_name>')"
        )
    if not with_slash:
        types = [one for word in words[0].split(",") if word for one in all_of(client, word)]
        if len(types) != 1 and len(words) > 1:
            raise UsageError("several types cannot be given together with names")
        return [(resource, _checked(list(words[1:]))) for resource in types]
    found: dict[str, tuple[Resource, list[str]]] = {}
    for word in with_slash:
        kind, _, name = word.partition("/")
        resource = find(client, kind)
        found.setdefault(resource.plural, (resource, []))[1].extend(_checked([name]))
    return list(found.values())


def domain_names(words: Sequence[str], usage: str, *, most: int | None = None) -> list[str]:
    """Names of domains, each perhaps as `domain/NAME`. Raises UsageError: `usage`, if there is none, or more
    than `most`."""
    names = []
    for word in words:
        kind, slash, name = word.partition("/")
        names.append(name if slash and kind in DOMAINS.names else word)
    if not all(names) or not 1 <= len(names) <= (most or len(names)):
        raise UsageError(usage)
    return _checked(names)


def _checked(names: list[str]) -> list[str]:
    """A name that is empty would read the whole collection."""
    for name in names:
        if not name or "/" in name or name in {".", ".."}:
            raise UsageError(f'"{name}" is no name of an object')
    return names
