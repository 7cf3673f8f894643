"""The composition root of `domctl doctor`: libvirt's driver, one event loop, one round.

Apart from `controller.app` so that looking at a host loads neither the server nor etcd's client.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable
from typing import Any

from controller.doctor.examine import Examination, Request
from controller.doctor.report import report
from drivers.libvirt import Access, LibvirtHypervisor
from drivers.libvirt.inspection import LibvirtInspector
from drivers.ssh import OpenSsh


def examine(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Blocking. The report; everything that was opened is closed again, and every guest removed, also after
    SIGINT, SIGTERM and SIGHUP, which end in KeyboardInterrupt."""
    return asyncio.run(_examine(request, say))


async def _examine(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    access = Access(files_under=request.files_under, commands=request.commands)
    hypervisor = LibvirtHypervisor(access=access)
    task = asyncio.ensure_future(_look(hypervisor, request, say))

    def stop() -> None:
        say("stopping: what was started is removed first")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        await hypervisor.close()


async def _look(
    hypervisor: LibvirtHypervisor, request: Request, say: Callable[[str], None]
) -> dict[str, Any]:
    examination = Examination(hypervisor, LibvirtInspector(), OpenSsh(), say, lambda: str(uuid.uuid4()))
    return report(await examination.run(request))
