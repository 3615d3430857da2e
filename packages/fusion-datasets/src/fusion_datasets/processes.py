"""Work spread over processes that end together, however one of them ends."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from fusion_datasets.errors import FusionDatasetsError

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
        items: Each process takes every `workers`-th.
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
    # Each process has a pipe of its own and its share of the work: if this one dies, they break, and all end.
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, SpawnProcess] = {}
    try:
        for i in range(workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(there, work, items[i::workers], stated), daemon=True)
            process.start()
            there.close()
            processes[here] = process
        while processes:
            for connection in wait(list(processes)):
                message = _receive(connection, lost)
                if message is None:
                    processes.pop(connection).join()
                else:
                    yield message
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _work(
    connection: "Connection[Any, Any]",
    work: Callable[[Any], Any],
    items: Sequence[Any],
    stated: tuple[type[Exception], ...],
) -> None:
    try:
        for item in items:
            connection.send((item, work(item)))
        connection.send(None)
    except stated as error:
        with contextlib.suppress(OSError):  # nobody may be listening any more
            connection.send(error)


def _receive(connection: Any, lost: type[Exception]) -> Any:
    try:
        message = connection.recv()
    except EOFError:
        raise lost(
            "a worker process ended early or was killed, perhaps for want of memory; run the same command again with "
            "fewer --workers to continue"
        ) from None
    if isinstance(message, Exception):
        raise message
    return message
