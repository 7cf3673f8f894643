"""`domctl completion bash|zsh|fish`: scripts for shells, and the hidden `domctl __complete` that they ask.

The scripts hold no knowledge: at each press of Tab they hand the words of the line to `domctl __complete`,
which prints one candidate a line, with a description after a tab; the last line is `:0`, or `:4` where files
of the directory should be offered. Guaranteed: it never fails, never writes to stderr, and waits for a server
for two seconds at most.
"""

from __future__ import annotations

import sys

from controller.cli import verbs
from controller.cli.errors import CliError, UsageError
from controller.cli.flags import Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from controller.cli.client import Client

    Candidates = list[tuple[str, str]]

FILES, NO_FILES = 4, 0
_TIMEOUT_S = 2.0
_OUTPUTS = ("json", "yaml", "name", "wide", "jsonpath=", "jsonpath-as-json=", "custom-columns=")
_CHOICES = {
    "--dry-run": ("none", "client", "server"),
    "--validate": ("strict", "warn", "ignore"),
    "--output": _OUTPUTS,
    "--for": ("condition=Ready", "create", "delete", "jsonpath="),
    "--type": ("merge", "json", "strategic"),
    "--types": ("Normal", "Warning"),
}
_FILE_FLAGS = (
    "--filename",
    "--kubeconfig",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
)
_DOMAIN_VERBS = {
    *("start", "shutdown", "pause", "resume", "save", "restore", "reboot", "reset", "drop-saved", "migrate"),
    *("console", "logs"),
    *("dumpxml", "resolve"),
}
_NODE_VERBS = {"doctor", "node confirm-dead", "node replace", "cordon", "uncordon", "drain"}
_TYPED_VERBS = {"get", "describe", "delete", "wait", "edit", "label", "annotate", "scale", "explain", "patch"}

_BASH = """# bash completion for domctl; put this in ~/.bashrc: source <(domctl completion bash)
_domctl() {
    local line word ending=0 words=()
    word=${COMP_WORDS[COMP_CWORD]}
    # bash parts words at = and :, domctl does not: put them together again.
    words=(${COMP_LINE:0:COMP_POINT})
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
    local asked=${words[-1]}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :* ]]; then ending=${line#:}; continue; fi
        line=${line%%$'\\t'*}
        [[ $line == "$asked"* ]] && COMPREPLY+=("${line#"${asked%"$word"}"}")
    done < <(domctl __complete "${words[@]:1}" 2>/dev/null)
    if [[ $word == [=:] ]]; then COMPREPLY=("${COMPREPLY[@]#"$word"}"); fi
    if (( ending == 4 )); then
        word=${asked##*=}
        compopt -o filenames 2>/dev/null
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
    elif [[ ${COMPREPLY[0]} == *= && ${#COMPREPLY[@]} == 1 ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _domctl domctl
"""
_ZSH = """#compdef domctl
# zsh completion for domctl; put this in ~/.zshrc, after compinit: source <(domctl completion zsh)
_domctl() {
    local line ending=0
    local -a candidates
    while IFS= read -r line; do
        if [[ $line == :* ]]; then ending=${line#:}; continue; fi
        line=${line//:/\\\\:}
        candidates+=("${line/$'\\t'/:}")
    done < <(domctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#candidates} )) && _describe domctl candidates
    if (( ending == 4 )); then _files; fi
}
compdef _domctl domctl
"""
_FISH = """# fish completion for domctl; in ~/.config/fish/config.fish: domctl completion fish | source
function __domctl_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (domctl __complete $words[2..-1] 2>/dev/null)
        switch $line
            case ':4'
                __fish_complete_path (commandline -ct)
            case ':*'
            case '*'
                echo $line
        end
    end
end
complete -c domctl -f -a '(__domctl_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
EXAMPLES = tuple((f"For {shell}, in this session", text) for shell, text in (
    ("bash", "source <(domctl completion bash)"),
    ("zsh", "source <(domctl completion zsh)"),
    ("fish", "domctl completion fish | source"),
))  # fmt: skip


def configure(flags: Flags) -> None:
    flags.describe(
        "bash|zsh|fish", "Print a script by which a shell completes the words of domctl.", EXAMPLES
    )


def run(args: argparse.Namespace) -> int:
    if len(args.words) != 1 or args.words[0] not in _SCRIPTS:
        raise UsageError(f"name one shell: {', '.join(_SCRIPTS)}")
    sys.stdout.write(_SCRIPTS[args.words[0]])
    return 0


def answer(words: Sequence[str]) -> int:
    """`domctl __complete WORDS`, of which the last is the one that is being written."""
    try:
        found, ending = _candidates(list(words[:-1]), words[-1] if words else "")
    except (CliError, OSError):
        found, ending = [], NO_FILES
    for word, about in found:
        sys.stdout.write(f"{word}\t{about}\n" if about else f"{word}\n")
    sys.stdout.write(f":{ending}\n")
    return 0


def _candidates(before: list[str], word: str) -> tuple[Candidates, int]:
    verb, rest = verbs.split(before)
    flags = _flags(verb)
    if flags is None and before and before[-1] in verbs.GLOBAL_WITH_VALUE:
        flags = Flags("domctl")
        flags.connection()
        return _values(flags, before[:-1], flags.long_name(before[-1]), word)
    if flags is None:
        first = f"{verb} " if verb else ""
        known = [
            (name.removeprefix(first), text) for _, name, _, text in verbs.VERBS if name.startswith(first)
        ]
        seen = {name.partition(" ")[0]: text if " " not in name else "" for name, text in known}
        return _beginning(list(seen.items()), word), NO_FILES
    name, equals, begun = word.partition("=")
    if word.startswith("-") and equals:
        found, ending = _values(flags, rest, flags.long_name(name), begun)
        return [(f"{name}={value}", about) for value, about in found], ending
    if rest and rest[-1].startswith("-") and "=" not in rest[-1] and flags.takes_value(rest[-1]):
        return _values(flags, rest[:-1], flags.long_name(rest[-1]), word)
    if word.startswith("-"):
        return _beginning(flags.names(), word), NO_FILES
    return _words(verb, flags, rest, word)


def _flags(verb: str) -> Flags | None:
    """The options of a verb; None where there is no such verb (yet)."""
    module = verbs.module_of(verb)
    if not module:
        return None
    import importlib  # noqa: PLC0415

    flags = Flags(f"domctl {verb}")
    importlib.import_module(f"controller.cli.{module}").configure(flags)
    return flags


def _values(flags: Flags, rest: list[str], name: str, begun: str) -> tuple[Candidates, int]:
    """What may follow an option."""
    if name in _FILE_FLAGS:
        return [], FILES
    if name in _CHOICES:
        return _beginning([(value, "") for value in _CHOICES[name]], begun), NO_FILES
    if name == "--context":
        from controller.cli.kubeconfig import contexts  # noqa: PLC0415

        return _beginning([(context, "") for context in contexts(_parsed(flags, rest))], begun), NO_FILES
    if name == "--namespace":
        from controller.cli.resources import DOMAINS  # noqa: PLC0415

        found = {namespace for namespace, _ in _objects(flags, rest, DOMAINS.path())}
        return _beginning([(namespace, "") for namespace in sorted(found | {"default"})], begun), NO_FILES
    return [], NO_FILES


def _words(verb: str, flags: Flags, rest: list[str], word: str) -> tuple[Candidates, int]:
    """Types, names, or TYPE/NAME, as the verb takes them."""
    from controller.cli import resources  # noqa: PLC0415

    if verb == "completion":
        return _beginning([(shell, "") for shell in _SCRIPTS], word), NO_FILES
    if verb in {"validate", "apply", "diff"}:
        return [], FILES if verb == "validate" else NO_FILES
    kind = resources.DOMAINS if verb in _DOMAIN_VERBS else resources.NODES if verb in _NODE_VERBS else None
    if kind is not None:
        return _beginning(_names(flags, rest, kind), word), NO_FILES
    if verb not in _TYPED_VERBS:
        return [], NO_FILES
    given = _parsed(flags, rest).words
    typed, slash, _ = word.partition("/")
    if slash:
        client = _connected(flags, rest)
        kind = resources.find(client, typed)
        return _beginning([(f"{typed}/{name}", "") for name, _ in _names(flags, rest, kind)], word), NO_FILES
    if not given:
        types = [(kind.plural if verb != "explain" else kind.singular, "") for kind in resources.KNOWN]
        return _beginning(types, word), NO_FILES
    if "/" in given[0] or verb == "explain":
        return [], NO_FILES
    kind = resources.find(_connected(flags, rest), given[0])
    names = [(name, about) for name, about in _names(flags, rest, kind) if name not in given[1:]]
    return _beginning(names, word), NO_FILES


def _parsed(flags: Flags, rest: list[str]) -> argparse.Namespace:
    return flags.parse(rest)


def _connected(flags: Flags, rest: list[str]) -> Client:
    from controller.cli.client import connect  # noqa: PLC0415

    client = connect(_parsed(flags, rest))
    client.timeout_s = _TIMEOUT_S
    return client


def _names(flags: Flags, rest: list[str], kind: object) -> Candidates:
    from controller.cli.resources import Resource  # noqa: PLC0415

    assert isinstance(kind, Resource)
    namespace = _connected(flags, rest).namespace if kind.namespaced else ""
    return [(name, "") for _, name in _objects(flags, rest, kind.path(namespace))]


def _objects(flags: Flags, rest: list[str], path: str) -> list[tuple[str, str]]:
    """Namespace and name of what is there; tables hold no more of an object than that."""
    from controller.cli.client import TABLE  # noqa: PLC0415
    from controller.cli.lists import read  # noqa: PLC0415

    table = read(_connected(flags, rest), path, (), TABLE)
    metas = [(row.get("object") or {}).get("metadata") or {} for row in table.get("rows") or ()]
    return [(str(meta.get("namespace") or ""), str(meta.get("name") or "")) for meta in metas]


def _beginning(candidates: Candidates, word: str) -> Candidates:
    return [(text, about) for text, about in candidates if text.startswith(word)]
