"""Training of classifiers by the recipe that stands beside their architecture."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.images import ImageBatch, Images
from invbench.networks.architectures import Recipe
from invbench.training import History, Progress, fit

#: Images an evaluation takes at a time.
CHUNK = 256


def train_classifier(
    module: nn.Module, images: Images, recipe: Recipe, seed: int, progress: Progress = lambda *_: None
) -> History:
    """Train a classifier in place on the split `train`; the state that is best on `validation` is kept.

    Parameters that need no gradients stay as they are. The same seed, images, number of threads and version
    of torch give the same weights.
    """
    train, validation = images.all("train"), images.all("validation")
    generator = torch.Generator().manual_seed(seed)
    size = len(train.labels)
    steps = max(1, round(recipe.epochs * size / recipe.batch))

    def loss(indices: Tensor) -> Tensor:
        module.train()
        pixels = augment(train.pixels[indices], recipe, generator)
        output = module(pixels)
        return functional.cross_entropy(output, train.labels[indices], label_smoothing=recipe.smoothing)

    with torch.random.fork_rng(devices=[]):  # dropout draws from the global state
        torch.manual_seed(seed)
        return fit(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            loss,
            size,
            steps=steps,
            batch=recipe.batch,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            generator=generator,
            buffers=module.buffers(),
            validate=lambda: 1 - accuracy(module, validation),
            every=max(1, steps // 20),
            progress=progress,
        )


def augment(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, and shift each by its own whole pixels: (B, C, H, W) -> (B, C, H, W)."""
    count, _, height, width = pixels.shape
    if recipe.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    if recipe.shift:
        padded = functional.pad(pixels, [recipe.shift] * 4, mode="reflect")
        down, right = torch.randint(0, 2 * recipe.shift + 1, (2, count, 1), generator=generator)
        rows = (torch.arange(height) + down)[:, None, :, None]
        columns = (torch.arange(width) + right)[:, None, None, :]
        index = torch.arange(count)[:, None, None, None]
        channel = torch.arange(pixels.shape[1])[None, :, None, None]
        pixels = padded[index, channel, rows, columns]
    return pixels


@torch.no_grad()
def accuracy(module: nn.Module, batch: ImageBatch) -> float:
    """Share of images whose class the module names, in evaluation mode."""
    module.eval()
    chunks = zip(torch.split(batch.pixels, CHUNK), torch.split(batch.labels, CHUNK), strict=True)
    hits = sum(int((module(pixels).argmax(1) == labels).sum()) for pixels, labels in chunks)
    return hits / len(batch.labels)
