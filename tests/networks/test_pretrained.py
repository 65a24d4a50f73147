"""Networks of torchvision: their stages, and published weights without a connection."""

import socket
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from invbench import networks
from invbench.activations import Identity, MaxPool, ReLU
from invbench.errors import UserError
from invbench.images import Images, open_images
from invbench.network import parse
from invbench.network.chain import apply_chain
from invbench.networks import load, pretrained, save
from invbench.networks.pretrained import published_weights, with_stages
from invbench.operators import Convolution, Dense, Windows
from tests.torchvision_models import narrow

STAGES = {
    "alexnet": "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    "vgg11": "conv1_1 pool1 conv2_1 pool2 conv3_1 conv3_2 pool3 conv4_1 conv4_2 pool4 conv5_1 conv5_2 pool5 "
    "fc6 fc7 fc8",
    "vgg16": "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
    "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 fc7 fc8",
    "resnet18": "stem layer1 layer2 layer3 layer4 head",
}
STAGES |= {f"{name}_bn": STAGES[name] for name in ("vgg11", "vgg16")}


@pytest.fixture
def images(photographs: Path) -> Images:
    return open_images("folder", 64, path=str(photographs))


def own_forward(model: nn.Module, x: Tensor) -> Tensor:
    """The forward pass of torchvision behind its own normalisation."""
    with torch.no_grad():
        output: Tensor = model(normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return output


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg16", "vgg16_bn", "resnet18"])
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


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_of_the_unpatched_model(name: str) -> None:
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
    children = [key for key, _ in with_stages(model).named_children()]
    assert children == ["normalise", *STAGES[name].split()]


@pytest.mark.parametrize("name", [name for name in STAGES if name != "resnet18"])
def test_at_their_own_size_they_are_chains(name: str, generator: torch.Generator) -> None:
    network = parse(with_stages(narrow(name, share=8)), (3, 224, 224), name)
    assert network.reason is None
    x = torch.rand(1, 3, 224, 224, generator=generator)
    expected = network(x)
    torch.testing.assert_close(apply_chain(network.chain, x), expected, rtol=1e-4, atol=1e-4)
    reading = [stage for stage in network.chain if not isinstance(stage.affine, Windows)]
    convolutions, dense = reading[:-3], reading[-3:]
    assert [type(stage.affine) for stage in reading] == [Convolution] * len(convolutions) + [Dense] * 3
    assert [stage.activation for stage in dense] == [ReLU(), ReLU(), Identity()]
    pooled = [stage.name for stage in network.chain if isinstance(stage.activation, MaxPool)]
    assert pooled == [stage for stage in STAGES[name].split() if stage.startswith("pool")]
    assert all(stage.activation == ReLU() for stage in convolutions if stage.name not in pooled)


def test_at_another_size_alexnet_is_a_chain_up_to_its_last_pool(images: Images) -> None:
    network = parse(with_stages(narrow("alexnet", share=8)), images.shape)
    assert "'fc6.0' is an AdaptiveAvgPool2d, which averages over windows of unequal sizes" in network.reason
    assert network.cut("pool5").reason is None


def test_alexnet_is_cut_behind_its_activation(images: Images) -> None:
    model = narrow("alexnet")
    network = parse(with_stages(model), images.shape).cut("conv2")
    x = images.all("test").pixels
    expected = own_forward(nn.Sequential(*list(model.features)[:5]), x)  # type: ignore[arg-type]
    torch.testing.assert_close(network(x), expected)


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
