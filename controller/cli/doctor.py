"""`domctl doctor`: look at hosts before they are trusted.

Here are only the command line, what the cluster knows of its Nodes, and the layout of the answer; the looking
is `controller.doctor`'s, which is loaded when it is needed. A cluster is asked when there is a kubeconfig: it
must answer for a NODE, and is done without for a URI. Exit code: 0 nothing wrong, 1 findings of severity
error, 2 a host was not reached or the command is wrong.
"""

from __future__ import annotations

import sys

from controller.cli import lists
from controller.cli.client import connect
from controller.cli.errors import CliError, UsageError, printable
from controller.cli.flags import listed
from controller.cli.output import as_json
from controller.cli.resources import DOMAINS, NODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from controller.cli.flags import Flags
    from controller.doctor.facts import ClusterFacts, Subject

ABOUT = """Look at hosts before they are trusted: what is wrong, why it matters, and what mends it.

 Nothing is changed on a host without --probe. A host is named by its Node or by a libvirt URI; two or more
 are also compared with each other: versions, machine types, processors. What could not be looked at is listed
 as not checked, with what would be needed. Exit code: 0 nothing wrong, 1 findings of severity error, 2 a
 host was not reached, or the command is wrong."""
EXAMPLES = (
    ("A host that is to be registered", "domctl doctor qemu+tls://hv4.example.org/system"),
    ("Nodes of the cluster", "domctl doctor hv1 hv2"),
    ("Whether domains can be migrated between them", "domctl doctor hv1 hv2 --probe"),
    ("What only the hosts themselves can tell", "domctl doctor hv1 hv2 --ssh root@"),
    ("For a script", "domctl doctor hv1 -o json"),
)
FAILED = 2
MOST_PROBED = 8  # each is tried with each other, in both directions
PATIENCE_S = 10.0  # with a cluster that need not answer
FORMATS = ("", "json", "yaml")
SHOWN_PAIRS = 6  # of which the same is to be said
WIDTH = 110  # of lines that are lists; commands are never broken
_INDENT = "  "
# option, the Node's field in spec.connection, what it is
CREDENTIALS = (
    ("known_hosts", "knownHosts", "For ssh: OpenSSH's known_hosts file with the host's key"),
    ("key_file", "keyFile", "For ssh: the private key, without passphrase"),
    ("pki_dir", "pkiDir", "For tls: a directory with cacert.pem, clientcert.pem and clientkey.pem"),
    ("auth_file", "authFile", "For tcp and tls: a YAML file with username and password"),
    ("ext_command", "command", "For ext: the program that connects"),
)


def configure(flags: Flags) -> None:
    flags.usage_code = FAILED
    flags.describe("(NODE | URI)… [options]", ABOUT, EXAMPLES)
    flags.values(
        "--ssh",
        text="Look at the hosts over ssh too, by read-only commands: [USER@]HOST for each host in turn, or "
        "USER@ (or @) for all of them at the hosts of their URIs.",
    )
    flags.value(
        "--ssh-config", text="The ssh_config(5) for --ssh, where keys, known hosts and ports may stand."
    )
    flags.switch(
        "--probe",
        text="Try migrations: between each two hosts a guest without disks is started, moved and removed.",
    )
    for name, _, what in CREDENTIALS:
        flags.value(f"--{name.replace('_', '-')}", text=f"{what}; for all hosts, whatever their Nodes name.")
    flags.values(
        "--files-under",
        text="Directories of this machine: what Nodes name in spec.connection is used only below these.",
    )
    flags.value("-o", "--output", text="Output format. One of: (json, yaml); text when left out.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except CliError as error:
        error.exit_code = FAILED
        raise


def _run(args: argparse.Namespace) -> int:
    words = list(dict.fromkeys(_plain(word) for word in args.words))
    if not words:
        raise UsageError("name at least one host: domctl doctor (NODE | URI)…")
    if args.output not in FORMATS:
        raise UsageError(f'-o must be json or yaml, is "{args.output}"')
    if args.probe and not 2 <= len(words) <= MOST_PROBED:
        raise UsageError(f"--probe migrates between hosts: name 2 to {MOST_PROBED} of them")
    nodes = [word for word in words if "://" not in word]
    _check_uris([word for word in words if "://" in word])
    items, cluster, unread = _cluster(args, must_answer=bool(nodes))
    known = tuple(_subject(word, items, args) for word in words)
    subjects = _with_ssh(known, listed(args.ssh), args.ssh_config)
    from controller.doctor import app, report  # noqa: PLC0415 - libvirt, which no other verb loads
    from controller.doctor.examine import Request  # noqa: PLC0415

    given = [getattr(args, name) for name, *_ in CREDENTIALS if getattr(args, name)]
    request = Request(
        subjects,
        cluster,
        unread,
        probe=args.probe,
        files_under=(*listed(args.files_under), *given),
        commands=frozenset([args.ext_command] if args.ext_command else []),
    )
    found = app.examine(request, _say)
    if args.output == "json":
        sys.stdout.write(as_json(found))
    elif args.output == "yaml":
        from specs import yamlout  # noqa: PLC0415 - slow to load

        sys.stdout.write(yamlout.dump(found))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in text(found)))
    return report.exit_code(found)


def _say(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


# -- the hosts, and the cluster that knows them -----------------------------------------------------------


def _plain(word: str) -> str:
    """`hv1` of node/hv1 and of what `domctl get nodes -o name` says."""
    kind, slash, name = word.partition("/")
    is_node = slash and "://" not in word and kind.lower() in {*NODES.names, NODES.word, NODES.qualified}
    return name if is_node else word


def _check_uris(words: Sequence[str]) -> None:
    from specs.uri import parse_uri  # noqa: PLC0415 - only for URIs

    for word in words:
        try:
            parse_uri(word)
        except ValueError as error:
            raise UsageError(f"{word}: {error}") from None


def _cluster(
    args: argparse.Namespace, *, must_answer: bool
) -> tuple[dict[str, dict[str, Any]], ClusterFacts | None, str]:
    """Nodes by name, the facts, and why there are none. Raises CliError if it must answer and does not."""
    try:
        client = connect(args)
        if not must_answer:
            client.timeout_s = min(client.timeout_s or PATIENCE_S, PATIENCE_S)
        nodes = lists.items(lists.read(client, NODES.path()))
        domains = lists.items(lists.read(client, DOMAINS.path()))
    except CliError as error:
        if must_answer:
            raise
        return {}, None, f"a cluster: {error.message}"
    from controller.doctor.facts import ClusterFacts  # noqa: PLC0415

    facts = ClusterFacts(
        tuple(_registered(node) for node in nodes), dict(_wants_autostart(domain) for domain in domains)
    )
    return {str(node["metadata"]["name"]): node for node in nodes}, facts, ""


def _registered(node: Mapping[str, Any]) -> Any:
    from controller.doctor.facts import Registered  # noqa: PLC0415

    status: Mapping[str, Any] = node.get("status") or {}
    return Registered(
        node=str(node["metadata"]["name"]),
        uri=str((node.get("spec") or {}).get("uri") or ""),
        host_uuid=str(status.get("hostUuid") or ""),
        driver=str(status.get("driver") or ""),
        mode=str(status.get("mode") or ""),
        libvirt_version=str(status.get("libvirtVersion") or ""),
        hypervisor_version=str(status.get("hypervisorVersion") or ""),
        cpu_model=str(status.get("cpuModel") or ""),
    )


def _wants_autostart(domain: Mapping[str, Any]) -> tuple[str, bool]:
    spec: Mapping[str, Any] = domain.get("spec") or {}
    uuid = str(spec.get("uuid") or domain["metadata"].get("uid") or "").lower()
    return uuid, (spec.get("recovery") or {}).get("autostart") is True


def _subject(word: str, nodes: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> Subject:
    from controller.doctor.facts import Subject, credentials  # noqa: PLC0415

    if "://" in word:
        return Subject(word, word, credentials=credentials(_files(args, {})))
    node = nodes.get(word)
    if node is None:
        raise CliError(
            f'there is no node "{printable(word)}"', hint="name a Node (domctl get nodes), or a libvirt URI"
        )
    spec: Mapping[str, Any] = node.get("spec") or {}
    return Subject(
        word,
        str(spec.get("uri") or ""),
        word,
        read_only=spec.get("observeOnly") is True,
        insecure=spec.get("insecure") is True,
        migration_uri=str(spec.get("migrationURI") or ""),
        credentials=credentials(_files(args, spec.get("connection") or {})),
    )


def _files(args: argparse.Namespace, named: Mapping[str, Any]) -> dict[str, str]:
    """Credentials by the names of spec.connection: the command line's before the Node's."""
    return {field: str(getattr(args, name) or named.get(field) or "") for name, field, _ in CREDENTIALS}


def _with_ssh(subjects: tuple[Subject, ...], given: Sequence[str], config: str) -> tuple[Subject, ...]:
    """Where each is reached by ssh, if that was asked for."""
    if not given:
        return subjects
    import dataclasses  # noqa: PLC0415

    from controller.doctor.examine import destination  # noqa: PLC0415

    if len(given) == 1 and given[0].endswith("@"):
        given = [given[0]] * len(subjects)
    if len(given) != len(subjects):
        raise UsageError(
            f"--ssh needs one [USER@]HOST for each of the {len(subjects)} hosts, or one USER@ for all"
        )
    made = []
    for subject, text_ in zip(subjects, given, strict=True):
        try:
            made.append(
                dataclasses.replace(
                    subject, ssh=destination(text_, subject.uri, config, of=subject.credentials)
                )
            )
        except ValueError as error:
            raise UsageError(f"--ssh {text_}: {error}") from None
    return tuple(made)


# -- layout ----------------------------------------------------------------------------------------------


def text(found: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    lines: list[str] = []
    for host in found["hosts"]:
        lines += [_heading(host), *_facts(host), *_verdict(host), ""]
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for pair in found["pairs"]:
        if pair["findings"] or "probe" in pair:
            lines += [f"{_arrow(pair)}{_moved(pair)}", *_verdict(pair), ""]
        else:
            alike.setdefault(str((pair["passed"], pair["notChecked"])), []).append(pair)
    for pairs in alike.values():
        more = f" and {len(pairs) - SHOWN_PAIRS} more" if len(pairs) > SHOWN_PAIRS else ""
        heading = ", ".join(_arrow(pair) for pair in pairs[:SHOWN_PAIRS])
        lines += [heading + more, *_verdict(pairs[0]), ""]
    if found["notChecked"]:
        lines += [*_not_checked(found["notChecked"], ""), ""]
    return [*lines, _summary(found["summary"])]


def _heading(host: Mapping[str, Any]) -> str:
    name, uri = printable(host["name"]), printable(host["uri"])
    return name if name == uri else f"{name}   {uri}"


def _arrow(pair: Mapping[str, Any]) -> str:
    return f"{printable(pair['from'])} -> {printable(pair['to'])}"


def _moved(pair: Mapping[str, Any]) -> str:
    probe = pair.get("probe")
    if not probe:
        return ""
    paused = "" if probe["downtimeMs"] is None else f", {probe['downtimeMs']} ms of them paused"
    return f"   a {printable(probe['type'])} guest migrated in {probe['seconds']:.1f} s{paused}"


def _facts(host: Mapping[str, Any]) -> list[str]:
    facts = host.get("facts")
    if not facts:
        return []
    words = (
        facts["hostname"],
        f"{facts['driver']} {facts['hypervisorVersion']}",
        f"libvirt {facts['libvirtVersion']}",
        f"{facts['arch']} {facts['cpuModel']}".strip(),
        f"{facts['cpus']} CPUs",
        f"{facts['memoryBytes'] / (1 << 30):.1f} GiB",
        f"{facts['domains']} domains",
    )
    uuid = [f"{_INDENT}host_uuid {printable(facts['hostUuid'])}"] if facts["hostUuid"] else []
    return [_INDENT + printable(", ".join(words)), *uuid]


def _verdict(verdict: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in verdict["findings"]:
        lines.append(f"{_INDENT}{one['severity'].upper()}  {one['check']}: {_line(one['seen'])}")
        lines.append(f"{_INDENT * 2}why: {_line(one['why'])}")
        for mend in one["mend"]:
            where = f"on {printable(mend['on'])}: " if mend.get("on") else ""
            lines.append(f"{_INDENT * 2}mend: {where}{printable(mend['command'])}")
    if verdict["passed"]:
        lines += _wrapped(f"{_INDENT}ok: {', '.join(verdict['passed'])}", _INDENT)
    return lines + _not_checked(verdict["notChecked"], _INDENT)


def _line(text: str) -> str:
    """What libvirt says may have several."""
    return printable(" ".join(text.split()))


def _not_checked(entries: Sequence[Mapping[str, str]], indent: str) -> list[str]:
    """Grouped by what would be needed."""
    needs: dict[str, list[str]] = {}
    for one in entries:
        needs.setdefault(one["needs"], []).append(one["check"])
    lines = []
    for need, checks in needs.items():
        lines += _wrapped(f"{indent}not checked: {', '.join(checks)} (needs {_line(need)})", indent)
    return lines


def _wrapped(line: str, indent: str) -> list[str]:
    import textwrap  # noqa: PLC0415 - only when hosts were looked at

    return textwrap.wrap(line, WIDTH, subsequent_indent=indent + _INDENT * 2, break_on_hyphens=False)


def _summary(summary: Mapping[str, int]) -> str:
    unreached = f", {summary['unreached']} not reached" if summary["unreached"] else ""
    counts = (("hosts", "host"), ("error", "error"), ("warning", "warning"), ("info", "note"))
    hosts, *found = [f"{summary[key]} {word}{'' if summary[key] == 1 else 's'}" for key, word in counts]
    return f"{hosts}{unreached}: {', '.join(found)}, {summary['notChecked']} not checked"
