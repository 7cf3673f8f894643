"""What `domctl diff` found, as a unified diff or as Markdown for a pull request.

Markdown puts first what cannot be taken back: what is deleted, then what changes, then what is new, then what
could not be found out. It stays below what forges accept in a comment; differences that do not fit any more
are named without their lines. Text from objects cannot end the block that it stands in, and nothing of what
Secrets hold is shown.
"""

from __future__ import annotations

import difflib
import re

from controller.cli.errors import printable
from controller.cli.merge3 import LAST_APPLIED
from specs import yamlout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Object = dict[str, Any]

LIMIT = 60_000  # characters; GitHub takes 65,536
DELETED, CHANGED, CREATED = "deleted", "changed", "created"
_MASK = "***"
_ORDER = (DELETED, CHANGED, CREATED)
_WORDS = {DELETED: "to delete", CHANGED: "to change", CREATED: "to create"}


class Difference:
    """One object: `before` None where it is not there yet, `after` None where it goes."""

    def __init__(self, label: str, path: str, before: Object | None, after: Object | None) -> None:
        self.label = label
        self.what = CREATED if before is None else DELETED if after is None else CHANGED
        before, after = concealed(before, after)
        self.lines = list(
            difflib.unified_diff(_lines(before), _lines(after), f"live/{path}", f"merged/{path}")
        )


def concealed(before: Object | None, after: Object | None) -> tuple[Object | None, Object | None]:
    """Values of Secrets say only whether they differ, as kubectl has it."""
    if not any(one is not None and one.get("kind") == "Secret" for one in (before, after)):
        return before, after
    old, new = (dict((one or {}).get("data") or {}) for one in (before, after))
    changed = {key for key in old.keys() & new.keys() if old[key] != new[key]}
    masked = [
        {key: f"{_MASK} ({word})" if key in changed else _MASK for key in data}
        for data, word in ((old, "before"), (new, "after"))
    ]
    first, second = (
        {**one, "data": data} if one is not None and one.get("data") else one
        for one, data in zip((before, after), masked, strict=True)
    )
    return first, second


def _lines(value: Object | None) -> list[str]:
    """As YAML, without what changes by itself and the annotation that repeats the file."""
    if value is None:
        return []
    meta = {k: v for k, v in value["metadata"].items() if k != "resourceVersion"}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    meta["annotations"] = annotations
    if not annotations:
        del meta["annotations"]
    text = printable(yamlout.dump({**value, "metadata": meta}), keep="\n")
    return text.splitlines(keepends=True)


def unified(found: Sequence[Difference]) -> str:
    return "".join("".join(one.lines) for one in found)


def markdown(found: Sequence[Difference], failures: Sequence[str], allowed: int) -> str:
    """`allowed`: how many deletions apply lets pass unasked."""
    counts = [(sum(one.what == what for one in found), _WORDS[what]) for what in _ORDER]
    said = ", ".join(f"**{count} {words}**" if words == _WORDS[DELETED] else f"{count} {words}"
                     for count, words in counts if count)  # fmt: skip
    parts = ["### domctl diff\n", f"{said or 'No differences'}.\n"]
    if counts[0][0] > allowed:
        parts.append(f"Applying this needs `--allow-destroy {counts[0][0]}`: the guests of domains end.\n")
    if failures:
        parts += [f"{len(failures)} could not be compared:\n", _fenced("".join(failures), "")]
    size = sum(map(len, parts))
    for block, heading in _blocks(found):
        text = block if size + len(block) <= LIMIT else f"- {heading}; its lines do not fit here\n"
        size += len(text) + 1
        if size > LIMIT + 4000:
            parts.append("- and more, which do not fit here\n")
            break
        parts.append(text)
    return "\n".join(parts)


def _blocks(found: Sequence[Difference]) -> Iterator[tuple[str, str]]:
    """Each as a foldable block and as one line; what is deleted stands open."""
    for what in _ORDER:
        for one in (one for one in found if one.what == what):
            heading = f"{one.what} {one.label}"
            opening = "<details open>" if what == DELETED else "<details>"
            body = _fenced("".join(one.lines), "diff")
            yield f"{opening}<summary>{heading}</summary>\n\n{body}\n</details>\n", heading


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}\n"
