"""ClusterRoles that are made of others: their rules are those of all that they choose by label.

As on Kubernetes they stand in `rules` of the role itself, where everybody can read them and bindings find
them; whatever else stands there is written over. `controller.api.rights` writes them, on every replica, when
roles change. A role that is made of others that are made of others has their rules once they have them, which
changes them again. `controller.api.guard` says who may make such a role.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from controller.api.sizes import MAX_FIELDS, fields_in
from controller.objects import Body

log = logging.getLogger(__name__)

AGGREGATION: Final = "aggregationRule"
_MAX_BYTES: Final = 200 << 10  # of rules: the object must remain one that can be changed
_MAX_FIELDS: Final = MAX_FIELDS - 300


def gathered(bodies: Iterable[Body]) -> Iterator[tuple[str, list[Body]]]:
    """By name those roles, of all that there are, whose rules are not what they should be, and what these
    are. Of rules that are too many for one object nothing is said: the role stays as it is."""
    found = sorted(bodies, key=lambda body: str(body["metadata"]["name"]))
    for body in found:
        rule = body.get(AGGREGATION)
        if rule is None:
            continue
        name, rules = body["metadata"]["name"], _rules(body, found, rule["clusterRoleSelectors"])
        if rules == (body.get("rules") or []):
            continue
        if fields_in(rules, _MAX_FIELDS) > _MAX_FIELDS or len(msgspec.json.encode(rules)) > _MAX_BYTES:
            log.error("a ClusterRole would be made of too much, and stays as it is", extra={"role": name})
            continue
        yield name, rules


def _rules(body: Body, others: Iterable[Body], chosen_by: Iterable[Mapping[str, Any]]) -> list[Body]:
    """Each rule once, in the order of selectors and of names."""
    rules: dict[bytes, Body] = {}
    for selector in chosen_by:
        for other in others:
            if other is not body and selects(selector, other["metadata"].get("labels") or {}):
                rules.update(
                    (msgspec.json.encode(one, order="sorted"), one) for one in other.get("rules") or ()
                )
    return list(rules.values())


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Kubernetes' label selector: all that is said holds; what says nothing chooses everything."""
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(
        _OPERATORS[one["operator"]](labels.get(one["key"]), one.get("values") or ())
        for one in selector.get("matchExpressions") or ()
    )


_OPERATORS: Final[Mapping[str, Callable[[str | None, Sequence[str]], bool]]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, values: value is not None,
    "DoesNotExist": lambda value, values: value is None,
}
