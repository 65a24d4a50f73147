"""Least squares on a support, and the blocks of a code, against matrices and loops."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from invbench.domains import ModelSparse, Reals
from invbench.filters import random_filters
from invbench.meter import Meter
from invbench.network import parse
from invbench.recovery import LeastSquares, LinearModel, layout, least_squares_on_support, refusal
from tests.codes import blocks_of, correlated, error, least_squares, matrix, recovery, thresholded
from tests.toys import tiny_problems


def oracle(problem, support):
    A = matrix(problem.network)
    solved = [
        least_squares(A, y.flatten(), places.flatten().nonzero()[:, 0])
        for y, places in zip(problem.target, support, strict=True)
    ]
    return torch.stack(solved).view(support.shape)


def last(problem, support, start) -> Tensor:
    *_, z = least_squares_on_support(LinearModel.of(problem), support, start)
    return z


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_least_squares_are_those_of_a_matrix(noise, generator, device):
    problem, truth = recovery(noise=noise, k=6, device=device)
    wanted = oracle(problem, truth != 0)
    for start in (torch.zeros_like(truth), torch.randn(truth.shape, generator=generator).to(truth)):
        z = last(problem, truth != 0, start)
        assert (z[truth == 0] == 0).all()
        assert (error(z, wanted) < 1e-13).all()


def test_least_squares_arrive_on_filters_that_overlap():
    problem, truth = recovery(correlated(0.99), k=8, noise=0.1)
    wanted = oracle(problem, truth != 0)
    assert (error(last(problem, truth != 0, torch.zeros_like(truth)), wanted) < 1e-9).all()


def test_every_step_is_one_application_and_one_adjoint_and_steps_are_few():
    problem, truth = recovery(k=6)
    count = len(list(least_squares_on_support(LinearModel.of(problem), truth != 0, torch.zeros_like(truth))))
    assert count < 20
    assert (problem.meter.total("adjoints") == count).all()
    assert (problem.meter.total("applications") == count + 1).all(), "one for the bias"


def test_two_equal_columns_share_their_weight_and_an_end_is_found():
    weight = correlated(0.0)
    weight[1] = weight[0]
    problem, truth = recovery(weight)
    support = torch.zeros_like(truth, dtype=torch.bool)
    support[:, :4, 5] = True
    z = last(problem, support, torch.zeros_like(truth))
    torch.testing.assert_close(z[:, 0], z[:, 1])
    A = matrix(problem.network)
    slope = (problem.target.flatten(1) - z.flatten(1) @ A.T) @ A
    assert (slope[support.flatten(1)].abs() < 1e-13).all()


def test_an_empty_support_and_a_solved_start_are_done_at_once():
    problem, truth = recovery()
    nowhere = torch.zeros_like(truth, dtype=torch.bool)
    (z,) = least_squares_on_support(LinearModel.of(problem), nowhere, truth)
    assert (z == 0).all()
    nothing = replace(problem, target=torch.zeros_like(problem.target))
    (z,) = least_squares_on_support(LinearModel.of(nothing), truth != 0, torch.zeros_like(truth))
    assert (z == 0).all()


def test_no_instance_waits_for_another():
    problem, truth = recovery(k=6, noise=0.2)
    start = torch.zeros_like(truth)
    start[0] = oracle(problem, truth != 0)[0]
    together = [z.clone() for z in least_squares_on_support(LinearModel.of(problem), truth != 0, start)]
    for i in range(len(truth)):
        model = LinearModel.of(problem.select(torch.tensor([i])))
        alone = list(least_squares_on_support(model, truth[i : i + 1] != 0, start[i : i + 1]))
        torch.testing.assert_close(together[-1][i], alone[-1][0], rtol=1e-12, atol=1e-14)


def test_a_move_leads_to_its_start_and_to_the_solution_there():
    problem, truth = recovery(k=6, noise=0.2)
    search = LeastSquares(LinearModel.of(problem), truth != 0, torch.zeros_like(truth))
    while not search.resting.all():
        search.step()
    before, which = search.z.clone(), torch.tensor([True, False, False, True])
    support = (truth != 0).roll(1, 1)
    search.move(which, support, support.to(truth.dtype))
    search.step()
    assert torch.equal(search.z[~which], before[~which])
    torch.testing.assert_close(search.z[which], support[which].to(truth.dtype))
    assert torch.equal(search.support[which], support[which])
    A, y = matrix(problem.network), problem.target.flatten(1)
    slope = (y - search.z.flatten(1) @ A.T) @ A * support.flatten(1)
    search.step()
    curvature = (slope @ A.T).square().sum(1)
    torch.testing.assert_close(search.first_step[which], (slope.square().sum(1) / curvature)[which])
    while not search.resting.all():
        search.step()
    assert (error(search.z, oracle(problem, search.support)) < 1e-12).all()


@pytest.mark.parametrize(
    ("region", "sides", "kernel"),
    [(None, (14, 1), (5, 1)), ((2, 2), (10, 7), (3, 2)), ((1, 3), (9, 8), (3, 3))],
)
def test_blocks_are_those_of_the_domain(region, sides, kernel, generator, device):
    weight = random_filters(5, 2, kernel, generator)
    problem, _ = recovery(weight, sides, k=4, region=region, device=device)
    blocks, shape = layout(problem), problem.network.input_shape
    counted = blocks_of(problem.domain, shape)
    assert blocks.members.tolist() == counted
    codes = torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(device)
    flat = codes.flatten(1)
    torch.testing.assert_close(blocks.heights(flat), flat[:, blocks.members].abs().amax(2))
    places = blocks.support(flat)
    assert (places.diff(dim=1) > 0).all()
    for z, found in zip(flat.cpu(), places.cpu(), strict=True):
        assert found.tolist() == thresholded(z, counted, 4).nonzero()[:, 0].tolist()
    found = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, places, True).view(codes.shape)
    assert torch.equal(found, problem.domain.support(codes))


def test_ties_leave_k_places_in_as_many_blocks():
    problem, truth = recovery()
    blocks = layout(problem)
    places = blocks.support(torch.ones_like(truth).flatten(1))
    assert places.shape == (len(truth), 3)
    assert all(len({place // truth[0, 0].numel() for place in row}) == 3 for row in places.tolist())


def test_refusals_are_sentences_about_what_is_missing():
    problems = {name: problem for name, (problem, _) in tiny_problems().items()}
    good = problems["sparse code"]
    assert refusal(good, "x", sparse=True) is None
    assert "model_sparse" in refusal(replace(good, domain=Reals()), "x", sparse=True)
    assert refusal(replace(good, domain=Reals()), "x", sparse=False) is None
    assert "no priors" in refusal(replace(problems["l1 code"], domain=ModelSparse(1)), "x", sparse=True)
    assert "activations" in refusal(problems["features in a box"], "x", sparse=False)
    assert "linear network" in refusal(problems["features of a black box"], "x", sparse=False)
    affine = replace(good, loss=problems["class in a box"].loss)
    assert "squared_error" in refusal(affine, "x", sparse=True)


def test_the_linear_model_leaves_the_bias_out(generator):
    module = nn.Sequential(nn.ConvTranspose2d(4, 3, 3, dtype=torch.float64))
    problem, start = tiny_problems()["sparse code"]
    network = parse(module, problem.network.input_shape)
    model = LinearModel.of(replace(problem, network=network, meter=Meter(problem.size)))
    z = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(model.y - model.apply(z), problem.target - network(z))
    r = torch.randn(model.y.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((model.apply(z) * r).sum(), (z * model.adjoint(r)).sum())
