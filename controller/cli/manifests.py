"""Objects from files: everything is checked before anything is sent.

`-f FILE`, `-f DIR` (its .yaml, .yml and .json files, `-R` for those below), `-f -` for stdin. `load` checks
every document with `specs.validate` and names all problems at once, each as `file:line:column: field: …`;
`load_names` takes only what identifies an object, for commands that need no more. Whatever is wrong in any
file, no object of any is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from controller.cli.errors import CliError, Reported, UsageError, printable
from controller.cli.resources import Resource, of_kind
from specs.problems import Problem, errors, formatted
from specs.validate import Unknown, kind_of, load_file_objects, placed, unlisted
from specs.yamldoc import load as load_yaml

_SUFFIXES = (".yaml", ".yml", ".json")
_CHECKS = {"strict": Unknown.STRICT, "warn": Unknown.WARN, "ignore": Unknown.IGNORE}
_MAX_BYTES = 64 << 20


class Manifest:
    """One object of a file, as it was written. `namespace` is "" for a cluster-scoped kind."""

    def __init__(self, file: str, line: int, raw: Mapping[str, Any], resource: Resource) -> None:
        self.file = file
        self.line = line
        self.raw = raw
        self.resource = resource
        self.name = str(raw["metadata"]["name"])
        self.namespace = str(raw["metadata"].get("namespace") or "")

    @property
    def label(self) -> str:
        return f"{self.resource.word}/{self.name}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


def load(
    filenames: Sequence[str], *, recursive: bool, check: str = "strict", seen: list[Problem] | None = None
) -> list[Manifest]:
    """Raises CliError; problems of the objects were then printed already, and added to `seen`."""
    if check not in _CHECKS:
        raise UsageError(f'invalid --validate "{check}": must be strict, warn or ignore')
    found: list[Manifest] = []
    problems: list[Problem] = []
    for path in paths(filenames, recursive=recursive):
        shown = "stdin" if path == "-" else path
        objects, of_file = load_file_objects(_content(path), shown, _CHECKS[check])
        problems += [replace(problem, file=shown) for problem in of_file]
        found += [Manifest(shown, o.line, o.raw, of_kind(o.value.kind)) for o in objects]
    problems += _twins((one, one.namespace) for one in found)
    if seen is not None:
        seen += problems
    _tell(problems)
    return _some(found)


def with_namespaces(found: Sequence[Manifest], default: str, asked: str) -> list[tuple[Manifest, str]]:
    """Each with its namespace (see `namespace_for`). Raises CliError, also where two files hold one object
    once that is known; that was printed then."""
    result = [(one, namespace_for(one, default, asked)) for one in found]
    _tell(_twins(result))
    return result


def _tell(problems: Sequence[Problem]) -> None:
    """Raises CliError if any of them is more than a warning."""
    for problem in problems:
        sys.stderr.write(printable(formatted(problem)) + "\n")
    if wrong := len(errors(problems)):
        sys.stderr.write(f"error: {wrong} problem{'s' if wrong > 1 else ''} found; nothing was sent\n")
        raise Reported


def load_names(filenames: Sequence[str], *, recursive: bool) -> list[Manifest]:
    """Only kind, name and namespace are looked at. Raises CliError."""
    found: list[Manifest] = []
    wrong: list[Problem] = []
    for path in paths(filenames, recursive=recursive):
        shown = "stdin" if path == "-" else path
        loaded = load_yaml(_content(path))
        problems = errors(loaded.problems)
        for document in loaded.documents:
            for prefix, value in unlisted(document.value):
                one = _named(shown, value)
                if isinstance(one, Manifest):
                    found.append(one)
                else:
                    problems += [placed(problem, prefix, document) for problem in one]
        wrong += [replace(problem, file=shown) for problem in problems]
    if wrong:
        raise CliError("\n".join(printable(formatted(problem)) for problem in wrong))
    return _some(found)


def paths(filenames: Sequence[str], *, recursive: bool) -> list[str]:
    """The files that `-f` names, in order; a directory's by name."""
    if not filenames:
        raise UsageError("must specify -f: a file, a directory, or - for stdin")
    found = []
    for name in (part for value in filenames for part in value.split(",")):
        if name.startswith(("http://", "https://")):
            raise UsageError(f"{name}: URLs are not supported; fetch it first and use -f -")
        if name == "-" or not os.path.isdir(name):
            found.append(name)
            continue
        inside = sorted(_files(name, recursive=recursive))
        if not inside:
            raise CliError(f"error reading [{name}]: recognized file extensions are {list(_SUFFIXES)}")
        found += inside
    return found


def _files(folder: str, *, recursive: bool) -> list[str]:
    found: list[str] = []
    for entry in os.scandir(folder):
        if entry.is_dir() and recursive:
            found += _files(entry.path, recursive=True)
        elif entry.is_file() and entry.name.endswith(_SUFFIXES):
            found.append(entry.path)
    return found


def _content(path: str) -> bytes:
    try:
        if path == "-":
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise CliError(f'the path "{path}" does not exist') from None
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise CliError(f"{path} has more than {_MAX_BYTES >> 20} MiB")
    return content


def _named(shown: str, value: object) -> Manifest | list[Problem]:
    """By apiVersion and kind: what another group calls a Role or a Node is none of ours."""
    kind, problems = kind_of(value)
    meta = value.get("metadata") if isinstance(value, Mapping) else None
    if kind is not None and not (isinstance(meta, Mapping) and meta.get("name")):
        problems = [Problem(("metadata", "name"), "is required", "FieldValueRequired")]
    if kind is None or problems or not isinstance(value, Mapping):
        return problems
    return Manifest(shown, 0, value, of_kind(kind.kind))


def _twins(found: Iterable[tuple[Manifest, str]]) -> list[Problem]:
    """The same object, by its namespace, in two files: the second would silently win."""
    seen: dict[tuple[str, str, str], Manifest] = {}
    twins: list[Problem] = []
    for one, namespace in found:
        first = seen.setdefault((one.resource.kind, namespace, one.name), one)
        if first.file != one.file:
            message = f'{one.resource.kind} "{one.name}" is there twice, first in {first.place}'
            twins.append(Problem((), message, "FieldValueDuplicate", one.line, 1, file=one.file))
    return twins


def _some(found: list[Manifest]) -> list[Manifest]:
    if not found:
        raise CliError("no objects passed to domctl")
    return found


def namespace_for(manifest: Manifest, default: str, asked: str) -> str:
    """Where the object belongs; `asked` is what -n says, which must not contradict the file."""
    if not manifest.resource.namespaced:
        return ""
    if manifest.namespace and asked and manifest.namespace != asked:
        raise CliError(
            f'{manifest.place}: the namespace from the provided object "{manifest.namespace}" does not match '
            f"the namespace \"{asked}\". You must pass '--namespace={manifest.namespace}' "
            "to perform this operation."
        )
    return manifest.namespace or default
