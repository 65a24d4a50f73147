import sys

import numpy as np
import pytest
import torch
from PIL import Image

from invbench import cli
from invbench.errors import UserError
from invbench.images import open_images
from invbench.show import Attempt, Comparison, Request, compare_methods, draw, method_entry, read_photograph


@pytest.fixture
def show(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["invbench", "show", "--device", "cpu", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def photo(tmp_path):
    """A wide picture: red, a square of a gradient in the middle, blue."""
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, :30, 0], pixels[:, 70:, 2] = 255, 255
    pixels[:, 30:70] = np.linspace(0, 255, 40).astype(np.uint8)[:, None, None]
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def comparison():
    request = Request(layer="pool1", methods=("adam", "adam:lr=0.3", "mv2015"), budget=5)
    return compare_methods(request, lambda *_: None)


def test_a_picture_and_a_table(show, photo, tmp_path):
    code, out, err = show("--image", str(photo), "--layer", "pool1", "--method", "lbfgs", "--budget", "3")
    assert code == 0, err
    assert "photo.png, inverted from pool1 of lenet in 3 iterations" in out
    assert "lbfgs" in out and "done" in out and "picture: comparison.png" in out
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 500


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--image", "nope.jpg"], ["--image nope.jpg", "no such file"]),
        (["--image", "text.jpg"], ["--image text.jpg", "no image"]),
        (["--layer", "pool9"], ["pool9", "conv1, pool1, conv2"]),
        (["--method", "adaam"], ["--method adaam", "did you mean 'adam'?"]),
        (["--method", "adam:lr=-1"], ["--method adam:lr=-1: lr must be > 0"]),
        (["--method", "adam:lrr=1"], ["--method adam:lrr=1: lrr is unknown", "did you mean 'lr'?"]),
        (["--method", "adam:lr"], ["--method adam:lr", "NAME:KEY=VALUE"]),
        (["--method", "adam:lr=[1,2]"], ["lr is a list"]),
        (["--network", "lennet"], ["--network: unknown network 'lennet'", "did you mean 'lenet'?"]),
        (["--size", "4"], ["set --size"]),
        (["-o", "picture.gif"], ["picture.gif", ".png"]),
        (["-o", "nowhere/picture.png"], ["no folder nowhere"]),
    ],
)
def test_mistakes_are_one_sentence(show, tmp_path, arguments, parts):
    (tmp_path / "text.jpg").write_text("no image")
    code, out, err = show(*arguments)
    assert code == 2 and not out
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert not (tmp_path / "comparison.png").exists()


def test_any_size_is_cropped_to_the_centre(photo):
    batch = read_photograph(photo, 40)
    assert batch.pixels.shape == (1, 3, 40, 40) and batch.pixels.dtype == torch.float32
    expected = np.linspace(0, 255, 40).astype(np.uint8) / 255
    assert torch.allclose(batch.pixels[0, :, :, 20], torch.tensor(expected, dtype=torch.float32), atol=1e-6)
    assert torch.equal(batch.pixels[0, 0], batch.pixels[0, 2]), "neither red nor blue is left"
    assert read_photograph(photo, 64).pixels.shape == (1, 3, 64, 64), "smaller images are enlarged"


def test_pictures_are_turned_upright(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    batch = read_photograph(tmp_path / "turned.png", 32)
    assert batch.pixels[0, :, -8:].min() == 1 and batch.pixels[0, :, :24].max() == 0


def test_the_harness_measures(comparison):
    bundled = open_images("bundled", 32).draw("test", 1)
    assert comparison.name == bundled.names[0]
    assert np.array_equal(comparison.original, bundled.pixels[0].numpy())
    assert [attempt.method for attempt in comparison.attempts] == ["adam", "adam:lr=0.3", "mv2015"]
    for attempt in comparison.attempts:
        assert attempt.status == "done" and attempt.seconds > 0
        assert attempt.mse == pytest.approx(((attempt.pixels - comparison.original) ** 2).mean(), rel=1e-4)
        assert -1 < attempt.ssim < 1
    assert comparison.attempts[0].mse != comparison.attempts[1].mse, "parameters reach the solver"


def test_the_photograph_is_what_is_inverted(photo):
    request = Request(layer="pool1", methods=("lbfgs",), budget=30, image=photo)
    found = compare_methods(request, lambda *_: None)
    assert found.name == "photo.png" and found.best is None
    assert np.array_equal(found.original, read_photograph(photo, 32).pixels[0].numpy())
    assert found.attempts[0].mse < 0.02


def test_one_scale_and_the_best_in_bold(comparison):
    assert comparison.best == min(comparison.attempts, key=lambda one: one.mse).method
    largest = max(np.quantile(np.abs(one.pixels - comparison.original), 0.9) for one in comparison.attempts)
    assert comparison.scale >= min(largest, 0.5)
    figure = draw(comparison)
    (bold,) = [axes.get_title() for axes in figure.axes if axes.title.get_fontweight() == "bold"]
    assert bold == comparison.best
    assert comparison.title == figure.get_suptitle().replace("\n", " ")


def test_the_difference_is_signed_around_grey():
    original = np.full((3, 4, 4), 0.5, np.float32)
    found = original.copy()
    found[:, 0, 0], found[:, 1, 1] = 0.52, 0.48
    attempt = Attempt("a", "done", "", found, 0.1, 0.5, 1.0)
    comparison = Comparison(Request("pool1", ("a",)), "x", original, (attempt,))
    assert comparison.scale == 0.05
    shown = draw(comparison).axes[-1].images[0].get_array()
    assert shown[2, 2, 0] == pytest.approx(0.5) and shown[0, 0, 0] == pytest.approx(0.7)
    assert shown[1, 1, 0] == pytest.approx(0.3)


def test_what_did_not_run_says_why(tmp_path):
    nan = float("nan")
    attempt = Attempt("admm $\\x$", "refused", "needs a chain", None, nan, nan, nan)
    comparison = Comparison(
        Request("pool1", ("admm $\\x$",)), "$\\bad$", np.zeros((3, 8, 8), np.float32), (attempt,)
    )
    figure = draw(comparison)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "refused: needs a chain" in texts
    figure.savefig(tmp_path / "x.png")


def test_methods_as_the_command_line_has_them():
    assert method_entry("mv2016") == "mv2016"
    assert method_entry("adam:lr=0.3, schedule=cosine") == {"adam": {"lr": 0.3, "schedule": "cosine"}}
    assert method_entry("a:priors={tv: 1, l2: 2},b=true") == {"a": {"priors": {"tv": 1, "l2": 2}, "b": True}}
    with pytest.raises(UserError, match="NAME:KEY=VALUE"):
        method_entry(":lr=1")
