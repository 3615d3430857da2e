"""Work spread over processes: nobody waits while there is work, and none survives another's end."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest
import waiting
from waiting import fail, wait_for_the_others

from fusion_datasets import FusionDatasetsError
from fusion_datasets.processes import spread


def test_a_slow_item_holds_up_at_most_the_one_after_it(tmp_path: Path) -> None:
    items = [(tmp_path, number, 7) for number in range(9)]  # 0 waits for all but the one in the same hand
    done = dict(spread(wait_for_the_others, items, 2))
    assert done == dict.fromkeys(items, True)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_item_is_done_once(tmp_path: Path, workers: int) -> None:
    items = [(tmp_path, number, 0) for number in range(1, 4)]
    done = list(spread(wait_for_the_others, items, workers))
    assert sorted(item for item, _ in done) == items
    assert len(list(tmp_path.iterdir())) == 3


def test_a_process_that_ends_early_ends_all(tmp_path: Path) -> None:
    with pytest.raises(FusionDatasetsError, match="a worker process ended early"):
        list(spread(fail, [(tmp_path, 1, 0), (tmp_path, 2, 0)], 2))
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """An evaluation's item takes hours; killed with -9, it must not go on unseen."""
    started = subprocess.Popen([sys.executable, str(Path(waiting.__file__)), str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    started.kill()
    started.wait()
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
