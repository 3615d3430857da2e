import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionvae_bench.metrics import bits_per_dim, entropy_floor, nats_from_bits_per_dim
from fusionvae_bench.shared_draws import paired_gain


@given(nats=st.floats(-1e4, 1e4), num_dims=st.integers(1, 10**6))
def test_units_round_trip(nats, num_dims):
    assert nats_from_bits_per_dim(bits_per_dim(nats, num_dims), num_dims) == pytest.approx(nats)


def test_the_papers_average_is_78_nats_over_784_dimensions():
    assert nats_from_bits_per_dim(0.1439, 784) == pytest.approx(78.2, abs=0.05)


def test_black_and_white_have_no_entropy_and_grey_has_ln_2_at_most():
    target = np.zeros((3, 6, 6, 1), np.uint8)
    target[1], target[2] = 255, 128
    floor = entropy_floor(target, 4)
    assert floor[:2].tolist() == [0.0, 0.0]
    assert floor[2] == pytest.approx(16 * math.log(2), rel=1e-4)


def test_the_floor_counts_the_centre_square_alone():
    target = np.zeros((1, 6, 6, 1), np.uint8)
    target[:, 0], target[:, :, -1] = 100, 100
    assert entropy_floor(target, 4).item() == 0.0
    assert entropy_floor(target, 6).item() > 0.0


def test_the_floor_is_the_bernoulli_loss_of_a_perfect_prediction():
    target = np.random.default_rng(0).integers(1, 255, (4, 5, 5, 1), np.uint8)
    y = target / 255
    perfect = -(y * np.log(y) + (1 - y) * np.log(1 - y)).sum((1, 2, 3))
    np.testing.assert_allclose(entropy_floor(target, 5), perfect, rtol=1e-12)


@pytest.mark.originals
def test_the_floor_of_the_mnist_test_set(mnist_root):
    import gzip

    raw = gzip.decompress((mnist_root / "t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    floor = entropy_floor(np.pad(digits, ((0, 0), (2, 2), (2, 2), (0, 0))), 28)
    assert floor.mean() == pytest.approx(45.53, abs=0.005)
    assert floor[:1000].mean() == pytest.approx(44.69, abs=0.005)


def test_paired_gains_use_the_differences():
    generator = np.random.default_rng(1)
    before = 100 + 30 * generator.standard_normal(1000)
    gain = paired_gain(before, before - 2 + 0.1 * generator.standard_normal(1000))
    assert gain.mean == pytest.approx(2, abs=0.02)
    assert gain.standard_error == pytest.approx(0.1 / math.sqrt(1000), rel=0.1)  # not 30 / √1000
    assert gain.share_improved == 1.0
    assert paired_gain(before, before + 1).share_improved == 0.0
