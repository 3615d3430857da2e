"""What can go wrong for a user, each failure as one sentence: got, expected, remedy."""

from __future__ import annotations


class BenchError(ValueError):
    """A stated failure: its text is all that the commands print before they exit with 1."""


class ModelError(BenchError):
    """A model does not offer, or does not keep, what scoring needs (see `fusionvae_bench.protocol`)."""


class DataError(BenchError):
    """The data do not fit the model, or do not hold what was asked for."""


class ResultError(BenchError):
    """A result file is missing, unreadable, of another version, or in the way."""


class NonFiniteWeightError(ModelError):
    """A log importance weight is NaN or infinite.

    Attributes:
        image: position of the offending image in the batch or, from `evaluate`, its row in the data set.
        sample: number of the importance sample, counted from 0.
        num_inputs: how many inputs the weight is conditioned on.
        value: the weight itself.
    """

    def __init__(self, image: int, sample: int, num_inputs: int, value: float) -> None:
        super().__init__(
            f"image {image}, sample {sample}, {num_inputs} input(s): the log importance weight is {value}, "
            "expected a finite number; the model's weights or its likelihood are broken for this image"
        )
        self.image, self.sample, self.num_inputs, self.value = image, sample, num_inputs, value

    def __reduce__(self) -> tuple[type[NonFiniteWeightError], tuple[int, int, int, float]]:
        return NonFiniteWeightError, (self.image, self.sample, self.num_inputs, self.value)
