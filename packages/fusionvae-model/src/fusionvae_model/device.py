"""The device to compute on, and what the operating system should know about it."""

import contextlib
import ctypes
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from fusionvae_model.errors import FusionVAEError

Precision = Literal["32", "bf16"]
"""What a model computes in: float32, or bfloat16 where PyTorch's autocast holds it good enough."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TOLERATED_SLOWDOWN = 1.5
"""How many times as long bfloat16 may take as float32 before a command says so."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def resolve_device(name: str) -> torch.device:
    """Return the device for ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``.

    Raises:
        FusionVAEError: If CUDA is asked for and absent, or the name is another one.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise FusionVAEError(f"got device {name!r}; expected auto, cpu or cuda")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise FusionVAEError("--device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu")
    return torch.device(name)


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device by any name that PyTorch has for it.

    Raises:
        FusionVAEError: If there is no such device.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise FusionVAEError(f"got device {device!r}; expected one that PyTorch knows, such as cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise FusionVAEError(f"got device {device!r}, but PyTorch sees no CUDA device; use cpu")
    return found


def device_name(device: torch.device) -> str:
    """Return what a reader of a result wants to know about the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def bfloat16_warning(precision: str, device: torch.device) -> str | None:
    """Return what somebody should know who chose bfloat16 for a CPU that only imitates it; ``None`` if all is well."""
    if precision != "bf16" or device.type != "cpu":
        return None
    slowdown = slowdown_in_bfloat16()
    if slowdown < TOLERATED_SLOWDOWN:
        return None
    return (
        f"this CPU does not multiply bfloat16 but imitates it: a convolution takes {slowdown:.0f} times as long as in "
        "float32; --precision 32 is the faster choice here"
    )


@torch.no_grad()
def slowdown_in_bfloat16() -> float:
    """Measure how many times as long as in float32 a small convolution takes in bfloat16 on the CPU, in 0.1 s.

    CPUs with AMX or AVX-512 BF16 take half as long; those without AVX-512 have taken nine times as long.
    """
    shortest = {}
    for precision in (torch.float32, torch.bfloat16):
        features = torch.ones(64, 32, 8, 8, dtype=precision).to(memory_format=torch.channels_last)
        weight = torch.ones(32, 32, 3, 3, dtype=precision)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            F.conv2d(features, weight, padding=1)
            seconds.append(time.perf_counter() - started)
        shortest[precision] = min(seconds[1:])
    return shortest[torch.bfloat16] / shortest[torch.float32]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether something failed for want of memory, which PyTorch says in as many ways as it has allocators."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a model that computes the same with fused kernels, on a GPU replayed as CUDA graphs.

    The first pass with each number of inputs compiles for a minute or more.

    Raises:
        FusionVAEError: If the CPU's code cannot be compiled because there is no C++ compiler.
    """
    if device.type == "cpu" and not any(
        shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")
    ):
        raise FusionVAEError("--compile on a CPU needs a C++ compiler and found none; install g++ or leave it out")
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(model, dynamic=False, mode=mode)  # type: ignore[return-value]


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the most memory taken so far: on a GPU by tensors there, else by this process; ``None`` if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def tune_process() -> None:
    """Set this process up for passes on a CPU; for the whole process, and best before its first pass.

    Subnormal numbers count as zero, as in :func:`subnormals_as_zero`, and freed memory is kept for the next pass
    (:func:`keep_freed_memory`). The commands do both; a program that imports the package decides for itself.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()


@contextlib.contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Within, numbers too small for a normal float count as zero, below 1.2e-38 in float32.

    Whatever shrinks exponentially gets there: channels that weight decay puts out, the far tail of a Swish. No sum
    notices, but a CPU takes tens of times longer for each of them. It holds for all that this thread computes, Python's
    own floats included, so afterwards all is as before; the threads that PyTorch shares large operations among take it
    over when the first of those starts them.
    """
    before = bool(torch.tensor(1e-39) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks for the next pass instead of returning them to the system.

    Every pass allocates the same large activations; without this the kernel zeroes their pages each time. It holds
    for the whole process, whose memory then stays at its peak. A no-op where the C library has no such setting.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # Its manual allows 32 MiB, newer versions take more. To set the other one alone would map every large block.
        if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
            mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
