"""State dicts from files, and how they fit a module."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from invbench.errors import UserError

#: How the name of a batch norm's counter of batches ends.
COUNTER = "num_batches_tracked"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: .safetensors, or what torch.save wrote; code in a pickle is never run.

    Raises:
        UserError: the file is missing, damaged, or holds something else than tensors by name.
    """
    if not path.is_file():
        raise UserError(f"weights {path}: there is no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UserError(f"weights {path}: damaged safetensors file ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: what matters raises
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        advice = "save the state dict alone: torch.save(model.state_dict(), PATH)"
        raise UserError(
            f"weights {path}: refused, as the file is damaged or holds more than tensors; {advice}"
        ) from None
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"weights {path}: cannot be read ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path}: a state dict is needed, tensors by name")
    return dict(state)


def fit_weights(module: nn.Module, state: dict[str, Tensor], place: str) -> None:
    """Load a state dict into a module.

    The counters of batch norms may be missing, as in files of early versions of torch, which include some of
    torchvision's: they only matter to a training that goes on.

    Raises:
        UserError: names or shapes differ; tells the first difference and how many there are.
    """
    own = module.state_dict()
    differences = [f"'{key}' is missing" for key in own if key not in state and not key.endswith(COUNTER)]
    differences += [f"'{key}' is unexpected" for key in state if key not in own]
    differences += [
        f"'{key}' is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if differences:
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise UserError(f"{place} do not fit the network: {differences[0]}{more}")
    module.load_state_dict(state, strict=False)
