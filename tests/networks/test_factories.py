"""Networks of one's own, by module:factory."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from invbench.errors import UserError
from invbench.images import Images
from invbench.networks import load


@pytest.fixture
def study_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory; gives its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    name = "networks_of_" + re.sub(r"\W", "_", tmp_path.name)

    def write(content: str) -> str:
        (tmp_path / f"{name}.py").write_text(content)
        return name

    yield write
    sys.modules.pop(name, None)


FACTORIES = """
from torch import nn

def small(classes=2, scale=1.0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    network[1].weight.data.mul_(scale)
    return network

def text():
    return "no network"

def broken():
    raise TypeError("a mistake of its own")

constant = 3
"""


def test_a_factory_beside_the_study_is_found(images: Images, study_folder: Callable[[str], str]) -> None:
    name = study_folder(FACTORIES) + ":small"
    trained = load(name, {"classes": 4, "seed": 1}, images)
    assert trained.network.output_shape == (4,)
    assert trained.network.name == name
    assert trained.origin == "as its factory makes it"
    assert trained.accuracy is None
    same, other = (load(name, {"classes": 4, "seed": seed}, images).network for seed in (1, 2))
    assert trained.network.digest == same.digest != other.digest


def test_a_factory_takes_weights_from_a_file(
    images: Images, study_folder: Callable[[str], str], tmp_path: Path
) -> None:
    name = study_folder(FACTORIES) + ":small"
    state = {"1.weight": torch.rand(2, 192), "1.bias": torch.rand(2)}
    torch.save(state, tmp_path / "mine.pt")
    trained = load(name, {"weights": "mine.pt"}, images)
    assert trained.origin == "file mine.pt"
    torch.testing.assert_close(
        trained.network(torch.ones(1, 3, 8, 8))[0], state["1.weight"].sum(1) + state["1.bias"]
    )


@pytest.mark.parametrize(
    ("function", "parameters", "sentence"),
    [
        ("smal", {}, "the module '.*' has no function 'smal'"),
        ("constant", {}, "has no function 'constant'"),
        ("", {}, "has no function ''"),
        ("text", {}, "the factory returned str, not an nn.Module"),
        ("small", {"depth": 3}, "the factory takes other parameters .*'depth'"),
    ],
)
def test_mistakes_with_a_factory_are_told(
    function: str,
    parameters: dict[str, object],
    sentence: str,
    images: Images,
    study_folder: Callable[[str], str],
) -> None:
    with pytest.raises(UserError, match=sentence):
        load(f"{study_folder(FACTORIES)}:{function}", parameters, images)


@pytest.mark.parametrize("name", ["no_such_module:f", ":f", ".relative:f"])
def test_a_module_that_is_not_there_is_told(name: str, images: Images) -> None:
    with pytest.raises(UserError, match=f"network '{re.escape(name)}' cannot be imported: "):
        load(name, {}, images)


def test_mistakes_within_a_factory_keep_their_traceback(
    images: Images, study_folder: Callable[[str], str]
) -> None:
    with pytest.raises(TypeError, match="a mistake of its own"):
        load(f"{study_folder(FACTORIES)}:broken", {}, images)
