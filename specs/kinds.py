"""The table of kinds: what discovery, the command line and validation know of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from specs.domain import Domain
from specs.meta import API_VERSION
from specs.migration import Migration
from specs.node import Node

Object = Domain | Node | Migration


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. `categories` never has `all`: deleting all of a namespace must not reach domains,
    which cannot be recovered (a convention of kubectl)."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    struct: type[Domain] | type[Node] | type[Migration]
    categories: tuple[str, ...] = ("domctl",)
    api_version: str = API_VERSION


KINDS: Final = (
    Kind("Domain", "domains", "domain", ("dom",), True, Domain),
    Kind("Migration", "migrations", "migration", ("mig",), True, Migration),
    Kind("Node", "nodes", "node", ("no",), False, Node),
)


KIND_OF: Final = {kind.kind: kind for kind in KINDS}


def kind_by_name(name: str) -> Kind | None:
    """Look a kind up as users write it: Domain, domain, domains, dom, domains.domctl.io."""
    word = name.lower().removesuffix(".domctl.io").removesuffix(".v1")
    for kind in KINDS:
        if word in (kind.kind.lower(), kind.plural, kind.singular, *kind.short_names):
            return kind
    return None
