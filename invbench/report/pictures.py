"""Image grids: originals, reconstructions and differences, packed into one PNG per comparison."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invbench.report.comparisons import Array, Cell, Comparison, Method, in_turns
from invbench.report.quantities import higher_is_better, label, number
from invbench.report.scores import Scores
from invbench.store import Results

#: Limits that keep a page small: grids, methods in a grid, bytes of all grids before compression, pixels of
#: a tile's side. Tiles are averaged down to the last two.
GRIDS = 8
METHODS = 8
BYTES = 3_000_000
SIDE = 128
#: Scales of a difference; a kind of trial takes the smallest that holds 99 % of its differences.
SCALES = (0.05, 0.15, 0.5)
_ROWS = ("best", "median", "worst", "first other")


@dataclass(frozen=True)
class Tile:
    """A place in the sprite, in percent as CSS positions backgrounds, and what is seen there."""

    x: float
    y: float
    description: str


@dataclass(frozen=True)
class Result:
    """What one method made of one image; without a truth there are no differences."""

    method: Method
    reconstruction: Tile
    signed: Tile | None
    absolute: Tile | None
    captions: tuple[str, ...]
    best: bool


@dataclass(frozen=True)
class GridRow:
    """One image: why it was chosen, its name, and the results."""

    role: str
    name: str
    original: Tile | None
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Grid:
    """The grid of one comparison.

    Attributes:
        anchor: unique in the page.
        title: of the comparison.
        sprite: the PNG in base64.
        columns: tiles beside each other in the sprite.
        lines: tiles above each other.
        aspect: width over height of a tile.
        scale: differences of this size are drawn at full strength.
        methods: columns of the grid.
        rows: images of the grid.
        seed: whose reconstructions are shown, "" if there is no choice.
        left_out: number of methods with images that are not shown.
        shrunk: by what factor tiles were averaged down.
    """

    anchor: str
    title: str
    sprite: str
    columns: int
    lines: int
    aspect: float
    scale: float
    methods: tuple[Method, ...]
    rows: tuple[GridRow, ...]
    seed: str
    left_out: int
    shrunk: int


@dataclass(frozen=True, eq=False)
class _Material:
    """Images of one comparison, cut down to the chosen instances."""

    comparison: Comparison
    scores: Scores
    chosen: dict[int, str]
    cells: tuple[Cell, ...]
    found: Array  # (M, R, C, H, W), in [0, 1]
    truth: Array | None  # (R, C, H, W)
    left_out: int

    @property
    def spread(self) -> Array:
        return np.abs(self.found - self.truth) if self.truth is not None else np.zeros(1)


def grids(
    results: Results, comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores]
) -> tuple[Grid, ...]:
    """Grids of the first comparisons that have images, one of each kind in turn, within the limits."""
    materials: list[_Material] = []
    for comparison in in_turns(comparisons):
        if len(materials) < GRIDS and (material := _material(results, comparison, scores[comparison])):
            materials.append(material)
    scales = _scales(materials)
    drawn = {
        material.comparison: _grid(
            material,
            scales[material.comparison.conditions["trial"]],
            _factor(material, BYTES // len(materials)),
        )
        for material in materials
    }
    return tuple(drawn[comparison] for comparison in comparisons if comparison in drawn)


def choose(scores: Scores) -> dict[int, str]:
    """Instances to show, and why: best, median and worst by the mean over methods, and the first other.

    The mean is over the methods that lost no instance (over all, if each lost one) and over seeds.
    """
    if scores.ranked_by not in scores.columns:
        means = np.zeros(scores.values.shape[1])
    else:
        values = scores.values[..., scores.columns.index(scores.ranked_by)]
        whole = values[np.flatnonzero(scores.missing == 0)]
        values = whole if (~np.isnan(whole)).any() else values
        count = (~np.isnan(values)).sum((0, 2))
        means = np.divide(np.nansum(values, (0, 2)), count, out=np.full(len(count), np.nan), where=count > 0)
    order = np.argsort(-means if higher_is_better(scores.ranked_by) else means, kind="stable").tolist()
    if not order:
        return {}
    chosen: dict[int, str] = {}
    for index, role in zip((order[0], order[(len(order) - 1) // 2], order[-1]), _ROWS[:3], strict=True):
        chosen[index] = f"{chosen[index]}, {role}" if index in chosen else role
    rest = [index for index in range(len(order)) if index not in chosen]
    return chosen | ({rest[0]: _ROWS[3]} if rest else {})


def _material(results: Results, comparison: Comparison, scores: Scores) -> _Material | None:
    chosen = choose(scores)
    best = [scores.methods[m] for m in scores.order]
    pairs = [
        (cell, images)
        for method in best
        for cell in sorted(comparison.by_method()[method], key=lambda cell: cell.seed)[:1]
        if (images := _images(results, cell, chosen)) is not None
    ]
    shape = pairs[0][1].shape if pairs else ()
    pairs = [(cell, images) for cell, images in pairs if images.shape == shape]
    kept = sorted(pairs[:METHODS], key=lambda pair: comparison.methods.index(pair[0].method))
    if not kept:
        return None
    cells = tuple(cell for cell, _ in kept)
    return _Material(
        comparison,
        scores,
        chosen,
        cells,
        np.stack([images for _, images in kept]),
        _truth(results, cells[0], chosen, shape),
        len(pairs) - len(kept),
    )


def _images(results: Results, cell: Cell, chosen: Mapping[int, str]) -> Array | None:
    """Chosen reconstructions of a cell, clipped to [0, 1]; None if what it found is no image."""
    found = results.reconstruction(cell.record) if cell.record else None
    if (
        found is None
        or found.ndim != 4
        or found.shape[1] not in (1, 3)
        or len(found) <= max(chosen, default=0)
    ):
        return None
    return np.clip(np.nan_to_num(found[list(chosen)].astype(np.float32), nan=0.5), 0, 1)


def _truth(results: Results, cell: Cell, chosen: Mapping[int, str], shape: tuple[int, ...]) -> Array | None:
    truth = results.truth(cell.record)
    if truth is None or truth.shape[1:] != shape[1:] or len(truth) <= max(chosen):
        return None
    return np.clip(truth[list(chosen)].astype(np.float32), 0, 1)


def _scales(materials: Sequence[_Material]) -> dict[str, float]:
    """One scale for each kind of trial, so that its stages and methods compare."""
    found: dict[str, float] = {}
    for material in materials:
        trial = material.comparison.conditions["trial"]
        spread = float(np.quantile(material.spread, 0.99))
        fitting = next((scale for scale in SCALES if spread <= scale), SCALES[-1])
        found[trial] = max(found.get(trial, 0.0), fitting)
    return found


def _factor(material: _Material, allowance: int) -> int:
    """By how much tiles must shrink to `SIDE` and, uncompressed, to so many bytes."""
    methods, rows, channels, height, width = map(int, material.found.shape)
    tiles = rows * (1 + 3 * methods if material.truth is not None else methods)
    size = tiles * channels * height * width
    return max(math.ceil(max(height, width) / SIDE), math.ceil(math.sqrt(size / allowance)))


def _grid(material: _Material, scale: float, factor: int) -> Grid:
    comparison, truth = material.comparison, material.truth
    found = _shrink(material.found, factor)
    original = None if truth is None else _shrink(truth, factor)
    tiles = _tiles(found, original, scale)
    lines, columns, _, height, width = tiles.shape
    names = comparison.by_method()
    seeds = sum(len(cells) for cells in names.values()) > len(names)
    return Grid(
        anchor=f"grid-{comparison.anchor}",
        title=comparison.title,
        sprite=_png(tiles),
        columns=columns,
        lines=lines,
        aspect=width / height,
        scale=scale,
        methods=tuple(cell.method for cell in material.cells),
        rows=tuple(_row(material, line, lines, columns) for line in range(lines)),
        seed=f"{material.cells[0].seed:g}" if seeds else "",
        left_out=material.left_out,
        shrunk=factor,
    )


def _tiles(found: Array, truth: Array | None, scale: float) -> Array:
    """Rows of the sprite, (R, T, C, H, W) in [0, 1]: original, then three tiles a method."""
    if truth is None:
        return np.swapaxes(found, 0, 1)
    difference = (found - truth) / scale
    signed, absolute = np.clip(0.5 + 0.5 * difference, 0, 1), np.clip(np.abs(difference), 0, 1)
    methods = np.stack([found, signed, absolute], axis=1).reshape(-1, *found.shape[1:])
    return np.swapaxes(np.concatenate([truth[None], methods]), 0, 1)


def _row(material: _Material, line: int, lines: int, columns: int) -> GridRow:
    instance, role = list(material.chosen.items())[line]
    cells, truth = material.cells, material.truth is not None
    name = str(cells[0].final("instance_name")[instance])

    def tile(column: int, what: str) -> Tile:
        x, y = (100 * place / max(count - 1, 1) for place, count in ((column, columns), (line, lines)))
        return Tile(round(x, 4), round(y, 4), f"{what} of {name}")

    values = [_value(cell, material.scores.ranked_by, instance) for cell in cells]
    top = _top(values, higher_is_better(material.scores.ranked_by))
    results = []
    for m, cell in enumerate(cells):
        first = 1 + 3 * m if truth else m
        results.append(
            Result(
                method=cell.method,
                reconstruction=tile(first, f"{'Reconstruction' if truth else 'Result'} by {cell.method}"),
                signed=tile(first + 1, f"Signed difference, {cell.method},") if truth else None,
                absolute=tile(first + 2, f"Absolute difference, {cell.method},") if truth else None,
                captions=_captions(cell, material.scores, instance),
                best=values[m] == top,
            )
        )
    return GridRow(role, name, tile(0, "Original") if truth else None, tuple(results))


def _top(values: Sequence[float], higher: bool) -> float | None:
    """The best value; None where most methods share it."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return None
    top = max(known) if higher else min(known)
    return top if 2 * known.count(top) <= len(known) else None


def _captions(cell: Cell, scores: Scores, instance: int) -> tuple[str, ...]:
    """The metric that ranks, SSIM where there is one, and the status unless it is done."""
    lines = [
        f"{label(name)} {number(value, name)}"
        for name in dict.fromkeys((scores.ranked_by, "ssim", "distortion_linf"))
        if not np.isnan(value := _value(cell, name, instance))
    ]
    status = str(cell.final("status")[instance])
    return (*lines[:2], *([status] if status != "done" else []))


def _value(cell: Cell, name: str, instance: int) -> float:
    if name not in cell.columns or (name == "objective" and cell.overrides):
        return float("nan")
    return float(cell.final(name)[instance])


def _shrink(images: Array, factor: int) -> Array:
    """Average squares of factor x factor pixels; what is left at the border is cut."""
    if factor == 1:
        return images
    *lead, height, width = images.shape
    height, width = height // factor, width // factor
    cut = images[..., : height * factor, : width * factor]
    mean: Array = cut.reshape(*lead, height, factor, width, factor).mean((-3, -1))
    return mean


def _png(tiles: Array) -> str:
    """All tiles as one PNG in base64."""
    from PIL import Image

    lines, columns, channels, height, width = tiles.shape
    sheet = tiles.transpose(0, 3, 1, 4, 2).reshape(lines * height, columns * width, channels)
    pixels = (sheet * 255 + 0.5).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG", compress_level=9)
    return base64.b64encode(file.getvalue()).decode()
