"""Crops of the photographs and textures that the wheel of scikit-image carries: no download, ever."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from invbench.errors import UserError
from invbench.images.source import ImageBatch, Images, Member, Pixels, Split, known

#: File -> SHA-256; the files are the same in scikit-image 0.22 to 0.26.
PHOTOGRAPHS = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
    "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}
#: Which cells of the grid over a photograph hold a held-out window; all three kinds are in the first 2 x 3.
PLAN = ("x.v.", ".u.x", "v.x.", ".x.u")
HELD_OUT: dict[str, Split] = {"x": "test", "u": "tuning", "v": "validation"}
#: Crops of each photograph that `all` takes.
CROPS: dict[Split, int] = {"train": 1000, "validation": 100, "tuning": 100, "test": 100}
#: Larger crops leave no room for training beside the held-out windows.
LARGEST = 64

Box = tuple[int, int, int, int]
Places = npt.NDArray[np.int64]


class Bundled(Images, source="bundled"):
    """Crops of twelve photographs and textures that come with scikit-image.

    The class of a crop is its photograph. Held-out crops lie inside small windows on a checkerboard over the
    photograph, training crops anywhere else, a crop size away from every window. Of all places the half
    with more contrast is used, so that no crop is an empty patch of sky.

    Limits: crops of one photograph resemble each other, and the windows are few. An accuracy on them says
    little about photographs never seen.

    Args:
        size: side of the crops, at most 64; a photograph whose shorter side is more than 16 times as long is
            reduced first.

    Raises:
        UserError: if the crops are too large, or a photograph is missing or not the one expected.
    """

    def __init__(self, size: int) -> None:
        if size > LARGEST:
            limit = f"images 'bundled' are too small for crops of {size} px: ask for at most {LARGEST}"
            raise UserError(f"{limit}, or for source 'folder' with larger images")
        super().__init__(size, [Path(file).stem.split("_")[0] for file in PHOTOGRAPHS])

    @property
    def digest(self) -> str:
        """Hash of the photographs and of where crops are taken."""
        return sha256(repr((self.name, self.size, PHOTOGRAPHS, PLAN, CROPS)).encode()).hexdigest()

    def members(self, split: Split) -> list[Sequence[Member]]:
        """The crops of each photograph; those for training start at every few pixels only."""
        return [
            [Member(f"{name} {top},{left}", label, (top, left)) for top, left in places[split].tolist()]
            for label, (name, places) in enumerate(zip(self.classes, self._places, strict=True))
        ]

    def read(self, member: Member) -> Pixels:
        """Cut a crop out of its photograph."""
        top, left = member.key
        return self._photographs[member.label][top : top + self.size, left : left + self.size]

    def shuffle(self, members: Sequence[Member], rng: np.random.RandomState) -> Iterator[Member]:
        """Crops in random order, but those that overlap none of the earlier ones first."""
        shuffled = [members[i] for i in rng.permutation(len(members))]
        places = np.array([member.key for member in shuffled])
        free, late = np.ones(len(shuffled), dtype=bool), np.ones(len(shuffled), dtype=bool)
        while free.any():
            first = int(free.argmax())
            yield shuffled[first]
            late[first] = False
            free &= (np.abs(places - places[first]) >= self.size).any(axis=1)
        yield from (shuffled[i] for i in np.flatnonzero(late))

    def all(self, split: Split) -> ImageBatch:
        """A fixed number of crops of each photograph, the same ones always."""
        return self.draw(split, sum(min(CROPS[split], len(crops)) for crops in self.members(known(split))))

    @cached_property
    def _photographs(self) -> list[Pixels]:
        folder = _folder()
        return [_photograph(folder / file, digest, 16 * self.size) for file, digest in PHOTOGRAPHS.items()]

    @cached_property
    def _places(self) -> list[dict[Split, Places]]:
        return [_places(photograph, self.size) for photograph in self._photographs]


def _folder() -> Path:
    """Where scikit-image keeps its photographs; it is not imported, as that takes a second."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("images 'bundled' need scikit-image: pip install 'scikit-image>=0.22'")
    return Path(spec.submodule_search_locations[0]) / "data"


def _photograph(path: Path, digest: str, side: int) -> Pixels:
    """A photograph whose shorter side is at most `side`, (H, W, 3)."""
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content).hexdigest() != digest:
        state = "changed" if content else "missing"
        raise UserError(
            f"{path} is {state}: pip install --force-reinstall 'scikit-image>=0.22,<0.27' brings it back"
        )
    with Image.open(BytesIO(content)) as image:
        rgb = image.convert("RGB")
    scale = side / min(rgb.size)
    if scale < 1:
        rgb = rgb.resize((round(scale * rgb.width), round(scale * rgb.height)), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def _places(photograph: Pixels, size: int) -> dict[Split, Places]:
    """Top and left of the crops of each split, (N, 2)."""
    height, width = photograph.shape[:2]
    windows = held_out(height, width, size)
    found = {split: np.concatenate([_inside(window, size) for window in windows[split]]) for split in windows}
    train = _inside((0, height, 0, width), size, step=max(1, size // 16))
    for window in (window for split in windows.values() for window in split):
        train = train[_apart(train, window, size)]
    contrast = _contrast(photograph, size)
    return {split: _upper_half(places, contrast) for split, places in {**found, "train": train}.items()}


def held_out(height: int, width: int, size: int) -> dict[Split, list[Box]]:
    """Windows (top, bottom, left, right) of the held-out splits, 1.5 crops wide, amid the cells of a grid.

    Cells are at least three crops wide where that leaves two rows and three columns or more.
    """
    least = (2, 3) if width >= height else (3, 2)
    rows, columns = (
        min(len(PLAN), max(fewest, side // (3 * size)))
        for fewest, side in zip(least, (height, width), strict=True)
    )
    side = min(3 * size // 2, height // rows, width // columns)
    windows: dict[Split, list[Box]] = {split: [] for split in HELD_OUT.values()}
    for row, column in product(range(rows), range(columns)):
        if PLAN[row][column] in HELD_OUT:
            top = round((row + 0.5) * height / rows - side / 2)
            left = round((column + 0.5) * width / columns - side / 2)
            windows[HELD_OUT[PLAN[row][column]]].append((top, top + side, left, left + side))
    return windows


def _inside(box: Box, size: int, step: int = 1) -> Places:
    """Places at which a crop lies inside a box."""
    top, bottom, left, right = box
    rows, columns = np.mgrid[top : bottom - size + 1 : step, left : right - size + 1 : step]
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def _apart(places: Places, box: Box, size: int) -> npt.NDArray[np.bool_]:
    """Whether a crop keeps a distance of a crop size from a box."""
    top, bottom, left, right = box
    rows, columns = places.T
    above, below = rows + 2 * size <= top, rows >= bottom + size
    before, after = columns + 2 * size <= left, columns >= right + size
    apart: npt.NDArray[np.bool_] = above | below | before | after
    return apart


def _contrast(photograph: Pixels, size: int) -> npt.NDArray[np.float64]:
    """Variance of brightness within the crop at every place, from running sums."""
    grey = photograph.mean(axis=2) / 255
    return _window_mean(grey**2, size) - _window_mean(grey, size) ** 2


def _window_mean(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corners = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    means: npt.NDArray[np.float64] = corners / size**2
    return means


def _upper_half(places: Places, contrast: npt.NDArray[np.float64]) -> Places:
    found = contrast[places[:, 0], places[:, 1]]
    return places[found >= np.median(found)]
