"""What every solver and preset that is found reaches in a fixed number of iterates; lower is better."""

from contextlib import closing
from functools import cache
from itertools import islice
from statistics import mean

from torch import Tensor

from benchmarks import problems, studies
from benchmarks.found import one_class_each
from benchmarks.problems import Task
from invbench import metrics
from invbench.harness import run_cell
from invbench.registry import catalogue

ITERATES = 100


def task(layer: str) -> Task:
    """The pre-images of a layer, with the default prior."""
    return Task(layer=layer, count=8)


@cache
def reached(name: str, layer: str) -> Tensor:
    """The last of so many iterates, in the domain."""
    solver = problems.solver(name, task(layer))
    with closing(problems.iterates(solver, task(layer))) as source:  # type: ignore[type-var]
        for x in islice(source, ITERATES):
            last = x
    return problems.posed(task(layer)).problem.domain.project(last)


class _Quality:
    """The mean over 8 images of 3 x 32 x 32 pixels, reconstructed from a layer of the shipped LeNet."""

    name = ""
    timeout = 300.0
    params = (["pool1", "fc1"],)
    param_names = ("layer",)

    def setup(self, layer: str) -> None:
        """The run."""
        self.x = reached(self.name, layer)

    def track_one_minus_ssim(self, layer: str) -> float:
        """1 - SSIM, 0 for a perfect reconstruction."""
        return 1 - self._mean("ssim", layer)

    def track_feature_error(self, layer: str) -> float:
        """Relative squared error of the features."""
        return self._mean("feature_error", layer)

    def _mean(self, metric: str, layer: str) -> float:
        posed = problems.posed(task(layer))
        return float(metrics.find()[metric](self.x, posed.truth, posed.problem).mean())


class _PresetQuality(_Quality):
    """The same for a preset, which may be several solvers in turn, without a prior."""

    params = (["pool2", "fc1"],)

    def setup(self, layer: str) -> None:
        """The run, by the harness, which shares the iterates out among the stages."""
        study = studies.study(
            {"layer": layer},
            images={"source": "bundled", "count": 8, "size": 32},
            network={"name": "lenet"},
            methods=[self.name],
            budget={"iterations": ITERATES},
        )
        record, _ = run_cell(study.cells[0], studies.bench(), "quality")
        if record["status"] != "done":
            raise NotImplementedError(record["reason"])
        self.final = {name: values[-1] for name, values in record["trace"]["series"].items()}

    def _mean(self, metric: str, _layer: str) -> float:
        return mean(self.final[metric])


globals().update(one_class_each(_Quality, catalogue().solvers))
globals().update(one_class_each(_PresetQuality, catalogue().presets))
