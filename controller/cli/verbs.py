"""The table of verbs: where each one lives, and what the overview says of it.

A verb's module is imported only when the verb is used, so that `get` does not pay for `apply`. A verb of two
words (`node confirm-dead`) is an entry under both, parted by a space.
"""

from __future__ import annotations

# group, verb, module, summary; in the order of `domctl help`
VERBS = (
    ("Basic Commands", "get", "get", "Display one or many resources"),
    ("Basic Commands", "describe", "describe", "Show one object with its conditions and events"),
    ("Basic Commands", "apply", "apply", "Create or update objects from files"),
    ("Basic Commands", "diff", "diff", "Show what apply would change"),
    ("Basic Commands", "delete", "delete", "Delete objects by name or file; storage is kept"),
    ("Basic Commands", "wait", "wait", "Wait until objects meet a condition"),
    ("Basic Commands", "edit", "edit", "Change one object in an editor"),
    ("Basic Commands", "patch", "patch", "Change fields of objects by a patch"),
    ("Basic Commands", "label", "label", "Set labels of objects, or take them away"),
    ("Basic Commands", "annotate", "label", "Set annotations of objects, or take them away"),
    ("Basic Commands", "scale", "scale", "Set how many replicas objects should have"),
    ("Basic Commands", "events", "events", "Show what happened"),
    ("Basic Commands", "top", "top", "Show how busy nodes and domains are"),
    ("Basic Commands", "validate", "validate", "Check files without a server"),
    ("Domain Commands", "start", "power", "Ask for domains to run"),
    ("Domain Commands", "shutdown", "power", "Ask for domains to be shut down"),
    ("Domain Commands", "pause", "power", "Ask for domains to stand still, in memory"),
    ("Domain Commands", "resume", "power", "Ask for paused domains to go on"),
    ("Domain Commands", "save", "power", "Ask for domains to be saved: their memory goes to disk"),
    ("Domain Commands", "restore", "power", "Ask for saved domains to go on"),
    ("Domain Commands", "reboot", "power", "Ask guests to start again, once"),
    ("Domain Commands", "reset", "power", "Press the reset button, once"),
    ("Domain Commands", "drop-saved", "power", "Throw saved memory away, once"),
    ("Domain Commands", "dumpxml", "dumpxml", "Print the libvirt XML that domains become"),
    ("Domain Commands", "console", "console", "Show a domain's console, and type on it"),
    ("Domain Commands", "logs", "logs", "Print what a domain wrote to its console"),
    ("Domain Commands", "migrate", "migrate", "Move domains to another node while they run"),
    ("Host Commands", "doctor", "doctor", "Look at hosts before they are trusted"),
    ("Host Commands", "cordon", "cordon", "Let nothing new be placed on nodes"),
    ("Host Commands", "uncordon", "cordon", "Let domains be placed on nodes again"),
    ("Host Commands", "drain", "cordon", "Empty nodes: move their domains away, and wait"),
    ("Ways Out of a Hold", "node confirm-dead", "decisions", "Vouch for a node being dead"),
    ("Ways Out of a Hold", "node replace", "decisions", "Vouch for a node being dead and its disks wiped"),
    ("Ways Out of a Hold", "resolve", "decisions", "Say where one domain is not, or which copy to keep"),
    ("Ways Out of a Hold", "store ack", "decisions", "Accept a restored or replaced store"),
    ("Rights", "auth can-i", "auth", "Say whether one may do something"),
    ("Rights", "auth whoami", "auth", "Say who one is to the server"),
    ("Rights", "token create", "token", "Make a bearer token; only its hash is kept"),
    ("Server", "serve", "serve", "Run the controller and its API server"),
    ("Other Commands", "explain", "explain", "Describe the fields of a kind"),
    ("Other Commands", "completion", "completion", "Print a script that completes words in a shell"),
    ("Other Commands", "api-resources", "apiresources", "Print the resources that the server knows"),
    ("Other Commands", "api-versions", "apiresources", "Print the groups and versions that the server knows"),
    ("Other Commands", "version", "version", "Print the client and server version"),
    ("Other Commands", "options", "options", "Print the options that all commands share"),
)

# Global options that take a value, for finding the verb behind them: `domctl -n prod get domains`.
GLOBAL_WITH_VALUE = frozenset(
    [
        "-n",
        "--namespace",
        "--kubeconfig",
        "--context",
        "--cluster",
        "--user",
        "--server",
        "--token",
        "--certificate-authority",
        "--client-certificate",
        "--client-key",
        "--tls-server-name",
        "--as",
        "--as-group",
        "--as-uid",
        "--request-timeout",
        "-v",
        "--v",
    ]
)


def module_of(verb: str) -> str:
    """ "" when there is no such verb."""
    return next((module for _, name, module, _ in VERBS if name == verb), "")


def second_words(first: str) -> list[str]:
    """The verbs that begin with `first`: of `node` there is `node confirm-dead`."""
    return [name for _, name, _, _ in VERBS if name.startswith(first + " ")]


def split(argv: list[str]) -> tuple[str, list[str]]:
    """The verb and everything else, wherever global options stand; "" without a verb."""
    first = _next_word(argv, 0)
    if first < 0:
        return "", argv
    verb = argv[first]
    rest = argv[:first] + argv[first + 1 :]
    if not module_of(verb) and second_words(verb):
        second = _next_word(rest, first)
        if second >= 0 and module_of(f"{verb} {rest[second]}"):
            return f"{verb} {rest[second]}", rest[:second] + rest[second + 1 :]
    return verb, rest


def overview() -> str:
    lines = ["domctl controls a cluster of libvirt hosts.", ""]
    group = ""
    for of_group, verb, _, summary in VERBS:
        if of_group != group:
            lines += ["", f"{of_group}:"] if group else [f"{of_group}:"]
            group = of_group
        lines.append(f"  {verb:<18} {summary}")
    lines += ["", "Usage:", "  domctl [command] [options]", ""]
    lines.append('Use "domctl COMMAND --help" for more about a command.')
    lines.append('Use "domctl options" for the options that all commands share.')
    return "\n".join(lines) + "\n"


def group_help(first: str) -> str:
    lines = [
        f"{summary}:\n  domctl {name}\n" for _, name, _, summary in VERBS if name.startswith(first + " ")
    ]
    return "\n".join([*lines, f'Use "domctl {first} COMMAND --help" for more about a command.']) + "\n"


def _next_word(argv: list[str], start: int) -> int:
    position = start
    while position < len(argv):
        word = argv[position]
        if not word.startswith("-") or word == "-":
            return position
        position += 2 if word in GLOBAL_WITH_VALUE else 1
    return -1
