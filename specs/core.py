"""Kinds of Kubernetes' core group that are kept here as they are: Namespace.

A namespace parts names, rights and selectors; it holds no settings of its own. It need not be created: the
server makes it when the first object is put into it (`controller.api.facade.namespaces`). The other core
kinds are pictures of domctl's own objects and never stored; see `controller.api.facade`.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, UnsetType

from specs.meta import ObjectMeta, Struct

CORE_API_VERSION: Final = "v1"


class NamespaceSpec(Struct, frozen=True, kw_only=True):
    """Nothing that domctl heeds; there because clients of Kubernetes send it.

    finalizers: Taken and kept, without an effect.
    """

    finalizers: list[str] | UnsetType = UNSET


class Namespace(Struct, frozen=True, kw_only=True):
    """Parts the names of domains, migrations, roles and so on; rights can be given for one.

    api_version: v1.
    kind: Namespace.
    metadata: The envelope.
    spec: Nothing that domctl heeds.
    """

    api_version: Literal["v1"]
    kind: Literal["Namespace"]
    metadata: ObjectMeta
    spec: NamespaceSpec | UnsetType = UNSET
