import pytest
import torch
from invbench_solvers.adam import Adam

from invbench.solver import Randomness, Solver

LIKE = torch.zeros(1, dtype=torch.float32)


def test_a_batch_draws_what_its_members_draw() -> None:
    together = Randomness(7, [0, 1, 2], LIKE)
    alone = [Randomness(7, [i], LIKE) for i in range(3)]
    for _ in range(2):
        draws = together.each((2, 3))
        assert draws.shape == (3, 2, 3)
        for i in range(3):
            assert torch.equal(draws[i], alone[i].each((2, 3))[0])


def test_streams_differ_by_seed_instance_and_kind() -> None:
    draws = [
        Randomness(0, [0], LIKE).each((4,))[0],
        Randomness(0, [1], LIKE).each((4,))[0],
        Randomness(1, [0], LIKE).each((4,))[0],
        Randomness(0, [0], LIKE).shared((4,)),
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_draws_are_standard_normal_in_the_type_of_the_run() -> None:
    draws = Randomness(0, range(4), LIKE.double()).each((5000,))
    assert draws.dtype == torch.float64
    assert float(draws.mean()) == pytest.approx(0, abs=0.03)
    assert float(draws.std()) == pytest.approx(1, abs=0.03)


def test_integers_include_both_ends() -> None:
    rng = Randomness(0, [0], LIKE)
    assert {value for _ in range(100) for value in rng.integers(-1, 1, 2)} == {-1, 0, 1}


def test_learned_tensors_are_no_part_of_the_identity() -> None:
    learned = Adam(learned={"w": torch.ones(2)})
    assert learned == Adam()
    assert "learned" not in repr(learned)
    assert not Adam.learns()


def test_a_solver_without_iterates_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Solver()  # type: ignore[abstract]
