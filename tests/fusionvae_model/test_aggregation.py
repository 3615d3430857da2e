"""Aggregation is a function of a set."""

import pytest
import torch

from fusionvae_model.aggregation import max_aggregate, max_aggregate_prefixes


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_max_does_not_see_the_order(k):
    features = torch.randn(2, k, 4, 3, 3)
    assert torch.equal(max_aggregate(features), max_aggregate(features[:, torch.randperm(k)]))


def test_prefixes_equal_one_aggregation_each():
    features = torch.randn(2, 5, 4, 3, 3)
    for size, aggregate in zip((3, 0, 5, 1, 3), max_aggregate_prefixes(features, (3, 0, 5, 1, 3)), strict=True):
        if size == 0:
            assert aggregate is None
        else:
            assert torch.equal(aggregate, max_aggregate(features[:, :size]))


def test_no_input_at_all():
    assert max_aggregate_prefixes(torch.randn(2, 0, 4, 3, 3), (0,)) == [None]
