"""Exercises of chapter 7, epipolar geometry: cameras, the fundamental matrix and its lines.

A camera is K, R (3, 3) and t (3,): a world point X has the camera's coordinates R X + t, its z is the depth, and its
pixel is K (R X + t) divided by that z. Pixels are (N, 2), column before row; world points (N, 3); all is float64.
F is the matrix with x2^T F x1 = 0; it and lines (a, b, c), a x + b y + c = 0, are meant up to scale and sign.

Source: Hartley & Zisserman 2004 (sections 6.1, 9.1, 9.2, 9.6).
"""

from types import SimpleNamespace

import torch

from course_utils import geometry
from course_utils.exercises.exercise import Exercise
from course_utils.geometry import Camera

# ---- what the exercises are tried on ---------------------------------------------------------------------------------

PRECISE = {torch.float64: 1e-9}
EYE, ORIGIN = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def uniform(g, low, high, *shape):
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=g)


def rotation(g, angle=0.3):
    """A turn by about `angle` (radians) around a random axis, (3, 3)."""
    axis = torch.randn(3, dtype=torch.float64, generator=g)
    return torch.linalg.matrix_exp(geometry.skew(angle * axis / axis.norm()))


def intrinsics(g):
    """A K of a picture of 640 x 480 whose pixels are neither square nor quite upright."""
    fx, fy, cx, cy = (float(uniform(g, *limits, ())) for limits in [(1400, 1600), (1400, 1600), (300, 340), (220, 260)])
    return torch.tensor([[fx, float(uniform(g, 5, 20, ())), cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def scene(g, n=6):
    """Two random cameras K, R, t, n world points X before both at depths 0.4 to 0.8, and their pixels x1, x2."""
    centre = uniform(g, -1, 1, 3)
    s = SimpleNamespace(X=centre + uniform(g, -0.08, 0.08, n, 3))
    for i in "12":
        K, R = intrinsics(g), rotation(g, 0.4)
        t = torch.cat([uniform(g, -0.05, 0.05, 2), uniform(g, 0.55, 0.65, 1)]) - R @ centre
        vars(s).update({f"K{i}": K, f"R{i}": R, f"t{i}": t, f"x{i}": pixels_of(K, R, t, s.X)})
    return s


def moved(s, shift):
    """The scene with a second camera like its first, but for a shift (3,): a pure translation."""
    t2 = s.t1 + torch.tensor(shift, dtype=torch.float64)
    return SimpleNamespace(**vars(s) | {"K2": s.K1, "R2": s.R1, "t2": t2, "x2": pixels_of(s.K1, s.R1, t2, s.X)})


def pixels_of(K, R, t, X):
    """As Camera.project, but also for points behind the camera, which it refuses."""
    return geometry.pixels((X @ R.T + t) @ K.T)


def matrix_of(s):
    """F of a scene, x2^T F x1 = 0."""
    return geometry.fundamental(Camera(s.K1, s.R1, s.t1), Camera(s.K2, s.R2, s.t2))


def up_to_scale(v, length):
    """v (..., n) divided by a length (..., 1), its sign turned so that v and -v become the same."""
    v = v / torch.where(length == 0, 1, length)
    leaning = (v * torch.arange(1, v.shape[-1] + 1).to(v).sqrt().cos()).sum(-1, keepdim=True)
    return torch.where(leaning < 0, -v, v)


def balanced(F, A1, A2):
    """A2^T F A1, of length 1: F's own entries differ by factors of a million, as they go with x x, x and 1 of pixels.

    Raises TypeError for what is no tensor.
    """
    if not torch.is_tensor(F):
        raise TypeError("a tensor is wanted")
    entries = (A2.T @ F @ A1).flatten()
    return up_to_scale(entries, entries.norm()).reshape(F.shape)


# ---- 1 ---------------------------------------------------------------------------------------------------------------

skew = Exercise(
    "epipolar.skew",
    title="The cross product as a matrix",
    points=1,
    contract="skew(a) is the float64 matrix (3, 3) with skew(a) @ b = a x b for every b (3,).",
    section="cross-product",
    returns="A",
    finished=("course_utils.geometry.skew",),
    tolerance=PRECISE,
)


@skew.solution
def _(a):
    return geometry.skew(a)


@skew.inputs
def _(g):
    for name in ("a random vector", "another random vector"):
        yield name, {"a": torch.randn(3, dtype=torch.float64, generator=g)}
    yield "a unit vector", {"a": torch.eye(3, dtype=torch.float64)[int(torch.randint(3, (), generator=g))]}
    yield "a long vector", {"a": 1000 * torch.randn(3, dtype=torch.float64, generator=g)}


def rows(*entries):
    return torch.stack([torch.as_tensor(e, dtype=torch.float64) for e in entries]).reshape(3, 3)


@skew.misconception("All signs are turned: this is the matrix of b x a, which is -(a x b).")
def all_signs_turned(a):
    x, y, z = a
    return rows(0, z, -y, -z, 0, x, y, -x, 0)


@skew.misconception("No entry has a minus sign: the matrix is skew, so that opposite entries add up to 0.")
def no_minus(a):
    x, y, z = a
    return rows(0, z, y, z, 0, x, y, x, 0)


@skew.misconception("The sign of x is wrong in one place: the last entry of the second row is -x.")
def sign_of_x(a):
    x, y, z = a
    return rows(0, -z, y, z, 0, x, -y, x, 0)


@skew.misconception("The sign of y is wrong in one place: the last entry of the first row is +y.")
def sign_of_y(a):
    x, y, z = a
    return rows(0, -z, -y, z, 0, -x, -y, x, 0)


@skew.misconception("The sign of z is wrong in one place: the first entry of the second row is +z.")
def sign_of_z(a):
    x, y, z = a
    return rows(0, -z, y, -z, 0, -x, -y, x, 0)


@skew.misconception("x and z have changed places: the entry that couples rows i and j holds the third coordinate.")
def x_and_z_swapped(a):
    x, y, z = a
    return rows(0, -x, y, x, 0, -z, -y, z, 0)


@skew.misconception("This is the outer product a a^T, which is symmetric: a x b needs a skew matrix.")
def outer_product(a):
    return torch.outer(a, a)


@skew.misconception("a stands on the diagonal: that multiplies entry by entry and is no cross product.")
def on_the_diagonal(a):
    return torch.diag(a)


@skew.misconception("a is divided by its length: a x b grows with a.")
def of_unit_length(a):
    x, y, z = a / a.norm()
    return rows(0, -z, y, z, 0, -x, -y, x, 0)


@skew.misconception("The matrix is float32, torch's default: make it in a's own dtype, or half of the digits are lost.")
def in_float32(a):
    x, y, z = a.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


@skew.equivalent
def columns_by_cross(a):
    eye = torch.eye(3, dtype=a.dtype)
    return torch.stack([torch.linalg.cross(a, e) for e in eye], dim=1)


@skew.equivalent
def entries_filled_in(a):
    A = a.new_zeros(3, 3)
    A[0, 1], A[0, 2], A[1, 2] = -a[2], a[1], -a[0]
    return A - A.T


@skew.equivalent
def by_the_permutation_symbol(a):
    epsilon = torch.zeros(3, 3, 3, dtype=a.dtype)
    for i, j, k in [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:
        epsilon[i, j, k], epsilon[i, k, j] = 1, -1
    return torch.einsum("ijk,j->ik", epsilon, a)


@skew.equivalent
def stacked(a):
    zero = torch.zeros_like(a[0])
    return torch.stack([zero, -a[2], a[1], a[2], zero, -a[0], -a[1], a[0], zero]).reshape(3, 3)


# ---- 2 ---------------------------------------------------------------------------------------------------------------

relative_pose = Exercise(
    "epipolar.relative_pose",
    title="From one camera to the other",
    points=2,
    contract="relative_pose(R1, t1, R2, t2) is the pair (R, t) that turns camera 1's coordinates of a point into "
    "camera 2's: X2 = R X1 + t, where X1 = R1 X + t1 and X2 = R2 X + t2 for a world point X (3,).",
    section="relative-pose",
    returns=("R", "t"),
    finished=("course_utils.geometry.relative_pose",),
    tolerance=PRECISE,
)


@relative_pose.solution
def _(R1, t1, R2, t2):
    return geometry.relative_pose(Camera(EYE, R1, t1), Camera(EYE, R2, t2))


@relative_pose.inputs
def _(g):
    def inputs(s):
        return {"R1": s.R1, "t1": s.t1, "R2": s.R2, "t2": s.t2}

    for name in ("two random cameras", "two other cameras"):
        yield name, inputs(scene(g))
    yield "the first camera is the reference frame", inputs(scene(g)) | {"R1": EYE.clone(), "t1": ORIGIN.clone()}
    yield "the second camera is the reference frame", inputs(scene(g)) | {"R2": EYE.clone(), "t2": ORIGIN.clone()}
    yield "a pure translation", inputs(moved(scene(g), [0.1, 0.02, -0.05]))
    yield "large turns", inputs(scene(g)) | {"R1": rotation(g, 2.0), "R2": rotation(g, 1.5)}


@relative_pose.misconception("This leads from camera 2 to camera 1: R is R2 R1^T, not R1 R2^T.")
def backwards(R1, t1, R2, t2):
    R = R1 @ R2.T
    return R, t1 - R @ t2


@relative_pose.misconception("R is R1 R2^T, the turn back, beside the right recipe for t: R is R2 R1^T.")
def turn_backwards(R1, t1, R2, t2):
    R = R1 @ R2.T
    return R, t2 - R @ t1


@relative_pose.misconception("t is t2 - t1, but t1 is in camera 1's axes: turn it first, t2 - R t1.")
def t_not_turned(R1, t1, R2, t2):
    return R2 @ R1.T, t2 - t1


@relative_pose.misconception("R is R2 R1, without a transpose: first undo camera 1's turn, which is R1^T.")
def not_transposed(R1, t1, R2, t2):
    R = R2 @ R1
    return R, t2 - R @ t1


@relative_pose.misconception("The product is in the wrong order, R1^T R2: what acts first stands on the right.")
def product_in_the_wrong_order(R1, t1, R2, t2):
    R = R1.T @ R2
    return R, t2 - R @ t1


@relative_pose.misconception("The wrong matrix is transposed, R2^T R1: undo camera 1's turn and apply camera 2's.")
def wrong_one_transposed(R1, t1, R2, t2):
    R = R2.T @ R1
    return R, t2 - R @ t1


@relative_pose.misconception("R t1 is added: from X1 = R1 X + t1 follows X = R1^T (X1 - t1), with a minus.")
def t_added(R1, t1, R2, t2):
    R = R2 @ R1.T
    return R, t2 + R @ t1


@relative_pose.misconception("t has its sign turned: it is t2 - R t1.")
def t_negated(R1, t1, R2, t2):
    R = R2 @ R1.T
    return R, R @ t1 - t2


@relative_pose.misconception(
    "t is the step between the two centres in the world's axes: it is wanted in camera 2's axes.", read="pinhole"
)
def between_the_centres(R1, t1, R2, t2):
    return R2 @ R1.T, R1.T @ t1 - R2.T @ t2


@relative_pose.misconception("t1 is turned by R2 alone: it is in camera 1's axes, so that R = R2 R1^T turns it.")
def turned_by_the_second(R1, t1, R2, t2):
    return R2 @ R1.T, t2 - R2 @ t1


@relative_pose.misconception("t is scaled to length 1: the cameras are known here, and so is how far apart they are.")
def t_of_length_one(R1, t1, R2, t2):
    R = R2 @ R1.T
    t = t2 - R @ t1
    return R, t / t.norm()


@relative_pose.misconception("t is a column (3, 1): it is wanted as (3,), as t1 and t2 are.")
def t_as_a_column(R1, t1, R2, t2):
    R = R2 @ R1.T
    return R, (t2 - R @ t1)[:, None]


@relative_pose.equivalent
def as_one_matrix(R1, t1, R2, t2):
    def motion(R, t):
        M = torch.eye(4, dtype=R.dtype)
        M[:3, :3], M[:3, 3] = R, t
        return M

    M = motion(R2, t2) @ torch.linalg.inv(motion(R1, t1))
    return M[:3, :3], M[:3, 3]


@relative_pose.equivalent
def from_the_centre(R1, t1, R2, t2):
    centre = -R1.T @ t1
    return R2 @ torch.linalg.inv(R1), R2 @ centre + t2


@relative_pose.equivalent
def by_einsum(R1, t1, R2, t2):
    R = torch.einsum("ij,kj->ik", R2, R1)
    return [R, t2 - torch.einsum("ij,j->i", R, t1)]


# ---- 3 ---------------------------------------------------------------------------------------------------------------

project = Exercise(
    "epipolar.project",
    title="World points to pixels",
    points=2,
    contract="project(K, R, t, X) is the pixels (N, 2) of world points X (N, 3): K (R X + t) divided by its third "
    "entry, column before row, and not rounded.",
    section="pinhole",
    returns="x",
    finished=("course_utils.geometry.Camera",),
    tolerance=PRECISE,
)


@project.solution
def _(K, R, t, X):
    return Camera(K, R, t).project(X)


@project.inputs
def _(g):
    def inputs(s, n=None):
        return {"K": s.K1, "R": s.R1, "t": s.t1, "X": s.X[:n]}

    yield "six points", inputs(scene(g))
    yield "a single point", inputs(scene(g, 1))
    yield "three points in three dimensions", inputs(scene(g, 3))
    X = uniform(g, 0.4, 0.8, 5, 3)
    yield "the reference frame", inputs(scene(g)) | {"R": EYE.clone(), "t": ORIGIN.clone(), "X": X}
    R, t = rotation(g, 2.0), uniform(g, -1, 1, 3)
    yield "a large turn", inputs(scene(g)) | {"R": R, "t": t, "X": (X - t) @ R}


@project.misconception("The division by the third entry is missing: far points must come closer together.")
def no_division(K, R, t, X):
    return ((X @ R.T + t) @ K.T)[:, :2]


@project.misconception("This divides by the distance to the camera: perspective divides by the depth z.")
def divided_by_the_distance(K, R, t, X):
    X = X @ R.T + t
    return (X / X.norm(dim=1, keepdim=True) @ K.T)[:, :2]


@project.misconception("t is taken for the camera's place, R (X - t): here the camera's coordinates are R X + t.")
def t_as_the_place(K, R, t, X):
    x = (X - t) @ R.T @ K.T
    return x[:, :2] / x[:, 2:]


@project.misconception("The points are turned the wrong way, by R^T: for points in rows R X is X @ R.T.")
def turned_the_wrong_way(K, R, t, X):
    x = (X @ R + t) @ K.T
    return x[:, :2] / x[:, 2:]


@project.misconception("t is left out: this is a camera at the origin of the world.")
def t_left_out(K, R, t, X):
    x = X @ R.T @ K.T
    return x[:, :2] / x[:, 2:]


@project.misconception("R is left out: the camera is turned against the world.")
def r_left_out(K, R, t, X):
    x = (X + t) @ K.T
    return x[:, :2] / x[:, 2:]


@project.misconception("K is used transposed: for points in rows K X is X @ K.T.")
def k_transposed(K, R, t, X):
    x = (X @ R.T + t) @ K
    return x[:, :2] / x[:, 2:]


@project.misconception("K is left out: these are positions on a plane at depth 1, not yet pixels.")
def k_left_out(K, R, t, X):
    x = X @ R.T + t
    return x[:, :2] / x[:, 2:]


@project.misconception(
    "Only the focal lengths and the centre are taken from K: its entry K[0, 1] shifts the column with y."
)
def shear_left_out(K, R, t, X):
    X = X @ R.T + t
    return torch.stack([K[i, i] * X[:, i] / X[:, 2] + K[i, 2] for i in range(2)], dim=1)


@project.misconception("Row and column are swapped: a pixel is (column, row), as (x, y).", read="pixel-indices")
def row_before_column(K, R, t, X):
    x = (X @ R.T + t) @ K.T
    return (x[:, :2] / x[:, 2:]).flip(1)


@project.misconception(
    "The pixels are rounded: a projection is a place, and half a pixel is lost.", read="pixel-indices"
)
def rounded(K, R, t, X):
    x = (X @ R.T + t) @ K.T
    return (x[:, :2] / x[:, 2:]).round()


@project.misconception("The pixels are cut off to whole numbers, up to a pixel away.", read="pixel-indices")
def truncated(K, R, t, X):
    x = (X @ R.T + t) @ K.T
    return (x[:, :2] / x[:, 2:]).trunc()


@project.misconception("All three entries are returned: the third is 1 after the division, and no part of a pixel.")
def homogeneous(K, R, t, X):
    x = (X @ R.T + t) @ K.T
    return x / x[:, 2:]


@project.misconception("The pixels are the columns of the result: they are wanted as rows (N, 2).")
def pixels_as_columns(K, R, t, X):
    x = K @ (R @ X.T + t[:, None])
    return x[:2] / x[2]


@project.equivalent
def point_by_point(K, R, t, X):
    pixels = []
    for point in X:
        x, y, z = K @ (R @ point + t)
        pixels.append(torch.stack([x / z, y / z]))
    return torch.stack(pixels)


@project.equivalent
def by_the_projection_matrix(K, R, t, X):
    P = K @ torch.cat([R, t[:, None]], dim=1)
    x = P @ torch.cat([X, torch.ones_like(X[:, :1])], dim=1).T
    return (x[:2] / x[2]).T


@project.equivalent
def divided_before_k(K, R, t, X):
    X = torch.einsum("ij,nj->ni", R, X) + t
    return (X / X[:, 2:] @ K.T)[:, :2]


# ---- 4 ---------------------------------------------------------------------------------------------------------------

back_project = Exercise(
    "epipolar.back_project",
    title="A pixel back into the world",
    points=2,
    contract="back_project(K, R, t, x, depth) is the world points (N, 3) that are seen at the pixels x (N, 2) and have "
    "the depths (N,); a depth is z in the camera's coordinates, not the length of the ray.",
    section="back-projection",
    returns="X",
    finished=("course_utils.geometry.Camera",),
    tolerance=PRECISE,
)


@back_project.solution
def _(K, R, t, x, depth):
    return Camera(K, R, t).back_project(x, depth)


@back_project.inputs
def _(g):
    def inputs(s):
        return {"K": s.K1, "R": s.R1, "t": s.t1, "x": s.x1, "depth": uniform(g, 0.4, 0.8, len(s.x1))}

    yield "six pixels", inputs(scene(g))
    yield "a single pixel", inputs(scene(g, 1))
    yield "three pixels", inputs(scene(g, 3))
    s = scene(g, 1)
    depths = torch.linspace(0.4, 0.8, 9, dtype=torch.float64)
    yield "one pixel at many depths", inputs(s) | {"x": s.x1.expand(9, 2).clone(), "depth": depths}
    yield "the reference frame", inputs(scene(g)) | {"R": EYE.clone(), "t": ORIGIN.clone()}
    yield "a large turn", inputs(scene(g)) | {"R": rotation(g, 2.0)}


def with_ones(x):
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


def rays_of(K, x):
    return with_ones(x) @ torch.linalg.inv(K).T


@back_project.misconception("The depth is taken along the ray: it is z, so that the ray has z = 1, not length 1.")
def along_the_ray(K, R, t, x, depth):
    rays = rays_of(K, x)
    rays = rays / rays.norm(dim=1, keepdim=True)
    return (depth[:, None] * rays - t) @ R


@back_project.misconception("K^T is taken for the inverse of K: only a rotation's transpose is its inverse.")
def k_transposed_back(K, R, t, x, depth):
    rays = with_ones(x) @ K
    return (depth[:, None] * rays - t) @ R


@back_project.misconception("K itself is applied: from pixels back to rays leads its inverse.")
def k_not_inverted(K, R, t, x, depth):
    rays = with_ones(x) @ K.T
    return (depth[:, None] * rays - t) @ R


@back_project.misconception("The points are turned by R: back from the camera to the world leads R^T.")
def turned_by_r(K, R, t, x, depth):
    return (depth[:, None] * rays_of(K, x) - t) @ R.T


@back_project.misconception("t is added: from X_camera = R X + t follows X = R^T (X_camera - t), with a minus.")
def t_added_back(K, R, t, x, depth):
    return (depth[:, None] * rays_of(K, x) + t) @ R


@back_project.misconception("t is taken away after the turn: it is in the camera's axes, so first t, then R^T.")
def t_after_the_turn(K, R, t, x, depth):
    return depth[:, None] * rays_of(K, x) @ R - t


@back_project.misconception(
    "t is added after the turn, as if it were the camera's place: that is -R^T t.", read="pinhole"
)
def t_as_the_place_back(K, R, t, x, depth):
    return depth[:, None] * rays_of(K, x) @ R + t


@back_project.misconception("These are the camera's coordinates: the world's are wanted, R^T (X_camera - t).")
def left_in_the_camera(K, R, t, x, depth):
    return depth[:, None] * rays_of(K, x)


@back_project.misconception("The depth multiplies t too: only the ray is stretched, then t is taken away.")
def t_stretched(K, R, t, x, depth):
    return depth[:, None] * (rays_of(K, x) - t) @ R


@back_project.misconception("This divides by the depth: a point further away is further along the ray.")
def divided_by_the_depth(K, R, t, x, depth):
    return (rays_of(K, x) / depth[:, None] - t) @ R


@back_project.misconception("K[0, 1] is left out: undo all of K, with its inverse.", read="pinhole")
def shear_left_out_back(K, R, t, x, depth):
    rays = torch.stack([(x[:, 0] - K[0, 2]) / K[0, 0], (x[:, 1] - K[1, 2]) / K[1, 1], torch.ones_like(depth)], dim=1)
    return (depth[:, None] * rays - t) @ R


@back_project.misconception("Row and column are swapped: a pixel is (column, row), as (x, y).", read="pixel-indices")
def row_before_column_back(K, R, t, x, depth):
    return (depth[:, None] * rays_of(K, x.flip(1)) - t) @ R


@back_project.misconception(
    "The pixel is rounded first: a place in the picture need not be a whole number.", read="pixel-indices"
)
def rounded_first(K, R, t, x, depth):
    return (depth[:, None] * rays_of(K, x.round()) - t) @ R


@back_project.equivalent
def pixel_by_pixel(K, R, t, x, depth):
    points = []
    for (column, row), z in zip(x, depth, strict=True):
        ray = torch.linalg.solve(K, torch.stack([column, row, torch.ones_like(row)]))
        points.append(R.T @ (z * ray - t))
    return torch.stack(points)


@back_project.equivalent
def from_the_cameras_place(K, R, t, x, depth):
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    directions = torch.linalg.inv(K @ R) @ torch.cat([x, ones], dim=1).T
    return (depth * directions).T - R.T @ t


@back_project.equivalent
def entries_of_k_undone(K, R, t, x, depth):
    y = (x[:, 1] - K[1, 2]) / K[1, 1]
    camera = torch.stack([(x[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0] * depth, y * depth, depth], dim=1)
    return torch.einsum("ji,nj->ni", R, camera - t)


# ---- 5 ---------------------------------------------------------------------------------------------------------------

look_up = Exercise(
    "epipolar.look_up",
    title="What the picture shows there",
    points=2,
    contract="look_up(image, x) is the values (N, C) of the picture (height, width, C) at the nearest pixels to the "
    "places x (N, 2), column before row, and 0 where that pixel is not in the picture.",
    section="pixel-indices",
    returns="values",
)


@look_up.solution
def _(image, x):
    height, width = image.shape[:2]
    column, row = x.round().long().T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = image.new_zeros(len(x), image.shape[2])
    values[inside] = image[row[inside], column[inside]]
    return values


@look_up.inputs
def _(g):
    def off_the_middle(*shape):  # nobody is judged by how halves are rounded
        return uniform(g, 0.05, 0.45, *shape) * (1 - 2 * torch.randint(2, shape, generator=g))

    def inputs(height, width, whole):
        whole = torch.tensor(whole, dtype=torch.float64)
        return {"image": uniform(g, 0.1, 1, height, width, 3), "x": whole + off_the_middle(*whole.shape)}

    yield "places well within the picture", inputs(7, 9, [[2, 3], [4, 1], [6, 4], [1, 5], [3, 2], [5, 5]])
    yield "a single place", inputs(8, 8, [[5, 2]])
    yield "a wide picture", inputs(4, 12, [[9, 2], [7, 1], [5, 2], [10, 1]])
    edges = torch.tensor([[0, 2], [0, 4], [8, 3], [8, 1], [4, 0], [2, 0], [5, 6], [3, 6], [0, 0], [8, 6]])
    sides = torch.tensor([[-1, 1], [1, 1], [1, -1], [-1, 1], [1, -1], [-1, 1], [1, 1], [1, -1], [-1, -1], [1, 1]])
    x = edges + sides * uniform(g, 0.05, 0.45, *edges.shape)  # just within each edge, and just beyond
    yield "places at the edges", {"image": uniform(g, 0.1, 1, 7, 9, 3), "x": x}
    for name, place in {
        "left of the picture": [-1, 3],
        "right of the picture": [9, 3],
        "above the picture": [4, -1],
        "below the picture": [4, 7],
        "far below the picture": [4, 5000],
    }.items():
        yield f"one place {name}", inputs(7, 9, [[4, 3], place, [2, 5]])
    yield "one pixel is the picture", inputs(1, 1, [[0, 0], [1, 0]])


def values_where(image, column, row, inside):
    values = image.new_zeros(len(column), image.shape[2])
    values[inside] = image[row[inside], column[inside]]
    return values


def in_picture(column, row, image):
    height, width = image.shape[:2]
    return (column >= 0) & (column < width) & (row >= 0) & (row < height)


@look_up.misconception("The place is cut off to whole numbers: the nearest pixel is the rounded one.")
def cut_off(image, x):
    column, row = x.long().T
    return values_where(image, column, row, in_picture(column, row, image))


@look_up.misconception("The place is rounded down: the nearest pixel may be the next one.")
def floored(image, x):
    column, row = x.floor().long().T
    return values_where(image, column, row, in_picture(column, row, image))


@look_up.misconception(
    "Half is added and the rest cut off: below 0 that rounds towards 0, so that a place beyond the left or upper edge "
    "shows the first pixel; use round()."
)
def half_added_and_cut_off(image, x):
    column, row = (x + 0.5).long().T
    return values_where(image, column, row, in_picture(column, row, image))


@look_up.misconception("Row and column are swapped: the picture is image[row, column], the place (column, row).")
def swapped_indices(image, x):
    row, column = x.round().long().T
    return values_where(image, column, row, in_picture(column, row, image))


@look_up.misconception("There is no bound check: an index that is too large raises, one below 0 counts from the end.")
def unchecked(image, x):
    column, row = x.round().long().T
    return image[row, column]


@look_up.misconception("Only the upper bounds are checked: an index below 0 counts from the end and shows that pixel.")
def no_lower_bounds(image, x):
    height, width = image.shape[:2]
    column, row = x.round().long().T
    return values_where(image, column, row, (column < width) & (row < height))


@look_up.misconception("Only the lower bounds are checked: an index as large as the size is outside too.")
def no_upper_bounds(image, x):
    column, row = x.round().long().T
    return values_where(image, column, row, (column >= 0) & (row >= 0))


@look_up.misconception("One comparison is missing: the row is never held against the height.")
def height_forgotten(image, x):
    column, row = x.round().long().T
    return values_where(image, column, row, (column >= 0) & (column < image.shape[1]) & (row >= 0))


@look_up.misconception("Width and height are swapped in the bound check: image.shape is (height, width, C).")
def bounds_swapped(image, x):
    width, height = image.shape[:2]
    column, row = x.round().long().T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return values_where(image, column, row, inside)


@look_up.misconception("The bounds allow an index equal to the size: the last pixel is size - 1.")
def one_too_many(image, x):
    height, width = image.shape[:2]
    column, row = x.round().long().T
    inside = (column >= 0) & (column <= width) & (row >= 0) & (row <= height)
    return values_where(image, column, row, inside)


@look_up.misconception("The edge's colour is repeated outside: a place outside the picture has no colour, so 0.")
def held_to_the_edge(image, x):
    height, width = image.shape[:2]
    column, row = x.round().long().T
    return image[row.clamp(0, height - 1), column.clamp(0, width - 1)]


@look_up.misconception(
    "The bounds are checked before rounding: at -0.3 the nearest pixel is still 0, at width - 0.4 there is none."
)
def checked_before_rounding(image, x):
    height, width = image.shape[:2]
    inside = (x[:, 0] >= 0) & (x[:, 0] < width) & (x[:, 1] >= 0) & (x[:, 1] < height)
    column, row = x.round().long().T
    inside = inside & (column < width) & (row < height)
    return values_where(image, column, row, inside)


@look_up.misconception("The first row and column count as outside: index 0 is in the picture.")
def zero_left_out(image, x):
    column, row = x.round().long().T
    return values_where(image, column, row, in_picture(column, row, image) & (column > 0) & (row > 0))


@look_up.equivalent
def place_by_place(image, x):
    height, width, channels = image.shape
    values = torch.zeros(len(x), channels, dtype=image.dtype)
    for i, (column, row) in enumerate(x.tolist()):
        column, row = round(column), round(row)
        if 0 <= column < width and 0 <= row < height:
            values[i] = image[row, column]
    return values


@look_up.equivalent
def masked_afterwards(image, x):
    height, width = image.shape[:2]
    column, row = torch.floor(x + 0.5).long().unbind(1)
    found = image[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    inside = (column == column.clamp(0, width - 1)) & (row == row.clamp(0, height - 1))
    return found * inside[:, None]


@look_up.equivalent
def in_a_black_frame(image, x):
    height, width, channels = image.shape
    framed = image.new_zeros(height + 2, width + 2, channels)
    framed[1:-1, 1:-1] = image
    column = (x[:, 0].round() + 1).clamp(0, width + 1).long()
    row = (x[:, 1].round() + 1).clamp(0, height + 1).long()
    return framed[row, column]


# ---- 6 ---------------------------------------------------------------------------------------------------------------

fundamental = Exercise(
    "epipolar.fundamental",
    title="The fundamental matrix",
    points=3,
    contract="fundamental(K1, R1, t1, K2, R2, t2) is the matrix F (3, 3), of any scale and sign, with x2^T F x1 = 0 "
    "for the pixels x1 and x2 (as (column, row, 1)) of one world point in the two cameras.",
    section="fundamental-matrix",
    returns="F (seen as K2^T F K1, of length 1)",
    finished=("course_utils.geometry.fundamental",),
    tolerance=PRECISE,
)


@fundamental.solution
def _(K1, R1, t1, K2, R2, t2):
    return geometry.fundamental(Camera(K1, R1, t1), Camera(K2, R2, t2))


@fundamental.inputs
def _(g):
    def inputs(s):
        return {name: vars(s)[name] for name in ("K1", "R1", "t1", "K2", "R2", "t2")}

    for name in ("two random cameras", "two other cameras"):
        yield name, inputs(scene(g))
    yield "the first camera is the reference frame", inputs(scene(g)) | {"R1": EYE.clone(), "t1": ORIGIN.clone()}
    s = scene(g)
    yield "one camera, moved and turned", inputs(s) | {"K2": s.K1.clone()}
    yield "a camera that moves forward", inputs(moved(scene(g), [0.0, 0.0, -0.1]))
    K = torch.tensor([[512, 0, 256], [0, 512, 256], [0, 0, 1]], dtype=torch.float64)
    shift = torch.tensor([int(torch.randint(1, 9, (), generator=g)) / 64, 0, 0], dtype=torch.float64)
    sideways = {"K1": K, "R1": EYE.clone(), "t1": ORIGIN.clone(), "K2": K.clone(), "R2": EYE.clone(), "t2": shift}
    yield "a camera that moves sideways, where F[2, 2] is 0", sideways
    yield "large turns", inputs(scene(g)) | {"R1": rotation(g, 2.0), "R2": rotation(g, 1.5)}


@fundamental.observe
def _(F, given):
    return {fundamental.returns: balanced(F, given["K1"], given["K2"])}


def crossing(a):
    x, y, z = a
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)


def essential(R1, t1, R2, t2):
    R = R2 @ R1.T
    return crossing(t2 - R @ t1) @ R


@fundamental.misconception("F is the wrong way round: with this one x1^T F x2 = 0. Transpose it.")
def wrong_way_round(K1, R1, t1, K2, R2, t2):
    return (torch.linalg.inv(K2).T @ essential(R1, t1, R2, t2) @ torch.linalg.inv(K1)).T


@fundamental.misconception("K1 is missing: F acts on pixels, so that their rays K1^-1 x1 must be taken first.")
def first_k_missing(K1, R1, t1, K2, R2, t2):
    return torch.linalg.inv(K2).T @ essential(R1, t1, R2, t2)


@fundamental.misconception("K2 is missing: F acts on pixels, so that K2^-T stands on its left.")
def second_k_missing(K1, R1, t1, K2, R2, t2):
    return essential(R1, t1, R2, t2) @ torch.linalg.inv(K1)


@fundamental.misconception("This is the essential matrix [t]x R: it acts on rays, F on pixels.")
def essential_only(K1, R1, t1, K2, R2, t2):
    return essential(R1, t1, R2, t2)


@fundamental.misconception("K2's inverse is not transposed: x2 stands on the left, so that K2^-1 x2 brings K2^-T.")
def inverse_not_transposed(K1, R1, t1, K2, R2, t2):
    return torch.linalg.inv(K2) @ essential(R1, t1, R2, t2) @ torch.linalg.inv(K1)


@fundamental.misconception("K2 is transposed but not inverted: K2^T is not its inverse.")
def transposed_not_inverted(K1, R1, t1, K2, R2, t2):
    return K2.T @ essential(R1, t1, R2, t2) @ torch.linalg.inv(K1)


@fundamental.misconception("K1 is transposed but not inverted: K1^T is not its inverse.")
def first_transposed_not_inverted(K1, R1, t1, K2, R2, t2):
    return torch.linalg.inv(K2).T @ essential(R1, t1, R2, t2) @ K1.T


@fundamental.misconception("K1 and K2 have changed places: x1 stands on the right, and so does K1^-1.")
def ks_swapped(K1, R1, t1, K2, R2, t2):
    return torch.linalg.inv(K1).T @ essential(R1, t1, R2, t2) @ torch.linalg.inv(K2)


@fundamental.misconception("R and [t]x are in the wrong order: t is in camera 2's axes, so first R, then [t]x.")
def wrong_order(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    return torch.linalg.inv(K2).T @ R @ crossing(t2 - R @ t1) @ torch.linalg.inv(K1)


@fundamental.misconception("t is t2 - t1, but t1 is in camera 1's axes: it is t2 - R t1.", read="relative-pose")
def t_not_turned_in_f(K1, R1, t1, K2, R2, t2):
    return torch.linalg.inv(K2).T @ crossing(t2 - t1) @ R2 @ R1.T @ torch.linalg.inv(K1)


@fundamental.misconception("R t1 is added: t is t2 - R t1, with a minus.", read="relative-pose")
def t_added_in_f(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    return torch.linalg.inv(K2).T @ crossing(t2 + R @ t1) @ R @ torch.linalg.inv(K1)


@fundamental.misconception("R is R1 R2^T, from camera 2 to camera 1: it is R2 R1^T.", read="relative-pose")
def turn_backwards_in_f(K1, R1, t1, K2, R2, t2):
    R = R1 @ R2.T
    return torch.linalg.inv(K2).T @ crossing(t2 - R @ t1) @ R @ torch.linalg.inv(K1)


@fundamental.misconception("[t]x has a wrong sign in one place, so that [t]x b is not t x b.", read="cross-product")
def wrong_sign_in_the_cross(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    x, y, z = t2 - R @ t1
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, x, -y, x, zero]).reshape(3, 3)
    return torch.linalg.inv(K2).T @ cross @ R @ torch.linalg.inv(K1)


@fundamental.misconception(
    "F is divided by F[2, 2], which is 0 where a camera only moves: use its length, or no scale."
)
def divided_by_the_corner(K1, R1, t1, K2, R2, t2):
    F = torch.linalg.inv(K2).T @ essential(R1, t1, R2, t2) @ torch.linalg.inv(K1)
    return F / F[2, 2]


@fundamental.equivalent
def of_length_one(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    t = t2 - R @ t1
    cross = torch.stack([torch.linalg.cross(t, e) for e in torch.eye(3, dtype=t.dtype)], dim=1)
    F = torch.linalg.inv(K2.T) @ cross @ R @ torch.linalg.inv(K1)
    return -F / F.norm()


@fundamental.equivalent
def from_the_epipole(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    e = K2 @ (t2 - R @ t1)  # camera 1's place, seen by camera 2
    return crossing(e) @ K2 @ R @ torch.linalg.inv(K1)


@fundamental.equivalent
def from_the_other_epipole(K1, R1, t1, K2, R2, t2):
    R = R2 @ R1.T
    e = K1 @ R.T @ (t2 - R @ t1)  # as in a well-known handbook: F = K2^-T R K1^T [e]x
    return torch.linalg.inv(K2).T @ R @ K1.T @ crossing(e)


@fundamental.equivalent
def from_two_projection_matrices(K1, R1, t1, K2, R2, t2):
    P1, P2 = K1 @ torch.cat([R1, t1[:, None]], dim=1), K2 @ torch.cat([R2, t2[:, None]], dim=1)
    F = P1.new_zeros(3, 3)
    for i in range(3):
        for j in range(3):
            others1, others2 = [k for k in range(3) if k != j], [k for k in range(3) if k != i]
            F[i, j] = (-1) ** (i + j) * torch.linalg.det(torch.cat([P1[others1], P2[others2]]))
    return F


# ---- 7 ---------------------------------------------------------------------------------------------------------------

epipolar_line = Exercise(
    "epipolar.epipolar_line",
    title="Where the other picture shows it",
    points=1,
    contract="epipolar_line(F, x1) is the lines (N, 3) of picture 2 on which the points x1 (N, 2) of picture 1 must "
    "be seen: rows (a, b, c) of any scale and sign with a x + b y + c = 0.",
    section="epipolar-lines",
    returns="lines (seen with a^2 + b^2 = 1)",
    finished=("course_utils.geometry.epipolar_line",),
    tolerance=PRECISE,
)


@epipolar_line.solution
def _(F, x1):
    return geometry.epipolar_line(F, x1)


@epipolar_line.inputs
def _(g):
    def inputs(n):
        s = scene(g, n)
        return {"F": matrix_of(s) * float(uniform(g, -2, 2, ())), "x1": s.x1}

    def of_epipole(*e):  # the camera only moves
        place = torch.randint(20, 200, (2, 2), generator=g).double()
        return {"F": geometry.skew(torch.tensor(e, dtype=torch.float64)), "x1": place}

    for name, n in {"six points": 6, "a single point": 1, "two points": 2, "three points": 3}.items():
        yield name, inputs(n)
    yield "level lines", of_epipole(1, 0, 0)
    yield "upright lines, whose b is 0", of_epipole(0, 1, 0)
    column, row = torch.randint(20, 200, (2,), generator=g).tolist()
    corner = of_epipole(column, row, 1)
    corner["x1"][0] = torch.tensor([2.0 * column, 2.0 * row])
    yield "a line through the corner, whose c is 0", corner


@epipolar_line.observe
def _(lines, given):
    if not torch.is_tensor(lines) or lines.dtype != torch.float64 or lines.ndim != 2 or lines.shape[1] != 3:
        raise TypeError("a tensor (N, 3) is wanted")
    return {epipolar_line.returns: up_to_scale(lines, lines[:, :2].norm(dim=1, keepdim=True))}


def and_one(x):
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)


@epipolar_line.misconception("F is transposed: F^T x2 is a line of picture 1. For points in rows F x1 is x1 @ F.T.")
def f_transposed(F, x1):
    return and_one(x1) @ F


@epipolar_line.misconception("The third entry of the point is 0 in place of 1: that is a direction, not a place.")
def zero_for_one(F, x1):
    return torch.cat([x1, torch.zeros_like(x1[:, :1])], dim=1) @ F.T


@epipolar_line.misconception("Row and column of the point are swapped: it is (column, row, 1).", read="pixel-indices")
def row_before_column_of_the_point(F, x1):
    return and_one(x1.flip(1)) @ F.T


@epipolar_line.misconception("The 1 comes first, (1, x, y): F acts on (x, y, 1).")
def one_first(F, x1):
    return torch.cat([torch.ones_like(x1[:, :1]), x1], dim=1) @ F.T


@epipolar_line.misconception("The line is divided by b, which is 0 for an upright line: leave its scale as it is.")
def divided_by_b(F, x1):
    lines = and_one(x1) @ F.T
    return lines / lines[:, 1:2]


@epipolar_line.misconception("The line is divided by c, which is 0 for a line through the corner: leave its scale.")
def divided_by_c(F, x1):
    lines = and_one(x1) @ F.T
    return lines / lines[:, 2:]


@epipolar_line.misconception("This is slope and intercept, which an upright line does not have: return (a, b, c).")
def slope_and_intercept(F, x1):
    a, b, c = (and_one(x1) @ F.T).T
    return torch.stack([-a / b, -c / b], dim=1)


@epipolar_line.misconception("The lines are the columns of the result: they are wanted as rows (N, 3).")
def lines_as_columns(F, x1):
    return F @ and_one(x1).T


@epipolar_line.misconception("a and b have changed places: a belongs to the column x, b to the row y.")
def a_and_b_swapped(F, x1):
    return (and_one(x1) @ F.T)[:, [1, 0, 2]]


@epipolar_line.equivalent
def line_by_line(F, x1):
    return torch.stack([F @ torch.stack([x, y, torch.ones_like(x)]) for x, y in x1])


@epipolar_line.equivalent
def with_a_unit_normal(F, x1):
    lines = (F @ torch.nn.functional.pad(x1, (0, 1), value=1).T).T
    return -lines / torch.hypot(lines[:, 0], lines[:, 1])[:, None]


@epipolar_line.equivalent
def columns_of_f_added(F, x1):
    return torch.einsum("ij,nj->ni", F[:, :2], x1) + F[:, 2]


# ---- 8 ---------------------------------------------------------------------------------------------------------------

clip_line = Exercise(
    "epipolar.clip_line",
    title="The part of a line in the picture",
    points=3,
    contract="clip_line(line, width, height) is the two ends (2, 2), in any order, of the part of the line (a, b, c) "
    "with 0 <= x <= width - 1 and 0 <= y <= height - 1; an empty tensor (0, 2) where the line misses the picture.",
    section="line-in-the-picture",
    returns="ends",
    finished=("course_utils.geometry.clip_line",),
    tolerance=PRECISE,
)


@clip_line.solution
def _(line, width, height):
    return geometry.clip_line(line, width, height)


@clip_line.inputs
def _(g):
    def through(p, q, width, height):  # in any scale
        line = torch.linalg.cross(*(torch.tensor([*v, 1], dtype=torch.float64) for v in (p, q)))
        scale = (1 - 2 * torch.randint(2, (), generator=g)) * uniform(g, 0.1, 2, ())
        return {"line": line / line[:2].norm() * scale, "width": width, "height": height}

    sizes = [(640, 480), (48, 80), (30, 30)]
    names = "from left to right", "from top to bottom", "cuts a corner at left", "cuts a corner at right"
    for width, height in sizes:
        u, v = (float(uniform(g, 0.2, 0.8, ())) for _ in range(2))
        left, right, top, bottom = (0, u * height), (width - 1, v * height), (u * width, 0), (v * width, height - 1)
        for name, ends in zip(names, [(left, right), (top, bottom), (left, bottom), (top, right)], strict=True):
            yield f"a line that goes {name}" if "to" in name else f"a line that {name}", through(*ends, width, height)
    u, v = (float(uniform(g, 5.2, 30.8, ())) for _ in range(2))
    size = {"width": 64, "height": 48}
    upright, level = ([1.0, 0.0, -u], [0.0, 1.0, -v])
    yield "an upright line", {"line": torch.tensor(upright, dtype=torch.float64), **size}
    yield "a level line", {"line": torch.tensor(level, dtype=torch.float64), **size}
    yield "an upright line beside the picture", {"line": torch.tensor([1.0, 0.0, u], dtype=torch.float64), **size}
    yield "a level line below the picture", {"line": torch.tensor([0, 2.0, -96 - v], dtype=torch.float64), **size}
    yield "a line that passes the picture by", through((-u, 0), (0, -v), 64, 48)
    yield (
        "a line between the last pixel and the size",
        {
            "line": torch.tensor([1.0, 0.0, -63.5], dtype=torch.float64),
            **size,
        },
    )


@clip_line.observe
def _(ends, given):
    if ends.shape != (2, 2):
        raise ValueError("two ends are wanted")
    order = ends.double() @ torch.tensor([1.0, 0.37], dtype=torch.float64)
    return {"ends": ends.flip(0) if order[0] > order[1] else ends}


def row_at(line, x):
    return -(line[0] * x + line[2]) / line[1]


def column_at(line, y):
    return -(line[1] * y + line[2]) / line[0]


def crossings(line, width, height, border=0):
    """Where a line that is neither upright nor level meets the borders, of those the ones in the picture."""
    right, bottom = width - 1 + border, height - 1 + border
    places = [torch.stack([line.new_tensor(float(x)), row_at(line, x)]) for x in (0, right)]
    places += [torch.stack([column_at(line, y), line.new_tensor(float(y))]) for y in (0, bottom)]
    places = [p for p in places if -1e-9 <= p[0] <= right + 1e-9 and -1e-9 <= p[1] <= bottom + 1e-9]
    return torch.stack(places) if places else line.new_zeros(0, 2)


def upright_or_level(line, width, height, border=0):
    """The ends of a line with b = 0 or a = 0, or None for another."""
    right, bottom = width - 1 + border, height - 1 + border
    if line[0] != 0 and line[1] != 0:
        return None
    axis = 0 if line[1] == 0 else 1
    place = -line[2] / line[axis]
    if not 0 <= place <= (right, bottom)[axis]:
        return line.new_zeros(0, 2)
    ends = torch.stack([place, place * 0]), torch.stack([place, place * 0 + (bottom, right)[axis]])
    return torch.stack(ends) if axis == 0 else torch.stack(ends).flip(1)


@clip_line.misconception(
    "These are the ends at the left and right border, which may lie far above or below the picture."
)
def left_and_right_only(line, width, height):
    xs = line.new_tensor([0.0, width - 1.0])
    return torch.stack([xs, row_at(line, xs)], dim=1)


@clip_line.misconception(
    "Two borders are chosen by how steep the line is: a line that cuts a corner ends on one of each kind, so look at "
    "all four."
)
def two_borders_by_steepness(line, width, height):
    a, b, _ = line
    if abs(b) > abs(a):
        xs = line.new_tensor([0.0, width - 1.0])
        return torch.stack([xs, row_at(line, xs)], dim=1)
    ys = line.new_tensor([0.0, height - 1.0])
    return torch.stack([column_at(line, ys), ys], dim=1)


@clip_line.misconception("The rows are clamped into the picture, which turns the line: move along it to the border.")
def rows_clamped(line, width, height):
    xs = line.new_tensor([0.0, width - 1.0])
    return torch.stack([xs, row_at(line, xs).clamp(0, height - 1)], dim=1)


@clip_line.misconception("An upright line has no slope and intercept: solve for the column, x = -(b y + c) / a, too.")
def by_slope(line, width, height):
    slope, intercept = -line[0] / line[1], -line[2] / line[1]
    rows = {x: slope * x + intercept for x in (0.0, width - 1.0)}
    columns = {y: (y - intercept) / slope for y in (0.0, height - 1.0)}
    ends = [[x, float(y)] for x, y in rows.items() if 0 <= y <= height - 1]
    ends += [[float(x), y] for y, x in columns.items() if 0 <= x <= width - 1]
    return torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)


@clip_line.misconception("A level line has no column as a multiple of y: solve for the row, y = -(a x + c) / b, too.")
def by_slope_of_the_column(line, width, height):
    slope, intercept = -line[1] / line[0], -line[2] / line[0]
    columns = {y: slope * y + intercept for y in (0.0, height - 1.0)}
    rows = {x: (x - intercept) / slope for x in (0.0, width - 1.0)}
    ends = [[x, float(y)] for x, y in rows.items() if 0 <= y <= height - 1]
    ends += [[float(x), y] for y, x in columns.items() if 0 <= x <= width - 1]
    return torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)


@clip_line.misconception(
    "An upright line has b = 0 and a level one a = 0: with Python's numbers, that division raises."
)
def zero_divided(line, width, height):
    a, b, c = line.tolist()
    ends = [[x, -(a * x + c) / b] for x in (0.0, width - 1.0) if 0 <= -(a * x + c) / b <= height - 1]
    ends += [[-(b * y + c) / a, y] for y in (0.0, height - 1.0) if 0 <= -(b * y + c) / a <= width - 1]
    return torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)


@clip_line.misconception("Width and height are swapped: x runs to width - 1 and y to height - 1.")
def sizes_swapped(line, width, height):
    ends = upright_or_level(line, height, width)
    return crossings(line, height, width) if ends is None else ends


@clip_line.misconception("The picture ends at the last pixel's centre here, width - 1 and height - 1, not at the size.")
def one_pixel_too_far(line, width, height):
    ends = upright_or_level(line, width, height, 1)
    return crossings(line, width, height, 1) if ends is None else ends


@clip_line.misconception("c has its sign turned: from a x + b y + c = 0 follows y = -(a x + c) / b.")
def sign_of_c(line, width, height):
    line = line * line.new_tensor([1.0, 1.0, -1.0])
    ends = upright_or_level(line, width, height)
    return crossings(line, width, height) if ends is None else ends


@clip_line.misconception("The slope has its sign turned: from a x + b y + c = 0 follows y = -(a x + c) / b.")
def sign_of_the_slope(line, width, height):
    line = line * line.new_tensor([-1.0, 1.0, 1.0])
    ends = upright_or_level(line, width, height)
    return crossings(line, width, height) if ends is None else ends


@clip_line.misconception(
    "Row and column of the ends are swapped: an end is (x, y), column before row.", read="pixel-indices"
)
def ends_flipped(line, width, height):
    ends = upright_or_level(line, width, height)
    return (crossings(line, width, height) if ends is None else ends).flip(1)


@clip_line.misconception(
    "The ends are rounded, which turns the line a little: keep them as they are.", read="pixel-indices"
)
def ends_rounded(line, width, height):
    ends = upright_or_level(line, width, height)
    return (crossings(line, width, height) if ends is None else ends).round()


@clip_line.misconception("All crossings with the four borders are returned: keep the two that lie in the picture.")
def four_crossings(line, width, height):
    ends = upright_or_level(line, width, height)
    if ends is not None:
        return ends
    places = [torch.stack([line.new_tensor(float(x)), row_at(line, x)]) for x in (0, width - 1)]
    return torch.stack(places + [torch.stack([column_at(line, y), line.new_tensor(float(y))]) for y in (0, height - 1)])


@clip_line.equivalent
def four_borders(line, width, height):
    a, b, c = line.tolist()
    ends = []
    if b != 0:
        ends += [[x, -(a * x + c) / b] for x in (0.0, width - 1.0) if 0 <= -(a * x + c) / b <= height - 1]
    if a != 0:
        ends += [[-(b * y + c) / a, y] for y in (0.0, height - 1.0) if 0 <= -(b * y + c) / a <= width - 1]
    return torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)


@clip_line.equivalent
def borders_as_lines(line, width, height):
    borders = line.new_tensor([[1, 0, 0], [1, 0, 1 - width], [0, 1, 0], [0, 1, 1 - height]])
    meet = torch.linalg.cross(borders, line.expand(4, 3))
    meet = meet[meet[:, 2] != 0]
    meet = meet[:, :2] / meet[:, 2:]
    size = line.new_tensor([width - 1, height - 1])
    return meet[((meet >= -1e-6) & (meet <= size + 1e-6)).all(1)].flip(0)


@clip_line.equivalent
def cut_at_each_border(line, width, height):
    a, b, c = line / line[:2].norm()
    ends = [(-a * c + s * b, -b * c - s * a) for s in (-1e4, 1e4)]  # far outside, on both sides
    for axis, limit, side in [(0, 0, 1), (0, width - 1, -1), (1, 0, 1), (1, height - 1, -1)]:
        away = [side * (end[axis] - limit) for end in ends]
        if max(away) < 0:
            return line.new_zeros(0, 2)
        if min(away) < 0:
            share = away[0] / (away[0] - away[1])
            cut = tuple(p + share * (q - p) for p, q in zip(*ends, strict=True))
            ends[away.index(min(away))] = cut
    return torch.stack([torch.stack(end) for end in ends])


# ---- 9 ---------------------------------------------------------------------------------------------------------------

fix_the_line = Exercise(
    "epipolar.fix_the_line",
    title="Find the bugs",
    points=3,
    contract="fix_the_line(F, x1, columns, width, height) is the pixels (M, 2), int64 and column before row, that lie "
    "nearest to x1's epipolar line at the given columns, of those only the ones in picture 2 (width x height).",
    section="epipolar-mistakes",
    returns="pixels",
)


@fix_the_line.solution
def _(F, x1, columns, width, height):
    a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
    rows = (-(a * columns + c) / b).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return torch.stack([columns, rows], dim=1)[inside]


@fix_the_line.inputs
def _(g):
    def inputs(F, x1, width, height):
        a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
        columns = torch.arange(-12, width + 12)
        rows = -(a * columns + c) / b
        columns = columns[(rows - rows.floor() - 0.5).abs() > 0.05]  # nobody is judged by how halves are rounded
        return {"F": F, "x1": x1, "columns": columns, "width": width, "height": height}

    kinds = {  # the slope, and where the line crosses the middle column, as a share of the height
        "a line that falls": (1.3, 0.5),
        "a line that rises": (-1.7, 0.5),
        "a gentle slope": (0.2, 0.5),
        "a gentle slope that comes in from above": (0.2, 0.0),
        "a gentle slope that leaves below": (0.2, 1.0),
    }
    for name, (slope, share) in kinds.items():
        s = scene(g, 1)
        F, x1 = matrix_of(s), s.x1[0]
        width, height = (int(torch.randint(*limits, (), generator=g)) for limits in [(66, 90), (40, 60)])
        a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
        slope += float(uniform(g, -0.1, 0.1, ()))
        A = EYE.clone()  # moves picture 2 so that the line crosses it in that slope
        A[1, 0], A[1, 2] = slope + a / b, c / b + share * height - slope * width / 2 + 0.123
        yield name, inputs(torch.linalg.inv(A).T @ F, x1, width, height)
    column, row = torch.randint(20, 40, (2,), generator=g).tolist()
    F = geometry.skew(torch.tensor([column, row, 1], dtype=torch.float64))
    x1 = torch.tensor([column + 16.0, row + 11.0 + 16 * float(uniform(g, 0.05, 0.5, ()))], dtype=torch.float64)
    yield "a camera that only moves, where F[2, 2] is 0", inputs(F, x1, 64, 48)


def row_of(F, x1, columns):
    a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
    return -(a * columns + c) / b


def kept(columns, rows, inside):
    return torch.stack([columns, rows], dim=1)[inside]


def within(columns, rows, width, height):
    return (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)


@fix_the_line.misconception("This is still the program as it was given: it has three faults.")
def as_given(F, x1, columns, width, height):
    F = F / F[2, 2]
    a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
    rows = (-(a * columns + c) / b).long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0)
    return torch.stack([columns, rows], dim=1)[inside]


@fix_the_line.misconception("One fault is mended, the bound check; two are left: look at the rows, and at F's scale.")
def only_bounds_mended(F, x1, columns, width, height):
    rows = row_of(F / F[2, 2], x1, columns).long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception("One fault is mended, the rounding; two are left: try a steep line, and look at F's scale.")
def only_rounding_mended(F, x1, columns, width, height):
    rows = row_of(F / F[2, 2], x1, columns).round().long()
    return kept(columns, rows, (columns >= 0) & (columns < width) & (rows >= 0))


@fix_the_line.misconception(
    "One fault is mended, F's scale; two are left: look at how a row is found, and at a steep line."
)
def only_division_mended(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).long()
    return kept(columns, rows, (columns >= 0) & (columns < width) & (rows >= 0))


@fix_the_line.misconception(
    "One fault is left, the division by F[2, 2]: it is 0 where the camera only moves, and a line needs no scale.",
    read="fundamental-matrix",
)
def division_left(F, x1, columns, width, height):
    rows = row_of(F / F[2, 2], x1, columns).round().long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception(
    "One fault is left, the truncation: the nearest row is the rounded one.", read="pixel-indices"
)
def truncation_left(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception(
    "One fault is left, a comparison missing in the bound check: rows below the picture are kept.", read="pixel-indices"
)
def bound_left(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round().long()
    return kept(columns, rows, (columns >= 0) & (columns < width) & (rows >= 0))


@fix_the_line.misconception(
    "The bound check allows a row equal to the height: the last one is height - 1.", read="pixel-indices"
)
def height_allowed(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round().long()
    return kept(columns, rows, (columns >= 0) & (columns < width) & (rows >= 0) & (rows <= height))


@fix_the_line.misconception("The rows are now held against the width: rows end at the height.", read="pixel-indices")
def width_for_height(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round().long()
    return kept(columns, rows, (columns >= 0) & (columns < width) & (rows >= 0) & (rows < width))


@fix_the_line.misconception("Rows outside are moved to the edge: the line is not there, so leave these pixels out.")
def rows_held(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round().long().clamp(0, height - 1)
    return kept(columns, rows, (columns >= 0) & (columns < width))


@fix_the_line.misconception("The rows are rounded down: the nearest row may be the next one.", read="pixel-indices")
def rows_floored(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).floor().long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception(
    "Half is added and the rest cut off: below 0 that goes towards 0, so that a row above the picture becomes row 0.",
    read="pixel-indices",
)
def half_added_and_rows_cut_off(F, x1, columns, width, height):
    rows = (row_of(F, x1, columns) + 0.5).long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception(
    "F was transposed: the line of x1 is F x1, as the given program has it.", read="epipolar-lines"
)
def line_of_the_transpose(F, x1, columns, width, height):
    rows = row_of(F.T, x1, columns).round().long()
    return kept(columns, rows, within(columns, rows, width, height))


@fix_the_line.misconception(
    "The rows are rounded but still floats: an index into a picture is a whole number, int64.", read="pixel-indices"
)
def rows_left_as_floats(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round()
    return kept(columns.double(), rows, within(columns, rows, width, height))


@fix_the_line.misconception("Row and column are swapped: a pixel is (column, row) here.", read="pixel-indices")
def row_before_column_on_the_line(F, x1, columns, width, height):
    rows = row_of(F, x1, columns).round().long()
    return torch.stack([rows, columns], dim=1)[within(columns, rows, width, height)]


@fix_the_line.equivalent
def with_the_length_of_f(F, x1, columns, width, height):
    F = F / F.norm()
    a, b, c = F[:, :2] @ x1 + F[:, 2]
    rows = torch.floor(-(a * columns + c) / b + 0.5).to(torch.int64)
    inside = (0 <= columns) & (columns < width) & (0 <= rows) & (rows < height)
    return torch.stack([columns[inside], rows[inside]], dim=1)


@fix_the_line.equivalent
def column_by_column(F, x1, columns, width, height):
    x, y = x1.tolist()
    a, b, c = (F @ torch.tensor([x, y, 1.0], dtype=torch.float64)).tolist()
    pixels = []
    for column in columns.tolist():
        row = round(-(a * column + c) / b)
        if 0 <= column < width and 0 <= row < height:
            pixels.append([column, row])
    return torch.tensor(pixels, dtype=torch.int64)


@fix_the_line.equivalent
def bounds_before_the_whole_numbers(F, x1, columns, width, height):
    a, b, c = F @ torch.tensor([*x1.tolist(), 1.0], dtype=F.dtype)
    rows = torch.round(-(a * columns + c) / b)
    pixels = torch.stack([columns.to(rows), rows], dim=1)
    size = torch.tensor([width, height])
    return pixels[((pixels > -0.5) & (pixels < size - 0.5)).all(1)].long()
