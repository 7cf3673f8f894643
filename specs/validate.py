"""Objects from JSON values: every problem at once, or a typed, frozen object.

The way in for everything that a user or client sends: `decode` for one value (the API's bodies), and
`load_file_objects` for the text of a file (the command line), whose problems carry line and column. First
the schema (`specs.walker`), then what fields mean together (`specs.domainrules`, `noderules`,
`metarules`), on the same value, so that one wrong field hides no other. Fields that come later are refused
by name (`specs.later`). What has no problem converts without error. Not here: what depends on a node
(allowed paths, `specs.domainxml`), on the cluster (unique MACs) or on who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import inspect

from specs import core, domainrules, metarules, noderules, requests, rights, secret, yamldoc
from specs.domain import Domain, effective_type
from specs.hypervisors import DRIVER_OF_TYPE
from specs.kinds import KIND_OF, KINDS, Kind, Object
from specs.later import LATER
from specs.meta import API_VERSION, GROUP, ObjectMeta
from specs.migration import Migration, MigrationSpec
from specs.problems import Problem, errors, shown
from specs.token import Token, check_token
from specs.walker import Report, Unknown, walk

__all__ = ["FileObject", "Unknown", "decode", "immutable_problems", "load_file_objects"]

_RULES: Final[Mapping[str, Callable[[object, Report], None]]] = MappingProxyType(
    {"Domain": domainrules.check_domain, "Node": noderules.check_node}
)
_WHOLE_RULES: Final[Mapping[str, Callable[[Mapping[str, Any], Report], None]]] = MappingProxyType(
    {"ConfigMap": core.check_config_map, "Secret": secret.check_secret, "Token": check_token}
)
_HIDDEN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"Secret": secret.VALUES})


@dataclass(frozen=True, slots=True)
class FileObject:
    """One object of a file: typed, as it was written, and the line where it begins."""

    value: Object
    raw: Mapping[str, Any]
    line: int


def decode(value: object, unknown: Unknown = Unknown.STRICT) -> tuple[Object | None, list[Problem]]:
    """A JSON value as an object. None if any problem is an error; warnings may stand beside an object."""
    kind, problems = kind_of(value)
    if kind is None:
        return None, problems
    report = Report(unknown, hidden=_HIDDEN.get(kind.kind, ()))
    clean = walk(value, _type_of(kind.struct), (), report, LATER[kind.kind])
    if kind.struct is Domain:
        requests.check_requests(clean, report)
    metarules.check_metadata(
        clean.get("metadata"), kind.namespaced, report, path_name=kind.path_name, dotted=kind.dotted
    )
    if (whole := _WHOLE_RULES.get(kind.kind)) is not None:
        whole(clean, report)
    if kind.group == rights.RBAC_GROUP:
        rights.check_rights(clean, report)
    check = _RULES.get(kind.kind)
    if check is not None:
        check(clean.get("spec"), report)
    if errors(report.problems):
        return None, report.problems
    try:
        return msgspec.convert(clean, kind.struct), report.problems
    except msgspec.ValidationError as error:  # the walk is stricter; a gap in it must still be a 422
        return None, [*report.problems, Problem((), str(error))]


@cache
def _type_of(struct: type[Object]) -> inspect.Type:
    """Found out when the first of its kind comes: of a file of one kind the other ten are never needed."""
    return inspect.type_info(struct)


def load_file_objects(
    text: str | bytes, filename: str = "", unknown: Unknown = Unknown.STRICT
) -> tuple[list[FileObject], list[Problem]]:
    """All objects of a YAML or JSON text, and all problems with their lines.

    Objects without a problem are returned even if others have some (whoever applies them decides whether
    to go on); a `List` of kind v1 is taken apart. `filename` stands in the problems.
    """
    loaded = yamldoc.load(text)
    objects: list[FileObject] = []
    problems = list(loaded.problems)
    for document in loaded.documents:
        for prefix, value in unlisted(document.value):
            found, wrong = decode(value, unknown)
            problems += [placed(problem, prefix, document) for problem in wrong]
            if found is not None and not document.faulty and isinstance(value, Mapping):
                line, _ = document.position(prefix)
                objects.append(FileObject(found, value, line))
    problems.sort(key=lambda problem: (problem.line, problem.column))
    _report_twins(objects, problems)
    return objects, [replace(problem, file=filename) for problem in problems]


def immutable_problems(old: Object, new: Object) -> list[Problem]:
    """What an update may not change: identity, and the family of hypervisors (another driver's domain would
    be another domain). Everything else can be changed, at the next start at the latest."""
    problems = []
    for name in ("name", "namespace", "uid"):
        before, after = _identity(old.metadata, name), _identity(new.metadata, name)
        if after is not msgspec.UNSET and before != after:
            message = f"cannot be changed, is {shown(before)}"
            problems.append(Problem(("metadata", name), message, "FieldValueForbidden"))
    if type(old) is not type(new):
        problems.append(Problem(("kind",), "cannot be changed", "FieldValueForbidden"))
    elif isinstance(old, Domain) and isinstance(new, Domain) and _driver(old) != _driver(new):
        message = f"cannot be changed from {effective_type(old.spec)} to {effective_type(new.spec)}"
        problems.append(Problem(("spec", "type"), message, "FieldValueForbidden"))
    elif isinstance(old, Migration) and isinstance(new, Migration):
        problems += _another_request(old.spec, new.spec)
    elif isinstance(old, core.ConfigMap) and isinstance(new, core.ConfigMap):
        problems += core.immutable_config(old, new)
    elif isinstance(old, secret.Secret) and isinstance(new, secret.Secret):
        problems += secret.fixed_secret(old, new)
    elif isinstance(old, Token) and isinstance(new, Token) and old.spec != new.spec:
        message = "cannot be changed: delete it and create another"
        problems.append(Problem(("spec",), message, "FieldValueForbidden"))
    elif isinstance(old, _BINDINGS) and isinstance(new, _BINDINGS) and _role(old) != _role(new):
        message = "cannot be changed: write another binding"
        problems.append(Problem(("roleRef",), message, "FieldValueForbidden"))
    return problems


_BINDINGS: Final = (rights.RoleBinding, rights.ClusterRoleBinding)


def _role(binding: rights.RoleBinding | rights.ClusterRoleBinding) -> tuple[str, str]:
    return binding.role_ref.kind, binding.role_ref.name


def _another_request(old: MigrationSpec, new: MigrationSpec) -> list[Problem]:
    """A request is what it was; only its end can be asked for, and that is not taken back."""
    fixed = [
        name
        for name in ("domain", "node", "mode", "copy_storage")
        if getattr(old, name) != getattr(new, name)
    ]
    if old.abort is True and new.abort is not True:
        fixed.append("abort")
    message = "cannot be changed: write another Migration"
    words = {"copy_storage": "copyStorage"}
    return [Problem(("spec", words.get(name, name)), message, "FieldValueForbidden") for name in fixed]


def _identity(meta: ObjectMeta, name: str) -> object:
    value = getattr(meta, name)
    return "default" if name == "namespace" and value is msgspec.UNSET else value


def _driver(domain: Domain) -> str:
    return DRIVER_OF_TYPE[effective_type(domain.spec)]


def kind_of(value: object) -> tuple[Kind | None, list[Problem]]:
    """By its apiVersion and kind; None where they are no kind of ours, with what is wrong."""
    if not isinstance(value, Mapping):
        return None, [Problem((), f"must be an object, is {shown(value)}", "FieldValueTypeInvalid")]
    api, name = value.get("apiVersion"), value.get("kind")
    problems = []
    known_apis = [kind.api_version for kind in KINDS]
    if api is None:
        problems.append(Problem(("apiVersion",), f"is required: {API_VERSION}", "FieldValueRequired"))
    elif api not in known_apis:
        ours = str(api)[:64].startswith(GROUP)
        all_apis = f"{API_VERSION}: the group {GROUP} has only this version"
        message = f"must be {all_apis if ours else _one_of(dict.fromkeys(known_apis))}, is {shown(api)}"
        problems.append(Problem(("apiVersion",), message, "FieldValueNotSupported"))
    of_group = {kind.kind: kind for kind in KINDS if problems or kind.api_version == api}
    kind = of_group.get(name) if isinstance(name, str) else None
    known = _one_of(of_group)
    if name is None:
        problems.append(Problem(("kind",), f"is required: {known}", "FieldValueRequired"))
    elif kind is None and (not isinstance(name, str) or name not in KIND_OF):
        problems.append(Problem(("kind",), f"must be {known}, is {shown(name)}", "FieldValueNotSupported"))
    elif kind is None and not problems:
        message = f"must be {KIND_OF[name].api_version} for a {name}, is {shown(api)}"
        problems.append(Problem(("apiVersion",), message, "FieldValueNotSupported"))
    return (None if problems else kind), problems


def _one_of(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def unlisted(value: object) -> list[tuple[tuple[str | int, ...], object]]:
    """The objects of a document, with their paths: itself, or the items of a v1 List."""
    if isinstance(value, Mapping) and value.get("apiVersion") == "v1" and value.get("kind") == "List":
        items = value.get("items")
        if isinstance(items, list):
            return [(("items", index), item) for index, item in enumerate(items)]
    return [((), value)]


def placed(problem: Problem, prefix: tuple[str | int, ...], document: yamldoc.Document) -> Problem:
    """With its line in the document, of which the object at `prefix` has it."""
    keys = (*prefix, *problem.keys)
    line, column = document.position(keys)
    return replace(problem, keys=keys, line=line, column=column)


def _report_twins(objects: list[FileObject], problems: list[Problem]) -> None:
    """The same object twice in one text: the second would silently win."""
    seen: dict[tuple[str, object, str], int] = {}
    for one in objects:
        meta = one.value.metadata
        key = (one.value.kind, _identity(meta, "namespace"), meta.name)
        if key in seen:
            message = f"{one.value.kind} {shown(meta.name)} is there twice, first in line {seen[key]}"
            problems.append(Problem((), message, "FieldValueDuplicate", one.line, 1))
        seen.setdefault(key, one.line)
