import math
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invbench.domains import (
    Box,
    L2Ball,
    L2BallInBox,
    LinfBall,
    LinfBallInBox,
    PixelBall,
    Reals,
)
from invbench.domains.balls import largest_scale
from invbench.errors import UserError

SHAPE = (3, 2, 2, 3)  # three instances, two channels
NAMES = ("reals", "box", "l2_ball", "linf_ball", "l2_ball_in_box", "linf_ball_in_box", "pixel_ball")


def draw(seed, *shape, low=0.0, high=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def domain_named(name, seed=0, dtype=torch.float64, device="cpu"):
    """A domain with parameters per instance where it takes them."""
    centre = draw(seed, *SHAPE, dtype=dtype).to(device)
    radius = draw(seed + 1, SHAPE[0], low=0.1, high=1.0, dtype=dtype).to(device)
    low = draw(seed + 2, *SHAPE, low=-0.5, high=0.0, dtype=dtype).to(device)
    return {
        "reals": Reals(),
        "box": Box(low, 1.0),
        "l2_ball": L2Ball(centre, radius),
        "linf_ball": LinfBall(centre, radius),
        "l2_ball_in_box": L2BallInBox(centre, radius, low, 1.0),
        "linf_ball_in_box": LinfBallInBox(centre, radius, low, 1.0),
        "pixel_ball": PixelBall((0.3, 0.6), 0.4),
    }[name]


def as_array(value, i):
    if not isinstance(value, torch.Tensor):
        return value
    return (value if len(value) == 1 else value[i : i + 1]).squeeze(0).numpy()


def constraints(domain, z, i):
    """The definition of each set, for instance i, as cvxpy reads it."""
    here = {
        name: as_array(value, i) for name, value in vars(domain).items() if name not in ("bounds", "mean")
    }
    flat = {k: v.ravel() if getattr(v, "ndim", 0) else float(v) for k, v in here.items()}
    if isinstance(domain, PixelBall):
        mean, pixels = np.array(domain.mean), z.reshape((SHAPE[1], -1), order="C")
        return [cp.norm(pixels[:, j] - mean) <= domain.radius for j in range(pixels.shape[1])]
    found = []
    if "low" in flat:
        found += [z >= flat["low"], z <= flat["high"]]
    if "radius" in flat:
        order = 2 if isinstance(domain, L2Ball | L2BallInBox) else "inf"
        found.append(cp.norm(z - flat["centre"], order) <= flat["radius"])
    return found


@pytest.mark.parametrize("spread", [1.0, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_projection_is_the_nearest_point(name, spread):
    domain, x = domain_named(name), draw(9, *SHAPE, low=-spread, high=1 + spread)
    projected = domain.project(x)
    for i in range(len(x)):
        z = cp.Variable(x[i].numel())
        distance = cp.sum_squares(z - x[i].flatten().numpy())
        cp.Problem(cp.Minimize(distance), constraints(domain, z, i)).solve(
            solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        np.testing.assert_allclose(projected[i].flatten().numpy(), z.value, atol=1e-5)


def scale_by_sorting(shift, room, radius):
    """Independent oracle of the intersection of ball and box: walk the breakpoints in order."""
    points = sorted((r / abs(d) if d else math.inf, r * r, d * d) for d, r in zip(shift, room, strict=True))
    for k in range(len(points) + 1):
        fixed = math.fsum(r2 for _, r2, _ in points[:k])
        slope = math.fsum(d2 for _, _, d2 in points[k:])
        t = math.sqrt(max(radius**2 - fixed, 0) / slope) if slope else math.inf
        if k == len(points) or t <= points[k][0]:
            return min(t, 1.0)
    raise AssertionError


@pytest.mark.parametrize("radius", [1e-3, 0.3, 1.0, 3.0, 8.0, 100.0])
@pytest.mark.parametrize("spread", [0.1, 1.0, 1e3])
def test_ball_in_box_is_exact(radius, spread, device):
    centre = draw(1, 4, 3, 8, 8)
    centre[0].round_()  # a vertex of the box: no room in one direction
    shift = spread * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shift[1] *= torch.logspace(-8, 4, 192, dtype=torch.float64).view(3, 8, 8)  # breakpoints far apart
    room = torch.where(shift > 0, 1 - centre, centre)
    domain = L2BallInBox(centre.to(device), radius)
    projected = domain.project((centre + shift).to(device)).cpu()
    for i in range(4):
        t = scale_by_sorting(shift[i].flatten().tolist(), room[i].flatten().tolist(), radius)
        expected = (centre[i] + t * shift[i]).clamp(0, 1)
        torch.testing.assert_close(projected[i], expected, rtol=0, atol=1e-12)


def test_ball_in_box_ends_where_every_step_frees_one_coordinate():
    n = 300  # room and shift such that the breakpoints spread over 180 orders of magnitude
    shift = torch.logspace(0, 90, n, dtype=torch.float64)[None]
    room = torch.logspace(0, -90, n, dtype=torch.float64)[None]
    for radius in (1e-60, 1e-3, 1.0, 1.2):
        projected = L2BallInBox(torch.zeros(1, n, dtype=torch.float64), radius, -1.0, room).project(shift)
        t = scale_by_sorting(shift[0].tolist(), room[0].tolist(), radius)
        torch.testing.assert_close(projected, torch.minimum(t * shift, room), rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", range(1, 9))
def test_ball_in_box_survives_the_rounding_of_a_radius_that_the_bounds_use_up(count):
    room = draw(count, 200, count + 1, low=0.01, high=1)
    room[:, -1] = 10
    shift = torch.full_like(room, 1e7)
    shift[:, -1] = 1
    domain = L2BallInBox(torch.zeros_like(room), room[:, :-1].norm(dim=1), -1.0, room)
    projected = domain.project(shift)
    assert (projected.norm(dim=1) <= domain.radius * (1 + 1e-12)).all()


def test_scale_is_a_number_between_zero_and_one_in_degenerate_cases():
    none, one = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    for shift, room, radius, expected in (
        (none, one, 1.0, 1),
        (one, none, 1.0, 1),
        (one, none, 0.0, 1),  # the bounds alone hold x at the centre
        (one, one, 0.0, 0),
        (none, none, 0.0, 1),
    ):
        assert largest_scale(shift, room, torch.tensor(radius).double()).item() == expected


def test_ball_in_an_unbounded_box_is_the_ball():
    x, centre, radius = (
        draw(3, *SHAPE, low=-3, high=3),
        draw(4, *SHAPE),
        torch.tensor([0.5, 1.0, 20.0]).double(),
    )
    ours = L2BallInBox(centre, radius, -math.inf, math.inf).project(x)
    torch.testing.assert_close(ours, L2Ball(centre, radius).project(x), rtol=0, atol=1e-14)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.05, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_laws_of_a_projection(name, seed, spread, dtype):
    domain = domain_named(name, seed, dtype)
    x, y = (draw(seed + k, *SHAPE, low=-spread, high=1 + spread, dtype=dtype) for k in (10, 11))
    px, py = domain.project(x), domain.project(y)
    rounding = 100 * torch.finfo(dtype).eps * (1 + spread)
    assert px.dtype == dtype
    assert px.shape == x.shape
    assert domain.contains(px, tolerance=rounding).all()
    torch.testing.assert_close(domain.project(px), px, rtol=0, atol=rounding)
    apart = (px - py).flatten(1).norm(dim=1)
    assert (apart <= (x - y).flatten(1).norm(dim=1) + rounding).all()
    # The normal x - P x points away from every point of the set.
    assert (((x - px) * (py - px)).flatten(1).sum(1) <= rounding * (1 + spread) * 10).all()


@pytest.mark.parametrize("name", NAMES)
def test_members_selections_and_devices(name, device):
    x = draw(5, *SHAPE, low=-2, high=3).to(device)
    domain = domain_named(name, device=device)
    together, inside = domain.project(x), domain.contains(x)
    none = torch.tensor([], dtype=torch.int64, device=device)
    for indices in (torch.tensor([1]), torch.tensor([2, 0, 0, 1]), none):
        part = domain.select(indices.to(device))
        torch.testing.assert_close(part.project(x[indices]), together[indices], rtol=0, atol=0)
        assert part.contains(x[indices]).tolist() == inside[indices].tolist()
        assert part.select(none).project(x[:0]).shape == (0, *SHAPE[1:])
    assert domain.select([1]).select([0, 0]).project(x[[1, 1]]).shape[0] == 2


@pytest.mark.parametrize("name", NAMES)
def test_in_place_is_the_same_and_in_place(name):
    domain, x = domain_named(name), draw(6, *SHAPE, low=-2, high=3)
    expected, before = domain.project(x), x.clone()
    assert torch.equal(x, before)
    assert domain.project_(x) is x
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_point_inside_stays_bit_by_bit(name):
    domain = domain_named(name, dtype=torch.float32)
    x = torch.tensor([0.3, 0.6]).view(1, 2, 1, 1).expand(SHAPE)
    x = x + (getattr(domain, "centre", x) - x) * 0.999  # near the centre, away from round numbers
    assert domain.contains(x).all()
    assert torch.equal(domain.project(x), x)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_describe_exactly_the_boxes(name):
    domain, x = domain_named(name), draw(7, *SHAPE, low=-2, high=3)
    if name in ("l2_ball", "l2_ball_in_box", "pixel_ball"):
        assert domain.bounds is None
        return
    low, high = (torch.as_tensor(bound, dtype=x.dtype) for bound in domain.bounds)
    assert torch.equal(domain.project(x), x.maximum(low).minimum(high))


@pytest.mark.parametrize("name", NAMES)
def test_contains_sees_a_single_element_outside_and_nan(name):
    domain = domain_named(name)
    x = domain.project(draw(8, *SHAPE))
    assert domain.contains(x).tolist() == [True] * 3
    x[1, 0, 0, 0] = 50.0 if name != "reals" else math.inf
    x[2, 1, 1, 1] = math.nan
    assert domain.contains(x).tolist() == [True, False, False]
    assert domain.project(x)[2].isnan().any()


def test_reals_return_x_itself():
    x = draw(0, *SHAPE)
    assert Reals().project(x) is x
    assert Reals().project_(x) is x


def test_radius_zero_is_the_centre():
    centre, x = draw(0, *SHAPE), draw(1, *SHAPE)
    for domain in (L2Ball(centre, 0.0), LinfBall(centre, 0.0), L2BallInBox(centre, 0.0)):
        torch.testing.assert_close(domain.project(x), centre, rtol=0, atol=1e-15)
        assert torch.equal(domain.project(centre), centre)
    assert PixelBall(0.5, 0.0).project(x).unique().item() == 0.5


def test_linf_ball_in_box_with_floats_and_tensors():
    assert LinfBallInBox(0.9, 0.25).bounds == (0.65, 1.0)
    low, high = LinfBallInBox(0.5, 0.25, torch.tensor([[0.0, 0.4]]), torch.tensor([[1.0, 0.6]])).bounds
    assert low[0].tolist() == pytest.approx([0.25, 0.4])
    assert high[0].tolist() == pytest.approx([0.75, 0.6])


def test_shared_tensors_are_not_sliced():
    mask = draw(0, 1, *SHAPE[1:])
    assert Box(mask, mask + 1).select([2, 1]).low is mask


def test_mistakes_are_told():
    centre = torch.full((2, 3), 0.5)
    with pytest.raises(UserError, match="lower bound exceeds"):
        Box(torch.tensor([[0.0, 2.0]]), 1.0)
    with pytest.raises(UserError, match="lower bound exceeds"):
        Box(math.nan, 1.0)
    for ball in (L2Ball, LinfBall, L2BallInBox, LinfBallInBox):
        with pytest.raises(UserError, match="radius must be >= 0"):
            ball(centre, torch.tensor([1.0, -1.0]))
    for ball in (L2BallInBox, LinfBallInBox):
        with pytest.raises(UserError, match="clip it to the bounds first"):
            ball(centre + 0.6, 1.0)
    with pytest.raises(UserError, match="give it a batch dimension first"):
        Box(torch.zeros(3), 1.0).project(centre)
    with pytest.raises(UserError, match="give it a batch dimension first"):
        LinfBall(0.5, torch.tensor([1.0, 2.0])).project_(torch.zeros(2, 3))
    with pytest.raises(UserError, match="mean has 3 channels, the image 1"):
        PixelBall((0.1, 0.2, 0.3)).project(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_pickles(name):
    domain, x = domain_named(name), draw(1, *SHAPE)
    assert torch.equal(pickle.loads(pickle.dumps(domain)).project(x), domain.project(x))
