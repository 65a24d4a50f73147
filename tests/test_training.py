import pytest
import torch
from torch import Tensor, nn

from invbench.training import History, fit

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def regression(steps: int = 600, seed: int = 0, **options: object) -> tuple[Tensor, History]:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss(indices: Tensor) -> Tensor:
        return (X[indices] @ (w - W)).square().mean()

    generator = torch.Generator().manual_seed(seed)
    history = fit([w], loss, 64, steps=steps, batch=16, lr=0.1, generator=generator, **options)  # type: ignore[arg-type]
    return w.detach(), history


def test_finds_the_least_squares_solution() -> None:
    w, history = regression()
    torch.testing.assert_close(w, W, atol=1e-6, rtol=0)
    assert history.losses[-1] < 1e-10
    assert len(history.losses) == 3


def test_same_seed_same_parameters_and_other_seed_others() -> None:
    assert torch.equal(regression(50)[0], regression(50)[0])
    assert not torch.equal(regression(50)[0], regression(50, seed=1)[0])


def test_every_epoch_sees_every_example_once() -> None:
    seen: list[int] = []
    w = torch.zeros(1, requires_grad=True)

    def loss(indices: Tensor) -> Tensor:
        seen.extend(indices.tolist())
        return w.square().sum()

    fit([w], loss, 10, steps=6, batch=5, lr=0.1, generator=torch.Generator().manual_seed(0))
    assert [sorted(seen[n : n + 10]) for n in (0, 10, 20)] == [list(range(10))] * 3


def test_the_best_validated_state_is_kept_and_patience_ends_the_training() -> None:
    values = iter([3.0, 1.0, 2.0, 2.5, 9.0, 9.0])
    states: list[Tensor] = []
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def validate() -> float:
        states.append(w.detach().clone())
        return next(values)

    history = fit(
        [w],
        lambda indices: (X[indices] @ (w - W)).square().mean(),
        64,
        steps=60,
        batch=16,
        lr=0.1,
        generator=torch.Generator().manual_seed(0),
        validate=validate,
        every=10,
        patience=2,
    )
    assert history.best_step == 20
    assert [step for step, _ in history.validations] == [10, 20, 30, 40]
    assert torch.equal(w.detach(), states[1])


@pytest.mark.parametrize("told", [True, False])
def test_buffers_are_restored_with_the_parameters_they_belong_to(told: bool) -> None:
    values = iter([3.0, 1.0, 2.0])
    states: list[dict[str, Tensor]] = []
    module = nn.Sequential(nn.BatchNorm1d(3, momentum=0.5), nn.Linear(3, 1)).double()

    def validate() -> float:
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return next(values)

    fit(
        module.parameters(),
        lambda indices: (module(X[indices]).squeeze(1) - X[indices] @ W).square().mean(),
        64,
        steps=30,
        batch=16,
        lr=0.1,
        generator=torch.Generator().manual_seed(0),
        buffers=module.buffers() if told else (),
        validate=validate,
        every=10,
    )
    best, last = states[1], states[2]
    assert best["0.num_batches_tracked"] == 20
    for name, tensor in module.state_dict().items():
        assert not torch.equal(best[name], last[name])
        restored = told or name in dict(module.named_parameters())  # where fit does not know them, they go on
        assert torch.equal(tensor, best[name] if restored else last[name])


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    regression(20)
    assert torch.equal(before, torch.random.get_rng_state())


def test_progress_is_told() -> None:
    calls: list[tuple[int, int, str]] = []
    regression(100, every=40, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(40, 100), (80, 100), (100, 100)]
    assert "loss" in calls[0][2]


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    w = nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="no longer finite"):
        fit([w], lambda i: (w * torch.nan).sum(), 4, steps=3, batch=2, lr=1.0, generator=torch.Generator())
