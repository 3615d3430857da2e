"""A build that is killed again and again, each time after some more shards, and then left to end."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from fusion_datasets import FusionDataset

SCRIPT = """
import functools, sys, time
from pathlib import Path
from fusion_datasets import build, plans
from fusion_datasets.shards import ShardRenderer
plan, source, output, seed, shard_rows, workers, most = sys.argv[1:]
render = ShardRenderer.render
@functools.wraps(render)
def render_no_more_than_that(renderer, shard):
    while len(list(renderer.folder.glob("*.shard"))) >= int(most):  # however late the kill comes
        time.sleep(0.01)
    return render(renderer, shard)
ShardRenderer.render = render_no_more_than_that
build._SHARD_ROWS = int(shard_rows)
if __name__ == "__main__":
    plan = (vars(build) | vars(plans))[plan](Path(source), Path(output), seed=int(seed))
    build.execute(plan, workers=int(workers), progress=False)
"""
ALL = 1_000_000  # shards: more than any build has


def kill_and_continue(
    plan: str, source: Path, folder: Path, kills: int, *, seed: int, shard_rows: int, most: int
) -> FusionDataset:
    """Kill a build that many times, with one and with two workers, then let it end, and return what it made.

    Each time it waits for the kill after some more shards, two in hand at most, and before the last one.

    Arguments:
        plan: Name of a function in `fusion_datasets.plans` or `fusion_datasets.build`.
        source: Originals.
        folder: An empty one, for the build.
        kills: How often.
        seed: Of the build.
        shard_rows: Rows of a shard.
        most: Shards that are done when the last kill comes: at least four fewer than there are.
    """
    script, output, chance = folder / "script.py", folder / "killed.h5", random.Random(kills)
    script.write_text(SCRIPT)
    command = [sys.executable, *map(str, (script, plan, source, output, seed, shard_rows))]
    partial, done = output.with_name("killed.h5.partial"), 0
    for kill in range(kills):
        patience = 1 + kill * most // kills
        process = subprocess.Popen([*command, str(1 + kill % 2), str(patience + 2)])
        while process.poll() is None and len(list(partial.glob("*/*.shard"))) < patience:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
        before, done = done, sum(path.read_bytes().count(b"\n") for path in partial.glob("*/journal.jsonl"))
        assert done >= before  # nothing that was done is done again
    subprocess.run([*command, "1", str(ALL)], check=True)
    assert sorted(path.name for path in folder.iterdir()) == ["killed.h5", "script.py"]
    return FusionDataset(output)
