import pytest
import torch

from invbench.minimisers import shrinkage, two_loop

M, B, N = 4, 5, 7


def randn(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pairs(generator, m=M):
    """Steps and gradient differences, some of which violate the curvature condition."""
    steps = randn(generator, m, B, N)
    differences = steps * (0.5 + randn(generator, B, N).abs()) + 0.2 * randn(generator, m, B, N)
    return steps, differences


def dense_inverse_hessian(steps, differences):
    """The BFGS formula with matrices, for one instance; pairs are skipped as documented."""
    used = [(s, y) for s, y in zip(steps, differences, strict=True) if s @ y > 1e-6 * s.norm() * y.norm()]
    eye = torch.eye(steps.shape[1], dtype=steps.dtype)
    s, y = used[-1] if used else (steps.new_ones(1), steps.new_ones(1))
    inverse = (s @ y) / (y @ y) * eye
    for s, y in used:
        rho = 1 / (s @ y)
        update = eye - rho * torch.outer(s, y)
        inverse = update @ inverse @ update.T + rho * torch.outer(s, s)
    return inverse


def test_two_loop_is_the_dense_formula(generator, device):
    gradient, (steps, differences) = randn(generator, B, N), pairs(generator)
    ours = two_loop(gradient.to(device), steps.to(device), differences.to(device)).cpu()
    for i in range(B):
        torch.testing.assert_close(
            ours[i], dense_inverse_hessian(steps[:, i], differences[:, i]) @ gradient[i]
        )


def test_two_loop_meets_the_secant_equation(generator):
    steps, differences = pairs(generator)
    torch.testing.assert_close(two_loop(differences[-1], steps, differences), steps[-1])


def test_pairs_are_skipped_for_their_instance_alone(generator):
    gradient, (steps, differences) = randn(generator, B, N), pairs(generator)
    clean = two_loop(gradient, steps, differences)
    differences[1, 0] *= -1  # negative curvature
    differences[-1, 1] -= steps[-1, 1] * (steps[-1, 1] @ differences[-1, 1]) / (steps[-1, 1] @ steps[-1, 1])
    differences[-1, 1] += 1e-7 * steps[-1, 1]  # a cosine under the threshold, in the newest pair
    steps[:, 2], differences[:, 2] = 0, 0  # forgotten altogether
    ours = two_loop(gradient, steps, differences)
    for i in range(B):
        torch.testing.assert_close(
            ours[i], dense_inverse_hessian(steps[:, i], differences[:, i]) @ gradient[i]
        )
    assert torch.equal(ours[2], gradient[2])
    assert torch.equal(ours[3:], clean[3:])
    assert not torch.allclose(ours[:2], clean[:2])


def test_masked_recursion_is_the_dense_formula_on_the_free_variables(generator):
    gradient, (steps, differences) = randn(generator, B, N), pairs(generator)
    free = torch.rand(B, N, generator=generator) < 0.6
    free[0], free[1] = True, False
    ours = two_loop(gradient, steps, differences, free)
    assert not ours[~free].any()
    for i in range(B):
        f = free[i]
        expected = dense_inverse_hessian(steps[:, i, f], differences[:, i, f]) @ gradient[i, f]
        torch.testing.assert_close(ours[i, f], expected)
    torch.testing.assert_close(ours[0], two_loop(gradient, steps, differences)[0])


def test_empty_memory_is_steepest_descent(generator):
    gradient, none = randn(generator, B, N), torch.zeros(0, B, N, dtype=torch.float64)
    free = torch.rand(B, N, generator=generator) < 0.5
    assert torch.equal(two_loop(gradient, none, none), gradient)
    assert torch.equal(two_loop(gradient, none, none, free), gradient * free)


def test_two_loop_leaves_its_input_alone_and_equals_its_members(generator):
    gradient, (steps, differences) = randn(generator, B, N), pairs(generator)
    before = gradient.clone(), steps.clone(), differences.clone()
    together = two_loop(gradient, steps, differences)
    for now, then in zip((gradient, steps, differences), before, strict=True):
        assert torch.equal(now, then)
    for i in range(B):
        alone = two_loop(gradient[i : i + 1], steps[:, i : i + 1], differences[:, i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-13, atol=1e-14)


def test_a_rejected_step_shrinks_to_the_minimiser_of_its_parabola():
    """f(a) = 3 a^2 - a has slope -1 and f(1) = 2; its minimiser is a = 1/6."""
    predicted, change = torch.tensor([-1.0]), torch.tensor([2.0])
    assert shrinkage(predicted, change).tolist() == pytest.approx([1 / 6])


def test_shrinkage_is_bounded_and_halves_where_nothing_is_known():
    predicted = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    change = torch.tensor([1e9, -0.9, torch.inf, torch.nan])
    assert shrinkage(predicted, change).tolist() == pytest.approx([0.1, 0.5, 0.1, 0.5])
