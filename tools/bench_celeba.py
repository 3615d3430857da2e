#!/usr/bin/env python3
"""Measure `fusion-datasets build celeba` against a plain loop, in one run: images per second, CPU time, memory.

The plain loop is what one writes first: decode with OpenCV, crop, resize, write the row into HDF5; nothing is split,
checked, hashed or resumable, and no evaluation inputs are rendered.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6000, help="photographs (default: 6000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of the build")
    parser.add_argument("--repeats", type=int, default=2, help="the best of so many runs counts (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "built.h5"
        best: dict[str, list[tuple[float, float]]] = {"plain loop": [], f"build, {options.workers} workers": []}
        for count in (DISTINCT, options.count):  # the difference leaves out what starting up costs
            source = Path(folder) / f"celeba-{count}"
            originals(source, count)
            plain = [sys.executable, "-c", PLAIN, str(source), f"{folder}/plain.h5"]
            build = [sys.executable, "-m", "fusion_datasets", "build", "celeba", "--source", str(source), "--force"]
            build += ["--output", str(output), "--workers", str(options.workers)]
            times = [[measure(command) for command in (plain, build)] for _ in range(options.repeats)]
            for sizes, runs in zip(best.values(), zip(*times, strict=True), strict=True):
                wall, cpu = (min(values) for values in zip(*runs, strict=True))
                sizes.append((wall, cpu))
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = output.stat().st_size
    total, more = sum(ORIGINAL_COUNTS.values()), options.count - DISTINCT
    print(f"{options.count} photographs, best of {options.repeats}, each without the time that {DISTINCT} take")
    per_image = []
    for name, ((wall_0, cpu_0), (wall, cpu)) in best.items():
        per_image.append(((wall - wall_0) / more, (cpu - cpu_0) / more))
        print(
            f"{name:>20}: {1 / per_image[-1][0]:7.0f} images/s, {1e6 * per_image[-1][1]:5.0f} µs of CPU per image, "
            f"{total} in {(wall_0 + total * per_image[-1][0]) / 60:.1f} min"
        )
    (plain_wall, plain_cpu), (build_wall, build_cpu) = per_image
    print(f"{'ratio':>20}: {plain_wall / build_wall:.2f} in images/s, {build_cpu / plain_cpu:.2f} in CPU")
    print(f"{'memory':>20}: at most {largest:.0f} MiB in any of {options.workers + 1} processes")
    print(f"{'disk':>20}: {size * total / options.count / 1e9:.1f} GB for all {total}")


if __name__ == "__main__":
    main()
