"""Being asked to stop: heard at once, followed between two steps, never within one."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """Remembers an interrupt (Ctrl-C) or a termination while its ``with`` block runs.

    A step cut in half would leave batch statistics of one step beside weights of another. Only the first request
    waits; a second one acts as it would without this. Outside the main thread, which alone hears signals, nothing is
    caught.

    Args:
        speaks: Whether to say on stderr that the request was heard: a step may take a minute.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, speaks: bool = True) -> None:
        self.received = False
        self._speaks = speaks
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Hand the signals back."""
        self._hand_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._hand_back()
        if self._speaks:
            with contextlib.suppress(OSError):  # not by print, which may be what was interrupted
                os.write(2, b"\nstopping once this step is done and saved; ask again to stop at once\n")

    def _hand_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
