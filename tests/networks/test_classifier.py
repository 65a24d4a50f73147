"""Trainings of classifiers: that they repeat, learn, keep the best state, and their parts."""

from itertools import product

import numpy as np
import torch
from torch import nn

from invbench.images import ImageBatch, Images
from invbench.networks import find
from invbench.networks.architectures import Recipe
from invbench.networks.classifier import CHUNK, accuracy, augment, train_classifier


def test_a_training_with_dropout_repeats(images: Images) -> None:
    trained = []
    for state in (1, 2):
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        torch.manual_seed(state)  # of no account
        train_classifier(module, images, Recipe(epochs=2, batch=8), 0)
        trained.append(module.get_parameter("2.weight"))
    assert torch.equal(*trained)


def test_the_best_state_is_kept_with_its_batch_statistics(images: Images) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        module = find()["resnet"].build(2, 8, width=4, blocks=2)
        history = train_classifier(module, images, Recipe(epochs=6, batch=8, lr=0.05), seed)
        best = min(value for _, value in history.validations)
        assert accuracy(module, images.all("validation")) == 1 - best


def test_a_training_learns(images: Images) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    train_classifier(module, images, Recipe(epochs=40, batch=8, lr=0.02), 0)
    assert accuracy(module, images.all("test")) == 1.0


def test_augmentation_mirrors_and_shifts_each_image_by_itself(generator: torch.Generator) -> None:
    shift, pixels = 2, torch.rand(300, 3, 7, 8, generator=generator)
    found = augment(pixels, Recipe(1, shift=shift), generator).numpy()
    seen = []
    for before, after in zip(pixels.numpy(), found, strict=True):
        around = ((0, 0), (shift, shift), (shift, shift))
        padded = {step: np.pad(before[:, :, ::step], around, mode="reflect") for step in (1, -1)}
        matches = [
            (step, down, right)
            for step, down, right in product((1, -1), range(5), range(5))
            if np.array_equal(padded[step][:, down : down + 7, right : right + 8], after)
        ]
        assert len(matches) == 1
        seen += matches
    assert 120 < sum(step == -1 for step, _, _ in seen) < 180
    assert len({(down, right) for _, down, right in seen}) == 25


def test_augmentation_does_only_what_the_recipe_says(generator: torch.Generator) -> None:
    pixels = torch.rand(50, 3, 4, 4, generator=generator)
    assert torch.equal(augment(pixels, Recipe(1, flip=False), generator), pixels)
    mirrored = augment(pixels, Recipe(1), generator)
    same = (mirrored == pixels).flatten(1).all(1)
    assert torch.equal(mirrored[~same], pixels[~same].flip(3))
    assert 10 < int(same.sum()) < 40
    again = [augment(pixels, Recipe(1, shift=1), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)


def test_accuracy_is_a_count_in_evaluation_mode(generator: torch.Generator) -> None:
    count = CHUNK + 44
    pixels = torch.rand(count, 3, 2, 2, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout(0.9)).train()
    weight, bias = (tensor.detach().numpy() for tensor in module.parameters())
    scores = pixels.flatten(1).numpy() @ weight.T + bias
    hits = sum(row.tolist().index(max(row)) == int(label) for row, label in zip(scores, labels, strict=True))
    batch = ImageBatch(pixels, labels, tuple(map(str, range(count))))
    assert accuracy(module, batch) == hits / count
