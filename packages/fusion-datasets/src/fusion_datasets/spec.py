"""The benchmarks as frozen literals: every number that defines a benchmark stands here and in its file."""

import json
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

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

    def __str__(self) -> str:
        return f"{self.count} ellipses each"


@dataclass(frozen=True, slots=True)
class ObjectLaw:
    """What hides the target in an input: cut-out objects laid over it (Sec. 5.1).

    Each occluder is flipped with probability ½, turned by any angle and centred anywhere in the image. The target is
    flipped with probability ½, turned by any angle, resized and moved, once for all of its inputs; or, where it fills
    its frame, it stays upright.

    Arguments:
        count: Fewest and most occluders of an input, both included, uniform over the integers.
        longer_side_px: Bounds of an occluder's longer side in the image, uniform.
        resize_px: Most that the target's side grows or shrinks, uniform.
        shift_px: Most that the target moves along rows and along columns, uniform.
        crop_px: Side of the square, with transparency, that a file stores an occluder in.
        turns: Whether the target is flipped and turned. One that is not, is flipped where the benchmark flips targets.
    """

    count: tuple[int, int]
    longer_side_px: tuple[float, float]
    resize_px: float
    shift_px: float
    crop_px: int
    turns: bool = True

    def __str__(self) -> str:
        return f"{self.count[0]} to {self.count[1]} occluders each"


@dataclass(frozen=True, slots=True)
class BenchmarkSpec:
    """All that defines a benchmark, but for its images and the seed.

    Arguments:
        name: The name in files and commands.
        title: The name in print.
        height: Rows of an image, in pixels.
        width: Columns of an image, in pixels.
        channels: 1 for grey, 3 for RGB, as stored.
        padding_px: Black pixels added on each side of a source image.
        nll_size: Side, in pixels, of the centre square over which a likelihood is summed.
        max_inputs: Inputs stored with every evaluation row.
        law: What an input shows of the target.
        noise_std: Standard deviation of the additive Gaussian noise, on the scale where white is 1.
        splits: The splits of a file; all but `train` hold frozen inputs.
        source: What the images are taken from.
        source_files: Names of the original files.
        license: Licence of the original images.
        default_split: The split that is evaluated unless another one is asked for.
        window_px: First and last row, then first and last column, of the part of an original that is scaled to the
            image by area averaging; None takes the largest centred square.
        train_size_px: Side of a stored training target where it is larger than the image: such a target is
            transformed live, at full resolution.
        flips: Whether training targets are flipped left to right with probability ½.
        grey: Whether models see the grey of stored colours unless told otherwise.
    """

    name: str
    title: str
    height: int
    width: int
    channels: int
    padding_px: int
    nll_size: int
    max_inputs: int
    law: EllipseLaw | ObjectLaw
    noise_std: float
    splits: tuple[Split, ...]
    source: str
    source_files: tuple[str, ...]
    license: str
    default_split: Split = "test"
    window_px: tuple[tuple[int, int], tuple[int, int]] | None = None
    train_size_px: int | None = None
    flips: bool = False
    grey: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.height, self.width, self.channels

    def target_shape(self, split: Split) -> tuple[int, int, int]:
        """Height, width and channels of a stored target."""
        side = self.train_size_px if split == "train" else None
        return self.shape if side is None else (side, side, self.channels)

    @property
    def num_dims(self) -> int:
        """Dimensions that a likelihood is divided by for bits per dimension."""
        return self.nll_size**2 * (1 if self.grey else self.channels)

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys: equal specs give equal text."""
        fields = asdict(self)
        fields[_LAW_NAMES[type(self.law)]] = fields.pop("law")
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "BenchmarkSpec":
        """Read a spec back; what a file does not mention is as in the files that came before it was invented.

        Arguments:
            text: What `to_json` wrote.

        Raises:
            FusionDatasetsError: If the text is no spec of this version.
        """
        try:
            fields: dict[str, Any] = {key: _frozen(value) for key, value in json.loads(text).items()}
            [(kind, name)] = [(kind, name) for kind, name in _LAW_NAMES.items() if name in fields]
            law = kind(**{key: _frozen(value) for key, value in fields.pop(name).items()})
            spec = cls(law=law, **fields)
            _check(spec)
            _check(law)
            return spec
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FusionDatasetsError(
                f"the benchmark's spec cannot be read ({error}); rebuild the file with this version"
            ) from error


_LAW_NAMES: Final[dict[type[EllipseLaw | ObjectLaw], str]] = {EllipseLaw: "ellipses", ObjectLaw: "objects"}
"""The key of a law in JSON."""


def _frozen(value: object) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


class _Bounds(NamedTuple):
    """What a setting that a file claims may be, lest rendering by it fails, or never ends."""

    kind: type
    low: float = 0
    high: float = 0
    is_pair: bool = False
    or_none: bool = False

    def hold(self, value: object) -> bool:
        if self.is_pair:
            pair = isinstance(value, tuple) and len(value) == 2 and all(map(self._hold_one, value))
            return pair and value[0] <= value[1]  # type: ignore[index]
        return (self.or_none and value is None) or self._hold_one(value)

    def _hold_one(self, value: Any) -> bool:
        if self.kind in (str, bool):
            return isinstance(value, self.kind)
        known = isinstance(value, int | float if self.kind is float else int) and not isinstance(value, bool)
        return known and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.kind in (str, bool):
            return {str: "a string", bool: "true or false"}[self.kind]
        one = f"{'a whole number' if self.kind is int else 'a number'} from {self.low} to {self.high}"
        return f"two of these, the smaller first: {one}" if self.is_pair else f"{one}, or null" * self.or_none or one


_MOST_PX: Final = 4096
_BOUNDS: Final[dict[type, dict[str, _Bounds]]] = {
    BenchmarkSpec: {
        **dict.fromkeys(("name", "title", "source", "license"), _Bounds(str)),
        **dict.fromkeys(("height", "width", "nll_size"), _Bounds(int, 1, _MOST_PX)),
        **dict.fromkeys(("flips", "grey"), _Bounds(bool)),
        "channels": _Bounds(int, 1, 3),
        "padding_px": _Bounds(int, 0, _MOST_PX),
        "max_inputs": _Bounds(int, 1, MAX_INPUTS_PER_ROW),
        "noise_std": _Bounds(float, 0, 100),
        "train_size_px": _Bounds(int, 1, _MOST_PX, or_none=True),
    },
    EllipseLaw: {
        "count": _Bounds(int, 1, 1000),
        "radius_px": _Bounds(int, 0, _MOST_PX, is_pair=True),
        "centre_px": _Bounds(int, -_MOST_PX, _MOST_PX, is_pair=True),
        "aspect": _Bounds(float, 1e-3, 1e3, is_pair=True),
    },
    ObjectLaw: {
        "count": _Bounds(int, 0, 1000, is_pair=True),
        "longer_side_px": _Bounds(float, 1, _MOST_PX, is_pair=True),
        "resize_px": _Bounds(float, 0, _MOST_PX),
        "shift_px": _Bounds(float, 0, _MOST_PX),
        "crop_px": _Bounds(int, 1, _MOST_PX),
        "turns": _Bounds(bool),
    },
}


def _check(settings: BenchmarkSpec | EllipseLaw | ObjectLaw) -> None:
    for name, bounds in _BOUNDS[type(settings)].items():
        if not bounds.hold(value := getattr(settings, name)):
            raise ValueError(f"{name} is {value!r}; expected {bounds}")


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
            law=EllipseLaw(count=2, radius_px=(5, 9), centre_px=(1, 29), aspect=(0.5, 1.5)),
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
        ),
        "fusion-celeba": BenchmarkSpec(
            name="fusion-celeba",
            title="FusionCelebA",
            height=64,
            width=64,
            channels=3,
            padding_px=0,
            nll_size=64,
            max_inputs=3,
            law=EllipseLaw(count=4, radius_px=(0, 14), centre_px=(1, 61), aspect=(0.5, 1.5)),
            noise_std=0.0,
            splits=("train", "valid", "test"),
            source="CelebA, aligned (Liu, Luo, Wang, Tang 2015)",
            source_files=("img_align_celeba.zip", "list_eval_partition.txt", "identity_CelebA.txt"),
            license="LicenseRef-CelebA",  # non-commercial research only, no redistribution: never a file with pixels
            default_split="valid",  # the split of the paper's Table 2
            window_px=((40, 187), (15, 162)),
            flips=True,
        ),
        "fusion-tless": BenchmarkSpec(
            name="fusion-tless",
            title="FusionT-LESS",
            height=64,
            width=64,
            channels=3,
            padding_px=0,
            nll_size=64,
            max_inputs=3,
            law=ObjectLaw(count=(5, 8), longer_side_px=(30, 50), resize_px=4, shift_px=4, crop_px=100),
            noise_std=0.0,
            splits=("train", "test"),
            source="T-LESS v2, Primesense training images (Hodaň et al. 2017)",
            source_files=("tless_train_primesense.zip",),
            license="CC-BY-4.0",
            train_size_px=128,
            grey=True,
        ),
    }
)
"""Every benchmark by name."""
