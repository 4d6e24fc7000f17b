"""Chapter 7's exercises against mathematics and OpenCV: their references, their cases and their invariances."""

import math

import pytest
import torch

from course_utils import geometry
from course_utils.exercises import EXERCISES
from course_utils.exercises.__main__ import student
from course_utils.exercises.epipolar import scene

SEEDS = range(5)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def exercise(name):
    return EXERCISES[f"epipolar.{name}"]


def cases(name, seed):
    return dict(exercise(name).cases(generator(seed)))


def right(name):
    return student(exercise(name), next(iter(exercise(name).equivalents.values())))


def seen_matrix(F, inputs):
    """What of an eight-point answer is compared."""
    (matrix,) = exercise("eight_point").observed(F, inputs).values()
    return matrix


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_pixel_goes_to_the_world_and_back():
    for seed in SEEDS:
        for inputs in cases("back_project", seed).values():
            X = exercise("back_project").reference(**inputs)
            K, R, t, x, depth = inputs.values()
            close(exercise("project").reference(K, R, t, X), x, 1e-8)
            close((X @ R.T + t)[:, 2], depth)


def test_the_pose_composes():
    for seed in SEEDS:
        for inputs in cases("relative_pose", seed).values():
            R1, t1, R2, t2 = inputs.values()
            R, t = exercise("relative_pose").reference(**inputs)
            X = torch.randn(4, 3, dtype=torch.float64, generator=generator(seed))
            close((X @ R1.T + t1) @ R.T + t, X @ R2.T + t2)


def test_the_matrix_holds_for_the_scenes_matches():
    for seed in SEEDS:
        s = scene(generator(seed), 20)
        F = exercise("fundamental").reference(s.K1, s.R1, s.t1, s.K2, s.R2, s.t2)
        x1, x2 = geometry.homogeneous(s.x1), geometry.homogeneous(s.x2)
        scale = (x2.abs() @ F.abs() * x1.abs()).sum(1)
        assert ((x2 @ F * x1).sum(1).abs() < 1e-10 * scale).all()
        lines = exercise("epipolar_line").reference(F, s.x1)
        assert (geometry.line_distance(lines, s.x2) < 1e-8).all()


@pytest.mark.parametrize("name", ["fundamental", "epipolar_line", "eight_point"])
@pytest.mark.parametrize("factor", [-1.0, 1e-6, -1e6, 3.0])
def test_scale_and_sign_mean_nothing(name, factor):
    answer = right(name)
    assert exercise(name).grade(lambda *inputs: factor * answer(*inputs))


def test_each_line_has_its_own_scale_and_sign():
    answer = right("epipolar_line")

    def scaled(F, x1):
        lines = answer(F, x1)
        return lines * torch.linspace(-3, 2.5, len(lines), dtype=lines.dtype)[:, None]

    assert exercise("epipolar_line").grade(scaled)


def test_a_wrong_entry_is_seen_though_it_is_small():
    """F's first entries are a millionth of its last one, but as much in pixels: one is spoilt by a hundredth."""
    for name in ("fundamental", "eight_point"):
        for i in range(3):
            for j in range(3):
                answer = right(name)

                def spoilt(*inputs, answer=answer, i=i, j=j):
                    F = answer(*inputs).clone()
                    F[i, j] *= 1.01
                    return F

                assert not exercise(name).grade(spoilt)


def test_one_case_has_a_corner_of_nothing_but_zero():
    for seed in SEEDS:
        sideways = cases("fundamental", seed)["a camera that moves sideways, where F[2, 2] is 0"]
        F = exercise("fundamental").reference(**sideways)
        assert F[2, 2] == 0 and F.norm() > 0.5
        moving = cases("fix_the_line", seed)["a camera that only moves, where F[2, 2] is 0"]
        assert moving["F"][2, 2] == 0
        corners = [inputs["F"][2, 2] for inputs in cases("fix_the_line", seed).values()]
        assert sum(c != 0 for c in corners) == len(corners) - 1  # elsewhere the division does no harm


def test_the_ends_of_a_line_have_no_order():
    answer = right("clip_line")
    assert exercise("clip_line").grade(lambda *inputs: answer(*inputs).flip(0))


def test_the_ends_lie_on_the_line_and_on_the_border():
    for seed in SEEDS:
        for name, inputs in cases("clip_line", seed).items():
            line, width, height = inputs.values()
            ends = exercise("clip_line").reference(**inputs)
            misses = any(w in name for w in ("beside", "below", "by", "between"))
            assert len(ends) == (0 if misses else 2)
            for x, y in ends.tolist():
                assert abs(line[0] * x + line[1] * y + line[2]) < 1e-9 * max(1, line.abs().max())
                gaps = x, y, width - 1 - x, height - 1 - y
                assert min(gaps) == pytest.approx(0, abs=1e-9)


def test_a_line_that_misses_passes_no_pixel():
    """The count of pixels near a line, tried one by one, says the same as the ends."""
    for seed in SEEDS:
        for inputs in cases("clip_line", seed).values():
            line, width, height = inputs.values()
            y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
            sides = torch.sign(line[0] * x + line[1] * y + line[2])
            crosses = bool((sides > 0).any() and (sides < 0).any())
            assert crosses == (len(exercise("clip_line").reference(**inputs)) == 2)


def test_the_mended_program_walks_along_the_line():
    for seed in SEEDS:
        for inputs in cases("fix_the_line", seed).values():
            F, x1, columns, width, height = inputs.values()
            pixels = exercise("fix_the_line").reference(**inputs)
            line = geometry.epipolar_line(F, x1)
            rows = -(line[0] * columns + line[2]) / line[1]
            near = (columns >= 0) & (columns < width) & (rows > -0.5) & (rows < height - 0.5)
            assert 0 < len(pixels) == near.sum() < len(columns)
            assert ((pixels[:, 1] - rows[near]).abs() < 0.5).all() and torch.equal(pixels[:, 0], columns[near])


def test_the_given_program_keeps_pixels_below_the_picture():
    faults = 0
    for inputs in cases("fix_the_line", 0).values():
        pixels = exercise("fix_the_line").misconceptions["as_given"](*inputs.values())
        faults += (pixels[:, 1] >= inputs["height"]).sum()
    assert faults > 0


def test_every_pixel_can_be_looked_up():
    image = torch.rand(5, 7, 2, dtype=torch.float64, generator=generator(0))
    row, column = torch.meshgrid(torch.arange(-1, 6), torch.arange(-1, 8), indexing="ij")
    places = torch.stack([column.flatten(), row.flatten()], 1) + 0.4
    values = exercise("look_up").reference(image, places).reshape(7, 9, 2)
    close(values[1:-1, 1:-1], image)
    close(values, torch.nn.functional.pad(image, (0, 0, 1, 1, 1, 1)))


def test_normalised_points_have_their_moments():
    for seed in SEEDS:
        for inputs in cases("normalise", seed).values():
            x_n, T = exercise("normalise").reference(**inputs)
            close(x_n.mean(0), torch.zeros(2, dtype=torch.float64))
            close(x_n.norm(dim=1).mean(), torch.tensor(math.sqrt(2), dtype=torch.float64))
            close(geometry.pixels(geometry.homogeneous(inputs["x"]) @ T.T), x_n)


def test_eight_points_as_opencv_finds_them():
    cv2 = pytest.importorskip("cv2")
    for seed in SEEDS:
        for inputs in cases("eight_point", seed).values():
            x1, x2 = (inputs[x].float().double() for x in ("x1", "x2"))  # OpenCV works on float32 pixels
            given = dict(x1=x1, x2=x2, T1=geometry.normalising_transform(x1), T2=geometry.normalising_transform(x2))
            ours = right("eight_point")(*given.values())
            theirs = cv2.findFundamentalMat(x1.numpy(), x2.numpy(), cv2.FM_8POINT)[0]
            close(seen_matrix(ours, given), seen_matrix(torch.from_numpy(theirs), given), 1e-6)
            assert torch.linalg.svdvals(ours)[2] < 1e-12 * torch.linalg.svdvals(ours)[0]


@pytest.mark.parametrize("normalise", [True, False])
def test_the_eight_point_answer_is_the_packages(normalise):
    """Also with T1 = T2 = 1, which shows what normalisation is for."""
    for inputs in cases("eight_point", 0).values():
        if not normalise:
            inputs |= dict.fromkeys(("T1", "T2"), torch.eye(3, dtype=torch.float64))
        F = exercise("eight_point").reference(**inputs)
        theirs = geometry.eight_point(inputs["x1"], inputs["x2"], normalise)
        close(seen_matrix(F, inputs), seen_matrix(theirs, inputs), 1e-7)


def test_eight_exact_points_find_the_cameras_matrix():
    for seed in SEEDS:
        s = scene(generator(seed), 8)
        T1, T2 = geometry.normalising_transform(s.x1), geometry.normalising_transform(s.x2)
        inputs = {"x1": s.x1, "x2": s.x2, "T1": T1, "T2": T2}
        exact = exercise("fundamental").reference(s.K1, s.R1, s.t1, s.K2, s.R2, s.t2)
        close(seen_matrix(right("eight_point")(*inputs.values()), inputs), seen_matrix(exact, inputs), 1e-6)


def test_points_are_kept_as_the_case_says():
    kept = {"all points in front": 6, "a single point": 1, "four points": 4, "some on every side": 2, "all behind": 0}
    for seed in SEEDS:
        for name, inputs in cases("triangulate", seed).items():
            P1, P2, x1, x2 = inputs.values()
            X = exercise("triangulate").reference(**inputs)
            assert len(X) == kept.get(name, 3)
            assert len(X) == len(x1) or "points" not in name
            for P, x in ((P1, x1), (P2, x2)):
                seen = geometry.homogeneous(X) @ P.T
                assert (seen[:, 2] > 0.2).all()
                distance = torch.cdist(seen[:, :2] / seen[:, 2:], x)
                assert not len(X) or distance.min(1).values.max() < 1e-4


def test_triangulation_is_the_packages():
    s = scene(generator(0), 12)
    one, two = geometry.Camera(s.K1, s.R1, s.t1), geometry.Camera(s.K2, s.R2, s.t2)
    X = exercise("triangulate").reference(one.P, two.P, s.x1, s.x2)
    close(X, geometry.triangulate(one, two, s.x1, s.x2), 1e-8)
    close(X, s.X, 1e-8)
