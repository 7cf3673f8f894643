"""`domctl edit`: change one object in an editor.

What was changed in the editor, and nothing else, is sent. What the server or the parser refuses comes back
into the editor with the reason above it; who leaves it as it is gives up, and keeps a copy of what was
written.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading

from controller.cli import lists, merge3, output
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, UsageError, printable, rendered
from specs import yamlout
from specs.yamldoc import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

    Object = dict[str, Any]

EXAMPLES = (
    ("Edit a domain", "domctl edit domain/web-1"),
    ("With another editor", "KUBE_EDITOR=nano domctl edit domain/web-1"),
)
_HEAD = """# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
"""


def configure(flags: Flags) -> None:
    flags.describe(
        "(-f FILENAME | TYPE NAME | TYPE/NAME) [options]",
        "Edit an object in an editor: $KUBE_EDITOR, $EDITOR, or vi.\n\n Only what was changed is sent.",
        EXAMPLES,
    )
    lists.configure_files(flags)
    flags.value("--field-manager", default="domctl-edit", text="Name of the manager of what is changed.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    client = connect(args)
    targets = lists.targets(client, args, args.words)
    if len(targets) != 1 or len(targets[0][1]) != 1:
        raise UsageError("name one object: TYPE NAME or TYPE/NAME")
    resource, (name,) = targets[0]
    path = resource.path(client.namespace if resource.namespaced else "", name)
    live: Object = client.get(path)
    before = _editable(live)
    text, why = yamlout.dump(before), ""
    while True:
        written = _edited(_HEAD + why + text, resource, name)
        body = "".join(line for line in written.splitlines(keepends=True) if not line.startswith("#"))
        if not body.strip():
            sys.stdout.write("Edit cancelled, saved file was empty.\n")
            return 0
        if body == text:
            return _given_up(body, why)
        text = body
        try:
            return _save(client, args, path, (resource, before, _parsed(body)))
        except CliError as error:
            why = "".join(f"# {line}\n" for line in rendered(error).splitlines()) + "#\n"


def _editable(live: Object) -> Object:
    shown = output.without_managed_fields(live)
    return {**shown, "metadata": {k: v for k, v in shown["metadata"].items() if k != "resourceVersion"}}


def _given_up(body: str, why: str) -> int:
    if not why:
        sys.stdout.write("Edit cancelled, no changes made.\n")
        return 0
    handle, kept = tempfile.mkstemp(prefix="domctl-edit-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(body)
    reason = "\n".join(line.removeprefix("# ") for line in why.splitlines() if line != "#")
    raise CliError(
        f"Edit cancelled, no valid changes were saved.\n{reason}", hint=f"what you wrote is in {kept}"
    )


def _parsed(text: str) -> Object:
    """Raises CliError."""
    loaded = load(text)
    if loaded.problems:
        raise CliError("; ".join(str(problem) for problem in loaded.problems))
    if len(loaded.documents) != 1 or not isinstance(loaded.documents[0].value, dict):
        raise CliError("the file must hold one object")
    return dict(loaded.documents[0].value)


def _save(client: Client, args: argparse.Namespace, path: str, edit: tuple[Resource, Object, Object]) -> int:
    resource, before, after = edit
    label = f"{resource.word}/{printable(before['metadata']['name'])}"
    patch = merge3.difference(before, after)
    if not patch:
        sys.stdout.write("Edit cancelled, no changes made.\n")
        return 0
    query = [("fieldManager", args.field_manager), ("fieldValidation", "Strict")]
    client.call("PATCH", path, query, patch, content_type=MERGE_PATCH)
    sys.stdout.write(f"{label} edited\n")
    return 0


def _edited(text: str, resource: Resource, name: str) -> str:
    """What the editor made of it. Raises CliError."""
    editor = os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi"
    command = _words(editor)
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"domctl-{resource.singular}-{name}-", suffix=".yaml", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    try:
        done = _undisturbed([*command, file.name])
        if done.returncode:
            raise CliError(
                f'the editor "{editor}" failed with exit code {done.returncode}; nothing was changed'
            )
        with open(file.name, "rb") as changed:
            return _text(changed.read())
    except FileNotFoundError:
        raise CliError(f'unable to launch the editor "{editor}"', hint="set KUBE_EDITOR or EDITOR") from None
    finally:
        os.unlink(file.name)


def _undisturbed(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Ctrl-C is a key of the editor's, and reaches whoever waits for it, too: to end then would end the
    editor and lose what was written. A handler, for what is ignored would be so in the editor."""
    if threading.current_thread() is not threading.main_thread():
        return subprocess.run(command, check=False)  # noqa: S603 - the user's editor
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        return subprocess.run(command, check=False)  # noqa: S603 - the user's editor
    finally:
        signal.signal(signal.SIGINT, before)


def _words(editor: str) -> list[str]:
    """Raises CliError."""
    try:
        words = shlex.split(editor)
    except ValueError as error:
        raise CliError(
            f"unable to launch the editor {editor!r}: {error}", hint="set KUBE_EDITOR or EDITOR"
        ) from None
    return words or ["vi"]


def _text(written: bytes) -> str:
    """Raises CliError; what was written is kept."""
    try:
        return written.decode()
    except UnicodeDecodeError:
        handle, kept = tempfile.mkstemp(prefix="domctl-edit-", suffix=".yaml")
        with os.fdopen(handle, "wb") as file:
            file.write(written)
        raise CliError(
            "the editor wrote what is not UTF-8; nothing was changed", hint=f"what you wrote is in {kept}"
        ) from None
