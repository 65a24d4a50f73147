"""Which device a run uses."""

from invbench.errors import UserError


def pick_device(device: str) -> str:
    """`auto` resolved; raises UserError when CUDA is asked for where there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
