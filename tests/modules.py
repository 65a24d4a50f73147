"""Modules of every architecture that is met, small and with random weights, and how tests look at them."""

from collections import OrderedDict

import torch
from torch import nn

from invbench.operators import Normalise


def sequential(**children):
    return nn.Sequential(OrderedDict(children))


def seeded(module, seed=0):
    """The module with weights, biases and running statistics that are all different from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
                layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator))
                layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.1)
    return module


def normalise():
    return Normalise([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def lenet():
    return seeded(
        sequential(
            normalise=normalise(),
            conv1=nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Sequential(nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(inplace=True)),
            pool2=nn.MaxPool2d(2),
            fc1=nn.Sequential(nn.Flatten(), nn.Linear(96, 12), nn.ReLU()),
            fc2=nn.Sequential(nn.Dropout(), nn.Linear(12, 8), nn.ReLU()),
            fc3=nn.Linear(8, 5),
        )
    )


def vgg():
    block = lambda a, b: [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]  # noqa: E731
    return seeded(
        sequential(
            normalise=normalise(),
            features=nn.Sequential(
                *block(3, 4), nn.MaxPool2d(2), nn.Sequential(*block(4, 6), *block(6, 6)), nn.MaxPool2d(2)
            ),
            average=nn.AdaptiveAvgPool2d(2),
            classifier=nn.Sequential(
                nn.Flatten(), nn.Linear(24, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
            ),
        )
    )


def alexnet():
    return seeded(
        sequential(
            conv1=nn.Sequential(nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.ReLU()),
            norm1=nn.LocalResponseNorm(5, alpha=0.1),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Sequential(nn.Conv2d(6, 8, 3, padding="same", groups=2), nn.ReLU()),
            pool2=nn.MaxPool2d(3, 2, padding=1),
            fc=nn.Sequential(nn.Flatten(), nn.Linear(72, 5)),
        )
    )


def generator_network():
    return seeded(
        sequential(
            code=nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.LeakyReLU(0.2)),
            up1=nn.Sequential(
                nn.Unflatten(1, (3, 2, 2)), nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4)
            ),
            act1=nn.LeakyReLU(0.2),
            up2=nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
        )
    )


def odds_and_ends():
    """What is rare: several layers without a map in front, pooling before ReLU, averages, no-ops."""
    return seeded(
        sequential(
            start=nn.LeakyReLU(0.5),
            pool=nn.Sequential(nn.MaxPool2d((2, 1)), nn.ReLU()),
            conv=nn.Conv2d(3, 4, 3, dilation=2, padding="same"),
            leaky=nn.LeakyReLU(0.1),
            pool2=nn.MaxPool2d(2, ceil_mode=True),
            average=nn.AvgPool2d(2, padding=1, count_include_pad=False),
            whole=nn.AdaptiveAvgPool2d((None, 1)),
            same=nn.AdaptiveAvgPool2d((None, None)),
            end=nn.Sequential(nn.Identity(), nn.Dropout2d()),
        )
    )


CHAINS = {
    "lenet": (lenet, (3, 16, 16)),
    "vgg": (vgg, (3, 16, 16)),
    "alexnet": (alexnet, (3, 23, 23)),
    "generator": (generator_network, (3, 3, 3)),
    "odds": (odds_and_ends, (3, 16, 12)),
    "one layer": (lambda: seeded(nn.Conv2d(3, 2, 3)), (3, 5, 5)),
}


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.relu(self.conv(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalise = normalise()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.block1 = ResidualBlock(4)
        self.block2 = nn.Sequential(ResidualBlock(4), nn.Conv2d(4, 5, 3, 2), ResidualBlock(5))
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = self.block2(self.block1(self.conv1(self.normalise(x))))
        return self.fc(x.mean((2, 3)))


def images(shape, generator, count=2, dtype=torch.float64):
    return torch.rand(count, *shape, generator=generator, dtype=dtype)


def run(chain, x):
    for stage in chain:
        x = stage(x)
    return x


def kinds(network):
    return [(stage.name, type(stage.affine), stage.activation) for stage in network.chain]
