"""Models of torchvision with random weights, narrow enough for tests."""

import torch
import torchvision
from torch import nn

#: Outputs of every dense layer.
DENSE = 12


def narrow(name: str, share: int = 1) -> nn.Module:
    """A model with dense layers of 12 outputs instead of 4096 or 1000.

    Args:
        name: as torchvision calls it.
        share: convolutions have their channels divided by so much.
    """
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
        first = True
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and share > 1:
                inputs = 3 if layer.in_channels == 3 else layer.in_channels // share
                sizes = (layer.kernel_size, layer.stride, layer.padding)
                layer.__init__(inputs, layer.out_channels // share, *sizes)  # type: ignore[misc]
            elif isinstance(layer, nn.BatchNorm2d) and share > 1:
                layer.__init__(layer.num_features // share)  # type: ignore[misc]
            elif isinstance(layer, nn.Linear):
                layer.__init__(layer.in_features // share if first else DENSE, DENSE)  # type: ignore[misc]
                first = False
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
