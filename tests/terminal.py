"""A command on a terminal of its own, typed on and read by a test."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time


class Terminal:
    """A command on a terminal of its own, as a person has it."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def shows(self, text: str, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while text not in self.text and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._master, 4096).decode(errors="replace")
                except OSError:  # the command has ended
                    return text in self.text
        return text in self.text
