"""Every benchmark runs, once and small: nobody looks at them for months, and then they must work."""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import harness, quality, solvers, stopwatch
from benchmarks.found import one_class_each
from invbench import priors
from invbench.registry import catalogue

THEMES = (
    "command_line",
    "harness",
    "networks",
    "operators",
    "priors",
    "quality",
    "report",
    "solvers",
    "training",
)
KIND = re.compile("(time|peakmem|track)_")


def benchmarks() -> Iterator[tuple[str, type]]:
    for theme in THEMES:
        for name, kind in vars(import_module(f"benchmarks.{theme}")).items():
            if inspect.isclass(kind) and not name.startswith("_"):
                yield from ((f"{theme}.{name}.{method}", kind) for method in dir(kind) if KIND.match(method))


BENCHMARKS = dict(benchmarks())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "ratio", partial(stopwatch.ratio, pairs=1))
    monkeypatch.setattr(solvers, "ITERATES", 1)
    monkeypatch.setattr(quality, "ITERATES", 5)
    monkeypatch.setattr(harness, "FINISHED", 2)
    monkeypatch.setattr(harness, "FEW", 10)
    monkeypatch.setattr(harness, "MANY", 1000)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_where_it_can(name: str) -> None:
    benchmark, method = BENCHMARKS[name](), name.rpartition(".")[2]
    reasons = []
    for parameters in product(*getattr(benchmark, "params", ())):
        try:
            getattr(benchmark, "setup", lambda *_: None)(*parameters)
        except NotImplementedError as error:
            reasons.append(str(error))
            continue
        value = getattr(benchmark, method)(*parameters)
        assert not method.startswith("track_") or value == value
        return
    assert all(len(reason.split()) > 3 for reason in reasons)
    pytest.skip(f"not applicable: {'; '.join(dict.fromkeys(reasons))}")


def test_everything_found_has_benchmarks() -> None:
    themes = {theme: vars(import_module(f"benchmarks.{theme}")) for theme in THEMES}
    for solver in catalogue().solvers:
        assert solver in themes["solvers"] and solver in themes["quality"]
        assert {f"{solver}_ratio", f"{solver}_vgg11"} <= themes["solvers"].keys()
    assert catalogue().presets.keys() <= themes["quality"].keys()
    assert priors.find().keys() <= themes["priors"].keys()


def test_parameters_do_not_depend_on_what_is_found() -> None:
    """They are addressed by position in the results of other commits."""
    found = {*catalogue().solvers, *priors.find()}
    for kind in BENCHMARKS.values():
        for values in getattr(kind, "params", ()):
            assert found.isdisjoint(values)


def test_classes_bear_the_name_that_they_measure() -> None:
    class _Base:
        name = ""

    made = one_class_each(_Base, {"b": 1, "a": 2}, suffix="_x")
    assert list(made) == ["a_x", "b_x"]
    assert [(kind.__name__, kind.name) for kind in made.values()] == [("a_x", "a"), ("b_x", "b")]  # type: ignore[attr-defined]


def test_a_ratio_does_not_see_a_slow_spell(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def taking(seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls[0] += 1
            now[0] += seconds * (10 if 20 <= calls[0] < 60 else 1)

        return call

    assert stopwatch.ratio(taking(3e-3), taking(2e-3), pairs=50) == pytest.approx(1.5)


def test_one_thread() -> None:
    """The package of benchmarks sets it, so that figures of machines with more cores mean the same."""
    text = (Path(__file__).parents[1] / "benchmarks" / "__init__.py").read_text()
    assert "torch.set_num_threads(1)" in text
    assert torch.get_num_threads() == 1
