"""What the READMEs show works as it stands."""

import re
from itertools import islice
from pathlib import Path

import torch

from invbench import documents
from invbench.analyses.contract import Analysis
from invbench.images import ImageBatch
from invbench.planning import plan
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from tests.toys import SHAPE, tiny_network, tiny_problems


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S)


def test_the_example_study_is_valid(repository: Path) -> None:
    text = next(block for block in blocks(repository / "README.md", "yaml") if block.startswith("study:"))
    study = plan(documents.parse(text, "README.md"), catalogue())
    assert {cell.labels()["variant"] for cell in study.cells} == {"default", "tuned"}


def test_the_example_solver_improves_a_tiny_problem(repository: Path) -> None:
    (code,) = blocks(repository / "solvers" / "README.md", "python")
    names: dict[str, type[Solver]] = {"__name__": "example"}  # type: ignore[dict-item]
    exec(compile(code, "solvers/README.md", "exec"), names)
    problem, x = tiny_problems()["features in a box"]
    before = problem.objective(x)
    *_, last = islice(names["Shrinking"]().iterates(problem, x, Randomness(0, range(len(x)), x)), 30)
    assert (problem.objective(last) < before).all()
    assert torch.equal(problem.domain.project(last), last)


def test_the_example_analysis_measures(repository: Path) -> None:
    (code,) = blocks(repository / "README.md", "python")
    names: dict[str, type[Analysis]] = {"__name__": "example"}  # type: ignore[dict-item]
    exec(compile(code, "README.md", "exec"), names)
    pixels = torch.rand(3, *SHAPE, dtype=torch.float64)
    images = ImageBatch(pixels, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    scene = Scene(network=tiny_network(), images=images, classes=(), natural=pixels, seed=0)
    rows = names["Zeros"](layer="conv1").measure(scene)  # type: ignore[call-arg]
    assert [row["image"] for row in rows] == [0, 1, 2]
    assert all(0 < float(row["share"]) < 1 for row in rows)


def test_the_commands_of_the_readme_are_there(repository: Path) -> None:
    from invbench.cli import cli

    text = (repository / "README.md").read_text()
    shown = set(re.findall(r"^    invbench (\w+)", text, re.M))
    assert shown == set(cli.commands)
    assert text.count("python3 -m venv .venv && .venv/bin/pip install -e") == 2
