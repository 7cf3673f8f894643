"""Several requests at once, on a few connections, without threads.

Each lane is a client with a connection of its own; what is to be done is steps (`controller.cli.client`) that
pause where a request was sent, so that all lanes' requests are with the server while one answer is read. What
comes of each is given in the order asked for, whatever the order of the answers. Whoever uses this knows that
none of what he asks for needs another of it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from controller.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from controller.cli.client import Client, Steps

T = TypeVar("T")

LANES = 8  # each costs a handshake, 3 ms of the server, before the first of it is sent


def in_order(client: Client, asked: Sequence[Callable[[Client], Steps[T]]]) -> Iterator[T | CliError]:
    """What each comes to, or the error that it ends with. Who takes no more leaves what is sent sent."""
    waiting = iter(enumerate(asked))
    lanes = [_Lane(client if n == 0 else client.twin(), waiting) for n in range(min(LANES, len(asked)))]
    done: dict[int, T | CliError] = {}
    try:
        for turn in range(len(asked)):
            while turn not in done:
                for lane in lanes:
                    lane.step(done)
            yield done.pop(turn)
    finally:
        for lane in lanes:
            lane.end()
        for lane in lanes[1:]:
            lane.client.close()


class _Lane(Generic[T]):
    """One connection, and what is being done on it. `waiting` is shared by all lanes."""

    def __init__(self, client: Client, waiting: Iterator[tuple[int, Callable[[Client], Steps[T]]]]) -> None:
        self.client = client
        self._waiting = waiting
        self._number = 0
        self._steps: Steps[T] | None = None

    def step(self, done: dict[int, T | CliError]) -> None:
        """Read the answer that is awaited here, and send what comes next; of the next one after the last."""
        while True:
            if self._steps is None:
                following = next(self._waiting, None)
                if following is None:
                    return
                self._number, begin = following
                self._steps = begin(self.client)
            try:
                next(self._steps)
                return
            except StopIteration as end:
                done[self._number] = end.value
            except CliError as error:
                done[self._number] = error
            self._steps = None

    def end(self) -> None:
        """A request whose answer nobody reads takes its connection with it."""
        if self._steps is not None:
            self._steps.close()
