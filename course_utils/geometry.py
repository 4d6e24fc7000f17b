"""Two views of one scene: the fundamental matrix, its estimation from matches, and triangulation.

Everything follows from two pinhole cameras (in cameras.py, where also stands what arrays are) and from one equation:
the pixels x1 and x2 of one point in two views satisfy x2^T F x1 = 0. Source: Hartley & Zisserman 2004, "Multiple View
Geometry", chapters 9 to 12.
"""

import math

import torch

from course_utils.cameras import EYE, TINY, Camera, checked, homogeneous, pixels

__all__ = ["Camera", "homogeneous", "pixels", "skew", "relative_pose", "essential", "fundamental"]
__all__ += ["essential_from_fundamental", "epipole", "epipolar_line", "clip_line", "line_distance", "sampson_distance"]
__all__ += ["normalising_transform", "eight_point", "ransac", "pose_candidates", "recover_pose", "triangulate"]

N_EIGHT = 8  # matches that fix the nine entries of F up to scale


# ---- two cameras -----------------------------------------------------------------------------------------------------


def skew(a):
    """The matrix of the cross product, skew(a) b = a x b: (..., 3) -> (..., 3, 3)."""
    a = checked("a", a, (..., 3))
    x, y, z = a.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*a.shape, 3)


def relative_pose(camera1, camera2):
    """R (3, 3) and t (3,) with X2 = R X1 + t for a point at X1 and X2 in the frames of the two cameras."""
    R = camera2.R @ camera1.R.T
    return R, camera2.t - R @ camera1.t


def essential(camera1, camera2):
    """E = [t]x R (3, 3): X2^T E X1 = 0 for a point in the frames of the two cameras (Longuet-Higgins 1981)."""
    R, t = relative_pose(camera1, camera2)
    return skew(t) @ R


def fundamental(camera1, camera2):
    """F = K2^-T [t]x R K1^-1 (3, 3), with x2^T F x1 = 0, of norm 1; its sign means nothing.

    Its norm is that of all nine entries; F[2,2] may be 0. Raises ValueError for two cameras in one place: they see no
    depth, and F would be 0.
    """
    _apart(camera1, camera2)
    F = torch.linalg.inv(camera2.K).T @ essential(camera1, camera2) @ torch.linalg.inv(camera1.K)
    return F / torch.linalg.norm(F)


def _apart(camera1, camera2):
    """Refuses two cameras in one place."""
    far = max(camera1.centre.abs().max(), camera2.centre.abs().max())
    if (camera1.centre - camera2.centre).abs().max() <= TINY * far:
        raise ValueError("the two cameras stand in the same place: without a baseline there is no depth")


def essential_from_fundamental(F, K1, K2):
    """E = K2^T F K1 (3, 3), up to the same scale and sign as F."""
    return checked("K2", K2, (3, 3)).T @ checked("F", F, (3, 3)) @ checked("K1", K1, (3, 3))


def epipole(F):
    """The picture of the other camera's centre, in view 1: e (3,) with F e = 0, of norm 1.

    pixels(e) is its pixel, where it is finite; epipole(F.T) is the one in view 2.
    """
    return torch.linalg.svd(checked("F", F, (3, 3)))[2][-1]


# ---- lines -----------------------------------------------------------------------------------------------------------


def epipolar_line(F, x1):
    """The lines (..., 3) in view 2 on which the partners of pixels x1 (..., 2) lie; for view 1 take F.T and x2.

    A line (a, b, c) holds the pixels with a x + b y + c = 0; a^2 + b^2 = 1, so that this sum is a distance in pixels.
    Raises ValueError for the epipole, whose partners are the whole picture.
    """
    F, x1 = checked("F", F, (3, 3)), homogeneous(checked("x1", x1, (..., 2)))
    line = x1 @ F.T
    length = torch.linalg.norm(line[..., :2], dim=-1, keepdim=True)
    rounding = 1e-12 * torch.linalg.norm(x1.abs() @ F[:2].abs().T, dim=-1, keepdim=True)
    if (length <= rounding).any():
        raise ValueError("a pixel is the epipole (or F is 0): it has no line, its partner may lie anywhere")
    return line / length


def clip_line(line, width, height):
    """The end points (2, 2) of a line (3,) within a picture, from left to right, or downwards where it is vertical.

    The picture reaches from the centre of its first pixel to that of its last: x in [0, width - 1], y in
    [0, height - 1]. A line that misses it, or only touches a corner, has none: (0, 2). Raises ValueError for a line
    without a direction.
    """
    line = checked("line", line, (3,))
    a, b, c = line.tolist()
    length = math.hypot(a, b)
    if length == 0:
        raise ValueError("a and b are both 0: that is no line in the picture")
    point, along = (-c / length * a / length, -c / length * b / length), (b / length, -a / length)
    if along < (0, 0):
        along = (-along[0], -along[1])
    ends = (width - 1, height - 1)
    first, last = -math.inf, math.inf  # of the line's points point + s along
    for start, step, end in zip(point, along, ends, strict=True):
        if step == 0:  # parallel to these two edges: in between, or nowhere
            first, last = (first, last) if 0 <= start <= end else (math.inf, -math.inf)
        else:
            at_edges = sorted([-start / step, (end - start) / step])
            first, last = max(first, at_edges[0]), min(last, at_edges[1])
    if first >= last:
        return line.new_zeros(0, 2)
    found = [[min(max(p + s * d, 0), end) for p, d, end in zip(point, along, ends, strict=True)] for s in (first, last)]
    return line.new_tensor(found)


def line_distance(line, x):
    """The distance in pixels (...,) of pixels x (..., 2) from lines (..., 3).

    Raises ValueError for a line without a direction.
    """
    line, x = checked("line", line, (..., 3)), checked("x", x, (..., 2))
    if (line[..., :2] == 0).all(-1).any():
        raise ValueError("a and b are both 0: that is no line in the picture")
    return (line * homogeneous(x)).sum(-1).abs() / torch.hypot(line[..., 0], line[..., 1])


def sampson_distance(F, x1, x2):
    """How far matches x1, x2 (..., 2) are from x2^T F x1 = 0, in pixels: (...,).

    To first order it is the least movement of both pixels that would fulfil it (Hartley & Zisserman 2004, 11.4.3; they
    give its square). Raises ValueError where F is 0.
    """
    F, x1, x2 = checked("F", F, (3, 3)), checked("x1", x1, (..., 2)), checked("x2", x2, (..., 2))
    if not F.any():
        raise ValueError("F is 0: it tells no match from another")
    line2, line1 = homogeneous(x1) @ F.T, homogeneous(x2) @ F
    gradient = ((line2[..., :2] ** 2).sum(-1) + (line1[..., :2] ** 2).sum(-1)).sqrt()
    return (line2 * homogeneous(x2)).sum(-1).abs() / gradient


# ---- estimation from matches -----------------------------------------------------------------------------------------


def normalising_transform(x):
    """T (3, 3), by which pixels x (N, 2) get their centroid at 0 and a mean distance of sqrt(2) from it (Hartley 1997).

    Raises ValueError where all pixels are one.
    """
    x = checked("x", x, ("N", 2))
    centre = x.mean(0)
    distance = torch.linalg.norm(x - centre, dim=1).mean()
    if distance <= TINY * x.abs().max():
        raise ValueError("all points are one and the same: they tell nothing")
    scale = math.sqrt(2) / distance
    T = torch.diag(torch.stack([scale, scale, torch.ones_like(scale)]))
    T[:2, 2] = -scale * centre
    return T


def eight_point(x1, x2, normalise=True):
    """F (3, 3) from N >= 8 matches x1, x2 (N, 2), of rank 2 and norm 1: the eight-point algorithm (Hartley 1997).

    Least squares of x2^T F x1 over the matches, then the nearest matrix of rank 2. `normalise` makes the pixels of
    order 1 first: without it the products, from 1 to 10^5, drown the small ones in noise. Raises ValueError for fewer
    than 8 matches, and where they leave F open: points on a line or a plane, or one repeated. Only where they do so
    exactly: noise hides it, and then an F comes out that means nothing.
    """
    x1, x2 = _matches(x1, x2)
    T1, T2 = normalising_transform(x1), normalising_transform(x2)
    F, spread = _least_squares(x1, x2, T1, T2)
    if spread <= TINY:
        raise ValueError(f"these {len(x1)} matches leave F open: {_why_open(x1, x2)}")
    if not normalise:
        F, _ = _least_squares(x1, x2, EYE, EYE)
    return F


def _least_squares(x1, x2, T1, T2):
    """F of rank 2 in pixels, from the pixels moved by T1 and T2; and how far the matches are from leaving it open."""
    h1, h2 = homogeneous(x1) @ T1.T, homogeneous(x2) @ T2.T
    products = (h2[:, :, None] * h1[:, None, :]).reshape(-1, 9)  # a row times F's entries is x2^T F x1
    # a row of zeros: of 8 matches, too, the thin decomposition then has the ninth direction, which is F
    _, s, Vt = torch.linalg.svd(torch.cat([products, products.new_zeros(1, 9)]), full_matrices=False)
    U, s_F, Vt_F = torch.linalg.svd(Vt[-1].reshape(3, 3))
    s_F[2] = 0  # the nearest matrix of rank 2
    F = T2.T @ U @ s_F.diag() @ Vt_F @ T1
    return F / torch.linalg.norm(F), s[7] / s[0]


def _why_open(x1, x2):
    for name, x in (("x1", x1), ("x2", x2)):
        if len(x.unique(dim=0)) < N_EIGHT:
            return f"only {len(x.unique(dim=0))} of {name} are different; 8 are needed"
        s = torch.linalg.svdvals(x - x.mean(0))
        if s[1] <= TINY * s[0]:
            return f"all of {name} lie on one line"
    return "the points lie on one plane (or on a curved surface through both cameras), or the camera only turned"


def ransac(x1, x2, threshold=1.0, confidence=0.999, max_rounds=5000, seed=0):
    """F and the inliers (N,) bool of matches x1, x2 (N, 2), some of them wrong (Fischler & Bolles 1981).

    In a round 8 matches drawn at random give an F, and those whose Sampson distance is at most the threshold, in
    pixels, agree with it. Rounds go on until one has drawn 8 right matches with this confidence, if as many are right
    as agree with the best F so far. At the end F is fitted to all that agree. The same seed gives the same result.
    Raises ValueError where no F has more than the 8 matches that it was made of, and where all that are drawn leave F
    open.
    """
    x1, x2 = _matches(x1, x2)
    if not (threshold > 0 and 0 < confidence < 1 and max_rounds >= 1):
        raise ValueError("the threshold must be positive, the confidence between 0 and 1, and the rounds at least 1")
    generator = torch.Generator().manual_seed(seed)
    best, rounds, needed = torch.zeros(len(x1), dtype=torch.bool), 0, max_rounds
    F = why = None
    while rounds < needed:
        rounds += 1
        sample = torch.randperm(len(x1), generator=generator)[:N_EIGHT]
        try:
            F = eight_point(x1[sample], x2[sample])
        except ValueError as error:  # eight that leave F open: on a line, say
            why = error
            continue
        inliers = sampson_distance(F, x1, x2) <= threshold
        if inliers.sum() > best.sum():
            best = inliers
            needed = min(max_rounds, _rounds_needed(inliers.double().mean().item(), confidence))
    if F is None:
        raise ValueError(f"every draw of {N_EIGHT} matches leaves F open; the last one: {why}")
    for _ in range(10):  # the fit decides who agrees, and those decide the fit
        if best.sum() <= N_EIGHT < len(x1) or best.sum() < N_EIGHT:
            raise ValueError(f"no fundamental matrix agrees with more than {N_EIGHT} of the {len(x1)} matches")
        F = eight_point(x1[best], x2[best])
        before, best = best, sampson_distance(F, x1, x2) <= threshold
        if (best == before).all():
            break
    return F, best


def _rounds_needed(share, confidence):
    """Rounds after which 8 right matches were drawn once with this confidence, a share of them being right."""
    all_right = share**N_EIGHT
    return 1 if all_right >= 1 else math.ceil(math.log(1 - confidence) / math.log1p(-all_right))


# ---- pose and points -------------------------------------------------------------------------------------------------


def pose_candidates(E):
    """The four pairs R (3, 3), t (3,) that an essential matrix allows, with |t| = 1: the scale can't be known."""
    U, _, Vt = torch.linalg.svd(checked("E", E, (3, 3)))
    U, Vt = U * torch.linalg.det(U), Vt * torch.linalg.det(Vt)  # rotations; E's sign is free
    W = skew(EYE[2]) + torch.diag(EYE[2])  # a quarter turn about z
    return [(U @ turn @ Vt, sign * U[:, 2]) for turn in (W, W.T) for sign in (1, -1)]


def recover_pose(E, K1, K2, x1, x2):
    """R (3, 3) and t (3,), |t| = 1, of camera 2 in the frame of camera 1, from E and matches x1, x2 (N, 2).

    Of the four candidates, the one with the most matches before both cameras. Raises ValueError where two have as many.
    """
    x1, x2 = _matches(x1, x2, at_least=1)
    first = Camera(K1, EYE, torch.zeros(3))
    candidates = pose_candidates(E)
    in_front = []
    for R, t in candidates:
        X = triangulate(first, Camera(K2, R, t), x1, x2, strict=False)
        in_front.append(X.isfinite().all(-1).sum().item())
    best = in_front.index(max(in_front))
    if sorted(in_front)[-2] == in_front[best]:
        raise ValueError(
            f"the matches do not tell the four poses apart: {in_front} of {len(x1)} lie before both cameras"
        )
    return candidates[best]


def triangulate(camera1, camera2, x1, x2, strict=True):
    """The points (..., 3) of the world that are seen at x1 in view 1 and x2 in view 2, both (..., 2).

    Linear least squares (Hartley & Zisserman 2004, 12.2), exact for exact pixels. A point behind a camera or at
    infinity is refused: with ValueError, or with NaN where `strict` is False. Raises ValueError for two cameras in one
    place.
    """
    _apart(camera1, camera2)
    x1, x2 = checked("x1", x1, (..., 2)), checked("x2", x2, (..., 2))
    if x1.shape != x2.shape:
        raise ValueError(
            f"x1 has shape {tuple(x1.shape)} and x2 {tuple(x2.shape)}; give one pixel in each view for every point"
        )
    rows = []
    for camera, x in ((camera1, x1), (camera2, x2)):
        P = torch.column_stack([camera.R, camera.t])
        x = (homogeneous(x) @ torch.linalg.inv(camera.K).T)[..., :2]  # of order 1
        rows += [x[..., i, None] * P[2] - P[i] for i in (0, 1)]  # x = P[0] X / P[2] X, without the division
    X = torch.linalg.svd(torch.stack(rows, -2))[2][..., -1, :]  # (..., 4)
    infinite = X[..., 3].abs() <= TINY * torch.linalg.norm(X, dim=-1)
    X = X[..., :3] / X[..., 3].where(~infinite, 1)[..., None]
    refused = infinite | (camera1.depth(X) <= 0) | (camera2.depth(X) <= 0)
    if strict and refused.any():
        raise ValueError(
            f"{refused.sum()} of {refused.numel()} points lie behind a camera or at infinity: "
            "wrong matches, or cameras in the wrong order"
        )
    return X.where(~refused[..., None], math.nan)


def _matches(x1, x2, at_least=N_EIGHT):
    x1, x2 = checked("x1", x1, ("N", 2)), checked("x2", x2, ("N", 2))
    if len(x1) != len(x2):
        raise ValueError(f"{len(x1)} points in view 1 and {len(x2)} in view 2: matches come in pairs")
    if len(x1) < at_least:
        raise ValueError(f"{len(x1)} matches given; at least {at_least} are needed")
    return x1, x2
