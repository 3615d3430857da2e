"""Work spread over processes that end together, however one of them ends."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, TypeVar

from fusion_datasets.errors import FusionDatasetsError

_IN_HAND: Final = 2
"""Items that a process has been given: it begins the next one while what it sent is still being looked at."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    stated: tuple[type[Exception], ...] = (FusionDatasetsError, OSError),
    lost: type[Exception] = FusionDatasetsError,
) -> Iterator[tuple[Item, Result]]:
    """Work on items here or in several processes, and yield each with what became of it as it is done.

    Arguments:
        work: Picklable, as are items and results.
        items: In this order each goes to the next process that is free.
        workers: Processes; with one, all is done here, in order.
        stated: Picklable exceptions of `work` that are raised here; any other one ends its process with a traceback.
        lost: Raised with a sentence where a process ended early.

    Yields:
        Each item and what `work` returned for it.

    Raises:
        lost: If a process ended early; what is in `stated` if `work` raised it. All processes have ended then.
    """
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return
    # Each process has a pipe of its own: if one of them dies, its pipe breaks, and all end.
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, SpawnProcess] = {}
    remaining = iter(items)
    try:
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, work, stated), daemon=True)
            process.start()
            there.close()
            processes[here] = process
        for _ in range(_IN_HAND):
            for connection in processes:
                _hand_out(connection, remaining)
        while processes:
            for connection in wait(list(processes)):
                message = _receive(connection, lost)
                if message is None:
                    processes.pop(connection).join()
                else:
                    _hand_out(connection, remaining)
                    yield message
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _hand_out(connection: Any, remaining: Iterator[Any]) -> None:
    """Send the next item, or None where none remains; that a process is gone is noticed when it should answer."""
    with contextlib.suppress(OSError):
        connection.send(next(remaining, None))


def _work(connection: "Connection[Any, Any]", work: Callable[[Any], Any], stated: tuple[type[Exception], ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while (item := connection.recv()) is not None:
            connection.send((item, work(item)))
        connection.send(None)
    except EOFError:
        return  # whoever handed out is gone
    except stated as error:
        with contextlib.suppress(OSError):  # nobody may be listening any more
            connection.send(error)


def _end_with_parent() -> None:
    """End at once when whoever handed out is killed: an item can take hours, and what is half done is done again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _receive(connection: Any, lost: type[Exception]) -> Any:
    try:
        message = connection.recv()
    except (EOFError, ConnectionError):  # the latter where it left unread what it was given
        raise lost(
            "a worker process ended early or was killed, perhaps for want of memory; run the same command again with "
            "fewer --workers to continue"
        ) from None
    if isinstance(message, Exception):
        raise message
    return message
