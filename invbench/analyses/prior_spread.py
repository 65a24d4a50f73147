"""How much the energies of priors vary over natural images, and what they make of others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from invbench.analyses.contract import Analysis, Row
from invbench.problem import WeightedPrior
from invbench.trials.contract import Priors, Scene
from invbench.trials.terms import weigh

#: Images that a network takes at a time.
CHUNK = 64
#: Standard deviation of the Gaussian that blurs, in pixels.
BLUR = 1.0
#: Ends of the range over which energies are compared.
LOW, HIGH = 0.05, 0.95


@dataclass(frozen=True, kw_only=True)
class PriorSpread(Analysis):
    """The weighted energy w R(f_i(x)) of priors over the images, as it stands in the objective of a trial.

    A prior is standardised on other natural images, so `mean` beside `standard` says how well its scale
    carries over, and `ratio` how much it prefers some natural images to others: a large one makes a weight
    that suits one image wrong for another. Three kinds of images are no natural ones, made from each image x:

    - `noise`: the pixels of x in random order, with the same colours but without any structure;
    - `grey`: mid-grey, 0.5;
    - `blurred`: x convolved with a Gaussian of standard deviation 1 pixel.

    Each column is the mean energy of that kind over the mean energy of the images. The minimum of an energy
    is where it pulls x to. Noise above 1 is what an energy needs; one that has grey or blurred images far
    below 1 smooths as well.

    Attributes:
        priors: as in a trial; `NAME@STAGE` is the energy of the features there, of all these images.

    References:
        Harder 2017 asks for the spread of all energies on natural feature maps, for principled weights.
    """

    priors: Annotated[Priors, MinLen(1)]

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`; priors that learn are fitted here."""
        weigh(self.priors, scene)

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (prior, mean, std, min, median, max, ratio, standard, noise, grey, blurred), one a prior.

        `ratio` is the 95 % quantile over the 5 % one, and `standard` the mean over the images by which the
        prior was standardised.
        """
        pixels = scene.images.pixels
        others = {
            "noise": _shuffled(pixels, torch.Generator().manual_seed(scene.seed)),
            "grey": torch.full_like(pixels, 0.5),
            "blurred": _blurred(pixels),
        }
        return [_row(term, scene, others) for term in weigh(self.priors, scene)]


def _row(term: WeightedPrior, scene: Scene, others: dict[str, Tensor]) -> Row:
    found = _energies(term, scene, scene.images.pixels)
    low, median, high = found.quantile(torch.tensor([LOW, 0.5, HIGH]).to(found))
    mean = found.mean()
    return {
        "prior": term.name,
        "mean": float(mean),
        "std": float(found.std(correction=0)),
        "min": float(found.min()),
        "median": float(median),
        "max": float(found.max()),
        "ratio": float(high / low),
        "standard": float(_energies(term, scene, scene.natural).mean()),
        **{kind: float(_energies(term, scene, x).mean() / mean) for kind, x in others.items()},
    }


def _energies(term: WeightedPrior, scene: Scene, x: Tensor) -> Tensor:
    """The energy w R(f_i(x)) of every image, `(N,)`, in float64."""
    with torch.no_grad():
        parts = [term.prior(maps).double() for maps in _maps(term, scene, x)]
    return term.weight * torch.cat(parts)


def _maps(term: WeightedPrior, scene: Scene, x: Tensor) -> Iterator[Tensor]:
    """The images or their features, some at a time."""
    network = scene.network.cut(term.layer) if term.layer else None
    for some in torch.split(x, CHUNK):
        yield some if network is None else network(some)


def _shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The pixels of every image, `(N, C, H, W)`, in a random order of its own; colours stay together."""
    draws = torch.rand(len(pixels), 1, pixels[0, 0].numel(), generator=generator, dtype=torch.float64)
    order = draws.argsort(2).to(pixels.device).expand(-1, pixels.shape[1], -1)
    return pixels.flatten(2).gather(2, order).view_as(pixels)


def _blurred(pixels: Tensor) -> Tensor:
    """A Gaussian mean of every channel, mirrored at the border."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(pixels.cpu().numpy(), (0, 0, BLUR, BLUR))).to(pixels)
