"""Exercises of chapter 7, epipolar geometry, from matches alone: normalisation, the eight-point method, triangulation.

Matches are pixels x1 and x2 (N, 2), column before row, of the same world points; all is float64.

Sources: Hartley 1997 (section 4); Hartley & Zisserman 2004 (algorithm 11.1, section 12.2).
"""

import math

import torch

from course_utils import geometry
from course_utils.exercises.epipolar import balanced, pixels_of, scene, uniform
from course_utils.exercises.exercise import Exercise

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

ESTIMATED = {torch.float64: 1e-6}  # A^T A has the square of A's condition number, and is a right way too


def projection_matrices(s):
    """P = K [R | t] of a scene's two cameras: its last row times (X, 1) is the depth."""
    return tuple(K @ torch.cat([R, t[:, None]], dim=1) for K, R, t in [(s.K1, s.R1, s.t1), (s.K2, s.R2, s.t2)])


# ---- 1 ---------------------------------------------------------------------------------------------------------------

normalise = Exercise(
    "epipolar.normalise",
    title="Points around zero",
    points=2,
    contract="normalise(x) is the pair (x_n, T): the points x (N, 2) moved and scaled, alike both ways, so that "
    "their centroid is 0 and their mean distance from it sqrt(2), and the matrix T (3, 3) that does this, "
    "(x_n, 1) = T (x, 1).",
    section="hartley",
    returns=("x_n", "T"),
    finished=("course_utils.geometry.normalising_transform",),
    tolerance={torch.float64: 1e-9},
)


@normalise.solution
def _(x):
    T = geometry.normalising_transform(x)
    return (geometry.homogeneous(x) @ T.T)[:, :2], T


@normalise.inputs
def _(g):
    yield "pixels all over a picture", {"x": uniform(g, 0, 1, 20, 2) * torch.tensor([640, 480])}
    yield "pixels in a corner", {"x": 600 + uniform(g, 0, 20, 9, 2)}
    yield "pixels along a line", {"x": torch.tensor([300, 200]) + uniform(g, -100, 100, 7, 1) * uniform(g, 0.5, 1, 2)}
    yield "one far from the others", {"x": torch.cat([uniform(g, 0, 30, 6, 2), uniform(g, 400, 500, 1, 2)])}
    yield "two points", {"x": uniform(g, 0, 500, 2, 2)}
    yield "three points", {"x": uniform(g, 0, 500, 3, 2)}
    x = uniform(g, -3, 3, 10, 2)
    yield "points around zero", {"x": x - x.mean(0)}


def scaled_and_moved(x, s, centre):
    T = torch.eye(3, dtype=x.dtype)
    T[0, 0], T[1, 1] = s[0], s[1]
    T[:2, 2] = -s * centre
    return s * (x - centre), T


def both(s):
    return torch.stack([s, s])


@normalise.misconception(
    "The root of the mean squared distance is sqrt(2) here: it is the mean distance that should be."
)
def mean_square(x):
    centre = x.mean(0)
    s = math.sqrt(2) / (x - centre).square().sum(1).mean().sqrt()
    return scaled_and_moved(x, both(s), centre)


@normalise.misconception("The mean distance is 1 here: Hartley's is sqrt(2), as for the point (1, 1).")
def mean_distance_one(x):
    centre = x.mean(0)
    return scaled_and_moved(x, both(1 / (x - centre).norm(dim=1).mean()), centre)


@normalise.misconception("The two directions are scaled on their own: one scale serves both, so that angles stay.")
def each_direction_alone(x):
    centre = x.mean(0)
    return scaled_and_moved(x, 1 / (x - centre).square().mean(0).sqrt(), centre)


@normalise.misconception("The points are moved but not scaled.")
def moved_only(x):
    centre = x.mean(0)
    return scaled_and_moved(x, torch.ones_like(centre), centre)


@normalise.misconception("The points are scaled but not moved: first take the centroid away.")
def scaled_only(x):
    s = math.sqrt(2) / (x - x.mean(0)).norm(dim=1).mean()
    return scaled_and_moved(x, both(s), torch.zeros_like(x[0]))


@normalise.misconception("The scale is turned over: divide sqrt(2) by the mean distance.")
def scale_turned_over(x):
    centre = x.mean(0)
    return scaled_and_moved(x, both((x - centre).norm(dim=1).mean() / math.sqrt(2)), centre)


@normalise.misconception("The distances are taken from the picture's corner: take them from the centroid.")
def distance_from_the_corner(x):
    return scaled_and_moved(x, both(math.sqrt(2) / x.norm(dim=1).mean()), x.mean(0))


@normalise.misconception("The largest distance is sqrt(2) here: it is the mean one that should be.")
def largest_distance(x):
    centre = x.mean(0)
    return scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).max()), centre)


@normalise.misconception("T's shift is not scaled: scaling s (x - centroid) moves by -s centroid.")
def shift_not_scaled(x):
    centre = x.mean(0)
    x_n, T = scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)
    T[:2, 2] = -centre
    return x_n, T


@normalise.misconception("This T undoes the normalisation: it should lead from x to x_n.")
def t_inverted(x):
    centre = x.mean(0)
    x_n, T = scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)
    return x_n, torch.linalg.inv(T)


@normalise.misconception("T is transposed: the shift stands in its last column.")
def t_transposed(x):
    centre = x.mean(0)
    x_n, T = scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)
    return x_n, T.T


@normalise.misconception("The middle is the median here: take the mean, the centroid.")
def around_the_median(x):
    centre = x.median(0).values
    return scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)


@normalise.misconception("x_n still has its third coordinate 1: it should be (N, 2), as x is.")
def with_third_coordinate(x):
    centre = x.mean(0)
    _, T = scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1) @ T.T, T


@normalise.misconception("One mean of all numbers is taken away: columns and rows have each their own.")
def one_mean_of_all(x):
    centre = x.mean() * torch.ones_like(x[0])
    return scaled_and_moved(x, both(math.sqrt(2) / (x - centre).norm(dim=1).mean()), centre)


@normalise.equivalent
def by_two_matrices(x):
    mx, my = x.mean(0).tolist()
    shift = torch.tensor([[1, 0, -mx], [0, 1, -my], [0, 0, 1]], dtype=torch.float64)
    distance = torch.hypot(x[:, 0] - mx, x[:, 1] - my).mean().item()
    scale = torch.diag(torch.tensor([math.sqrt(2) / distance, math.sqrt(2) / distance, 1], dtype=torch.float64))
    T = scale @ shift
    homogeneous = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1) @ T.T
    return homogeneous[:, :2], T


@normalise.equivalent
def in_plain_loops(x):
    points = x.tolist()
    mx, my = sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)
    s = math.sqrt(2) * len(points) / sum(math.dist(p, (mx, my)) for p in points)
    x_n = torch.tensor([[s * (u - mx), s * (v - my)] for u, v in points], dtype=x.dtype)
    return x_n, torch.tensor([[s, 0, -s * mx], [0, s, -s * my], [0, 0, 1]], dtype=x.dtype)


@normalise.equivalent
def with_numpy(x):
    import numpy as np

    points = x.numpy().copy()
    points -= points.mean(axis=0)
    s = np.sqrt(2) / np.linalg.norm(points, axis=1).mean()
    T = np.diag([s, s, 1.0])
    T[:2, 2] = -s * x.numpy().mean(axis=0)
    return [torch.from_numpy(s * points), torch.from_numpy(T)]


# ---- 2 ---------------------------------------------------------------------------------------------------------------

eight_point = Exercise(
    "epipolar.eight_point",
    title="F from eight matches or more",
    points=3,
    contract="eight_point(x1, x2, T1, T2) is the matrix F (3, 3), of any scale and sign, of matches x1 and x2 (N, 2): "
    "the one of length 1 whose x2^T F x1 have the least sum of squares after T1 has moved x1 and T2 has moved x2, its "
    "least singular value then set to 0, then changed into the one for x1 and x2 as they were.",
    section="eight-point",
    returns="F (seen for the moved matches, of length 1)",
    finished=("course_utils.geometry.eight_point",),
    tolerance=ESTIMATED,
)


@eight_point.solution
def _(x1, x2, T1, T2):
    x1, x2 = (geometry.homogeneous(x) @ T.T for x, T in [(x1, T1), (x2, T2)])
    A = (x2[:, :, None] * x1[:, None, :]).flatten(1)
    U, S, Vh = torch.linalg.svd(torch.linalg.svd(A).Vh[-1].reshape(3, 3))
    return T2.T @ U[:, :2] @ torch.diag(S[:2]) @ Vh[:2] @ T1  # T1 = T2 = 1 shows what it is without normalisation


@eight_point.inputs
def _(g):
    kinds = {
        "fifty matches, half a pixel of noise": (50, 0.5),
        "twelve matches, half a pixel of noise": (12, 0.5),
        "twenty matches, two pixels of noise": (20, 2.0),
        "nine matches": (9, 0.2),
        "eight matches": (8, 0.2),
        "eight exact matches": (8, 0.0),
        "twelve exact matches": (12, 0.0),
    }
    for name, (n, noise) in kinds.items():
        s = scene(g, n)
        x1, x2 = (x + noise * torch.randn(n, 2, dtype=torch.float64, generator=g) for x in (s.x1, s.x2))
        yield name, {"x1": x1, "x2": x2, "T1": normalise.reference(x1)[1], "T2": normalise.reference(x2)[1]}


@eight_point.observe
def _(F, given):
    return {eight_point.returns: balanced(F, torch.linalg.inv(given["T1"]), torch.linalg.inv(given["T2"]))}


def moved_by(T, x):
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1) @ T.T


def equations(x1, x2):
    """The matrix A (N, 9) with A f = x2^T F x1 for f = F row by row; x1 and x2 are (N, 3)."""
    return (x2[:, :, None] * x1[:, None, :]).flatten(1)


def solved(x1, x2):
    return torch.linalg.svd(equations(x1, x2)).Vh[-1].reshape(3, 3)


def of_rank_two(F):
    U, S, Vh = torch.linalg.svd(F)
    return U[:, :2] @ torch.diag(S[:2]) @ Vh[:2]


@eight_point.misconception("The matches are used as they are: T1 and T2 should move them first.", read="hartley")
def without_normalisation(x1, x2, T1, T2):
    eye = torch.eye(3, dtype=x1.dtype)
    return of_rank_two(solved(moved_by(eye, x1), moved_by(eye, x2)))


@eight_point.misconception("The rank-2 step is missing: set the least singular value to 0, or lines miss the epipole.")
def without_rank_two(x1, x2, T1, T2):
    return T2.T @ solved(moved_by(T1, x1), moved_by(T2, x2)) @ T1


@eight_point.misconception("T1 and T2 are swapped where they are undone: F = T2^T F_n T1, as x2 stands on the left.")
def undone_the_wrong_way_round(x1, x2, T1, T2):
    return T1.T @ of_rank_two(solved(moved_by(T1, x1), moved_by(T2, x2))) @ T2


@eight_point.misconception(
    "The normalisation is undone with the inverses: x2^T T2^T F_n T1 x1 has the matrices themselves."
)
def undone_by_inverses(x1, x2, T1, T2):
    F = of_rank_two(solved(moved_by(T1, x1), moved_by(T2, x2)))
    return torch.linalg.inv(T2).T @ F @ torch.linalg.inv(T1)


@eight_point.misconception("T2 is not transposed where it is undone: F = T2^T F_n T1.")
def undone_without_transpose(x1, x2, T1, T2):
    return T2 @ of_rank_two(solved(moved_by(T1, x1), moved_by(T2, x2))) @ T1


@eight_point.misconception("This F acts on the moved points: undo it, F = T2^T F_n T1.")
def never_undone(x1, x2, T1, T2):
    return of_rank_two(solved(moved_by(T1, x1), moved_by(T2, x2)))


@eight_point.misconception("F is transposed: a row of A is x2 times x1, entry by entry, for F row by row.")
def f_the_wrong_way_round(x1, x2, T1, T2):
    return T2.T @ of_rank_two(solved(moved_by(T1, x1), moved_by(T2, x2))).T @ T1


@eight_point.misconception("This is the vector of the largest singular value: the least |A f| is at the last one.")
def first_singular_vector(x1, x2, T1, T2):
    f = torch.linalg.svd(equations(moved_by(T1, x1), moved_by(T2, x2))).Vh[0]
    return T2.T @ of_rank_two(f.reshape(3, 3)) @ T1


@eight_point.misconception("This is the last column of V^T: the singular vectors are its rows.")
def column_for_row(x1, x2, T1, T2):
    f = torch.linalg.svd(equations(moved_by(T1, x1), moved_by(T2, x2))).Vh[:, -1]
    return T2.T @ of_rank_two(f.reshape(3, 3)) @ T1


@eight_point.misconception("The reduced SVD of eight rows leaves the ninth vector out: ask for full_matrices=True.")
def reduced_svd(x1, x2, T1, T2):
    f = torch.linalg.svd(equations(moved_by(T1, x1), moved_by(T2, x2)), full_matrices=False).Vh[-1]
    return T2.T @ of_rank_two(f.reshape(3, 3)) @ T1


@eight_point.misconception("The rank-2 step comes after the undoing: take it first, where the entries are of one size.")
def rank_two_too_late(x1, x2, T1, T2):
    return of_rank_two(T2.T @ solved(moved_by(T1, x1), moved_by(T2, x2)) @ T1)


@eight_point.misconception("The largest singular value is set to 0: it is the least one.")
def largest_value_removed(x1, x2, T1, T2):
    U, S, Vh = torch.linalg.svd(solved(moved_by(T1, x1), moved_by(T2, x2)))
    return T2.T @ U[:, 1:] @ torch.diag(S[1:]) @ Vh[1:] @ T1


@eight_point.misconception("F[2, 2] is set to 1, but may be near 0: look for f of length 1.", read="fundamental-matrix")
def corner_set_to_one(x1, x2, T1, T2):
    A = equations(moved_by(T1, x1), moved_by(T2, x2))
    f = torch.linalg.lstsq(A[:, :8], -A[:, 8]).solution
    return T2.T @ of_rank_two(torch.cat([f, f.new_ones(1)]).reshape(3, 3)) @ T1


@eight_point.misconception("The whole F is the wrong way round: with this one x1^T F x2 is small. Transpose it.")
def from_the_second_to_the_first(x1, x2, T1, T2):
    return T1.T @ of_rank_two(solved(moved_by(T2, x2), moved_by(T1, x1))) @ T2


@eight_point.equivalent
def by_eigenvectors(x1, x2, T1, T2):
    A = equations(moved_by(T1, x1), moved_by(T2, x2))
    F = torch.linalg.eigh(A.T @ A).eigenvectors[:, 0].reshape(3, 3)
    U, S, Vh = torch.linalg.svd(F)
    S[2] = 0
    F = T2.T @ (U * S) @ Vh @ T1
    return F / F.norm()


@eight_point.equivalent
def columns_as_in_the_books(x1, x2, T1, T2):
    u, v, _ = moved_by(T1, x1).T
    p, q, one = moved_by(T2, x2).T
    A = torch.stack([p * u, p * v, p, q * u, q * v, q, u, v, one], dim=1)
    F = torch.linalg.svd(A, full_matrices=True)[2][8].reshape(3, 3)
    U, S, Vh = torch.linalg.svd(F)
    F = F - S[2] * torch.outer(U[:, 2], Vh[2])
    return -2 * T2.T @ F @ T1


@eight_point.equivalent
def match_by_match(x1, x2, T1, T2):
    rows = []
    for a, b in zip(x1, x2, strict=True):
        a, b = (T @ torch.cat([x, x.new_ones(1)]) for x, T in [(a, T1), (b, T2)])
        rows.append(torch.kron(a, b))  # F column by column
    F = torch.linalg.svd(torch.stack(rows)).Vh[-1].reshape(3, 3).T
    U, S, Vh = torch.linalg.svd(F)
    F = U @ torch.diag(torch.stack([S[0], S[1], S[2] * 0])) @ Vh
    return torch.einsum("ki,kl,lj->ij", T2, F, T1)


# ---- 3 ---------------------------------------------------------------------------------------------------------------

triangulate = Exercise(
    "epipolar.triangulate",
    title="Back into three dimensions",
    points=3,
    contract="triangulate(P1, P2, x1, x2) is the world points (M, 3) seen at the exact matches x1 and x2 (N, 2) by the "
    "cameras P = K [R | t] (3, 4), in order, of those only the ones that lie in front of both cameras (M <= N).",
    section="triangulation",
    returns="X",
    finished=("course_utils.geometry.triangulate",),
    tolerance=ESTIMATED,
)


@triangulate.solution
def _(P1, P2, x1, x2):
    A = torch.cat([x[:, :, None] * P[2] - P[:2] for P, x in [(P1, x1), (P2, x2)]], dim=1)
    X = torch.linalg.svd(A).Vh[:, -1]
    X = X / X[:, 3:]
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.inputs
def _(g):
    def inputs(s, X):
        P1, P2 = projection_matrices(s)
        return {"P1": P1, "P2": P2, "x1": pixels_of(s.K1, s.R1, s.t1, X), "x2": pixels_of(s.K2, s.R2, s.t2, X)}

    def places(s, n, *sides):
        """n points for each (side of camera 1, side of camera 2), in a random order, none near a camera's own plane."""
        X = s.X.mean(0) + uniform(g, -2, 2, 2000, 3)
        P1, P2 = projection_matrices(s)
        z1, z2 = (X @ P[2, :3] + P[2, 3] for P in (P1, P2))
        found = [X[(z1 * a > 0.2) & (z2 * b > 0.2)][:n] for a, b in sides]
        X = torch.cat(found)
        return X[torch.randperm(len(X), generator=g)]

    def apart(g):
        """A scene whose cameras look from places and in directions that differ well."""
        while True:
            s = scene(g)
            if ((s.R1[2] - s.R2[2]).norm() > 0.25) and (s.R1.T @ s.t1 - s.R2.T @ s.t2).norm() > 0.15:
                return s

    s = apart(g)
    yield "all points in front", inputs(s, s.X)
    s = apart(g)
    yield "a single point", inputs(s, s.X[:1])
    s = apart(g)
    yield "four points", inputs(s, s.X[:4])
    s = apart(g)
    yield "some behind both cameras", inputs(s, places(s, 3, (1, 1), (-1, -1)))
    s = apart(g)
    yield "some behind the first camera", inputs(s, places(s, 3, (1, 1), (-1, 1)))
    s = apart(g)
    yield "some behind the second camera", inputs(s, places(s, 3, (1, 1), (1, -1)))
    s = apart(g)
    yield "some on every side", inputs(s, places(s, 2, (1, 1), (-1, 1), (1, -1), (-1, -1)))
    s = apart(g)
    yield "all behind", inputs(s, places(s, 3, (-1, -1)))


def lines_through(P, x):
    """The two equations (N, 2, 4) that X obeys if P shows it at x."""
    return x[:, :, None] * P[2] - P[:2]


def least(A):
    X = torch.linalg.svd(A).Vh[:, -1]
    return X / X[:, 3:]


def points_at(P1, P2, x1, x2):
    return least(torch.cat([lines_through(P1, x1), lines_through(P2, x2)], dim=1))


@triangulate.misconception("Points behind a camera are kept: no camera can see them, so test the depths in both.")
def no_depth_test(P1, P2, x1, x2):
    return points_at(P1, P2, x1, x2)[:, :3]


@triangulate.misconception("Only the first camera's depth is tested: a point may lie behind the second one.")
def first_depth_only(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[X @ P1[2] > 0, :3]


@triangulate.misconception("Only the second camera's depth is tested: a point may lie behind the first one.")
def second_depth_only(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[X @ P2[2] > 0, :3]


@triangulate.misconception("One camera in front is enough here: the point must lie in front of both.")
def either_camera(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[(X @ P1[2] > 0) | (X @ P2[2] > 0), :3]


@triangulate.misconception("The test keeps what lies behind: in front is a positive depth.")
def those_behind(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[(X @ P1[2] < 0) & (X @ P2[2] < 0), :3]


@triangulate.misconception(
    "This tests the world's z: a depth is z in a camera's own axes, P's last row times (X, 1).", read="pinhole"
)
def worlds_z(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[X[:, 2] > 0, :3]


@triangulate.misconception("The fourth entry is dropped before dividing by it: X is the first three over the fourth.")
def never_divided(P1, P2, x1, x2):
    A = torch.cat([lines_through(P1, x1), lines_through(P2, x2)], dim=1)
    X = torch.linalg.svd(A).Vh[:, -1]
    scaled = X / X[:, 3:]
    return X[(scaled @ P1[2] > 0) & (scaled @ P2[2] > 0), :3]


@triangulate.misconception(
    "The rows of P are swapped: x goes with its first row, y with its second.", read="pixel-indices"
)
def rows_of_p_swapped(P1, P2, x1, x2):
    X = points_at(P1, P2, x1.flip(1), x2.flip(1))
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("The equations have a plus: from x = (P_1 X) / (P_3 X) follows x P_3 X - P_1 X = 0.")
def plus_in_the_equations(P1, P2, x1, x2):
    X = points_at(P1, P2, -x1, -x2)
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("This is the first singular vector, of the largest |A X|: take the last one.")
def first_vector(P1, P2, x1, x2):
    X = torch.linalg.svd(torch.cat([lines_through(P1, x1), lines_through(P2, x2)], dim=1)).Vh[:, 0]
    X = X / X[:, 3:]
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("This is the last column of V^T: the singular vectors are its rows.", read="eight-point")
def column_of_vh(P1, P2, x1, x2):
    X = torch.linalg.svd(torch.cat([lines_through(P1, x1), lines_through(P2, x2)], dim=1)).Vh[:, :, -1]
    X = X / X[:, 3:]
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("The pixels are swapped between the cameras: x1 belongs to P1, x2 to P2.")
def pixels_swapped(P1, P2, x1, x2):
    X = points_at(P1, P2, x2, x1)
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("The sign of the depth is taken with the length-1 vector: divide by its fourth entry first.")
def sign_before_division(P1, P2, x1, x2):
    X = torch.linalg.svd(torch.cat([lines_through(P1, x1), lines_through(P2, x2)], dim=1)).Vh[:, -1]
    return (X / X[:, 3:])[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]


@triangulate.misconception("The points are left in homogeneous coordinates (M, 4): leave out the fourth, which is 1.")
def fourth_kept(P1, P2, x1, x2):
    X = points_at(P1, P2, x1, x2)
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0)]


@triangulate.equivalent
def match_after_match(P1, P2, x1, x2):
    points = []
    for a, b in zip(x1, x2, strict=True):
        A = torch.stack([a[0] * P1[2] - P1[0], a[1] * P1[2] - P1[1], b[0] * P2[2] - P2[0], b[1] * P2[2] - P2[1]])
        _, _, Vh = torch.linalg.svd(A)
        X = Vh[3] / Vh[3, 3]
        if P1[2] @ X > 0 and P2[2] @ X > 0:
            points.append(X[:3])
    return torch.stack(points) if points else torch.zeros(0, 3, dtype=torch.float64)


@triangulate.equivalent
def least_squares_for_three(P1, P2, x1, x2):
    A = torch.cat([x[:, :, None] * P[2] - P[:2] for P, x in [(P1, x1), (P2, x2)]], dim=1)
    X = torch.linalg.lstsq(A[:, :, :3], -A[:, :, 3:]).solution[:, :, 0]
    depths = [X @ P[2, :3] + P[2, 3] for P in (P1, P2)]
    return X[torch.stack(depths).min(0).values > 0]


@triangulate.equivalent
def where_two_rays_meet(P1, P2, x1, x2):
    M1, M2 = P1[:, :3], P2[:, :3]
    c1, c2 = (-torch.linalg.solve(P[:, :3], P[:, 3]) for P in (P1, P2))
    ones = x1.new_ones(len(x1), 1)
    d1 = torch.linalg.solve(M1, torch.cat([x1, ones], dim=1).T).T  # a step of depth 1
    d2 = torch.linalg.solve(M2, torch.cat([x2, ones], dim=1).T).T
    base = (c2 - c1).expand(len(x1), 3)[:, :, None]
    z1, z2 = torch.linalg.lstsq(torch.stack([d1, -d2], dim=2), base).solution[:, :, 0].T
    return (c1 + z1[:, None] * d1)[(z1 > 0) & (z2 > 0)]
