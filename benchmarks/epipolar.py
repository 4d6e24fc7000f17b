"""How exact is the geometry of two views, on the drawn temple and on photographs?

Every line of the table is a figure and, where there is one, its bound. Without an argument only the drawn temple is
measured; with a folder or .zip of Middlebury's templeSparseRing (or the word download) also the sixteen photographs.
There the matches are found (SIFT, OpenCV), RANSAC throws out the wrong ones, and those left are held against the lines
of the calibrated cameras, which RANSAC has not seen.

    python benchmarks/epipolar.py [download | FOLDER | ZIP]
"""

import sys

import cv2
import numpy as np
import torch
from tqdm import tqdm

from course_utils.geometry import (
    eight_point,
    epipolar_line,
    essential_from_fundamental,
    fundamental,
    homogeneous,
    line_distance,
    ransac,
    recover_pose,
    relative_pose,
    triangulate,
)
from course_utils.temple import load_temple
from course_utils.temple_scene import HEIGHT, WIDTH

NOISE, N_MATCHES, REPEATS = 0.5, 50, 50
RATIO = 0.8  # a feature's best partner must be so much better than its second (Lowe 2004)
DEPTHS = torch.linspace(0.4, 0.8, 81, dtype=torch.float64)


def median(values):
    return torch.as_tensor(values, dtype=torch.float64).median().item()


def row(what, figure, bound=""):
    print(f"{what:<78}{figure:>14}{bound:>12}", flush=True)


def pairs_of(temple):
    """All ordered pairs of views from different places."""
    for i, one in enumerate(temple.cameras):
        for j, other in enumerate(temple.cameras):
            if (one.centre - other.centre).norm() > 1e-6:
                yield i, j


def constraint(temple):
    """The worst |x2^T F x1| over the sum of its terms' sizes, of all exact matches in all pairs of views."""
    worst = 0
    for i, j in pairs_of(temple):
        x1, x2 = (homogeneous(x) for x in temple.matches(i, j))
        terms = x2[:, :, None] * fundamental(temple.cameras[i], temple.cameras[j]) * x1[:, None, :]
        worst = max([worst, *(terms.sum((1, 2)).abs() / terms.abs().sum((1, 2))).tolist()])
    return worst


def constructions(temple):
    """The widest gap in pixels between a line from F and the same pixel back-projected to depths 0.4 to 0.8."""
    grid = torch.cartesian_prod(torch.linspace(0, WIDTH - 1, 9), torch.linspace(0, HEIGHT - 1, 7)).double()[:, None]
    worst, n = 0, 0
    for i, j in pairs_of(temple):
        one, other = temple.cameras[i], temple.cameras[j]
        traced = other.project(one.back_project(grid, DEPTHS))
        worst = max(worst, line_distance(epipolar_line(fundamental(one, other), grid), traced).max().item())
        n += 1
    return worst, n


def eight_points(temple, i, j):
    """Medians of the distance of exact points from the lines of an F from noisy matches: normalised, and not."""
    x1, x2 = temple.matches(i, j)
    errors = {True: [], False: []}
    for seed in range(REPEATS):
        g = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x1), generator=g)[:N_MATCHES]
        y1, y2 = (x[chosen] + NOISE * torch.randn(N_MATCHES, 2, dtype=torch.float64, generator=g) for x in (x1, x2))
        for normalise, found in errors.items():
            found.append(median(line_distance(epipolar_line(eight_point(y1, y2, normalise), x1), x2)))
    return median(errors[True]), median(errors[False])


def find_matches(one, other):
    """Pixels (N, 2) each of features that look alike in two pictures, wrong ones among them."""
    sift = cv2.SIFT_create()
    (k1, d1), (k2, d2) = (sift.detectAndCompute(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), None) for p in (one, other))
    both = [m for m in cv2.BFMatcher().knnMatch(d1, d2, k=2) if len(m) == 2]
    good = [first for first, second in both if first.distance < RATIO * second.distance]
    x1 = np.array([k1[m.queryIdx].pt for m in good]).reshape(-1, 2)
    return x1, np.array([k2[m.trainIdx].pt for m in good]).reshape(-1, 2)


def found_matches(temple, pairs):
    """A line of figures for each pair: matches, how many RANSAC keeps, and how they fit the calibrated cameras."""
    print(f"\n{'views':<10}{'matches':>9}{'kept':>7}{'median to calibrated line':>27}", end="")
    print(f"{'largest':>9}{'turn off':>10}{'shift off':>11}{'points':>8}")
    everything = []
    for i, j in tqdm(pairs, leave=False, disable=None):
        one, other = temple.cameras[i], temple.cameras[j]
        x1, x2 = find_matches(temple.images[i], temple.images[j])
        F, inliers = ransac(x1, x2, threshold=1.5)
        x1, x2 = torch.from_numpy(x1)[inliers], torch.from_numpy(x2)[inliers]
        distance = line_distance(epipolar_line(fundamental(one, other), x1), x2)
        everything += distance.tolist()
        R, t = recover_pose(essential_from_fundamental(F, one.K, other.K), one.K, other.K, x1, x2)
        true_R, true_t = relative_pose(one, other)
        turn = torch.rad2deg(((R.T @ true_R).trace() / 2 - 0.5).clamp(-1, 1).acos())
        shift = torch.rad2deg((t @ true_t / true_t.norm()).clamp(-1, 1).acos())
        n_points = triangulate(one, other, x1, x2, strict=False).isfinite().all(1).sum()
        print(f"{i + 1:>3} {j + 1:>3}   {len(inliers):>9}{inliers.sum():>7}{distance.median():>24.2f} px", end="")
        print(f"{distance.max():>9.1f}{turn:>8.1f} deg{shift:>7.1f} deg{n_points:>8}", flush=True)
    return median(everything)


def main():
    drawn = load_temple()
    print(f"\n{'the drawn temple':<78}{'measured':>14}{'bound':>12}")
    row("x2^T F x1 of exact matches, all pairs of views, as part of its terms", f"{constraint(drawn):.1e}", "1e-10")
    gap, n = constructions(drawn)
    row(f"gap between both constructions of the line, {n} pairs", f"{gap:.1e} px", "0.01 px")
    for i, j in ((3, 4), (0, 1), (0, 3)):
        with_it, without = eight_points(drawn, i, j)
        views = f"views {i + 1} and {j + 1}, {N_MATCHES} matches, noise {NOISE} px"
        row(f"eight points, {views}: normalised", f"{with_it:.2f} px", "1.5 px")
        row(
            f"    not normalised: {without:.2f} px, worse by",
            f"{without / with_it:.1f} times",
            "5" if j == i + 1 else "",
        )
    for source in sys.argv[1:]:
        real = load_temple(source)
        print(f"\n{'photographs':<78}{'measured':>14}{'bound':>12}")
        gap, n = constructions(real)
        row(f"gap between both constructions of the line, {n} pairs", f"{gap:.1e} px", "0.01 px")
        near = [(i, j) for i, j in pairs_of(real) if i < j and angle(real, i, j) < 30]
        overall = found_matches(real, near)
        print()
        row("median distance of all kept matches from the calibrated cameras' lines", f"{overall:.2f} px", "2 px")


def angle(temple, i, j):
    """Between the directions in which two cameras look, in degrees."""
    return np.rad2deg(np.arccos(np.clip(float(temple.cameras[i].R[2] @ temple.cameras[j].R[2]), -1, 1)))


if __name__ == "__main__":
    main()
