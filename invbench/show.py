"""One image, one layer, some methods: what each of them makes of it, as one picture."""

import json
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invbench import documents, registry
from invbench.errors import UserError
from invbench.harness import Bench, run_cell
from invbench.images import ImageBatch, Split
from invbench.planning import plan
from invbench.report.comparisons import Array
from invbench.report.pictures import SCALES
from invbench.report.quantities import number
from invbench.store import Record
from invbench.study import Cell, Conditions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Formats that the picture may be written in.
SUFFIXES = (".png", ".pdf", ".svg")
_PANEL = 1.75  # inches of a panel's side


@dataclass(frozen=True)
class Request:
    """What is to be shown.

    Attributes:
        layer: stage of the network whose features are inverted.
        methods: as the user names them, such as `adam` or `adam:lr=0.3,schedule=cosine`.
        network: name of the network.
        size: side of the image in pixels.
        budget: iterations.
        device: `cpu` or `cuda`.
        image: file, or None for a crop that comes with the package.
    """

    layer: str
    methods: tuple[str, ...]
    network: str = "lenet"
    size: int = 32
    budget: int = 200
    device: str = "cpu"
    image: Path | None = None


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one method made of the image, measured by the harness.

    Attributes:
        method: as the user named it.
        status: `done`, `refused`, `diverged`, `timeout` or `failed`.
        reason: the sentence, or "".
        pixels: (C, H, W) in [0, 1], or None.
        mse: of the reconstruction, NaN where there is none.
        ssim: likewise.
        seconds: of the solver.
    """

    method: str
    status: str
    reason: str
    pixels: Array | None
    mse: float
    ssim: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The image and what the methods made of it.

    Attributes:
        request: what was asked for.
        name: of the image.
        original: (C, H, W) in [0, 1].
        attempts: one per method, in the order asked for.
    """

    request: Request
    name: str
    original: Array
    attempts: tuple[Attempt, ...]

    @property
    def title(self) -> str:
        """What the picture shows, in one line."""
        asked = self.request
        return f"{self.name}, inverted from {asked.layer} of {asked.network} in {asked.budget} iterations"

    @property
    def scale(self) -> float:
        """The difference that is drawn at full strength: the same for all methods."""
        found = [item.pixels - self.original for item in self.attempts if item.pixels is not None]
        spread = float(np.quantile(np.abs(np.stack(found)), 0.99)) if found else 0.0
        return next((scale for scale in SCALES if spread <= scale), SCALES[-1])

    @property
    def best(self) -> str | None:
        """The method with the smallest MSE; None where there is no choice."""
        done = [item for item in self.attempts if item.status == "done"]
        return min(done, key=lambda item: item.mse).method if len(done) > 1 else None


@dataclass(frozen=True, eq=False)
class OneImage(Bench):
    """A bench whose test image is one of the user's; all other images come from the source as ever."""

    photograph: ImageBatch | None = field(default=None, kw_only=True)

    def batch(self, run: Conditions, split: Split, count: int | None = None) -> ImageBatch:
        """Images of a split; of `test`, the photograph."""
        if self.photograph is None or split != "test":
            return super().batch(run, split, count)
        pixels = self.photograph.pixels.to(run.device, getattr(torch, run.dtype))
        return replace(self.photograph, pixels=pixels)


def compare_methods(request: Request, progress: Callable[[int, int, str], None]) -> Comparison:
    """Run every method on the image with the machinery of a study.

    Args:
        request: what is to be shown.
        progress: called with (done, total, text) while a network trains and before each method.

    Raises:
        UserError: file, layer, network, or a method cannot be had.
    """
    photograph = None if request.image is None else read_photograph(request.image, request.size)
    cells = _cells(request)
    bench = OneImage(progress, photograph=photograph)
    try:
        bench.check(cells)
    except UserError as error:
        raise UserError(str(error).replace("images.size", "--size")) from None
    batch = bench.batch(cells[0], "test")
    attempts = []
    for done, (name, cell) in enumerate(zip(request.methods, cells, strict=True)):
        progress(done, len(cells), name)
        attempts.append(_attempt(name, *run_cell(cell, bench, "show")))
    return Comparison(request, batch.names[0], _image(batch.pixels), tuple(attempts))


def read_photograph(path: Path, size: int) -> ImageBatch:
    """Read an image file of any size: turned upright, cropped to the central square, resized.

    Raises:
        UserError: there is no such file, or it is no image.
    """
    from PIL import Image, ImageOps

    if not path.is_file():
        raise UserError(f"--image {path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata: what matters raises
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # what a damaged file raises depends on its format
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--image {path}: this is no image that can be read ({reason})") from None
    square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)[None].contiguous()
    return ImageBatch(pixels, torch.zeros(1, dtype=torch.int64), (path.name,))


def method_entry(text: str) -> dict[str, Any] | str:
    """The entry of a study for a method as the command line has it.

    Example:
        >>> method_entry("adam:lr=0.3,schedule=cosine")
        {'adam': {'lr': 0.3, 'schedule': 'cosine'}}

    Raises:
        UserError: the text has another form.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return name
    given: dict[str, Any] = {}
    for part in re.split(r",(?![^\[{]*[\]}])", rest):
        key, sign, value = part.partition("=")
        if not name or not sign or not key.strip():
            raise UserError(f"--method {text}: write it as NAME:KEY=VALUE,KEY=VALUE, such as adam:lr=0.3")
        document = documents.parse(value, f"--method {text}")
        document.check()
        if isinstance(document.data, list):
            raise UserError(f"--method {text}: {key} is a list; name the method once for each value")
        given[key.strip()] = document.data
    return {name: given}


def draw(comparison: Comparison) -> "Figure":
    """The picture: the original and every reconstruction, below them figures and signed differences."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 1 + len(comparison.attempts)
    with rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(max(_PANEL * columns + 0.2, 4.5), 2 * _PANEL + 1.1), layout="constrained")
        figure.suptitle("\n".join(textwrap.wrap(comparison.title, 20 * columns + 20)), fontsize=10)
        grid = figure.subplots(2, columns, squeeze=False)
        _blank(
            grid[1, 0],
            f"difference from\nthe original:\nmid-grey is none,\nfull strength ±{comparison.scale:g}",
        )
        _tile(grid[0, 0], comparison.original, "original", "")
        for (above, below), attempt in zip(grid.T[1:], comparison.attempts, strict=True):
            best = attempt.method == comparison.best
            name = "\n".join(textwrap.wrap(attempt.method, 24))
            if attempt.pixels is None:
                _blank(above, "\n".join(textwrap.wrap(f"{attempt.status}: {attempt.reason}", 22)), name)
                _blank(below, "")
                continue
            difference = 0.5 + 0.5 * (attempt.pixels - comparison.original) / comparison.scale
            _tile(above, attempt.pixels, name, caption(attempt), "bold" if best else "normal")
            _tile(below, difference, "", "")
    return figure


def save(comparison: Comparison, path: Path) -> None:
    """Draw the picture into a file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        draw(comparison).savefig(path, dpi=200)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def caption(attempt: Attempt) -> str:
    """MSE, SSIM and seconds, with the status unless it is done.

    Example:
        >>> print(caption(Attempt("adam", "done", "", None, 0.01234, 0.9, 0.5)))
        MSE 0.0123 · SSIM 0.900
        0.500 s
    """
    status = "" if attempt.status == "done" else f" · {attempt.status}"
    return f"MSE {number(attempt.mse)} · SSIM {number(attempt.ssim)}\n{number(attempt.seconds)} s{status}"


def _cells(request: Request) -> list[Cell]:
    """One cell per method, planned as a study would be."""
    data = {
        "study": "show",
        "images": {"source": "bundled", "count": 1, "size": request.size},
        "network": {"name": request.network},
        "trials": [{"preimage": {"layer": request.layer}}],
        "methods": [method_entry(text) for text in request.methods],
        "budget": {"iterations": request.budget},
    }
    document = documents.parse(json.dumps(data), "show")
    try:
        return list(plan(document, registry.catalogue(), request.device).cells)
    except UserError as error:
        raise UserError(_as_options(str(error), request)) from None


def _as_options(message: str, request: Request) -> str:
    """Mistakes at their options rather than at places of a file that nobody has written."""
    found = []
    for line in message.splitlines():
        place, _, rest = re.sub(r"^show:\d+:\d+: ", "", line).partition(": ")
        method = re.match(r"methods\[(\d+)\](?:\.[^.]+)?\.?(.*)", place)
        if method:
            what = f"--method {request.methods[int(method[1])]}"
            found.append(f"{what}: {method[2]} {rest}" if method[2] else f"{what}: {rest}")
        else:
            found.append(f"--{place.partition('.')[0].removesuffix('[0]')}: {rest}")
    return "\n".join(dict.fromkeys(found))


def _attempt(name: str, record: Record, arrays: Mapping[str, Array]) -> Attempt:
    trace = record["trace"]
    pixels = arrays["x"][0] if "x" in arrays else None
    if not trace or pixels is None:
        return Attempt(name, record["status"], record["reason"], None, *(float("nan"),) * 3)
    last = record["instances"][0]["points"] - 1

    def value(series: str) -> float:
        return float(trace["series"][series][last][0])

    clean = np.clip(np.nan_to_num(pixels.astype(np.float32), nan=0.5), 0, 1)
    seconds = float(trace["seconds"][last])
    return Attempt(name, record["status"], record["reason"], clean, value("mse"), value("ssim"), seconds)


def _image(pixels: Tensor) -> Array:
    image: Array = pixels[0].detach().cpu().float().numpy()
    return image


def _tile(axes: "Axes", pixels: Array, title: str, below: str, weight: str = "normal") -> None:
    axes.imshow(np.clip(pixels.transpose(1, 2, 0), 0, 1), interpolation="nearest")
    axes.set_title(title, fontsize=8, fontweight=weight)
    axes.set_xlabel(below, fontsize=7, fontweight=weight)
    _calm(axes)


def _blank(axes: "Axes", text: str, title: str = "") -> None:
    axes.set_title(title, fontsize=8)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, transform=axes.transAxes)
    axes.set_box_aspect(1)
    _calm(axes)


def _calm(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


__all__: Sequence[str] = [
    "Attempt",
    "Comparison",
    "Request",
    "caption",
    "compare_methods",
    "draw",
    "method_entry",
    "read_photograph",
    "save",
]
