#!/usr/bin/env python3
"""Measure `fusion-datasets build celeba` against a plain loop, in one run: images per second, CPU time, memory.

The plain loop is what one writes first: decode with OpenCV, crop, resize, write the row into HDF5; nothing is split,
checked, hashed or resumable, and no evaluation inputs are rendered.

    tools/bench_celeba.py --count 20000 --workers 2

Both take turns, so that a busy machine slows both alike; the ratio is the median over the rounds.
"""

import argparse
import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fusion_datasets.sources.celeba import ORIGINAL_COUNTS
from fusion_datasets.sources.standin import StandInCelebA

PLAIN = """
import sys
from pathlib import Path
import cv2, h5py
paths = sorted(Path(sys.argv[1]).glob("img_align_celeba/*.jpg"))
with h5py.File(sys.argv[2], "w") as file:
    target = file.create_dataset("target", (len(paths), 64, 64, 3), "u1")
    for row, path in enumerate(paths):
        image = cv2.imread(str(path))[40:188, 15:163]
        target[row] = cv2.cvtColor(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
"""
DISTINCT = 90


def originals(folder: Path, count: int) -> None:
    """So many photographs in CelebA's layout and proportions; the same few faces again and again."""
    StandInCelebA(DISTINCT - 20, 10, 10, seed=0).write(folder, progress=False)
    images = folder / "img_align_celeba"
    contents = [(images / f"{i + 1:06d}.jpg").read_bytes() for i in range(DISTINCT)]
    ends, total = [], 0
    for part in ORIGINAL_COUNTS.values():
        total += part
        ends.append(round(count * total / sum(ORIGINAL_COUNTS.values())))
    lines = []
    for i in range(count):
        name = f"{i + 1:06d}.jpg"
        (images / name).write_bytes(contents[i % DISTINCT])
        lines.append(f"{name} {sum(i >= end for end in ends)}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    (folder / "identity_CelebA.txt").unlink()


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processes_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [one for child in children.read_text().split() for one in processes_of(int(child))]
    return found


def peak_memory(command: list[str]) -> float:
    """Most MiB that a command and its children had at once, looked at twenty times a second.

    What several processes share counts once: the sum of their proportional set sizes, which Linux tells.
    """
    peak, process = 0, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for pid in processes_of(process.pid):
            with contextlib.suppress(OSError, AttributeError):  # it has just ended
                total += int(re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
        peak = max(peak, total)
        time.sleep(0.05)
    return peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6000, help="photographs (default: 6000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of the build")
    parser.add_argument("--rounds", type=int, default=4, help="alternating rounds (default: 4)")
    options = parser.parse_args()
    if options.count <= DISTINCT or options.rounds < 1 or options.workers < 1:
        parser.error(f"expected more than {DISTINCT} photographs, at least one round and one worker")
    with tempfile.TemporaryDirectory() as folder:
        sources = {count: Path(folder) / f"celeba-{count}" for count in (DISTINCT, options.count)}
        commands: dict[int, list[list[str]]] = {}
        for count, source in sources.items():
            originals(source, count)
            plain = [sys.executable, "-c", PLAIN, str(source), f"{folder}/plain.h5"]
            build = [sys.executable, "-m", "fusion_datasets", "build", "celeba", "--source", str(source), "--force"]
            build += ["--output", f"{folder}/built.h5", "--workers", str(options.workers)]
            commands[count] = [plain, build]
        rounds = []  # of each: what `measure` says of both commands, for either number of photographs
        for number in range(options.rounds):
            rounds.append([[measure(command) for command in commands[count]] for count in sources])
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        size = Path(f"{folder}/built.h5").stat().st_size
        memory = [peak_memory(commands[count][1]) for count in sources]
    total, more = sum(ORIGINAL_COUNTS.values()), options.count - DISTINCT
    # What starting up costs is what the few take; a machine that was busy meanwhile does not make it negative.
    start = np.median([few for few, _ in rounds], axis=0)
    per_image = np.array([np.maximum(many - start, 1e-9) / more for _, many in rounds])  # [rounds, side, wall or CPU]
    print(f"{options.count} photographs, {options.rounds} rounds, each time without what {DISTINCT} take")
    for side, name in enumerate(("plain loop", f"build, {options.workers} worker{'s' * (options.workers > 1)}")):
        wall, cpu = np.median(per_image[:, side], axis=0)
        print(
            f"{name:>20}: {1 / wall:7.0f} images/s, {1e6 * cpu:5.0f} µs of CPU per image, "
            f"{total} in {start[side][0] + total * wall:.0f} s"
        )
    ratios, cpu_ratios = (per_image[:, i, j] / per_image[:, 1 - i, j] for i, j in ((0, 0), (1, 1)))
    spread = f"{ratios.min():.2f} … {ratios.max():.2f}"
    print(f"{'ratio':>20}: {np.median(ratios):.2f} in images/s ({spread}), {np.median(cpu_ratios):.2f} in CPU")
    print(f"{'memory':>20}: {memory[1]:.0f} MiB at most, all processes together ({memory[0]:.0f} for {DISTINCT})")
    print(f"{'disk':>20}: {size * total / options.count / 1e9:.1f} GB for all {total}")


if __name__ == "__main__":
    main()
