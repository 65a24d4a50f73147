"""Pictures that an analysis found, as its record keeps them."""

import base64
import io
import math
from typing import Any

import torch
from torch import Tensor

from invbench.analyses.contract import Picture

#: Pixels of a side; larger pictures are averaged down by a whole factor, smaller ones are kept to the pixel.
SIDE = 512


def plain(picture: Picture) -> dict[str, Any]:
    """A picture as plain data: {title, png in base64, width, height}, 8 bits a channel.

    Raises:
        TypeError: it is no picture, with a sentence.
    """
    from PIL import Image

    levels = (_checked(picture).detach().cpu().double() * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    image = image.reduce(math.ceil(max(image.size) / SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=9)
    png = base64.b64encode(file.getvalue()).decode()
    return {"title": picture.title, "png": png, "width": image.width, "height": image.height}


def _checked(picture: Picture) -> Tensor:
    """The pixels of what is a picture; raises TypeError where it is none."""
    if not isinstance(picture, Picture):
        raise TypeError(f"among the pictures is a {type(picture).__name__}; give Picture(title, pixels)")
    if not isinstance(picture.title, str) or not picture.title:
        raise TypeError(f"a picture has the title {picture.title!r}; say what is seen in a few words")
    pixels, what = picture.pixels, f"picture '{picture.title}'"
    if not isinstance(pixels, Tensor):
        raise TypeError(f"{what} holds a {type(pixels).__name__}; its pixels are a tensor (C, H, W)")
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3) or not pixels.numel():
        raise TypeError(f"{what} has the shape {tuple(pixels.shape)}; give (C, H, W) with C 1 or 3")
    if not pixels.is_floating_point():
        raise TypeError(f"{what} is of {pixels.dtype}; give real numbers in [0, 1]")
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):  # which NaN is not, either
        raise TypeError(f"{what} has values outside [0, 1]; scale or clip them")
    return pixels
