"""Two views: closed forms, round trips, two second libraries, and what noise and wrong matches do."""

import itertools
import math

import cv2
import kornia.geometry as kg
import numpy as np
import pytest
import torch

from course_utils.geometry import (
    Camera,
    clip_line,
    eight_point,
    epipolar_line,
    epipole,
    essential,
    essential_from_fundamental,
    fundamental,
    homogeneous,
    line_distance,
    normalising_transform,
    pixels,
    pose_candidates,
    ransac,
    recover_pose,
    relative_pose,
    sampson_distance,
    skew,
    triangulate,
)

WIDTH, HEIGHT = 640, 480
EYE = torch.eye(3, dtype=torch.float64)
K1 = torch.tensor([[1520.4, 0, 302.32], [0, 1525.9, 246.87], [0, 0, 1]], dtype=torch.float64)
K2 = torch.tensor([[1400.0, 9, 330], [0, 1380, 200], [0, 0, 1]], dtype=torch.float64)


def uniform(low, high, *shape, seed=0):
    u = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * u


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(*axis):
    """The rotation about an axis by its length, in radians."""
    return torch.linalg.matrix_exp(skew(axis))


def looking(angle, K=K1, distance=0.6):
    """A camera on a ring around the origin, which looks at it: `angle` in radians from the z axis."""
    R = turn(0.05, -0.03, 1.3) @ turn(0, -angle, 0)
    return Camera(K, R, [0.01, -0.02 + 0.03 * angle, distance])


ONE, OTHER = looking(0.2), looking(0.75, K2)


def scene(n, seed=0, size=0.08):
    """Points in a cube around the origin, and their pixels in both views."""
    X = uniform(-size, size, n, 3, seed=seed)
    return X, ONE.project(X), OTHER.project(X)


def assert_same_up_to_scale(a, b, atol=1e-9):
    a, b = (torch.as_tensor(v, dtype=torch.float64).flatten() for v in (a, b))
    a, b = a / a.norm(), b / b.norm()
    assert min((a - b).abs().max(), (a + b).abs().max()) < atol


def angle_between(R, S):
    return math.degrees(2 * math.asin(min(1, (R - S).norm().item() / math.sqrt(8))))


# ---- one camera ------------------------------------------------------------------------------------------------------


def test_projection_by_hand():
    camera = Camera([[100, 0, 50], [0, 200, 40], [0, 0, 1]], EYE, [0, 0, 2])
    x = camera.project([[0, 0, 0], [1, 0, 0], [0, -0.5, 3]])
    torch.testing.assert_close(x, torch.tensor([[50, 40], [100, 40], [50, 20]], dtype=torch.float64))
    assert camera.depth([0, 0, 3]) == 5 and camera.centre.tolist() == [0, 0, -2]


def test_nothing_is_rounded():
    x = uniform(0, 480, 50, 2)
    assert (ONE.project(ONE.back_project(x, uniform(0.4, 0.8, 50))) - x).abs().max() < 1e-10


@pytest.mark.parametrize("camera", [ONE, OTHER])
def test_depth_is_z_and_not_the_distance(camera):
    X = camera.back_project([[10, 20], [600, 470]], [0.4, 0.7])
    torch.testing.assert_close(camera.depth(X), torch.tensor([0.4, 0.7], dtype=torch.float64))
    assert ((X - camera.centre).norm(dim=1) > camera.depth(X) + 0.001).all()


def test_a_point_and_its_pixel_and_the_centre_are_in_line():
    X, x, _ = scene(20)
    ray = ONE.back_project(x, 1.0) - ONE.centre
    assert torch.linalg.cross(ray, X - ONE.centre).abs().max() < 1e-14


def test_projection_matrix_and_opencv_project_alike():
    X, _, x = scene(30)
    torch.testing.assert_close(pixels(homogeneous(X) @ OTHER.P.T), x)
    K = OTHER.K.clone()
    K[0, 1] = 0  # OpenCV knows no shear
    theirs, _ = cv2.projectPoints(X.numpy(), cv2.Rodrigues(OTHER.R.numpy())[0], OTHER.t.numpy(), K.numpy(), None)
    torch.testing.assert_close(Camera(K, OTHER.R, OTHER.t).project(X), torch.from_numpy(theirs[:, 0]))


def test_one_pixel_at_many_depths_and_many_pixels_at_many():
    depths = torch.linspace(0.4, 0.8, 81, dtype=torch.float64)
    X = ONE.back_project([500, 200], depths)
    assert X.shape == (81, 3)
    x = uniform(0, 400, 5, 1, 2)
    many = ONE.back_project(x, depths)
    assert many.shape == (5, 81, 3)
    torch.testing.assert_close(many[3, 7], ONE.back_project(x[3, 0], depths[7]))


def test_numpy_arrays_lists_and_float32_are_taken():
    X, x, _ = scene(5)
    for given in (X.numpy(), X.tolist()):
        torch.testing.assert_close(ONE.project(given), x, rtol=0, atol=0)
    assert ONE.project(X.float()).dtype == torch.float64


def test_a_camera_keeps_its_own_numbers():
    K, R, t = K1.clone(), EYE.clone(), torch.zeros(3, dtype=torch.float64)
    camera = Camera(K, R, t)
    for given in (K, R, t):
        given += 1
    assert torch.equal(camera.K, K1) and torch.equal(camera.R, EYE) and not camera.t.any()


@pytest.mark.parametrize(
    ("K", "R", "t", "message"),
    [
        (torch.diag(torch.tensor([0.0, 1, 1])), EYE, [0, 0, 1], "singular"),
        (torch.diag(torch.tensor([1.0, 1, 0])), EYE, [0, 0, 1], "end in 1"),
        (EYE.flip(0), EYE, [0, 0, 1], "upper triangular"),
        (EYE, 2 * EYE, [0, 0, 1], "no rotation"),
        (EYE, -EYE, [0, 0, 1], "no rotation"),
        (EYE, EYE, [[0, 0, 1]], r"t has shape \(1, 3\); it must be \(3,\)"),
        (EYE[:2], EYE, [0, 0, 1], r"K has shape \(2, 3\)"),
        (EYE, EYE, [0, math.nan, 1], "t has entries that are not finite"),
        ("K", EYE, [0, 0, 1], "K is no array of numbers"),
    ],
)
def test_what_is_no_camera(K, R, t, message):
    with pytest.raises(ValueError, match=message):
        Camera(K, R, t)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ONE.project([[0, 0, 0], [0, 0, -9], [0, 0, 9]]), "1 of 3 points lie behind"),
        (lambda: ONE.project(ONE.centre), "behind the camera"),
        (lambda: ONE.project([1.0, 2.0]), r"X has shape \(2,\); it must be \(..., 3\)"),
        (lambda: ONE.project([[0, 0, math.inf]]), "not finite"),
        (lambda: ONE.back_project([1, 2], [0.5, 0, -1]), "depths must be positive; the smallest given is -1"),
        (lambda: ONE.back_project([1, 2, 3], 1), r"x has shape \(3,\)"),
        (lambda: pixels([[1, 2, 0]]), "infinity"),
    ],
)
def test_points_that_a_camera_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- two cameras -----------------------------------------------------------------------------------------------------


def test_skew_is_the_cross_product():
    a, b = normal(7, 3), normal(7, 3, seed=1)
    torch.testing.assert_close((skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))
    torch.testing.assert_close(skew(a), -skew(a).mT, rtol=0, atol=0)


def test_relative_poses_compose_and_invert():
    three = looking(-0.4)
    R, t = relative_pose(ONE, OTHER)
    S, s = relative_pose(OTHER, three)
    direct, shift = relative_pose(ONE, three)
    torch.testing.assert_close(S @ R, direct)
    torch.testing.assert_close(S @ t + s, shift)
    back, shift = relative_pose(OTHER, ONE)
    torch.testing.assert_close(back, R.T)
    torch.testing.assert_close(shift, -R.T @ t)


def test_the_first_camera_as_the_frame_sees_the_same():
    X, x1, x2 = scene(10)
    seen = X @ ONE.R.T + ONE.t
    torch.testing.assert_close(Camera(K1, EYE, torch.zeros(3)).project(seen), x1)
    torch.testing.assert_close(Camera(K2, *relative_pose(ONE, OTHER)).project(seen), x2)


def test_the_constraint_holds_to_rounding():
    _, x1, x2 = scene(1000)
    F = fundamental(ONE, OTHER)
    products = homogeneous(x2)[:, :, None] * homogeneous(x1)[:, None, :] * F
    assert products.sum((1, 2)).abs().max() < 1e-10 * products.abs().sum((1, 2)).max()
    assert sampson_distance(F, x1, x2).max() < 1e-9


def test_the_constraint_tells_the_views_apart():
    """F.T, the views exchanged, t not rotated, K on one side only: none of these has it."""
    _, x1, x2 = scene(100)
    F = fundamental(ONE, OTHER)
    R, t = relative_pose(ONE, OTHER)
    wrong = [
        F.T,
        fundamental(OTHER, ONE),
        K2.inverse().T @ skew(OTHER.t - ONE.t) @ R @ K1.inverse(),
        K2.inverse().T @ skew(t) @ R,
        skew(t) @ R @ K1.inverse(),
        K2.T @ skew(t) @ R @ K1.inverse(),
        K2.inverse().T @ skew(-R.T @ t) @ R @ K1.inverse(),
    ]
    for other in wrong:
        assert sampson_distance(other, x1, x2).median() > 1
    torch.testing.assert_close(sampson_distance(F.T, x2, x1), sampson_distance(F, x1, x2), rtol=0, atol=1e-9)


def test_rank_norm_and_the_essential_matrix():
    F, E = fundamental(ONE, OTHER), essential(ONE, OTHER)
    assert F.norm() == pytest.approx(1, abs=1e-14)
    assert torch.linalg.svdvals(F)[2] < 1e-16
    s = torch.linalg.svdvals(E)
    _, t = relative_pose(ONE, OTHER)
    torch.testing.assert_close(s, torch.tensor([t.norm(), t.norm(), 0], dtype=torch.float64), rtol=0, atol=1e-15)
    assert_same_up_to_scale(essential_from_fundamental(F, K1, K2), E)


def test_a_pure_shift_has_no_last_entry_to_divide_by():
    shifted = Camera(K1, ONE.R, ONE.t + torch.tensor([0.1, 0, 0]))
    F = fundamental(ONE, shifted)
    assert F[2, 2].abs() < 1e-11  # rounding: of its sign and size nothing can be said
    X = uniform(-0.05, 0.05, 40, 3)
    assert sampson_distance(F, ONE.project(X), shifted.project(X)).max() < 1e-9
    line = epipolar_line(F, [100, 123.5])  # the same row, in both views
    torch.testing.assert_close(line.abs(), torch.tensor([0, 1, 123.5], dtype=torch.float64))
    with pytest.raises(ValueError, match="infinity"):
        pixels(epipole(F))


def test_the_epipoles_are_the_pictures_of_the_centres():
    behind = Camera(K2, OTHER.R, OTHER.t + torch.tensor([0, 0, 0.9]))  # seen by no view, but on the line all the same
    for one, other in ((ONE, OTHER), (OTHER, ONE), (ONE, behind)):
        F = fundamental(one, other)
        assert (F @ epipole(F)).norm() < 1e-15
        assert_same_up_to_scale(epipole(F), one.P @ homogeneous(other.centre))
        assert_same_up_to_scale(epipole(F.T), other.P @ homogeneous(one.centre))


def test_every_line_runs_through_the_epipole():
    F = fundamental(ONE, OTHER)
    lines = epipolar_line(F, uniform(0, 480, 30, 2))
    e = pixels(epipole(F.T))
    assert line_distance(lines, e).max() < 1e-8
    with pytest.raises(ValueError, match="epipole"):
        epipolar_line(F, pixels(epipole(F)))


def test_two_constructions_of_the_line_agree():
    x = uniform(0, 480, 40, 1, 2)
    depths = torch.linspace(0.4, 0.8, 81, dtype=torch.float64)
    traced = OTHER.project(ONE.back_project(x, depths))  # (40, 81, 2)
    assert line_distance(epipolar_line(fundamental(ONE, OTHER), x), traced).max() < 1e-8


def test_kornia_and_opencv_have_the_same_matrix_and_lines():
    _, x1, x2 = scene(12)
    R, t = relative_pose(ONE, OTHER)
    F = fundamental(ONE, OTHER)
    theirs = kg.epipolar.fundamental_from_projections(ONE.P[None], OTHER.P[None])[0]
    assert_same_up_to_scale(F, theirs)
    poses = [v[None] for v in (ONE.R, ONE.t[:, None], OTHER.R, OTHER.t[:, None])]
    assert_same_up_to_scale(essential(ONE, OTHER), kg.epipolar.essential_from_Rt(*poses)[0])
    moved, shift = kg.epipolar.relative_camera_motion(*poses)
    torch.testing.assert_close((moved[0], shift[0, :, 0]), (R, t))
    lines = cv2.computeCorrespondEpilines(x1.numpy()[:, None], 1, F.numpy())[:, 0]
    ours = epipolar_line(F, x1)
    sign = torch.sign((ours[:, :2] * torch.from_numpy(lines[:, :2])).sum(1, keepdim=True))
    torch.testing.assert_close(sign * ours, torch.from_numpy(lines).double(), rtol=1e-5, atol=1e-5)  # theirs: float32
    lines = kg.epipolar.compute_correspond_epilines(x1[None], F[None])[0]
    for line, other in zip(ours, lines, strict=True):
        assert_same_up_to_scale(line, other)
    moved = x2 + normal(12, 2)
    distance = kg.epipolar.sampson_epipolar_distance(x1[None], moved[None], F[None], squared=False)[0]
    torch.testing.assert_close(sampson_distance(F, x1, moved), distance, rtol=1e-5, atol=1e-7)


def test_cameras_in_one_place_have_no_matrix_and_see_no_depth():
    X, x1, _ = scene(5)
    for turned in (ONE, Camera(K2, turn(0, 0.3, 0) @ ONE.R, turn(0, 0.3, 0) @ ONE.t)):
        with pytest.raises(ValueError, match="same place"):
            fundamental(ONE, turned)
        with pytest.raises(ValueError, match="same place"):
            triangulate(ONE, turned, x1, turned.project(X), strict=False)
    at_zero = Camera(K1, EYE, torch.zeros(3))
    with pytest.raises(ValueError, match="same place"):
        fundamental(at_zero, at_zero)


# ---- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ([1, 0, -200], [[200, 0], [200, 479]]),  # vertical: b = 0
        ([0, 1, -30.5], [[0, 30.5], [639, 30.5]]),
        ([1, -1, 0], [[0, 0], [479, 479]]),
        ([1, 1, -100], [[0, 100], [100, 0]]),
        ([479, -639, 0], [[0, 0], [639, 479]]),
        ([1, 0, 0], [[0, 0], [0, 479]]),  # along an edge
        ([0, 1, -479], [[0, 479], [639, 479]]),
        ([1, 0, 1], []),
        ([1, 0, -639.5], []),
        ([0, 1, -479.2], []),
        ([1, 1, 5], []),
        ([1, -1, 600.0], []),
        ([1, 1, 0], []),  # a corner only
    ],
)
def test_lines_within_the_picture(line, ends):
    for scale in (1, -3, 1e-6):
        found = clip_line(torch.tensor(line, dtype=torch.float64) * scale, WIDTH, HEIGHT)
        expected = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_ends_of_random_lines():
    """On the line, on the picture's edge, in order; and a line without ends has no pixel of the edge on both sides."""
    edge = torch.tensor([[0, 0], [639, 0], [639, 479], [0, 479]], dtype=torch.float64)
    crossing = 0
    for angle, c in zip(uniform(0, 2 * math.pi, 500), uniform(-900, 900, 500, seed=1), strict=True):
        line = torch.stack([angle.cos(), angle.sin(), c])
        ends, sides = clip_line(line, WIDTH, HEIGHT), homogeneous(edge) @ line
        crosses = bool((sides > 0).any() and (sides < 0).any())
        assert len(ends) == 2 * crosses
        crossing += crosses
        if crosses:
            assert line_distance(line, ends).max() < 1e-10
            on_edge = torch.minimum(ends, edge[2] - ends).amin(1)
            assert (on_edge.abs() < 1e-10).all() and ends[0, 0] < ends[1, 0]
    assert 100 < crossing < 400


def test_what_is_no_line():
    with pytest.raises(ValueError, match="no line"):
        clip_line([0, 0, 1], WIDTH, HEIGHT)
    for c in (0, 1):
        with pytest.raises(ValueError, match="no line"):
            line_distance([[1, 0, 2], [0, 0, c]], [1.0, 2])
    with pytest.raises(ValueError, match="F is 0"):
        sampson_distance(torch.zeros(3, 3), [1.0, 2], [1.0, 2])
    with pytest.raises(ValueError, match="not finite"):
        clip_line([0, math.nan, 1], WIDTH, HEIGHT)


def test_distances_do_not_depend_on_scale_and_sign():
    _, x1, x2 = scene(9)
    x2 = x2 + normal(9, 2)
    F = fundamental(ONE, OTHER)
    for scale in (-1, 1e6, -1e-9):
        torch.testing.assert_close(sampson_distance(scale * F, x1, x2), sampson_distance(F, x1, x2))
        torch.testing.assert_close(line_distance(scale * F[:2], x2[0]), line_distance(F[:2], x2[0]))
        torch.testing.assert_close(epipolar_line(scale * F, x1), math.copysign(1, scale) * epipolar_line(F, x1))
    assert line_distance([3, 4, -10], [2.0, 6]) == 4


def test_sampson_is_the_least_movement_of_both_pixels():
    """By brute force: the movement along the gradient that brings x2^T F x1 to 0."""
    _, x1, x2 = scene(6)
    x2 = x2 + 0.3 * normal(6, 2)
    F = fundamental(ONE, OTHER)
    for a, b, claimed in zip(x1, x2, sampson_distance(F, x1, x2), strict=True):
        start = torch.cat([a, b])
        moved = start.clone()
        for _ in range(5):  # Newton's steps onto the surface, each the shortest
            at = moved.requires_grad_()
            value = homogeneous(at[2:]) @ F @ homogeneous(at[:2])
            (gradient,) = torch.autograd.grad(value, at)
            moved = (at - value * gradient / gradient.norm() ** 2).detach()
        assert claimed.item() == pytest.approx((moved - start).norm().item(), rel=1e-3)


# ---- estimation ------------------------------------------------------------------------------------------------------


def test_normalised_points():
    x = uniform(0, 480, 50, 2) * torch.tensor([1, 0.1])
    moved = pixels(homogeneous(x) @ normalising_transform(x).T)
    assert moved.mean(0).abs().max() < 1e-14 and moved.norm(dim=1).mean() == pytest.approx(math.sqrt(2))
    theirs, T = kg.epipolar.normalize_points(x[None])
    torch.testing.assert_close(moved, theirs[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normalising_transform(x), T[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [8, 9, 200])
@pytest.mark.parametrize("normalise", [True, False])
def test_exact_matches_give_the_exact_matrix(n, normalise):
    _, x1, x2 = scene(n, seed=3)
    F = eight_point(x1, x2, normalise)
    assert_same_up_to_scale(F, fundamental(ONE, OTHER), atol=1e-8 if normalise else 1e-5)
    assert torch.linalg.svdvals(F)[2] < 1e-15 and F.norm() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_opencv_and_kornia_estimate_the_same(noise):
    _, x1, x2 = scene(60)
    x1, x2 = x1 + noise * normal(60, 2), x2 + noise * normal(60, 2, seed=1)
    F = eight_point(x1, x2)
    theirs, _ = cv2.findFundamentalMat(x1.numpy(), x2.numpy(), cv2.FM_8POINT)
    assert_same_up_to_scale(F, theirs, atol=1e-6)
    theirs = kg.epipolar.find_fundamental(x1[None], x2[None], torch.ones(1, 60, dtype=torch.float64))[0]
    assert_same_up_to_scale(F, theirs, atol=1e-6)


def line_errors(normalise, n=50, noise=0.5, repeats=40):
    """Medians, over exact points, of the distance from the line of an F from n matches with noise: (repeats,)."""
    _, y1, y2 = scene(300, seed=99)
    errors = []
    for seed in range(repeats):
        _, x1, x2 = scene(n, seed=seed)
        x1, x2 = x1 + noise * normal(n, 2, seed=seed), x2 + noise * normal(n, 2, seed=seed + 1000)
        errors.append(line_distance(epipolar_line(eight_point(x1, x2, normalise), y1), y2).median())
    return torch.stack(errors)


def test_normalising_makes_the_lines_better():
    with_it, without = line_errors(True), line_errors(False)
    assert with_it.median() < 1.5
    assert without.median() > 5 * with_it.median()


def test_the_estimate_gets_better_with_matches():
    few, many = line_errors(True, n=20).median(), line_errors(True, n=320).median()
    assert many < few / 2  # like 1 / sqrt(n): a quarter


def test_a_similarity_of_the_pixels_changes_nothing():
    """Hartley's point: normalised, the same matches in other coordinates give the same F. Without it they do not."""
    _, x1, x2 = scene(30)
    x1, x2 = x1 + 0.5 * normal(30, 2), x2 + 0.5 * normal(30, 2, seed=1)
    change = []
    for c, s, shift in ((0.7, 1.1, 300), (0, -2, -50)):
        S = torch.tensor([[c, -s, shift], [s, c, -2 * shift], [0, 0, 1]], dtype=torch.float64)
        change.append((S, pixels(homogeneous(x1) @ S.T), pixels(homogeneous(x2) @ S.T)))
    for normalise, atol in ((True, 1e-9), (False, None)):
        F = eight_point(x1, x2, normalise)
        for S, y1, y2 in change:
            back = S.T @ eight_point(y1, y2, normalise) @ S
            if atol:
                assert_same_up_to_scale(back, F, atol)
            else:
                far = line_distance(epipolar_line(F, x1), x2) - line_distance(epipolar_line(back, x1), x2)
                assert far.abs().max() > 1


def test_the_order_of_matches_does_not_matter_and_the_views_may_be_exchanged():
    _, x1, x2 = scene(25)
    x2 = x2 + 0.5 * normal(25, 2)
    F = eight_point(x1, x2)
    assert_same_up_to_scale(eight_point(x1.flip(0), x2.flip(0)), F)
    assert_same_up_to_scale(eight_point(x2, x1).T, F, atol=1e-9)


def on_plane(n):
    X = uniform(-0.08, 0.08, n, 3)
    X[:, 2] = 0.3 * X[:, 0] - 0.1 * X[:, 1] + 0.01
    return ONE.project(X), OTHER.project(X)


def on_line(n):
    X = uniform(-0.08, 0.08, n, 1) * torch.tensor([1, 0.5, -0.3])
    return ONE.project(X), OTHER.project(X)


def repeated(n):
    _, x1, x2 = scene(5)
    return x1.repeat(n, 1), x2.repeat(n, 1)


def turned(n):
    X = uniform(-0.08, 0.08, n, 3)
    other = Camera(K2, turn(0, 0.1, 0) @ ONE.R, turn(0, 0.1, 0) @ ONE.t)
    return ONE.project(X), other.project(X)


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        (on_plane, "on one plane"),
        (turned, "the camera only turned"),
        (on_line, "on one line"),
        (repeated, "only 5 of x1 are different"),
        (lambda n: (torch.ones(n, 2), torch.ones(n, 2)), "one and the same"),
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_matches_that_leave_the_matrix_open(matches, message, normalise):
    with pytest.raises(ValueError, match=message):
        eight_point(*matches(20), normalise)


@pytest.mark.parametrize("estimate", [eight_point, ransac])
def test_matches_that_are_none(estimate):
    _, x1, x2 = scene(20)
    for given, message in (
        ((x1[:7], x2[:7]), "7 matches given; at least 8"),
        ((x1, x2[:19]), "20 points in view 1 and 19 in view 2"),
        ((homogeneous(x1), x2), r"x1 has shape \(20, 3\)"),
        ((x1, x2.where(x2 > 250, math.nan)), "x2 has entries that are not finite"),
        ((x1[0], x2[0]), r"x1 has shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate(*given)


@pytest.mark.parametrize("seed", range(5))
def test_ransac_finds_the_wrong_matches(seed):
    n, wrong = 200, 60
    _, x1, x2 = scene(n, seed=seed)
    exact2 = x2.clone()
    x1, x2 = x1 + 0.5 * normal(n, 2, seed=seed), x2 + 0.5 * normal(n, 2, seed=seed + 50)
    x2[:wrong] = uniform(100, 400, wrong, 2, seed=seed)
    F, inliers = ransac(x1, x2, threshold=2.0, seed=seed)
    truth = fundamental(ONE, OTHER)
    far = sampson_distance(truth, x1, x2) > 6
    assert far[:wrong].sum() > 40 and not inliers[far].any()
    assert inliers[wrong:].double().mean() > 0.95
    assert (inliers == (sampson_distance(F, x1, x2) <= 2)).all()
    error = line_distance(epipolar_line(F, x1[wrong:]), exact2[wrong:]).median()
    spoilt = line_distance(epipolar_line(eight_point(x1, x2), x1[wrong:]), exact2[wrong:]).median()
    assert error < 1 and spoilt > 5 * error


def test_ransac_is_reproducible_and_stops_early():
    _, x1, x2 = scene(40)
    F, inliers = ransac(x1, x2, seed=4)
    again, _ = ransac(x1, x2, seed=4)
    assert inliers.all() and (F == again).all()
    assert_same_up_to_scale(F, fundamental(ONE, OTHER), atol=1e-8)
    calls = []
    import course_utils.geometry as geometry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "sampson_distance", lambda *a: calls.append(1) or sampson_distance(*a))
        geometry.ransac(x1, x2, max_rounds=1000)
    assert len(calls) <= 3  # one round, since all agree, and the fit


def test_ransac_refuses_what_it_can_not_do():
    _, x1, x2 = scene(20)
    for options in ({"threshold": 0}, {"confidence": 1.0}, {"max_rounds": 0}):
        with pytest.raises(ValueError, match="threshold must be positive"):
            ransac(x1, x2, **options)
    with pytest.raises(ValueError, match="every draw of 8 .* leaves F open; .* on one plane"):
        ransac(*on_plane(30), max_rounds=20)
    nothing = uniform(0, 480, 30, 2, seed=26), uniform(0, 480, 30, 2, seed=526)
    for options in ({"threshold": 0.01}, {"seed": 26}):  # eight at once; nine, of which the fit to them keeps five
        with pytest.raises(ValueError, match="no fundamental matrix agrees with more than 8 of the 30"):
            ransac(*nothing, max_rounds=10, **options)


# ---- pose and points -------------------------------------------------------------------------------------------------


def test_the_four_candidates():
    E = essential(ONE, OTHER)
    R, t = relative_pose(ONE, OTHER)
    candidates = pose_candidates(E)
    for turned, shift in candidates:
        torch.testing.assert_close(turned @ turned.T, EYE)
        assert torch.linalg.det(turned) > 0 and shift.norm() == pytest.approx(1)
        assert_same_up_to_scale(skew(shift) @ turned, E)
    close = [torch.allclose(r, R) and torch.allclose(s, t / t.norm()) for r, s in candidates]
    assert sum(close) == 1
    for one, other in itertools.combinations(candidates, 2):
        assert not (torch.allclose(one[0], other[0]) and torch.allclose(one[1], other[1]))


@pytest.mark.parametrize("scale", [1, -7])
def test_the_pose_comes_back_and_opencv_finds_the_same(scale):
    _, x1, x2 = scene(40)
    R, t = relative_pose(ONE, OTHER)
    E = scale * essential(ONE, OTHER)
    found, shift = recover_pose(E, K1, K2, x1, x2)
    torch.testing.assert_close((found, shift), (R, t / t.norm()))
    n1, n2 = (pixels(homogeneous(x) @ K.inverse().T).numpy() for x, K in ((x1, K1), (x2, K2)))
    _, theirs, their_shift, _ = cv2.recoverPose(E.numpy(), n1, n2, np.eye(3))
    torch.testing.assert_close((found, shift), (torch.from_numpy(theirs), torch.from_numpy(their_shift[:, 0])))


def test_the_pose_from_noisy_matches_alone():
    _, x1, x2 = scene(200)
    x1, x2 = x1 + 0.5 * normal(200, 2), x2 + 0.5 * normal(200, 2, seed=1)
    E = essential_from_fundamental(eight_point(x1, x2), K1, K2)
    found, shift = recover_pose(E, K1, K2, x1, x2)
    R, t = relative_pose(ONE, OTHER)
    assert angle_between(found, R) < 2
    assert math.degrees(math.acos(shift @ t / t.norm())) < 4


def test_a_pose_that_the_matches_leave_open():
    """A pixel pair that fits no candidate's front: the epipoles' own direction, at infinity."""
    _, x1, _ = scene(10)
    shifted = Camera(K1, EYE, [0.1, 0, 0])
    E = essential(Camera(K1, EYE, torch.zeros(3)), shifted)
    with pytest.raises(ValueError, match="do not tell the four poses apart"):
        recover_pose(E, K1, K1, x1, x1)  # nothing moved: all points are infinitely far


def test_triangulation_is_exact_and_opencv_agrees():
    X, x1, x2 = scene(500)
    assert (triangulate(ONE, OTHER, x1, x2) - X).abs().max() < 1e-12
    torch.testing.assert_close(triangulate(ONE, OTHER, x1[3], x2[3]), X[3])
    x2 = x2 + 0.5 * normal(500, 2)
    found = triangulate(ONE, OTHER, x1, x2)
    n1, n2 = (pixels(homogeneous(x) @ K.inverse().T).T.numpy() for x, K in ((x1, K1), (x2, K2)))
    P1, P2 = (torch.column_stack([c.R, c.t]).numpy() for c in (ONE, OTHER))
    theirs = cv2.triangulatePoints(P1, P2, n1, n2)
    torch.testing.assert_close(found, torch.from_numpy((theirs[:3] / theirs[3]).T))
    assert 1e-5 < (found - X).norm(dim=1).median() < 1e-3  # half a pixel at 0.6 is 0.2 mm where a unit is a metre


def test_triangulation_follows_the_world_and_swaps_with_the_views():
    X, x1, x2 = scene(20)
    R, t, scale = turn(0.3, -1, 2), torch.tensor([5.0, -3, 2], dtype=torch.float64), 40.0
    moved = [Camera(c.K, c.R @ R.T, scale * c.t - c.R @ R.T @ t) for c in (ONE, OTHER)]  # X -> scale R X + t
    torch.testing.assert_close(moved[0].project(scale * X @ R.T + t), x1)
    torch.testing.assert_close(triangulate(*moved, x1, x2), scale * X @ R.T + t)
    torch.testing.assert_close(triangulate(OTHER, ONE, x2, x1), X)
    assert_same_up_to_scale(fundamental(*moved), fundamental(ONE, OTHER))


def test_points_behind_a_camera_and_at_infinity_are_refused():
    left, right = Camera(K1, EYE, torch.zeros(3)), Camera(K1, EYE, [-0.1, 0, 0])
    X = torch.tensor([[0.02, 0.01, 0.5], [0.03, 0, 0.6]], dtype=torch.float64)
    x1, x2 = left.project(X), right.project(X)
    with pytest.raises(ValueError, match="2 of 2 points lie behind a camera"):
        triangulate(left, right, x2, x1)  # exchanged: the rays meet behind
    x2 = torch.stack([x2[0], x1[1]])  # the second is now infinitely far
    with pytest.raises(ValueError, match="1 of 2 points"):
        triangulate(left, right, x1, x2)
    found = triangulate(left, right, x1, x2, strict=False)
    torch.testing.assert_close(found[0], X[0])
    assert found[1].isnan().all()
    with pytest.raises(ValueError, match="one pixel in each view"):
        triangulate(left, right, x1, x2[:1])
