"""The benchmarks as frozen literals: every number that defines a benchmark stands here and in its file."""

import json
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from fusion_datasets.errors import FusionDatasetsError

Split = Literal["train", "valid", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
"""Every split a benchmark may have; a split's position here is part of the seed of its random streams."""

MAX_INPUTS_PER_ROW: Final = 8
"""Inputs that a row's random stream is promised to yield: those stored, then the ones beyond them."""


@dataclass(frozen=True, slots=True)
class EllipseLaw:
    """Which part of the target an input shows: the union of random axis-parallel ellipses (Sec. 5.1).

    Arguments:
        count: Ellipses per input.
        radius_px: Smallest and largest radius, both included, uniform over the integers.
        centre_px: Smallest and largest coordinate of a centre, both included, uniform, rows and columns alike.
        aspect: Lowest aspect, included, and highest, excluded, uniform. The semi-axes are
            `radius / sqrt(aspect)` along rows and `radius * sqrt(aspect)` along columns.
    """

    count: int
    radius_px: tuple[int, int]
    centre_px: tuple[int, int]
    aspect: tuple[float, float]


@dataclass(frozen=True, slots=True)
class BenchmarkSpec:
    """All that defines a benchmark, but for its images and the seed.

    Arguments:
        name: The name in files and commands.
        title: The name in print.
        height: Rows of an image, in pixels.
        width: Columns of an image, in pixels.
        channels: 1 for grey, 3 for RGB.
        padding_px: Black pixels added on each side of a source image.
        nll_size: Side, in pixels, of the centre square over which a likelihood is summed.
        max_inputs: Inputs stored with every evaluation row.
        ellipses: The law of what an input shows.
        noise_std: Standard deviation of the additive Gaussian noise, on the scale where white is 1.
        splits: The splits of a file; all but `train` hold frozen inputs.
        source: What the images are taken from.
        source_files: Names of the original files.
        license: Licence of the original images.
    """

    name: str
    title: str
    height: int
    width: int
    channels: int
    padding_px: int
    nll_size: int
    max_inputs: int
    ellipses: EllipseLaw
    noise_std: float
    splits: tuple[Split, ...]
    source: str
    source_files: tuple[str, ...]
    license: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.height, self.width, self.channels

    @property
    def num_dims(self) -> int:
        """Dimensions that a likelihood is divided by for bits per dimension."""
        return self.nll_size**2 * self.channels

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys: equal specs give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "BenchmarkSpec":
        """Read a spec back.

        Arguments:
            text: What `to_json` wrote.

        Raises:
            FusionDatasetsError: If the text is no spec of this version.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["ellipses"] = EllipseLaw(**{k: _frozen(v) for k, v in fields["ellipses"].items()})
            return cls(**{key: _frozen(value) for key, value in fields.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FusionDatasetsError(
                f"the benchmark's spec cannot be read ({error}); rebuild the file with this version"
            ) from error


def _frozen(value: object) -> Any:
    return tuple(value) if isinstance(value, list) else value


BENCHMARKS: Final = MappingProxyType(
    {
        "fusion-mnist": BenchmarkSpec(
            name="fusion-mnist",
            title="FusionMNIST",
            height=32,
            width=32,
            channels=1,
            padding_px=2,
            nll_size=28,  # the padding carries no information and is left out of the likelihood
            max_inputs=3,
            ellipses=EllipseLaw(count=2, radius_px=(5, 9), centre_px=(1, 29), aspect=(0.5, 1.5)),
            noise_std=0.25,
            splits=("train", "test"),
            source="MNIST (LeCun, Cortes, Burges 1998)",
            source_files=(
                "train-images-idx3-ubyte.gz",
                "train-labels-idx1-ubyte.gz",
                "t10k-images-idx3-ubyte.gz",
                "t10k-labels-idx1-ubyte.gz",
            ),
            license="CC-BY-SA-3.0",
        )
    }
)
"""Every benchmark by name."""
