"""The command line of the demo: options, leave to run, and an end that leaves nothing behind.

The last line is for scripts: `demo: ok: …` with exit code 0 only when the hosts confirmed everything,
else `demo: failed: …`. Exit codes: 0 verified; 1 not; 2 something is not installed;
128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from types import FrameType

from . import story
from .screen import Screen
from .stage import CHECKOUT, DOMCTL, DemoError, Interrupted, Stage, is_up, kubeconfig, recall, rootless

BOOTSTRAP = CHECKOUT / "deploy" / "bootstrap"


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    if args.env:
        return _print_environment()
    if (code := _prepare(argv)) is not None:
        return code
    screen = Screen()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    if args.down:
        return _down(screen)
    stage: Stage | None = None
    code, last = 1, "demo: failed: it did not begin"
    try:
        if (held := recall()) is not None and is_up(held):
            raise DemoError(
                f"a demo of this checkout is up already ({held}); end it with ./deploy/demo --down"
            )
        stage = Stage(screen, args.hosts)
        last = story.tell(stage, screen).line
        code = 0
    except Interrupted as interrupted:
        code, last = 128 + interrupted.signum, f"demo: failed: interrupted by signal {interrupted.signum}"
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        last = f"demo: failed: {error}"
        if stage is not None:
            screen.say(stage.logs())
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)  # what follows must not be cut short
        if stage is not None and (code != 0 or not args.keep):
            stage.down()
    if stage is not None and code == 0:
        _farewell(stage, screen, args.keep)
    screen.say(last)
    return code


def _farewell(stage: Stage, screen: Screen, keep: bool) -> None:
    if not keep:
        screen.say("Everything it started is gone again; with --keep it stays, to play with.")
        return
    screen.say(f"It stays up. To go on{'' if rootless() else ', as root'}:")
    for line in stage.ways_on():
        screen.say(f"    {line}")
    screen.say("To end it:\n    ./deploy/demo --down")


def _print_environment() -> int:
    """For `eval`, in the shell of whoever runs the demo."""
    held = recall()
    if held is None or not is_up(held):
        sys.stderr.write("demo: nothing is up; ./deploy/demo --keep leaves it up\n")
        return 1
    print(f"export KUBECONFIG={shlex.quote(str(kubeconfig(held)))}")
    print(f"export PATH={shlex.quote(str(DOMCTL.parent))}:$PATH")
    return 0


def _down(screen: Screen) -> int:
    held = recall()
    if held is None:
        screen.say("demo: nothing is up")
        return 0
    Stage(screen, 0, directory=held).down()
    screen.say("demo: down")
    return 0


def _prepare(argv: list[str]) -> int | None:
    """None: go on, with everything installed; as root if that can be had, since hosts are more then."""
    done = subprocess.run([str(BOOTSTRAP)], stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        print("demo: failed: deploy/bootstrap could not install what is needed")
        return 2
    sudo = shutil.which("sudo")
    if rootless() and sudo is not None:
        command = [sudo, "-n", "--"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            os.execv(sudo, [*command, str(CHECKOUT / "deploy" / "demo"), *argv])  # noqa: S606
    return None


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo", description="domctl on real libvirt hosts: converge, break things, see them repaired."
    )
    parser.add_argument("--keep", action="store_true", help="leave everything up at the end")
    parser.add_argument("--down", action="store_true", help="end a demo that was left up")
    parser.add_argument(
        "--env", action="store_true", help='for a shell: eval "$(./deploy/demo --env)" while it is up'
    )
    parser.add_argument("--hosts", type=int, default=3, metavar="N", help="hosts (default: %(default)s)")
    return parser
