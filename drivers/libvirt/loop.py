"""libvirt's own event loop, in one daemon thread of its own, for the whole process.

libvirt's event implementation is a global of the C library, to be registered before the first connection
is opened; without it there is no keep-alive and no event, and registered but not running it makes the
server drop us after 30 s. `native_loop()` registers and starts it once. The asyncio implementation that
comes with libvirt-python is not used: it is not thread-safe, and it stalls the loop for whole calls.

The thread beats: a timer inside libvirt's loop notes the time every second, so that `lag_s` tells a
starved or wedged loop (which would lose every connection) from a quiet one.
"""

from __future__ import annotations

import functools
import threading
import time

import libvirt

_BEAT_MS = 1000
_FAILED_TURN_PAUSE_S = 0.05  # libvirt's poll failed: do not spin
SWITCH_INTERVAL_S = 0.0005  # with Python's own 5 ms each short call waits that long beside a busy thread


class NativeLoop:
    """The thread and its pulse. Made by `native_loop` alone."""

    def __init__(self) -> None:
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(_no_stderr, None)
        self._beat_at = time.monotonic()
        libvirt.virEventAddTimeout(_BEAT_MS, self._beat, None)
        threading.Thread(target=self._run, name="libvirt-events", daemon=True).start()

    def _beat(self, _timer: int, _opaque: object) -> None:
        self._beat_at = time.monotonic()

    def lag_s(self) -> float:
        """By how much the loop's last beat is late; about 0 when all is well."""
        return max(0.0, time.monotonic() - self._beat_at - _BEAT_MS / 1000)

    def _run(self) -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                time.sleep(_FAILED_TURN_PAUSE_S)


def _no_stderr(_opaque: object, _error: object) -> None:
    """libvirt prints every error unless it has a handler; ours travel as exceptions."""


@functools.cache
def native_loop() -> NativeLoop:
    """The process's only native loop, started on first use."""
    return NativeLoop()
