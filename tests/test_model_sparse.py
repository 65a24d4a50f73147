from itertools import combinations, product

import pytest
import torch

from invbench.domains import ModelSparse
from invbench.errors import UserError


def codes(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blocks_of(shape, region):
    """The places (channel, row, column) of every block, by the definition."""
    channels, height, width = shape
    rows, columns = region or (height, width)
    for c, i, j in product(range(channels), range(0, height, rows), range(0, width, columns)):
        yield [(c, i + a, j + b) for a in range(rows) for b in range(columns)]


def nearest(z, k, region):
    """The smallest squared distance to a model-k-sparse code, over all supports."""
    blocks = list(blocks_of(z.shape, region))
    energy = float(z.square().sum())
    return min(
        energy - sum(float(z[place]) ** 2 for place in support)
        for chosen in combinations(blocks, k)
        for support in product(*chosen)
    )


@pytest.mark.parametrize(
    ("shape", "region", "k"),
    [((4, 3, 1), None, 2), ((2, 2, 4), (2, 2), 2), ((2, 2, 4), (1, 2), 3), ((3, 2, 2), None, 3)],
)
def test_projection_is_nearest_over_all_supports(shape, region, k):
    z, domain = codes(0, 5, *shape), ModelSparse(k, region)
    found = domain.project(z)
    for one, projected in zip(z, found, strict=True):
        assert float((one - projected).square().sum()) == pytest.approx(nearest(one, k, region))
        kept = [sum(bool(projected[place] != 0) for place in block) for block in blocks_of(shape, region)]
        assert max(kept) == 1
        assert sum(kept) == k
    assert torch.equal(domain.project(found), found)
    assert domain.contains(found).all()
    assert not domain.contains(z).any()


def test_a_batch_equals_its_members():
    z, domain = codes(1, 4, 3, 4, 4), ModelSparse(4, (2, 2))
    alone = torch.cat([domain.select(torch.tensor([i])).project(z[i : i + 1]) for i in range(4)])
    assert torch.equal(domain.project(z), alone)


@pytest.mark.parametrize("region", [None, (2, 2)])
def test_ties_leave_one_entry_a_block_and_k_blocks(region):
    z = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    domain = ModelSparse(2, region)
    assert (domain.project(z) != 0).flatten(1).sum(1).tolist() == [2, 2]
    assert domain.support(torch.zeros_like(z)).flatten(1).sum(1).tolist() == [2, 2]


def test_blocks_are_counted():
    assert ModelSparse(1).blocks((96, 28, 1)) == 96
    assert ModelSparse(1, (2, 2)).blocks((512, 14, 14)) == 512 * 49


def test_what_is_not_finite_is_outside():
    z = torch.zeros(1, 2, 2, 2)
    z[0, 0, 0, 0] = torch.nan
    assert not ModelSparse(1).contains(z).any()


@pytest.mark.parametrize(
    ("domain", "z", "sentence"),
    [
        (lambda: ModelSparse(0), None, "k is 0, but at least one"),
        (lambda: ModelSparse(2, (0, 2)), None, "region of 0 x 2 is empty"),
        (lambda: ModelSparse(4), torch.zeros(1, 3, 2, 2), "k is 4, but the code has only 3 blocks"),
        (
            lambda: ModelSparse(1, (2, 2)),
            torch.zeros(1, 3, 5, 4),
            "regions of 2 x 2 do not tile a map of 5 x 4",
        ),
        (lambda: ModelSparse(1), torch.zeros(1, 3, 2, 2, dtype=torch.int64), "int64"),
        (lambda: ModelSparse(1), torch.zeros(1, 3, 2, 2, dtype=torch.complex64), "complex64"),
        (lambda: ModelSparse(1), torch.zeros(3, 4), r"\(B, K, h, w\)"),
    ],
)
def test_bad_input_gets_a_sentence(domain, z, sentence):
    with pytest.raises(UserError, match=sentence):
        domain().project(z)


def test_devices_agree(device):
    z, domain = codes(2, 3, 4, 4, 4), ModelSparse(5, (2, 2))
    assert torch.equal(domain.project(z.to(device)).cpu(), domain.project(z))
