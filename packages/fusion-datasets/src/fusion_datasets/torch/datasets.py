"""Benchmarks as map-style data sets in torchvision's manner, for `torch.utils.data.DataLoader`.

What a worker renders depends on (seed, epoch, row) alone: not on how many workers there are, nor on how they were
started. Letters: `b` rows, `k` inputs.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fusion_datasets.build import BuildPlan, execute, plan_mnist
from fusion_datasets.composition import grey_levels
from fusion_datasets.corruptions import example_generator, render_example
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.plans import plan_celeba, plan_tless
from fusion_datasets.sources.originals import fetch
from fusion_datasets.spec import Split
from fusion_datasets.store import FusionDataset


class FusionItem(NamedTuple):
    """One row, or a batch of them with `b` in front of every shape.

    Arguments:
        target: Clean image in [0, 1], float32 `[c, h, w]`.
        inputs: What is seen of it, float32 `[k, c, h, w]` in [0, 1].
        masks: Where the inputs show the target, bool `[k, h, w]`.
    """

    target: Tensor
    inputs: Tensor
    masks: Tensor


Transform = Callable[[FusionItem], Any]


class Benchmark(Dataset[Any]):
    """A split of a benchmark; its subclasses say of which.

    Arguments:
        root: Folder of the benchmark's file; where there is none, it is built there from the originals below the same
            folder.
        split: `train`, whose inputs are rendered anew in every epoch, or a split with frozen inputs; None means the
            one that the benchmark is evaluated on.
        transform: Applied to every item; it sees target, inputs and masks together, so that they stay in register.
        download: Fetch originals that are missing.
        seed: Of the inputs of `train`.
        render: Whether items of `train` come with inputs. Without, they are the stored targets with k = 0, to be
            rendered in batches on another device by `render_targets` and `render_inputs`.
        grey: Whether colours become grey; None means as the benchmark is usually seen.

    Raises:
        FusionDatasetsError: If there is neither a file nor what it could be built from.
    """

    benchmark: ClassVar[str]

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Split | None = "train",
        transform: Transform | None = None,
        download: bool = False,
        *,
        seed: int = 0,
        render: bool = True,
        grey: bool | None = None,
    ) -> None:
        if not hasattr(seed, "__index__") or seed < 0:
            raise FusionDatasetsError(f"got seed {seed!r}; expected a whole number from 0 up")
        path = Path(root) / f"{self.benchmark}.h5"
        if not path.exists():
            self._build(Path(root), path, download)
        self.data = FusionDataset(path, split)
        if self.data.benchmark != self.benchmark:
            raise FusionDatasetsError(f"{path} holds {self.data.spec.title}; expected {self.benchmark}: move it away")
        self.transform, self.seed, self.render = transform, seed, render
        self.grey = self.data.spec.grey if grey is None else grey
        # In shared memory: workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose inputs `train` yields."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the inputs of `train`, between two passes over a loader; workers that are running follow.

        Raises:
            FusionDatasetsError: If it is no whole number from 0 up.
        """
        if not hasattr(epoch, "__index__") or epoch < 0:
            raise FusionDatasetsError(f"got epoch {epoch!r}; expected a whole number from 0 up")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        stored = self.data[row]
        target, inputs, masks = stored.target, stored.inputs, stored.masks
        if inputs is None or masks is None:
            num_inputs = self.data.spec.max_inputs if self.render else 0
            target, inputs, masks = self._rendered(target, stored.index, num_inputs)
        if self.grey and target.shape[-1] == 3:
            target, inputs = grey_levels(target), grey_levels(inputs)
        item = FusionItem(_image(target), _image(inputs), torch.from_numpy(masks))
        return item if self.transform is None else self.transform(item)

    def _rendered(
        self, stored: NDArray[np.uint8], index: int, num_inputs: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        spec = self.data.spec
        if not num_inputs:
            return stored, np.empty((0, *stored.shape), np.uint8), np.empty((0, *stored.shape[:2]), np.bool_)
        seed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0])
        if spec.flips and example_generator(seed, "train", index).spawn(1)[0].random() < 0.5:
            stored = np.ascontiguousarray(stored[:, ::-1])
        return render_example(stored, spec, seed, "train", index, num_inputs, self.data.occluders)

    def _build(self, root: Path, path: Path, download: bool) -> None:
        name = self.benchmark.removeprefix("fusion-")
        try:
            plan = self._plan_from(name, root, path)
        except FusionDatasetsError as error:
            if not download:
                raise FusionDatasetsError(
                    f"{root} holds neither {path.name} nor originals to build it from ({error}); put them there, or "
                    "give download=True"
                ) from error
            plan = self._plan(fetch(name, root), path)
        root.mkdir(parents=True, exist_ok=True)
        execute(plan)

    def _plan_from(self, name: str, root: Path, path: Path) -> BuildPlan:
        """Plan the build from originals in a folder of their own below the root, or in the root itself."""
        if not (root / name).is_dir():
            return self._plan(root, path)
        try:
            return self._plan(root / name, path)
        except FusionDatasetsError:
            with contextlib.suppress(FusionDatasetsError):
                return self._plan(root, path)
            raise  # what that folder lacks

    @staticmethod
    def _plan(source: Path, output: Path) -> BuildPlan:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.data.path)!r}, split={self.data.split!r}): {len(self)} rows"


class FusionMNIST(Benchmark):
    """FusionMNIST, also built from MNIST's files in `root`, `root/mnist` or `root/MNIST/raw`; see `Benchmark`."""

    benchmark = "fusion-mnist"

    @staticmethod
    def _plan(source: Path, output: Path) -> BuildPlan:
        return plan_mnist(source, output)


class FusionCelebA(Benchmark):
    """FusionCelebA, also built from CelebA's files in `root` or `root/celeba`, as people have them; see `Benchmark`."""

    benchmark = "fusion-celeba"

    @staticmethod
    def _plan(source: Path, output: Path) -> BuildPlan:
        return plan_celeba(source, output)


class FusionTLESS(Benchmark):
    """FusionT-LESS, also built from T-LESS's Primesense images in `root` or `root/tless`; see `Benchmark`."""

    benchmark = "fusion-tless"

    @staticmethod
    def _plan(source: Path, output: Path) -> BuildPlan:
        return plan_tless(source, output)


class RandomNumInputs:
    """Collates rows into a batch with one random number of inputs, uniform on 0 … `max_inputs` (Sec. 5.4).

    The number is a function of the seed and of what the batch's first row shows: the same for any workers, and
    another one in every epoch, whose inputs are new.

    Arguments:
        max_inputs: Most inputs of a batch, ≥ 0.
        seed: Of the numbers.
    """

    def __init__(self, max_inputs: int = 3, *, seed: int = 0) -> None:
        if not hasattr(max_inputs, "__index__") or max_inputs < 0:
            raise FusionDatasetsError(f"got at most {max_inputs!r} inputs; expected a whole number from 0 up")
        self.max_inputs, self.seed = max_inputs, seed

    def __call__(self, items: Sequence[FusionItem]) -> FusionItem:
        """Stack items, and keep the first k inputs of each.

        Arguments:
            items: At least one, each with `max_inputs` inputs or more.

        Returns:
            Target `[b, c, h, w]`, inputs `[b, k, c, h, w]`, masks `[b, k, h, w]`.
        """
        if not items:
            raise FusionDatasetsError("got no items to make a batch of; expected at least one")
        there = min(len(item.inputs) for item in items)
        if there < self.max_inputs:
            raise FusionDatasetsError(f"got items with {there} inputs; expected at least {self.max_inputs}")
        shown = items[0].inputs.numpy().tobytes()
        word = hashlib.blake2b(shown, digest_size=8, key=f"{self.seed}".encode()).digest()
        k = int.from_bytes(word, "big") * (self.max_inputs + 1) >> 64
        return FusionItem(
            torch.stack([item.target for item in items]),
            torch.stack([item.inputs[:k] for item in items]),
            torch.stack([item.masks[:k] for item in items]),
        )


def _image(levels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(levels).movedim(-1, -3).contiguous().float().div_(255)
