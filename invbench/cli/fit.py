"""`invbench fit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invbench.cli.progress import training_progress
from invbench.errors import UserError

if TYPE_CHECKING:
    from invbench.images import Images
    from invbench.networks import Trained as TrainedNetwork
    from invbench.prior_training import Trained as TrainedPrior

#: What may be set, and what the name of each is called among its parameters.
KINDS = {"network": "name", "images": "source", "prior": "name", "solver": "name", "trial": "name"}


@click.command("fit")
@click.argument("settings", nargs=-1, required=True, metavar="network|prior|solver=NAME [KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the weights to this file.")
@click.option("--refresh", is_flag=True, help="Train again, although trained weights are there.")
def command(settings: tuple[str, ...], output: Path | None, refresh: bool) -> None:
    """Train a network, a prior or a solver and keep what it has learned, for studies to find.

    Parameters are set by name: network.width=0.25, prior.patch=5, images.size=64, images.path=photos.zip. For
    example, `invbench fit network=lenet images=bundled` makes the weights that come with the package, and
    `invbench fit prior=foe images=bundled` a prior of images. With `prior.layer=pool1` and a network it is a
    prior of the features there. `invbench fit solver=inverting_network trial.layer=pool2` trains a solver for
    a trial, by default a pre-image.
    """
    from invbench.images import open_images

    network, images, prior, solver, trial = (parameters(settings, kind) for kind in KINDS)
    images = {"source": "bundled", "size": 32, **images}
    if "name" in solver:
        _solver(solver, trial, network, images, refresh, output)
        return
    source = open_images(**images)
    if "name" in prior:
        _report(_prior(prior, network, source, refresh), output)
    elif "name" in network:
        _report(_network(network, source, refresh), output)
    else:
        raise UserError("fit needs a network, a prior or a solver: invbench fit network=lenet images=bundled")


def _report(trained: "TrainedNetwork | TrainedPrior", output: Path | None) -> None:
    """Say what is known about weights, and write them where that is asked for."""
    from invbench import networks, prior_training

    for key, value in trained.plain().items():
        click.echo(f"{key}: {value}")
    if output is not None:
        if isinstance(trained, networks.Trained):
            networks.save(trained, output)
        else:
            prior_training.save(trained, output)
        click.echo(f"weights: {output}")


def _network(parameters: dict[str, Any], source: "Images", refresh: bool = False) -> "TrainedNetwork":
    from invbench import networks

    name = parameters.pop("name")
    with training_progress() as progress:
        return networks.load(name, parameters, source, progress=progress, refresh=refresh)


def _prior(
    parameters: dict[str, Any], network: dict[str, Any], source: "Images", refresh: bool
) -> "TrainedPrior":
    import torch

    from invbench.prior_training import Subject, Teacher
    from invbench.trials.terms import learned_prior

    layer = parameters.pop("layer", "")
    if layer and "name" not in network:
        raise UserError(f"prior.layer={layer} needs a network: network=NAME")
    prior = learned_prior(parameters.pop("name"), parameters)
    cut = _network(network, source).network.cut(layer) if layer else None
    subject = Subject(source, cut, layer)
    with training_progress() as progress:
        return Teacher(progress).teach(prior, subject, torch.empty(0), refresh)


def _solver(
    solver: dict[str, Any],
    trial: dict[str, Any],
    network: dict[str, Any],
    images: dict[str, Any],
    refresh: bool,
    output: Path | None,
) -> None:
    """Train a solver for a trial, say what that took, and write what it has learned if that is asked for."""
    import yaml

    from invbench import documents, registry
    from invbench.harness import Bench
    from invbench.planning import plan
    from invbench.trials import offline

    study = {
        "study": "fit",
        "images": {"count": 1, **images},
        "network": {"name": "lenet", **network},
        "trials": [{trial.pop("name", "preimage"): trial}],
        "methods": [{solver.pop("name"): solver}],
        "budget": {"iterations": 1},
    }
    document = documents.parse(yaml.safe_dump(study), "invbench fit")
    cells = plan(document, registry.catalogue()).cells
    if len(cells) != 1 or len(cells[0].method.stages) != 1:
        raise UserError("fit trains one solver for one trial: name a solver, and give no lists of parameters")
    ((name, method),) = cells[0].method.stages
    if not method.learns():
        raise UserError(f"solver '{name}' learns nothing: there is nothing to fit")
    with training_progress() as progress:
        bench = Bench(progress)
        reason = method.refuses(bench.pose(cells[0], cells[0].trial).problem)
        if reason is not None:
            raise UserError(f"there is nothing to fit: {reason}")
        scene = bench.scene(cells[0], bench.batch(cells[0], "test"))
        prepared = offline.prepare(method, cells[0].trial, scene, progress, refresh)
    for key, value in prepared.plain().items():
        click.echo(f"{key}: {value}")
    if output is not None:
        offline.save(prepared, cells[0].trial, output)
        click.echo(f"weights: {output}")


def parameters(settings: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The settings `KIND=NAME` and `KIND.KEY=VALUE` as parameters; the name of images is their source."""
    from invbench import documents

    found: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        head, _, tail = key.partition(".")
        if not sign or head not in KINDS:
            ways = ", ".join(f"{kind}={KINDS[kind].upper()}, {kind}.KEY=VALUE" for kind in KINDS)
            raise UserError(f"'{setting}': write one of {ways}")
        if head == kind:
            document = documents.parse(value, f"'{key}'")
            document.check()
            found[tail or KINDS[head]] = document.data
    return found
