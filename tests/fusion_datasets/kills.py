"""A build that is killed again and again, each time after some more shards, and then left to end."""

import os
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
render = ShardRenderer.render
@functools.wraps(render)
def render_unhurried(*arguments):
    time.sleep(0.02)  # as long as a kill may come late: else a fast machine is done before the last ones
    return render(*arguments)
ShardRenderer.render = render_unhurried
plan, source, output, seed, shard_rows, workers = sys.argv[1:]
build._SHARD_ROWS = int(shard_rows)
if __name__ == "__main__":
    plan = getattr(plans, plan)(Path(source), Path(output), seed=int(seed))
    build.execute(plan, workers=int(workers), progress=False)
"""


def kill_and_continue(
    plan: str, source: Path, folder: Path, kills: int, *, seed: int, shard_rows: int, most: int
) -> FusionDataset:
    """Kill a build that many times, with one and with two workers, then let it end, and return what it made.

    Arguments:
        plan: Name of a function in `fusion_datasets.plans`.
        source: Originals.
        folder: An empty one, for the build.
        kills: How often.
        seed: Of the build.
        shard_rows: Rows of a shard.
        most: Shards that are done before the last kill: some fewer than there are, as the last ones take a moment.
    """
    script, output, chance = folder / "script.py", folder / "killed.h5", random.Random(kills)
    script.write_text(SCRIPT)
    command = [sys.executable, *map(str, (script, plan, source, output, seed, shard_rows))]
    partial = output.with_name("killed.h5.partial")
    for kill in range(kills):
        process = subprocess.Popen([*command, str(1 + kill % 2)])
        patience = kill * most // kills
        while process.poll() is None and len(list(partial.glob("*/*.shard"))) <= patience:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
    subprocess.run([*command, "1"], check=True)
    assert sorted(path.name for path in folder.iterdir()) == ["killed.h5", "script.py"]
    return FusionDataset(output)
