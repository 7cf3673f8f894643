"""The `domctl` command: find the verb, run it, and end with the exit code that scripts expect.

Nothing but the verb asked for is imported, which keeps `domctl get domains` as quick as kubectl. Guaranteed:
0 means done, 1 not done (`diff`: 1 differs, 2 failed), 130 Ctrl-C; only errors and warnings go to stderr; a
closed pipe ends the command quietly; a stack trace is never a user's answer for a file, a server or a
network that is not as it should be. The server is started by `domctl serve` through `controller.app`, which
nothing else here imports.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys

from controller.cli import verbs
from controller.cli.errors import CliError, UsageError, rendered
from controller.cli.flags import Flags

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """The entry point. As a program (`argv` None) it ends the process unless it served."""
    if argv is not None:
        return _ended(argv)
    if sys.stdout is None or sys.stderr is None:  # closed by who started it: nobody reads it
        _open_again()
    gc.disable()  # a collection costs more than a quick command leaves behind; watches and servers enable it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # UTF-8, as kubectl writes it, for what is piped on; whatever a host calls itself can be printed.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = _ended(sys.argv[1:])
    if "controller.app" not in sys.modules:
        os._exit(code)  # all is flushed; taking the interpreter apart costs a tenth of a quick command
    return code


def _ended(argv: list[str]) -> int:
    try:
        code = _guarded(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough.
        _write_nowhere()
        return 1
    except OSError as error:
        _write_nowhere()
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}\n")
        return 1
    except UnicodeEncodeError as error:
        sys.stderr.write(f"error: {error.object!a} is not UTF-8\n")
        return 1
    sys.stderr.flush()
    return code


def _write_nowhere() -> None:
    """Python would complain again when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_again() -> None:
    """So that no socket gets the number of a stream, and what is written to it."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


def _guarded(argv: list[str]) -> int:
    try:
        return _run(argv)
    except CliError as error:
        sys.stdout.flush()
        sys.stderr.write(rendered(error))
        return error.exit_code


def _run(argv: list[str]) -> int:
    if argv[:1] == ["__complete"]:
        from controller.cli import completion  # noqa: PLC0415 - only for shells

        return completion.answer(argv[1:])
    verb, rest = verbs.split(argv)
    if verb in {"", "help"}:
        return _help(rest if verb else [])
    name = verbs.module_of(verb)
    if not name:
        return _unknown(verb, rest)
    flags = Flags(f"domctl {verb}")
    if verb == "serve":
        return _serve(flags, rest)
    module = importlib.import_module(f"controller.cli.{name}")
    module.configure(flags)
    if _asks_for_help(rest):
        sys.stdout.write(flags.help())
        return 0
    args = flags.parse(rest)
    try:
        return int(module.run(args))
    finally:
        for close in args.cleanup:
            close()


def _serve(flags: Flags, rest: list[str]) -> int:
    from controller.cli import serve  # noqa: PLC0415 - only this verb

    serve.configure(flags)
    if _asks_for_help(rest):
        sys.stdout.write(flags.help())
        return 0
    args = serve.checked(flags.parse(rest))
    gc.enable()
    from controller import app  # noqa: PLC0415 - the server, which no other verb imports

    return app.serve(args)


def _help(words: list[str]) -> int:
    """`domctl help`, `domctl help get`, `domctl --help`."""
    verb, rest = verbs.split(words)
    unknown = [word for word in words if word.startswith("-") and word not in {"-h", "--help"}]
    if not verb and unknown and not _asks_for_help(words):
        raise UsageError(f"unknown flag: {unknown[0]}\nSee 'domctl --help' for usage.")
    if not verb:
        sys.stdout.write(verbs.overview())
        return 0
    return _run([*verb.split(" "), *rest, "--help"])


def _unknown(verb: str, rest: list[str]) -> int:
    if verbs.second_words(verb):
        asked = [word for word in rest if not word.startswith("-")]
        if asked and not _asks_for_help(rest):
            raise UsageError(f'unknown command "{verb} {asked[0]}" for "domctl"')
        sys.stdout.write(verbs.group_help(verb))
        return 0 if _asks_for_help(rest) else 1
    import difflib  # noqa: PLC0415 - only for a slip of the pen

    known = [name for _, name, _, _ in verbs.VERBS]
    close = difflib.get_close_matches(verb, known, n=3, cutoff=0.6)
    maybe = "\n\nDid you mean this?\n" + "\n".join(f"\t{name}" for name in close) if close else ""
    raise UsageError(f'unknown command "{verb}" for "domctl"{maybe}')


def _asks_for_help(rest: list[str]) -> bool:
    words = rest[: rest.index("--")] if "--" in rest else rest
    return "-h" in words or "--help" in words


if __name__ == "__main__":
    sys.exit(main())
