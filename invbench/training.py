"""The one training loop: classifiers, priors, denoisers and inverting networks are all fitted here."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class History:
    """What a training did.

    Attributes:
        losses: training loss, averaged over each stretch between validations.
        validations: (step, value) of every validation; lower is better.
        best_step: step whose parameters were kept.
        seconds: duration.
    """

    losses: tuple[float, ...]
    validations: tuple[tuple[int, float], ...]
    best_step: int
    seconds: float


def fit(
    parameters: Iterable[Tensor],
    loss: Callable[[Tensor], Tensor],
    size: int,
    *,
    steps: int,
    batch: int,
    lr: float,
    generator: torch.Generator,
    buffers: Iterable[Tensor] = (),
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    validate: Callable[[], float] | None = None,
    every: int = 200,
    patience: int | None = None,
    progress: Progress = lambda *_: None,
) -> History:
    """Fit parameters by AdamW with a cosine schedule, and keep the best of their validated states.

    The rate of step t out of T is lr (1 + cos(pi t / T)) / 2. Batches are drawn without replacement, epoch
    by epoch. All randomness comes from `generator`; the global state is left alone.

    Args:
        parameters: trained in place; they end as the best validated state, or the last one where nothing is
            validated.
        loss: (indices into the training set, (b,) int64) -> scalar.
        size: of the training set.
        steps: T.
        batch: indices a step.
        lr: first learning rate.
        generator: of the batches; the loss may draw from it, too.
        buffers: further tensors that change in place as the training goes on and belong to a state, such as
            the running statistics of batch norms; kept and restored with the parameters.
        betas: of Adam.
        weight_decay: decoupled.
        validate: value of the present state, lower is better; called between steps, without gradients.
        every: steps between validations.
        patience: validations without improvement after which the training ends; None for never.
        progress: called with (step, steps, text).

    Raises:
        FloatingPointError: the loss is not finite.

    References:
        Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019; SGDR, ICLR 2017 (cosine).
    """
    trained = list(parameters)
    state = [*trained, *buffers]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    started = time.perf_counter()
    losses: list[float] = []
    validations: list[tuple[int, float]] = []
    best, best_value, best_step = None, math.inf, steps
    total, queue = torch.zeros(()), torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        if len(queue) < min(batch, size):
            queue = torch.randperm(size, generator=generator)
        indices, queue = queue[:batch], queue[batch:]
        value = loss(indices)
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        total = total + value.detach().cpu()
        if step % every and step != steps:
            continue
        mean = float(total) / (step % every or every)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the training loss is no longer finite after {step} steps")
        losses.append(mean)
        total = torch.zeros(())
        text = f"training: loss {mean:.4g}"
        if validate is not None:
            with torch.no_grad():
                validations.append((step, validate()))
            text += f", validation {validations[-1][1]:.4g}"
            if validations[-1][1] < best_value:
                best_step, best_value = validations[-1]
                best = [tensor.detach().clone() for tensor in state]
        progress(step, steps, text)
        if patience is not None and step - best_step >= patience * every:
            break
    if best is not None:
        with torch.no_grad():
            for tensor, kept in zip(state, best, strict=True):
                tensor.copy_(kept)
    return History(tuple(losses), tuple(validations), best_step, time.perf_counter() - started)
