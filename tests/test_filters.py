import pytest
import torch
from torch.nn import functional

from invbench.errors import UserError
from invbench.filters import code_shape, norms, random_filters, row_norms, synthesis, unit_norm
from invbench.network import parse


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(apply, shape):
    """The matrix of a linear map of batches, column by column."""
    size = int(torch.tensor(shape).prod())
    return apply(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T


CASES = [
    ((5, 1), (9, 1), (0, 0)),
    ((3, 3), (6, 5), (1, 1)),
    ((3, 2), (4, 4), (1, 0)),
    ((1, 1), (3, 3), (0, 0)),
]


@pytest.mark.parametrize(("kernel", "sides", "padding"), CASES)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_synthesis_is_the_adjoint_of_the_convolution(kernel, sides, padding, unit_rows):
    weight = unit_norm(random_filters(4, 3, kernel, generator()))
    shape = code_shape(weight, sides, padding)
    analysis = matrix(lambda x: functional.conv2d(x, weight, padding=padding), (3, *sides))
    assert analysis.shape[0] == shape[0] * shape[1] * shape[2]
    if unit_rows:
        analysis = analysis / analysis.norm(dim=1, keepdim=True)
    module = synthesis(weight, sides, padding, unit_rows)
    torch.testing.assert_close(matrix(module, shape), analysis.T)
    network = parse(module, shape)
    assert network.chain is not None
    assert len(network.chain) == 1
    (stage,) = network.chain
    torch.testing.assert_close(matrix(stage.affine.adjoint, network.output_shape), analysis)


@pytest.mark.parametrize(("kernel", "sides", "padding"), CASES)
def test_row_norms_are_those_of_the_matrix(kernel, sides, padding):
    weight = random_filters(4, 3, kernel, generator(1))
    rows = matrix(lambda x: functional.conv2d(x, weight, padding=padding), (3, *sides)).norm(dim=1)
    found = row_norms(weight, sides, padding).expand(code_shape(weight, sides, padding)).flatten()
    torch.testing.assert_close(found, rows)


def test_random_filters_have_expected_norm_one_and_follow_the_generator():
    weight = random_filters(2000, 4, (5, 1), generator())
    assert weight.dtype == torch.float64
    assert float(weight.flatten(1).square().sum(1).mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(weight, random_filters(2000, 4, (5, 1), generator()))
    torch.testing.assert_close(
        unit_norm(weight).flatten(1).norm(dim=1), torch.ones(2000, dtype=torch.float64)
    )


def test_nothing_is_drawn_from_the_global_state():
    before = torch.random.get_rng_state()
    synthesis(random_filters(3, 2, (3, 3), generator()), (8, 8), (1, 1), unit_rows=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def dead():
    weight = random_filters(3, 2, (3, 3), generator())
    weight[1] = 0
    return weight


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: unit_norm(dead()), "filter 1 has norm 0"),
        (lambda: synthesis(dead(), (8, 8)), "filter 1 has norm 0"),
        (lambda: norms(torch.ones(2, 2, 3, 3, dtype=torch.int64)), "int64"),
        (lambda: norms(torch.ones(2, 2, 3, 3, dtype=torch.complex64)), "complex64"),
        (lambda: norms(torch.full((2, 2, 3, 3), torch.nan)), "norm nan"),
        (
            lambda: synthesis(random_filters(2, 1, (5, 5)), (4, 8)),
            "filters of 5 x 5 do not fit a signal of 4 x 8",
        ),
        (lambda: row_norms(random_filters(2, 1, (1, 1)), (4, 4), (1, 1)), "nothing but padding"),
    ],
)
def test_bad_filters_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
