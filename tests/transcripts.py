"""Transcripts: commands with the output and the exit code that each must have, one readable file for a topic.

    # a remark
    $ kubectl get domain web-1
      NAME    STATE     NODE   READY   REASON    AGE
      web-1   running   hv1    True    Running   <age>
    $ kubectl get domain none
    ? 1
      ! Error from server (NotFound): domains.domctl.io "none" not found
    @ 1.20 1.27
    ? 1
      ! what those versions say instead

A line `  ...` stands for any lines: what depends on how fast the machine is. Output is indented by two
spaces, what came on stderr by `  ! `, empty lines are left out; `? N` is the exit code where it is not 0;
`@` begins what other versions print. What differs from run to run, or from machine to machine, is normalised
(`_NORMAL`). `learn` takes what was seen, version by version, the newest first; a person reviews the
difference that it makes in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_ANY: Final = "  ..."
Answer = tuple[str, ...]  # the lines as they stand in the file, exit code first if it is not 0

_AGE: Final = r"\d+[smhd](?:\d+[smhd])?(?: \(x\d+ over \d+[smhd]\))?"
_NORMAL: Final = tuple(
    (re.compile(pattern, re.MULTILINE), text)
    for pattern, text in (
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
        (r'(resourceVersion"?: ")\d+"', r'\1<rv>"'),
        (r"(Resource Version: +)\d+", r"\1<rv>"),
        (r"https://127[0-9.]+:\d+", "<server>"),
        (r'(digest"?: "?|Digest: +)[0-9a-f]{32}', r"\1<digest>"),
        (r"(\b[a-z]+-\d)-[bcdfghjklmnpqrstvwxz2456789]{5}\b", r"\1-<node>"),
        (r"libvirt-\d+(\.\d+)*", "libvirt-<version>"),
        (r"(Hostname: +)\S+", r"\1<host>"),
        (r"(Libvirt Version: +)\S+", r"\1<version>"),
        (r"((?:Client|Kustomize) Version: v\d+\.\d+)\.\d+", r"\1.<patch>"),
        (r"version\.Info\{.*?(GitVersion:\"v\d+\.\d+).*?\}", r"\1.<patch>"),
        (r"/tmp/(LIVE|MERGED)-\d+/", r"/tmp/\1/"),
        (r'in scheme "\S+"', 'in scheme "<file>"'),
        (r"\t\d{4}-\d\d-\d\d \S+ [+-]\d{4}$", ""),
    )
)
_AGES: Final = (re.compile(rf"(^| {{2,}}){_AGE}(?= {{2}}|$)", re.MULTILINE), r"\1<age>")
_GAP: Final = re.compile(r"(?<=[^\s+-]) {2,}")  # after a + or - of a diff it is indentation


def answer(code: int, out: str, err: str, *, ages: bool = True) -> Answer:
    """As it stands in a transcript: without what differs from run to run, columns as near as they may be.
    `ages`: whether there are any; 250m may also be a quarter of a processor."""
    lines = [f"? {code}"] if code else []
    for mark, text in (("  ", out), ("  ! ", err)):
        lines += [f"{mark}{line}".rstrip() for line in _normal(text, ages=ages).splitlines() if line.strip()]
    return tuple(lines)


def _normal(text: str, *, ages: bool) -> str:
    for pattern, replacement in (*_NORMAL, *((_AGES,) if ages else ())):
        text = pattern.sub(replacement, text)
    return _GAP.sub("   ", text)


@dataclass
class Step:
    """One command. `others`: the answers of versions that do not give the common one."""

    command: str
    remarks: tuple[str, ...] = ()
    common: Answer = ()
    others: dict[str, Answer] = field(default_factory=dict)

    def expected(self, version: str) -> Answer:
        return self.others.get(version, self.common)

    def learn(self, version: str, seen: Answer, *, newest: bool) -> None:
        if _ANY in (expected := self.expected(version)) and fits(expected, seen):
            return
        self.others.pop(version, None)
        if newest:
            self.common = seen
        elif seen != self.common:
            self.others[version] = seen

    def lines(self) -> list[str]:
        made = [*self.remarks, f"$ {self.command}", *self.common]
        for seen in dict.fromkeys(self.others.values()):
            versions = sorted((v for v, one in self.others.items() if one == seen), key=_order)
            made += [f"@ {' '.join(versions)}", *seen]
        return made


def fits(expected: Answer, seen: Answer) -> bool:
    """Whether what was seen is what is written, where `...` stands for any lines."""
    if _ANY not in expected:
        return expected == seen
    parts: list[list[str]] = [[]]
    for line in expected:
        if line == _ANY:
            parts.append([])
        else:
            parts[-1].append(line)
    first, *middle, last = parts
    at, end = len(first), len(seen) - len(last)
    if at > end or list(seen[:at]) != first or list(seen[end:]) != last:
        return False
    for part in middle:
        found = next((n for n in range(at, end - len(part) + 1) if list(seen[n : n + len(part)]) == part), -1)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def parse(text: str) -> list[Step]:
    """Raises ValueError for a line that is none of those above."""
    steps: list[Step] = []
    remarks: list[str] = []
    into: list[str] = []  # the versions that the present lines are of; none: the common answer
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            remarks.append(line)
        elif line.startswith("$ "):
            steps.append(Step(line[2:], tuple(remarks)))
            remarks, into = [], []
        elif line.startswith("@ ") and steps:
            into = line[2:].split()
            steps[-1].others.update(dict.fromkeys(into, ()))
        elif line.startswith(("? ", "  ")) and steps:
            if into:
                steps[-1].others.update({v: (*steps[-1].others[v], line) for v in into})
            else:
                steps[-1].common = (*steps[-1].common, line)
        else:
            raise ValueError(f"line {number} is neither a command nor what it prints: {line!r}")
    return steps


def load(path: Path) -> list[Step]:
    return parse(path.read_text())


def save(path: Path, steps: Sequence[Step]) -> None:
    path.write_text("\n".join(line for step in steps for line in step.lines()) + "\n")
