"""The learned priors of a study: what they are, and what they have learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invbench.report.quantities import MISSING, number


@dataclass(frozen=True)
class Learned:
    """One learned prior.

    Attributes:
        name: what it is.
        parameters: of its recipe, on one line.
        stage: of the network, whose output it is about, or `pixels`.
        images: that it has learned from.
        origin: where its tensors come from.
        seconds: of its training.
    """

    name: str
    parameters: str
    stage: str
    images: str
    origin: str
    seconds: str


def learned_priors(environment: Mapping[str, Any]) -> tuple[Learned, ...]:
    """The priors that a study has used, in its order; none where the environment is older than they are."""
    return tuple(_learned(about) for about in environment.get("priors") or ())


def _learned(about: Mapping[str, Any]) -> Learned:
    # The recipe is a repr such as `FieldOfExperts(patch=8, channels='full')`.
    parameters = str(about["recipe"]).replace("'", "").partition("(")[2]
    layer, network = about.get("layer"), about.get("network")
    seconds = about.get("training_seconds")
    return Learned(
        name=about["name"],
        parameters=parameters.removesuffix(")"),
        stage=f"{layer} of {network}" if layer else "pixels",
        images=(about.get("images") or MISSING).strip("'"),
        origin=about.get("origin") or MISSING,
        seconds=MISSING if seconds is None else number(seconds, "seconds"),
    )
