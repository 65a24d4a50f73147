"""How many held-out images a trained network names, for networks with random and with learned filters."""

import math
from dataclasses import dataclass

from invbench.analyses.contract import Analysis, Refused, Row
from invbench.trials.contract import Scene

#: Two-sided 95 % quantile of the normal distribution.
Z = 1.96


@dataclass(frozen=True, kw_only=True)
class RandomFilterAccuracy(Analysis):
    """The accuracy of the study's network on all held-out images of the source, with a 95 % interval.

    Made for `shallow_cnn`, whose `filters` are random or learned, and good for any network that is trained
    here: the best over widths and kernels is the maximum over the networks of a study. The accuracy is the
    one that was measured after the training, not one on the images that the study draws. The interval is
    for other images from the same source; other filters and other trainings are other seeds of the network.

    References:
        Gilbert et al., Towards understanding the invertibility of convolutional neural networks, 2017,
        table 1.
    """

    def measure(self, scene: Scene) -> list[Row]:
        """One row (accuracy, half_width, held_out): shares in [0, 1], number of images; NaN for no value."""
        if scene.accuracy is None:
            raise Refused(
                f"the accuracy of {scene.network.name} was not measured: it needs a network that invbench "
                "trained, without weights from a file"
            )
        images = scene.held_out or math.nan
        return [
            {
                "accuracy": scene.accuracy,
                "half_width": half_width(scene.accuracy, images),
                "held_out": images,
            }
        ]


def half_width(share: float, count: float) -> float:
    """Half the width of Wilson's 95 % interval for a share p that was found among n of something.

        z sqrt(p (1 - p) / n + z^2 / (4 n^2)) / (1 + z^2 / n)

    It is not zero where p is 0 or 1. For 10,000 images its centre is at most .0002 off p.

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    return Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2) / (1 + Z**2 / count)
