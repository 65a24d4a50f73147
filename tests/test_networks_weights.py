"""Weights from files and from torchvision: what fits, what is refused, and no network needed."""

import os
import socket
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from invbench import networks
from invbench.errors import UserError
from invbench.images import Images, open_images
from invbench.network import parse
from invbench.networks import load, pretrained, save
from invbench.networks.pretrained import published_weights, with_stages
from invbench.networks.weights import fit_weights, read_weights

STAGES = {
    "alexnet": "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    "vgg11": "conv1_1 pool1 conv2_1 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 conv5_1 conv5_2 pool5 "
    "fc6 fc7 fc8",
    "vgg16": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
    "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 fc7 fc8",
    "resnet18": "stem layer1 layer2 layer3 layer4 head",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = tmp_path_factory.mktemp("photographs")
    for n in range(10):
        pixels = np.random.RandomState(n).randint(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{n}.png")
    return open_images("folder", 64, path=str(root))


def narrow(name: str) -> nn.Module:
    """A model of torchvision with random weights, its dense layers 12 wide instead of 4096."""
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                inputs = layer.in_features if layer.in_features not in (4096, 1000) else 12
                layer.__init__(inputs, 12)  # type: ignore[misc]
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.dim() > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:  # biases, and the statistics and scales of batch norms
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def own_forward(model: nn.Module, x: Tensor) -> Tensor:
    """The forward pass of torchvision behind its own normalisation."""
    with torch.no_grad():
        output: Tensor = model(normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return output


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg16", "resnet18"])
def test_stages_agree_with_the_forward_pass_of_torchvision(
    name: str, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = narrow(name)
    expected = own_forward(model, images.all("test").pixels)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    blank = narrow(name)
    for parameter in blank.parameters():
        parameter.data.zero_()
    monkeypatch.setattr(pretrained, "_model", lambda _: blank)
    monkeypatch.setattr(networks, "published_weights", lambda _: state)
    trained = load(f"torchvision_{name}", {}, images)
    assert trained.network.stages == tuple(STAGES[name].split())
    assert trained.origin == "torchvision's default weights"
    found = trained.network(images.all("test").pixels)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_stages_are_those_of_the_unpatched_model(name: str) -> None:
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
    children = [key for key, _ in with_stages(model).named_children()]
    assert children == ["normalise", *STAGES[name].split()]


def test_alexnet_is_cut_behind_its_activation(images: Images) -> None:
    model = narrow("alexnet")
    network = parse(with_stages(model), images.shape).cut("conv2")
    x = images.all("test").pixels
    expected = own_forward(nn.Sequential(*list(model.features)[:5]), x)  # type: ignore[arg-type]
    torch.testing.assert_close(network(x), expected)


# ----------------------------------------------------------------------------- published weights, offline


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch looks for downloaded files; downloading fails."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_offline_the_file_and_its_folder_are_named(hub: Path) -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError) as told:
        published_weights("torchvision_alexnet")
    for part in ("'torchvision_alexnet'", "alexnet-owt-7be5be79.pth", str(hub), "weights: PATH", "not known"):
        assert part in str(told.value)
    assert "\n" not in str(told.value)
    assert socket.getdefaulttimeout() == before


def test_a_file_in_the_folder_needs_no_download(hub: Path) -> None:
    hub.mkdir(parents=True)
    torch.save(OrderedDict(w=nn.Parameter(torch.ones(2))), hub / "resnet18-f37072fd.pth")
    assert torch.equal(published_weights("torchvision_resnet18")["w"], torch.ones(2))
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth"):
        published_weights("torchvision_resnet18")


def test_a_download_is_checked_against_its_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, place: str, prefix: str, progress: bool) -> None:
        assert url.endswith("/vgg16-397923af.pth")
        assert prefix == "397923af"
        assert not progress
        assert socket.getdefaulttimeout() == pretrained.PATIENCE
        torch.save({"w": torch.ones(1)}, place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert set(published_weights("torchvision_vgg16")) == {"w"}


def test_what_is_saved_of_a_torchvision_network_is_loaded(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = narrow("resnet18")
    torch.save(model.state_dict(), tmp_path / "theirs.pt")
    monkeypatch.setattr(pretrained, "_model", lambda _: narrow("resnet18"))
    first = load("torchvision_resnet18", {"weights": str(tmp_path / "theirs.pt")}, images)
    assert first.origin == "file theirs.pt"
    save(first, tmp_path / "ours.safetensors")
    again = load("torchvision_resnet18", {"weights": str(tmp_path / "ours.safetensors")}, images)
    assert again.network.digest == first.network.digest


# --------------------------------------------------------------------------------------- reading a file


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


# ------------------------------------------------------------------------------------ fitting a module


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
