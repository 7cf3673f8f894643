"""Is it alive, is it ready, which version, and its metrics: what is asked without knowing any kind.

The checks behind `/readyz` are given by the composition root; each says None, or what is wrong, and has a
time of its own, so that a hanging one is an answer too. `/livez` asks nothing: it answers if the loop does.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from controller.api.parts import Parts

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str | None]]
CHECK_TIMEOUT_S: Final = 2.0
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


async def run_checks(checks: Mapping[str, Check]) -> dict[str, str | None]:
    async def bounded(check: Check) -> str | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"

    results = await asyncio.gather(*(bounded(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


def live() -> web.Response:
    return web.Response(text="ok")


async def ready(checks: Mapping[str, Check], *, verbose: bool) -> web.Response:
    results = await run_checks(checks)
    good = all(problem is None for problem in results.values())
    if good and not verbose:
        return web.Response(text="ok")
    lines = [
        f"[+]{name} ok" if problem is None else f"[-]{name} failed: {problem}"
        for name, problem in results.items()
    ]
    lines.append("readyz check passed" if good else "readyz check failed")
    return web.Response(text="\n".join(lines) + "\n", status=200 if good else 503)


def version(own: str) -> dict[str, Any]:
    """Clients choose their ways by the Kubernetes version; ours stands behind it."""
    return {
        "major": "1",
        "minor": "33",
        "gitVersion": f"v1.33.0+domctl.{own}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }


async def metrics(
    request: web.Request, render: Callable[[], Iterable[bytes]], turn: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    """A page of metrics, part by part; `turn`: what is waited for in between, so that others get on."""
    parts = iter(render())
    part: bytes | None = next(parts, b"")  # what fails here is told as any other failure
    answer = Parts(request, _TEXT)
    await answer.begin()
    try:
        while part is not None:
            await answer.add(part)
            await turn()
            part = next(parts, None)
        return await answer.end()
    except (ConnectionError, TimeoutError) as error:
        log.warning("a page of metrics was cut off", extra={"error": str(error)})
        return answer.cut()
    except Exception:  # a second answer cannot be given
        log.exception("a page of metrics was cut off")
        return answer.cut()
