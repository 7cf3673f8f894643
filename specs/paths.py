"""Host paths that specs may name: their form, and whether they lie under a node's allowedPaths (I19).

Compared as text, component by component, after anything that could mean two things was refused. Symbolic
links cannot be seen from here: whoever may write below an allowed directory decides what is there.
"""

from __future__ import annotations

from collections.abc import Sequence


def fault(path: str) -> str | None:
    """What makes a path unfit, in words after "must"; None if nothing."""
    if not path.startswith("/"):
        return "be an absolute path"
    parts = path.split("/")[1:]
    if ".." in parts or "." in parts:
        return "not contain '.' or '..' as a component"
    if "" in parts:
        return "not contain '//' or end in '/'"
    if any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return "not have a component longer than 255 bytes"
    return None


def is_allowed(path: str, allowed: Sequence[str]) -> bool:
    """Whether a path lies under one of the allowed directories, or is one of them."""
    if fault(path) is not None:
        return False
    return any(
        fault(directory) is None and (path == directory or path.startswith(directory + "/"))
        for directory in allowed
    )


def refusal(path: str, allowed: Sequence[str]) -> str:
    """Why `is_allowed` says no, for a user."""
    broken = fault(path)
    if broken is not None:
        return f"must {broken}"
    if not allowed:
        return f"names {path}, but the node allows no host paths (spec.allowedPaths of the Node is empty)"
    return f"names {path}, which is not under the node's allowedPaths ({', '.join(allowed)})"
