"""The composition root of `domctl doctor`: libvirt's driver, one event loop, one round.

Apart from `controller.app` so that looking at a host loads neither the server nor etcd's client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from controller.doctor.examine import Examination, Request
from controller.doctor.report import report
from drivers.libvirt import LibvirtHypervisor
from drivers.libvirt.inspection import LibvirtInspector


def examine(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Blocking. The report; everything that was opened is closed again."""
    return asyncio.run(_examine(request, say))


async def _examine(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    hypervisor = LibvirtHypervisor()
    try:
        return report(await Examination(hypervisor, LibvirtInspector(), say).run(request))
    finally:
        await hypervisor.close()
