"""Work spread over processes: nobody waits while there is work, and none survives another's end."""

import multiprocessing
from pathlib import Path

import pytest
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
