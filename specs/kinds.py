"""The table of kinds: what discovery, the command line and validation know of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from specs.core import CORE_API_VERSION, ConfigMap, Namespace
from specs.domain import Domain
from specs.event import Event
from specs.meta import API_VERSION
from specs.migration import Migration
from specs.node import Node
from specs.rights import RBAC_API_VERSION, ClusterRole, ClusterRoleBinding, Role, RoleBinding
from specs.secret import Secret
from specs.token import Token

_Kept = Token | Namespace | ConfigMap | Secret | Event  # an Event is never read from a file
Object = Domain | Node | Migration | Role | ClusterRole | RoleBinding | ClusterRoleBinding | _Kept


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. `categories` never has `all`: deleting all of a namespace must not reach domains,
    which cannot be recovered (a convention of kubectl). `path_name`: its name may be anything that can stand
    in a path, such as `system:discovery`; `dotted`: it may be a DNS name of several labels. Other names
    are DNS labels. `put_creates`: an update of what is not there creates it, as on Kubernetes, which has
    few such kinds."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    struct: type[Object]
    categories: tuple[str, ...] = ("domctl",)
    api_version: str = API_VERSION
    path_name: bool = False
    dotted: bool = False
    put_creates: bool = False

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def has_status(self) -> bool:
        return "status" in self.struct.__struct_fields__


def _right(kind: str, namespaced: bool, struct: type[Object]) -> Kind:
    word = kind.lower()
    return Kind(kind, f"{word}s", word, (), namespaced, struct, (), RBAC_API_VERSION, True, put_creates=True)


KINDS: Final = (
    Kind("Domain", "domains", "domain", ("dom",), True, Domain),
    Kind("Migration", "migrations", "migration", ("mig",), True, Migration),
    Kind("Node", "nodes", "node", (), False, Node),
    Kind("Token", "tokens", "token", (), False, Token, ()),
    _right("ClusterRole", False, ClusterRole),
    _right("ClusterRoleBinding", False, ClusterRoleBinding),
    _right("Role", True, Role),
    _right("RoleBinding", True, RoleBinding),
    Kind("Namespace", "namespaces", "namespace", ("ns",), False, Namespace, (), CORE_API_VERSION),
    Kind("ConfigMap", "configmaps", "configmap", ("cm",), True, ConfigMap, (), CORE_API_VERSION, dotted=True),
    Kind("Secret", "secrets", "secret", (), True, Secret, (), CORE_API_VERSION, dotted=True),
)


KIND_OF: Final = {kind.kind: kind for kind in KINDS}
