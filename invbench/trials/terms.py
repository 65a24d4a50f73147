"""From the priors of a study file to weighted terms of the objective."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from invbench import priors
from invbench.errors import UserError
from invbench.priors import LearnedPrior, Prior, Standardised, standardise
from invbench.problem import WeightedPrior
from invbench.validation import sentence

if TYPE_CHECKING:
    from invbench.trials.contract import Scene

#: Keys of a prior's options that are not parameters of the prior itself.
WEIGHT, RAW, PEAK, REFERENCE = WEIGHING = ("weight", "raw", "peak", "reference")
#: What a learned prior learns from, if not from the images of the study; a file with what it has learned.
IMAGES, WEIGHTS = LEARNING = ("images", "weights")


def check_priors(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Validate the priors of a study; raises ValueError with a sentence."""
    if not isinstance(spec, Mapping):
        raise ValueError(f"must be a mapping of names to weights or options (got {spec!r})")
    for name, options in spec.items():
        found = _options(name, options)
        prior = _build(name.partition("@")[0], found)
        given = [key for key in LEARNING if key in found]
        if given and not isinstance(prior, LearnedPrior):
            raise ValueError(f"prior '{name}' learns nothing, so it takes no {given[0]}")
        if len(given) > 1:
            raise ValueError(f"prior '{name}' has {IMAGES} and {WEIGHTS}: give one of them")
    return spec


def learns(spec: Mapping[str, Any]) -> bool:
    """Whether any of the priors of a study is a learned one."""
    return any(issubclass(priors.find()[name.partition("@")[0]], LearnedPrior) for name in spec)


def learned_prior(name: str, options: Mapping[str, Any]) -> LearnedPrior:
    """The recipe of a learned prior, with its parameters.

    Raises:
        UserError: there is no such prior or parameter, or it learns nothing.
    """
    try:
        check_priors({name: options})
        prior = _build(name, options)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(prior, LearnedPrior):
        raise UserError(f"prior '{name}' learns nothing: there is nothing to fit")
    return prior


def weigh(spec: Mapping[str, Any], scene: "Scene", **fixed: Any) -> tuple[WeightedPrior, ...]:
    """The weighted terms that a study asks for.

    `NAME@STAGE` applies a prior to the output of a stage of the network, `NAME` to x. A learned prior is
    fitted here: to the training images of the study or, with `images: {source: ...}`, to others; or it takes
    what it has learned from a file, `weights: PATH`.

    `NAME: w` or `NAME: {weight: w, ...parameters}` weighs the *standardised* prior: its energy is divided
    by its mean on natural images, so that weight 1 is a sensible default for every prior.

    `NAME: {raw: w, ...}` weighs the energy as the prior defines it, on images in [0, 1]: `l2: {raw: w}` is
    w/2 |x - centre|^2.

    `NAME: {weight: w, peak: p, reference: s, ...}` reproduces a published weight instead. Papers work on
    mean-subtracted images in 0..255, divided by a unit p, at s x s pixels (s = 1: averaged over pixels).
    A prior that is homogeneous of degree d then reads, for an image of H x W pixels in [0, 1],

        w (s^2 / (H W)) (255 / p)^d R(x).

    Args:
        spec: as in the study, checked by `check_priors`.
        scene: whose natural images standardise the weights, and whose stages the priors are on.
        fixed: parameters that the trial sets where the study does not (such as the centre of `l2`).
    """
    return tuple(_weigh_one(name, _options(name, options), scene, fixed) for name, options in spec.items())


def ready(name: str, options: Any, scene: "Scene") -> Prior:
    """The prior that a study names, fitted where it learns, without the weight that its options may have."""
    kind, _, layer = name.partition("@")
    given = _options(name, options)
    prior = _build(kind, given)
    if not isinstance(prior, LearnedPrior):
        return prior
    return scene.fitted(prior, layer, *(given.get(key) for key in LEARNING))


def _parameters(kind: type[Prior]) -> set[str]:
    """What may be set on a prior, all of which are dataclasses."""
    return {field.name for field in fields(kind) if field.name != "learned"}  # type: ignore[arg-type]


def _weigh_one(name: str, options: dict[str, Any], scene: "Scene", fixed: Mapping[str, Any]) -> WeightedPrior:
    kind, _, layer = name.partition("@")
    known, natural = _parameters(priors.find()[kind]), scene.maps(layer)
    prior = ready(name, {key: value for key, value in fixed.items() if key in known} | options, scene)
    if RAW in options:
        return WeightedPrior(name, options[RAW], prior, layer)
    weight = options.get(WEIGHT, 1.0)
    if PEAK in options:
        height, width = natural.shape[-2:]
        degree = float(prior.degree)
        factor = options.get(REFERENCE, 1) ** 2 / (height * width) * (255 / options[PEAK]) ** degree
        return WeightedPrior(name, weight * factor, prior, layer)
    if isinstance(prior, LearnedPrior):
        return WeightedPrior(name, weight, standardise(prior, natural), layer)
    # A centre that belongs to the instances cannot centre other images: these count around the default.
    common = {key: value for key, value in fixed.items() if key in known and not isinstance(value, Tensor)}
    scale = standardise(_build(kind, common | options), natural).scale
    return WeightedPrior(name, weight, Standardised(prior, scale), layer)


def _options(name: str, options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        weight = _number(options)
        if weight is None:
            raise ValueError(f"prior '{name}' needs a weight or a mapping of options (got {options!r})")
        return {WEIGHT: weight}
    given = {key: _number(options[key]) for key in WEIGHING if key in options}
    for key, value in given.items():
        if value is None:
            raise ValueError(f"prior '{name}': {key} must be a number (got {options[key]!r})")
        if RAW in given and key != RAW:
            raise ValueError(f"prior '{name}' has {RAW} and {key}: a raw weight is converted by nothing")
    return {**options, **given}


def _number(value: Any) -> float | None:
    """A number, also as YAML reads 1e-3: as text."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _build(name: str, options: Mapping[str, Any]) -> Prior:
    found = priors.find()
    if name not in found:
        near = get_close_matches(name, found, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(found))}"
        raise ValueError(f"unknown prior '{name}': {hint}")
    parameters = {key: value for key, value in options.items() if key not in (*WEIGHING, *LEARNING)}
    unknown = set(parameters) - _parameters(found[name])
    if unknown:
        raise ValueError(f"prior '{name}' has no parameter '{sorted(unknown)[0]}'")
    try:
        prior: Prior = TypeAdapter(found[name]).validate_python(parameters)
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(step) for step in item["loc"][:1])
        raise ValueError(f"prior '{name}': {place} {sentence(item, ())}") from None
    except UserError as error:
        raise ValueError(str(error)) from None
    return prior
