"""Several processes that train as one, started by torchrun: who they are, what they share and agree on.

Gradients are averaged by one reduction of one vector after the backward pass. That leaves a parameter without
gradient, as on steps without inputs, without one in every process, and asks nothing of the graph.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from fusionvae_model.errors import FusionVAEError


@dataclass(frozen=True)
class Processes:
    """This process among its likes; alone by default.

    Attributes:
        rank: Its number, from 0; number 0 writes.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def shares(self, batch_size: int, accumulate: int = 1) -> list[slice]:
        """Return the rows of a batch that fall to this process, one slice for each of its passes.

        Raises:
            FusionVAEError: If the batch cannot be cut into equal shares.
        """
        shares = self.count * accumulate
        if batch_size % shares:
            raise FusionVAEError(
                f"a batch of {batch_size} cannot be shared equally by {self.count} processes in {accumulate} passes "
                f"each; choose a multiple of {shares} with --batch-size"
            )
        size = batch_size // shares
        first = self.rank * accumulate
        return [slice(share * size, (share + 1) * size) for share in range(first, first + accumulate)]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes, the same for each; without gradient, without waiting for the device."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def any(self, flag: bool) -> bool:
        """Return whether any process says yes; the same answer for each."""
        return self._on_the_host(float(flag), dist.ReduceOp.MAX) > 0

    def agree(self, value: float) -> float:
        """Return the value of process 0."""
        return self._on_the_host(value if self.rank == 0 else 0.0, dist.ReduceOp.SUM)

    def same(self, digest: str) -> bool:
        """Return whether all processes have the same hexadecimal digest; the same answer for each."""
        value = float(int(digest[:12], 16))  # 48 bits, which a double holds
        most, least = (self._on_the_host(sign * value, dist.ReduceOp.MAX) for sign in (1, -1))
        return most == -least

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.any(False)

    def _on_the_host(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.count == 1:
            return value
        # The group's first backend is gloo, which takes this and leaves the device alone.
        box = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(box, op=operation)
        return float(box)


ALONE = Processes()


def first_process() -> bool:
    """Tell whether this is the only process or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun started, if it did; yield this one and its own device.

    Raises:
        FusionVAEError: If they cannot find each other, or there are more of them than devices.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        yield ALONE if count == 1 else Processes(dist.get_rank(), count), device
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise FusionVAEError(
                f"process {local_rank} of this machine has no CUDA device of its own among "
                f"{torch.cuda.device_count()}; start at most so many with --nproc-per-node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FusionVAEError(
            f"the {count} processes did not find each other ({reason}); start them with torchrun"
        ) from error
    try:
        yield Processes(dist.get_rank(), count), device
    finally:
        dist.destroy_process_group()
