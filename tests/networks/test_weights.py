"""State dicts from files: what fits, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from invbench.errors import UserError
from invbench.images import Images
from invbench.networks import load
from invbench.networks.weights import fit_weights, read_weights


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_reads_both_formats(name: str, tmp_path: Path) -> None:
    state = {"a.weight": torch.rand(2, 3), "n": torch.tensor(3)}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    found = read_weights(tmp_path / name)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": Trap(str(tmp_path / "trapped"))}, path)
    with pytest.raises(UserError, match=r"w.pt: refused, .* more than tensors; save the state dict alone"):
        read_weights(path)
    assert not (tmp_path / "trapped").exists()
    torch.load(path, weights_only=False)  # the trap works
    assert (tmp_path / "trapped").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(UserError, match="save the state dict alone"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, "half", "half, old format"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_damaged_file_is_told(content: bytes | str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        state = {"w": torch.rand(1000)}
        if name == "w.pt":
            torch.save(state, path, _use_new_zipfile_serialization=content == "half")
        else:
            save_file(state, path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"weights .*{name}: ") as told:
        read_weights(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("state", [[torch.zeros(2)], {"state_dict": {"w": torch.zeros(2)}}, torch.zeros(2)])
def test_other_things_than_a_state_dict_are_told(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="a state dict is needed, tensors by name"):
        read_weights(tmp_path / "w.pt")


def test_a_missing_file_is_told(tmp_path: Path, images: Images) -> None:
    for path in (tmp_path / "w.pt", tmp_path, 5):
        with pytest.raises(UserError, match=f"weights {path}: there is no such file"):
            load("lenet", {"weights": path}, images)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("1.bias"), "w do not fit the network: '1.bias' is missing"),
        (lambda s: s.update(more=torch.zeros(1)), "w do not fit the network: 'more' is unexpected"),
        (
            lambda s: s.update({"0.weight": torch.zeros(2, 3, 1, 1)}),
            r"'0.weight' is \(2, 3, 1, 1\) instead of \(4, 3, 1, 1\)",
        ),
        (lambda s: s.pop("1.running_mean"), "'1.running_mean' is missing"),
        (lambda s: s.clear(), "'0.weight' is missing and 5 more"),
    ],
)
def test_the_first_difference_is_named(change: object, sentence: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    change(state)  # type: ignore[operator]
    with pytest.raises(UserError, match=f"{sentence}$") as told:
        fit_weights(module, state, "w")
    assert "\n" not in str(told.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_counters_of_batch_norms_may_be_missing() -> None:
    module = nn.BatchNorm2d(3)
    state = {key: value + 1 for key, value in module.state_dict().items() if "num_batches" not in key}
    fit_weights(module, state, "w")
    assert torch.equal(module.running_var, torch.full((3,), 2.0))  # type: ignore[arg-type]
