# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 7: Two views of one scene
#
# By the end, a few hundred matched points in two pictures tell you where the cameras stood and what the scene looks
# like in three dimensions: the numbers come out of what you wrote. On the way you build a camera, send a pixel out to
# many depths, squeeze all of them into one matrix, and estimate that matrix when nobody tells you the cameras. Then you
# find three bugs in somebody else's program.
#
# **How it works**
#
# - Write the missing lines (mostly one to six), run the cell, run the check below it. Repeat as often as you like.
# - Look at the picture. It is drawn with *your* function once the check is content.
# - Stuck? Open the hints one at a time, or go on: until yours is right, the course's finished function stands in.
#
# **Time** about three hours to write; about half a minute to run. No GPU, no network.
#
# Read it beside the chapter, [Epipolar geometry](../../book/epipolar.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from course_utils import geometry
from course_utils.data import load_temple
from course_utils.exercises import check, grade, working
from course_utils.geometry import Camera, line_distance, sampson_distance
from course_utils.plotting import BLUE, GREEN, GREY, ORANGE, PINK
from course_utils.plotting_geometry import draw_cameras, draw_line, draw_point, equal_box, show_view, turntable, upright
from course_utils.temple import render

# %% [markdown]
# ## The scene
#
# A small temple that lies on its side, and sixteen cameras around it. The course drew it, so everything is known
# exactly: the cameras, the depth of each pixel, the points that two views share. You always see what is right.
#
# Two conventions save much trouble.
#
# - All numbers are `float64`. A point of the world is a row of `(N, 3)`, a pixel a row of `(N, 2)`.
# - A pixel is (x, y), which is (*column*, *row*): x to the right, y *down*, and whole numbers are pixels' centres. A
#   picture is an array `image[row, column]`, the other way round.

# %%
temple = load_temple()
cameras = temple.cameras  # each has .K (3, 3), .R (3, 3) and .t (3,)
camera1, camera4 = cameras[0], cameras[3]
height, width = 480, 640


def view(i):
    """View i as a tensor (height, width, 3), from 0 to 1."""
    return torch.from_numpy(temple.images[i] / 255)


x = torch.tensor([500.0, 200.0], dtype=torch.float64)  # a pixel of view 1: column 500, row 200
view1, view4 = view(0), view(3)
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
draw_point(x, show_view(view1, left, "view 1"))
show_view(view4, right, "view 4: where is the spot?")
plt.show()

# %% [markdown]
# ## 1. A camera
#
# ### Exercise 7.1: World points to pixels
#
# A camera is three things: a matrix $K$ (focal lengths and the picture's centre, in pixels), a rotation $R$ and a shift
# $t$. A world point $X$ has the camera's coordinates $R X + t$, whose third entry is the *depth* $z$. Its pixel is
#
# $$z \begin{pmatrix} x \\ y \\ 1 \end{pmatrix} = K\,(R X + t).$$
#
# The three letters, one after the other: [The pinhole camera](../../book/epipolar.md#pinhole).


# %% solution="project"
def project(K, R, t, X):
    """The pixels (N, 2) of world points X (N, 3), not rounded."""
    ### BEGIN SOLUTION
    x, y, z = ((X @ R.T + t) @ K.T).T
    return torch.stack([x / z, y / z], dim=1)
    ### END SOLUTION


# %% tests="project_test" points=2
check("epipolar.project", project)
### BEGIN HIDDEN TESTS
grade("epipolar.project", project)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# For one point it would be `K @ (R @ X + t)` and then a division. By what? And what changes when the points are *rows*?
#
# </details>
# <details><summary>Hint 2</summary>
#
# For rows, $R X$ becomes `X @ R.T`, because $(R X)^\top = X^\top R^\top$. The same holds for $K$. Adding `t` needs
# nothing special.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One line for `x = (...) @ K.T`, which is (N, 3). Then the first two columns divided by the third: `x[:, 2:]` keeps it
# a column (N, 1), so that the division broadcasts.
#
# </details>

# %%
to_pixels = working("epipolar.project", globals())
seen = temple.visible[0]  # the exact points that view 1 sees
x1 = to_pixels(camera1.K, camera1.R, camera1.t, temple.points)
_, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
show_view(view1, ax, "the temple's exact points, by your camera 1")
ax.scatter(*x1[seen].T, s=6, color=BLUE, label=f"{seen.sum()} points that view 1 sees")
ax.scatter(*x1[~seen].T, s=6, color=ORANGE, label=f"{(~seen).sum()} hidden ones")
ax.legend(loc="lower right", fontsize=8)
plt.show()

# %% [markdown]
# **Look:** every point lands on the temple, and none beside it. But the orange ones lie on the back and on inner walls:
# your formula puts them on the picture all the same. A projection does not know what stands in the way.
#
# ### Exercise 7.2: What the picture shows there
#
# Which colour has the picture at a projected point? Its place is hardly ever a whole number, and may be outside. Three
# lines of code, and three classic bugs: [A pixel and its index](../../book/epipolar.md#pixel-indices).


# %% solution="look_up"
def look_up(image, x):
    """The values (N, C) of image (height, width, C) at the pixels nearest to the places x (N, 2), column before row.

    0 where that nearest pixel is not in the picture.
    """
    ### BEGIN SOLUTION
    height, width = image.shape[:2]
    column, row = x.round().long().T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = image.new_zeros(len(x), image.shape[2])
    values[inside] = image[row[inside], column[inside]]
    return values
    ### END SOLUTION


# %% tests="look_up_test" points=2
check("epipolar.look_up", look_up)
### BEGIN HIDDEN TESTS
grade("epipolar.look_up", look_up)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What is the nearest pixel of column 3.7? And what does `image[-1]` give in Python: an error?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `column, row = x.round().long().T` gives two tensors of whole numbers. *Then* comes the test for inside: four
# comparisons, joined by `&`, each in brackets.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Start from `values = image.new_zeros(len(x), image.shape[2])`. With a mask `inside` (N,) of True and False, set
# `values[inside]` to the picture at `row[inside]` and `column[inside]`, in this order.
#
# </details>

# %%
colour_at = working("epipolar.look_up", globals())
turn = upright(cameras)  # so that the temple stands
colours = colour_at(view1, x1)
standing = temple.points @ turn.T
figure = plt.figure(figsize=(9, 4), layout="constrained")
for k, (azim, title) in enumerate([(-90, "from camera 1's side"), (90, "from behind")]):
    ax = figure.add_subplot(1, 2, k + 1, projection="3d", azim=azim, elev=12)
    ax.scatter(*standing.T, c=colours.numpy(), s=7, depthshade=False)
    equal_box(ax, standing, zoom=1.2)
    ax.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# **Look:** you coloured a cloud of points with a photograph. From the front it is right.
#
# **What looks odd:** the back has colours too, though view 1 never saw it. Where do they come from?
#
# <details><summary>An answer</summary>
#
# From what stands in front of it. All points on one ray have the same pixel, so they get the same colour: the front's.
# A single view cannot tell them apart, and the next section is about exactly that.
#
# </details>

# %% [markdown]
# ## 2. One pixel, many depths
#
# ### Exercise 7.3: A pixel back into the world
#
# Solve the camera's equation for $X$. One number is missing, the depth $z$; suppose you know it:
#
# $$X = R^\top \left( z\, K^{-1} \begin{pmatrix} x \\ y \\ 1 \end{pmatrix} - t \right).$$
#
# See [Back-projection](../../book/epipolar.md#back-projection). The 1 is appended so often from here on that it gets a
# function of its own:


# %%
def homogeneous(x):
    """(..., D) -> (..., D + 1), with a 1 appended: (x, y) becomes (x, y, 1)."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


# %% solution="back_project"
def back_project(K, R, t, x, depth):
    """The world points (N, 3) at the pixels x (N, 2) and the depths z (N,) in the camera's coordinates."""
    ### BEGIN SOLUTION
    rays = homogeneous(x) @ torch.linalg.inv(K).T  # (N, 3), and their z is 1
    return (depth[:, None] * rays - t) @ R
    ### END SOLUTION


# %% tests="back_project_test" points=2
check("epipolar.back_project", back_project)
### BEGIN HIDDEN TESTS
grade("epipolar.back_project", back_project)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Undo the camera's steps, the last one first: $K$, the division, $t$, $R$. Which of the four matrices and vectors can
# be undone by a transpose?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `homogeneous(x)` appends the 1: (N, 2) becomes (N, 3). For rows, $K^{-1} x$ is `... @ torch.linalg.inv(K).T`. Leave
# the third entry at 1: the depth is z, not the length of the ray.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `depth[:, None] * rays`, minus `t`, and then $R^\top$ for rows: multiplying by $R^\top$ from the left is `@ R` from
# the right.
#
# </details>

# %%
to_world = working("epipolar.back_project", globals())
depths = torch.linspace(0.4, 0.8, 41, dtype=torch.float64)
ray = to_world(camera1.K, camera1.R, camera1.t, x.expand(41, 2), depths)  # one pixel, 41 depths: (41, 3)
traced = to_pixels(camera4.K, camera4.R, camera4.t, ray)  # seen by camera 4: (41, 2)
true_depth = temple.depth(0)[200, 500]
true_partner = camera4.project(camera1.back_project(x, true_depth))

figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
draw_point(x, show_view(view1, axes[0], "view 1: one pixel"))
show_view(view4, axes[1], "view 4: its points at 41 depths")
dots = axes[1].scatter(*traced.T, c=depths, s=16, cmap="plasma", vmin=0.48, vmax=0.6)
draw_point(true_partner, axes[1], color=GREEN)
figure.colorbar(dots, label="depth", extend="both")
plt.show()
print(f"true depth {true_depth:.3f}, true partner ({true_partner[0]:.1f}, {true_partner[1]:.1f}): the green ring")

# %% [markdown]
# **Look:** the dots lie on a straight line, and so they must: a straight ray is a straight line in every picture. The
# right partner is one of them. That is the answer to the first question, up to one number.
#
# The dots are not evenly spaced, though the depths are. Points far from camera 4 crowd together; where do they end, at
# infinite depth? ([Epipoles](../../book/epipolar.md#epipoles) has the other end.)

# %% [markdown]
# ## 3. All depths at once
#
# Now the same line without trying any depth. Camera 1, camera 4 and the point span a plane; that the two rays lie in
# one plane is *one equation* between the two pixels:
#
# $$\tilde x_2^\top F\, \tilde x_1 = 0, \qquad F = K_2^{-\top}\, [t]_\times R\, K_1^{-1}, \qquad
# \tilde x = (x, y, 1)^\top .$$
#
# Three steps lead there: $[t]_\times$, then $R$ and $t$, then $F$.
#
# ### Exercise 7.4: The cross product as a matrix
#
# $a \times b$ is linear in $b$. So there is a matrix $[a]_\times$ with $[a]_\times b = a \times b$ for every $b$:
# [The cross product](../../book/epipolar.md#cross-product).


# %% solution="skew"
def skew(a):
    """The matrix (3, 3) with skew(a) @ b = a x b for every b (3,); a is (3,)."""
    ### BEGIN SOLUTION
    x, y, z = a
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    ### END SOLUTION


# %% tests="skew_test" points=1
check("epipolar.skew", skew)
### BEGIN HIDDEN TESTS
grade("epipolar.skew", skew)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write down $a \times b$ with letters. Its first entry is $a_y b_z - a_z b_y$: which row of the matrix gives that?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Zeros on the diagonal ($a \times a = 0$), and below it the same entries as above with the other sign. Only three
# numbers are to be placed.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The rows are $(0, -z, y)$, $(z, 0, -x)$, $(-y, x, 0)$. `x, y, z = a` takes `a` apart, and
# `torch.tensor([[...], [...], [...]], dtype=a.dtype)` makes a matrix of nine numbers.
#
# </details>

# %%
cross_matrix = working("epipolar.skew", globals())
centres = torch.stack([camera.centre for camera in cameras])
up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
W = cross_matrix(2 * torch.pi / 16 * up)  # a turn by a sixteenth, as a vector along its axis
arms = centres - centres.mean(0)
velocity = arms @ W.T

_, ax = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
ax.quiver(
    *centres[:, [0, 2]].T, *velocity[:, [0, 2]].T, angles="xy", scale_units="xy", scale=1, color=BLUE, width=0.006
)
ax.scatter(*centres[:, [0, 2]].T, color=GREY, s=18)
ax.scatter(*temple.points[:, [0, 2]].T, s=1, color="#B08D57")
ax.set(aspect="equal", xlabel="x", ylabel="z", title="the cameras from above, and a x b")
ax.invert_yaxis()
plt.show()
moved = arms @ torch.linalg.matrix_exp(W).T
print(f"exp([a]x) moves each camera to the next: off by {(moved - arms.roll(-1, 0)).norm(dim=1).max():.0e}")

# %% [markdown]
# **Look:** $a$ points up, out of the picture, and $a \times b$ is at right angles to each arm $b$: the direction in
# which the ring turns. So the same little matrix describes rotations: its exponential is the turn itself.
#
# It sends $a$ to zero, so its rank is 2 and not 3. Keep that in mind.
#
# ### Exercise 7.5: From one camera to the other
#
# For two views the world's own frame is one too many. Leave it out: which $R$ and $t$ lead from camera 1's
# coordinates of a point to camera 2's? See [The reference frame](../../book/epipolar.md#relative-pose).


# %% solution="relative_pose"
def relative_pose(R1, t1, R2, t2):
    """(R, t) with X2 = R X1 + t, where X1 = R1 X + t1 and X2 = R2 X + t2 for a world point X (3,)."""
    ### BEGIN SOLUTION
    R = R2 @ R1.T
    return R, t2 - R @ t1
    ### END SOLUTION


# %% tests="relative_pose_test" points=2
check("epipolar.relative_pose", relative_pose)
### BEGIN HIDDEN TESTS
grade("epipolar.relative_pose", relative_pose)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Take a pencil. Solve $X_1 = R_1 X + t_1$ for $X$, and put the result into the other equation.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $X = R_1^\top (X_1 - t_1)$. What stands before $X_1$ in the end is $R$; all the rest is $t$.
#
# </details>
# <details><summary>Hint 3</summary>
#
# $R = R_2 R_1^\top$. $t$ is not $t_2 - t_1$: the two are written in different axes, so $t_1$ has to be turned by $R$
# first.
#
# </details>

# %%
pose = working("epipolar.relative_pose", globals())
R, t = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
for i in range(16):  # once around: 1 -> 2 -> ... -> 16 -> 1
    here, there = cameras[i], cameras[(i + 1) % 16]
    R_step, t_step = pose(here.R, here.t, there.R, there.t)
    R, t = R_step @ R, R_step @ t + t_step
print(f"once around the ring: R - I = {(R - torch.eye(3)).abs().max():.0e}, t = {t.abs().max():.0e}")

R, t = pose(camera1.R, camera1.t, camera4.R, camera4.t)
reference, second = Camera(camera1.K, torch.eye(3), torch.zeros(3)), Camera(camera4.K, R, t)
in_camera1 = temple.points @ camera1.R.T + camera1.t
figure = plt.figure(figsize=(9, 4.4))
ahead = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # draws camera 1's z into the page
frames = [
    ("the world's frame", temple.points, [camera1, camera4], turn),
    ("camera 1's frame", in_camera1, [reference, second], ahead),
]
for k, (title, X, pair, way) in enumerate(frames):
    ax = figure.add_subplot(1, 2, k + 1, projection="3d", azim=-70, elev=30)
    ax.scatter(*(X @ way.T).T, s=1, c="#B08D57", alpha=0.5)
    draw_cameras(pair, ax, numbers=[1, 4], size=0.15, turn=way, colors=[BLUE, ORANGE])
    equal_box(ax, torch.cat([X, torch.stack([camera.centre for camera in pair])]) @ way.T)
    where = ", ".join(f"{v:.2f}" for v in (pair[0].centre + 0.0).tolist())
    ax.set_title(f"{title}: camera 1 at ({where})", fontsize=10)
plt.show()

# %% [markdown]
# **Look:** the same scene twice, turned and shifted as a whole: both cameras see what they saw. Nothing in a picture
# says where the world's origin is.
#
# ### Exercise 7.6: The fundamental matrix
#
# The depths drop out of $X_2^\top [t]_\times R\, X_1 = 0$, and $K$ turns rays into pixels:
#
# $$F = K_2^{-\top}\, [t]_\times R\, K_1^{-1}.$$
#
# Derived in full: [The fundamental matrix](../../book/epipolar.md#fundamental-matrix). Use your `skew` and your
# `relative_pose`, or write their lines again.


# %% solution="fundamental"
def fundamental(K1, R1, t1, K2, R2, t2):
    """F (3, 3) with x2^T F x1 = 0 for the pixels (column, row, 1) of one world point. Any scale and sign will do."""
    ### BEGIN SOLUTION
    R = R2 @ R1.T
    t = t2 - R @ t1
    t_cross = torch.stack([torch.linalg.cross(t, e) for e in torch.eye(3, dtype=t.dtype)], dim=1)  # or your skew(t)
    return torch.linalg.inv(K2).T @ t_cross @ R @ torch.linalg.inv(K1)
    ### END SOLUTION


# %% tests="fundamental_test" points=3
check("epipolar.fundamental", fundamental)
### BEGIN HIDDEN TESTS
grade("epipolar.fundamental", fundamental)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The formula, from right to left: a pixel of view 1 becomes a ray, is turned into camera 2's axes, is crossed with the
# baseline, and meets a ray of camera 2. Which of your functions does which?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $K_2^{-\top}$ is the inverse, transposed: `torch.linalg.inv(K2).T`. $x_2$ stands on the left, so camera 2's matrices
# do too.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First `R, t = relative_pose(...)`, then one product of four matrices. Don't divide by `F[2, 2]`: where a camera only
# moves, without turning, it is 0.
#
# </details>

# %%
matrix = working("epipolar.fundamental", globals())
F = matrix(camera1.K, camera1.R, camera1.t, camera4.K, camera4.R, camera4.t)
F = F / F.norm()
columns, rows = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
everywhere = torch.stack([columns, rows], dim=-1).double()  # (height, width, 2)
value = homogeneous(everywhere) @ F @ homogeneous(x)  # x2^T F x1 at every pixel of view 4

_, ax = plt.subplots(figsize=(6.2, 4.2), layout="constrained")
show_view(view4, ax)
shown = ax.imshow(value.abs(), cmap="magma", alpha=0.75, vmax=value.abs().quantile(0.9))
ax.scatter(*traced.T, s=12, color="white", edgecolors="black", linewidths=0.5)
plt.colorbar(shown, label=r"$|\tilde x_2^\top F\, \tilde x_1|$", shrink=0.85)
ax.set_title("view 4: how far from 0, for the marked pixel of view 1", fontsize=10)
plt.show()
x1, x4 = temple.matches(0, 3)
residual = (homogeneous(x4) * (homogeneous(x1) @ F.T)).sum(1).abs().max()
print(f"the largest |x4^T F x1| of {len(x1)} exact matches: {residual:.0e}")
print(f"singular values of F: {', '.join(f'{s:.2g}' for s in torch.linalg.svdvals(F))}")

# %% [markdown]
# **Look:** a dark valley, right under the white dots of Exercise 7.3. Those came from 41 depths; the valley knows of
# none. And the third singular value is 0: the rank 2 of $[t]_\times$, still there.
#
# ### Exercise 7.7: Where the other picture shows it
#
# For a fixed $x_1$, the equation $\tilde x_2^\top (F \tilde x_1) = 0$ is that of a line: with
# $(a, b, c) = F \tilde x_1$, it says $a x + b y + c = 0$. See
# [Epipolar lines](../../book/epipolar.md#epipolar-lines).


# %% solution="epipolar_line"
def epipolar_line(F, x1):
    """The lines (N, 3) of picture 2, rows (a, b, c), of the points x1 (N, 2) of picture 1. Any scale and sign."""
    ### BEGIN SOLUTION
    return homogeneous(x1) @ F.T
    ### END SOLUTION


# %% tests="epipolar_line_test" points=1
check("epipolar.epipolar_line", epipolar_line)
### BEGIN HIDDEN TESTS
grade("epipolar.epipolar_line", epipolar_line)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# $F \tilde x_1$ for one point is a matrix times a vector. And for points as rows?
#
# </details>
# <details><summary>Hint 2</summary>
#
# As in Exercise 7.1: a matrix from the left becomes its transpose from the right. `homogeneous` appends the 1.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One product, `homogeneous(x1) @ ...`. Leave the scale as it is: `b` may be 0, and so may `c`.
#
# </details>

# %%
lines_of = working("epipolar.epipolar_line", globals())
by_depth = line_distance(lines_of(F, x[None]), traced).max()
print(f"the two constructions of the line differ by {by_depth:.0e} pixels")

chosen = x1[:, 0].argsort()[30::90]  # some matches, from left to right
palette = [BLUE, ORANGE, GREEN, PINK, "#E69F00", "#56B4E9", "#8A8A8A"]
_, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
for view_, ax, title in ((view1, axes[0], "view 1"), (view4, axes[1], "view 4: lines, and the true partners")):
    show_view(view_, ax, title)
for i, color in zip(chosen, palette, strict=False):
    draw_point(x1[i], axes[0], color=color)
    draw_line(lines_of(F, x1[i][None])[0], axes[1], color=color, halo=False)
    draw_point(x4[i], axes[1], color=color)
plt.show()

# %% [markdown]
# **Look:** every line runs through the true partner, and no line needed to know the depth. To find a partner, you now
# search along a line and not in a whole picture.
#
# The lines are nearly upright, and nearly parallel: the cameras stand side by side, and in these pictures sideways is
# down, because the temple lies.
#
# ### Exercise 7.8: The part of a line in the picture
#
# `draw_line` above found the ends for you. It has to: at the columns 0 and 639 an upright line may be thousands of
# pixels above or below the picture, or nowhere. Write it yourself:
# [A line in the picture](../../book/epipolar.md#line-in-the-picture).


# %% solution="clip_line"
def clip_line(line, width, height):
    """The two ends (2, 2), in any order, of the line's part with 0 <= x <= width - 1 and 0 <= y <= height - 1.

    line is (a, b, c), (3,). An empty tensor (0, 2) where it misses the picture. (No line here hits a corner exactly.)
    """
    ### BEGIN SOLUTION
    a, b, c = line.tolist()
    ends = []
    if b != 0:
        ends += [[x, -(a * x + c) / b] for x in (0.0, width - 1.0) if 0 <= -(a * x + c) / b <= height - 1]
    if a != 0:
        ends += [[-(b * y + c) / a, y] for y in (0.0, height - 1.0) if 0 <= -(b * y + c) / a <= width - 1]
    return torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)
    ### END SOLUTION


# %% tests="clip_line_test" points=3
check("epipolar.clip_line", clip_line)
### BEGIN HIDDEN TESTS
grade("epipolar.clip_line", clip_line)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A line that enters the picture crosses its border twice. There are four borders: where does the line meet each, and
# which of these places lie in the picture?
#
# </details>
# <details><summary>Hint 2</summary>
#
# At the left and right border $x$ is known and $y = -(a x + c) / b$; at the other two $y$ is known. If $b = 0$, skip
# the first two; if $a = 0$, skip the last two. Keep a place if its *other* coordinate lies in the picture.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `a, b, c = line.tolist()`, an empty list, and `if b != 0:` one line that appends for `x in (0.0, width - 1.0)`; the
# same for `y` with `if a != 0:`. At the end `torch.tensor(ends, dtype=line.dtype).reshape(-1, 2)`: it also makes the
# empty list a (0, 2).
#
# </details>

# %%
ends_of = working("epipolar.clip_line", globals())
closer = Camera(camera1.K, camera1.R, camera1.t + torch.tensor([0.0, 0.0, -0.1]))  # camera 1, a step forward
view_closer = torch.from_numpy(render(closer) / 255)
F_closer = geometry.fundamental(camera1, closer)
first, _ = temple.matches(0, 1)

_, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
show_view(view1, axes[0], "view 1")
show_view(view_closer, axes[1], "a step forward")
axes[0].scatter(*first[::23].T, s=14, color=ORANGE, edgecolors="white", linewidths=0.6)
for line in lines_of(F_closer, first[::23]):
    ends = ends_of(line, width, height)
    if len(ends):
        axes[1].plot(*ends.T, color=BLUE, lw=1, marker="o", markersize=3, clip_on=False)
plt.show()
e = geometry.pixels(geometry.epipole(F_closer.T))
print(f"all lines pass through ({e[0]:.1f}, {e[1]:.1f})")

# %% [markdown]
# **Look:** lines in all directions, each from border to border. They meet in one point, the *epipole*: the place where
# this camera sees the other one's centre. Here that is straight ahead (or rather straight behind), so everything seems
# to stream out of the middle, as through a car's windscreen.

# %% [markdown]
# ## 4. When nobody tells you the cameras
#
# You have two photographs, and somebody (or a program) has found the same spots in both. No $K$, no $R$, no $t$. Each
# match gives one equation $\tilde x_2^\top F\, \tilde x_1 = 0$, *linear* in the nine entries of $F$. Eight of them fix
# $F$ up to its scale.
#
# ### Exercise 7.9: Points around zero
#
# First a step that looks like cosmetics and is not. Move the points so that their centroid is 0, and scale them (both
# directions alike) so that their *mean distance* from it is $\sqrt 2$:
# [Normalisation](../../book/epipolar.md#hartley).


# %% solution="normalise"
def normalise(x):
    """(x_n, T): the moved and scaled points (N, 2), and the matrix (3, 3) that does it, (x_n, 1) = T (x, 1)."""
    ### BEGIN SOLUTION
    centre = x.mean(0)
    s = 2**0.5 / (x - centre).norm(dim=1).mean()
    T = torch.diag(torch.stack([s, s, torch.ones_like(s)]))
    T[:2, 2] = -s * centre
    return s * (x - centre), T
    ### END SOLUTION


# %% tests="normalise_test" points=2
check("epipolar.normalise", normalise)
### BEGIN HIDDEN TESTS
grade("epipolar.normalise", normalise)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Two numbers for the centroid, one for the scale. Which matrix (3, 3) scales by $s$ *and* shifts? Multiply out
# $s\,(x - m)$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `(x - centre).norm(dim=1)` holds a distance for each point, and its mean has to become $\sqrt 2$. The matrix has $s$
# twice and a 1 on its diagonal.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `T = torch.eye(3, dtype=x.dtype)`, then `T[0, 0] = T[1, 1] = s` and `T[:2, 2] = -s * centre`: the shift is scaled
# too.
#
# </details>


# %%
def equations(h1, h2):
    """A (N, 9), whose row times the entries of F is x2^T F x1; h1 and h2 are (N, 3)."""
    return (h2[:, :, None] * h1[:, None, :]).reshape(-1, 9)


# %%
to_zero = working("epipolar.normalise", globals())
generator = torch.Generator().manual_seed(0)
fifty = torch.randperm(len(x1), generator=generator)[:50]
noisy1, noisy4 = (v[fifty] + 0.5 * torch.randn(50, 2, generator=generator, dtype=torch.float64) for v in (x1, x4))
(n1, T1), (n4, T4) = to_zero(noisy1), to_zero(noisy4)
raw, tidy = equations(homogeneous(noisy1), homogeneous(noisy4)), equations(homogeneous(n1), homogeneous(n4))

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.scatter(*n1.T, s=12, color=BLUE, label="view 1")
left.scatter(*n4.T, s=12, color=ORANGE, marker="s", label="view 4")
left.set(aspect="equal", title="fifty matches, normalised")
left.invert_yaxis()
left.legend(fontsize=8)
names = ["$xx'$", "$yx'$", "$x'$", "$xy'$", "$yy'$", "$y'$", "$x$", "$y$", "1"]
right.semilogy(names, raw.abs().mean(0), "o--", color=GREY, label="pixels")
right.semilogy(names, tidy.abs().mean(0), "o-", color=BLUE, label="normalised")
right.set(title="mean size of the nine columns of the equations")
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** in pixels the columns differ by a factor of 100,000. Least squares then fits the large ones and hardly
# notices the small ones. Normalised, all nine are of one size.
#
# ### Exercise 7.10: F from eight matches or more
#
# The whole algorithm, in four steps:
#
# 1. Move the points, $T_1 \tilde x_1$ and $T_2 \tilde x_2$, and make the equations $A f = 0$ (the function `equations`
#    above does that).
# 2. The $f$ of length 1 with the smallest $\lVert A f \rVert$ is the last right singular vector of $A$.
# 3. Its 3 × 3 matrix has rank 3, because of the noise. Set its smallest singular value to 0.
# 4. Undo the moving: $F = T_2^\top F_n T_1$.
#
# See [Eight points](../../book/epipolar.md#eight-point).


# %% solution="eight_point"
def eight_point(x1, x2, T1, T2):
    """F (3, 3), of any scale and sign, of matches x1 and x2 (N, 2), N >= 8.

    T1 and T2 are the matrices (3, 3) that normalise x1 and x2: normalise(x1)[1] and normalise(x2)[1].
    """
    ### BEGIN SOLUTION
    h1, h2 = homogeneous(x1) @ T1.T, homogeneous(x2) @ T2.T
    F = torch.linalg.svd(equations(h1, h2)).Vh[-1].reshape(3, 3)
    U, S, Vh = torch.linalg.svd(F)
    S[2] = 0
    return T2.T @ U @ torch.diag(S) @ Vh @ T1
    ### END SOLUTION


# %% tests="eight_point_test" points=3
check("epipolar.eight_point", eight_point)
### BEGIN HIDDEN TESTS
grade("epipolar.eight_point", eight_point)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# One line for each of the four steps, and one more for the second SVD. What does `torch.linalg.svd` return as its third
# part: singular vectors in columns, or in rows?
#
# </details>
# <details><summary>Hint 2</summary>
#
# In rows: `Vh[-1]` is the last one, and `.reshape(3, 3)` makes it the matrix. With eight matches $A$ has eight rows
# and still nine singular vectors on the right: leave `full_matrices` as it is.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `A = equations(homogeneous(x1) @ T1.T, homogeneous(x2) @ T2.T)`. After `U, S, Vh = torch.linalg.svd(...)` set
# `S[2] = 0` and multiply again, `U @ torch.diag(S) @ Vh`. Last: `T2.T @ ... @ T1`.
#
# </details>

# %%
estimate = working("epipolar.eight_point", globals())


def fit(x1, x2):
    """F of matches, normalised."""
    return estimate(x1, x2, to_zero(x1)[1], to_zero(x2)[1])


def off(F):
    """The median distance in view 4 of the exact partners from the lines of F, in pixels."""
    return line_distance(lines_of(F, x1), x4).median().item()


def two_errors(noise):
    """The error with and without normalisation, of fifty random matches with this noise."""
    some = torch.randperm(len(x1), generator=generator)[:50]
    a, b = (v[some] + noise * torch.randn(50, 2, generator=generator, dtype=torch.float64) for v in (x1, x4))
    return off(fit(a, b)), off(geometry.eight_point(a, b, normalise=False))


noises = [0.1, 0.2, 0.5, 1.0, 2.0]
errors = np.array([np.median([two_errors(noise) for _ in range(15)], axis=0) for noise in noises])
noisy1, noisy4 = (v[fifty] + 2 * torch.randn(50, 2, generator=generator, dtype=torch.float64) for v in (x1, x4))
good, plain = fit(noisy1, noisy4), geometry.eight_point(noisy1, noisy4, normalise=False)
_, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", gridspec_kw={"width_ratios": [1.25, 1.25, 1]})
for ax, estimated, title in ((axes[0], good, "normalised"), (axes[1], plain, "not normalised")):
    show_view(view4, ax, f"{title}: {off(estimated):.2f} pixels off")
    for i, color in zip(chosen, palette, strict=False):
        draw_line(lines_of(estimated, x1[i][None])[0], ax, color=color, halo=False)
        draw_point(x4[i], ax, color=color, size=8)
axes[2].loglog(noises, errors[:, 1], "o--", color=GREY, label="not normalised")
axes[2].loglog(noises, errors[:, 0], "o-", color=BLUE, label="normalised")
axes[2].set(xlabel="noise of the matches, pixels", ylabel="error of the lines, pixels")
axes[2].legend(fontsize=8)
plt.show()

# %% [markdown]
# **Look:** two pixels of noise (that is much), fifty matches, no cameras: and the lines on the left are nearly those of
# section 3. The same matches without normalisation give the lines in the middle. On the right, the median of fifteen
# such tries: several times as wrong at little noise, and much more at a lot of it.
#
# ### Wrong matches
#
# Noise is one thing; *wrong* matches are another. Programs that find matches get a good share of them wrong. Let us
# spoil 30 % of four hundred. RANSAC is a dozen lines around your function: draw eight matches, fit, count who agrees;
# keep the best; fit again to all who agree. See [RANSAC](../../book/epipolar.md#ransac).


# %%
def robust_fit(x1, x2, rounds=200, threshold=1.5):
    """F and who agrees with it (N,) bool: the best of many fits to eight matches, then fits to all who agree."""
    generator = torch.Generator().manual_seed(1)
    best = torch.zeros(len(x1), dtype=torch.bool)
    for _ in range(rounds):
        eight = torch.randperm(len(x1), generator=generator)[:8]
        agree = sampson_distance(fit(x1[eight], x2[eight]), x1, x2) < threshold
        best = agree if agree.sum() > best.sum() else best
    for _ in range(5):  # the fit decides who agrees, and those decide the fit
        best = sampson_distance(fit(x1[best], x2[best]), x1, x2) < threshold
    return fit(x1[best], x2[best]), best


generator = torch.Generator().manual_seed(2)
some = torch.randperm(len(x1), generator=generator)[:400]
given1, given4 = (v[some] + 0.3 * torch.randn(400, 2, generator=generator, dtype=torch.float64) for v in (x1, x4))
wrong = torch.arange(400) < 120
given4[wrong] = given4[wrong].roll(1, 0)  # 120 of them get the previous one's partner
F_all, (F_robust, agree) = fit(given1, given4), robust_fit(given1, given4)

_, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
for ax, estimated, title in ((axes[0], F_all, "all matches"), (axes[1], F_robust, "RANSAC")):
    show_view(view4, ax, f"{title}: {off(estimated):.2f} pixels off")
    for i, color in zip(chosen, palette, strict=False):
        draw_line(lines_of(estimated, x1[i][None])[0], ax, color=color, halo=False)
        draw_point(x4[i], ax, color=color, size=8)
plt.show()
print(f"kept: {(agree & ~wrong).sum()} of 280 right matches, and {(agree & wrong).sum()} of 120 wrong ones")

# %% [markdown]
# **Look:** least squares listens to everybody, and so to those who are far off most of all. RANSAC lets the majority
# decide.
#
# **What looks odd:** some wrong matches were kept. Is RANSAC wrong?
#
# <details><summary>An answer</summary>
#
# No: $F$ cannot know. A wrong partner that happens to lie on the right *line* fulfils the equation as well as the true
# one. One equation can refuse a match; it cannot prove one.
#
# </details>

# %% [markdown]
# ## 5. Into three dimensions
#
# ### Exercise 7.11: Back into three dimensions
#
# Now the point itself. With $P = K\,[R \mid t]$, a camera says
# $x = \frac{P_1 \tilde X}{P_3 \tilde X}$ and $y = \frac{P_2 \tilde X}{P_3 \tilde X}$ ($P_i$ is a row of $P$), which is
#
# $$(x P_3 - P_1)\, \tilde X = 0, \qquad (y P_3 - P_2)\, \tilde X = 0 .$$
#
# Two cameras: four linear equations for the four numbers of $\tilde X = (X, 1)$, up to scale. And a point that comes
# out *behind* a camera was not seen by it: leave it out.
# See [Triangulation](../../book/epipolar.md#triangulation).


# %% solution="triangulate"
def triangulate(P1, P2, x1, x2):
    """The world points (M, 3) of exact matches x1 and x2 (N, 2), in order, only those in front of both cameras.

    P1 and P2 are (3, 4). P's last row times (X, 1) is the depth.
    """
    ### BEGIN SOLUTION
    A = torch.cat([x[:, :, None] * P[2] - P[:2] for P, x in ((P1, x1), (P2, x2))], dim=1)  # (N, 4, 4)
    X = torch.linalg.svd(A).Vh[:, -1]
    X = X / X[:, 3:]
    return X[(X @ P1[2] > 0) & (X @ P2[2] > 0), :3]
    ### END SOLUTION


# %% tests="triangulate_test" points=3
check("epipolar.triangulate", triangulate)
### BEGIN HIDDEN TESTS
grade("epipolar.triangulate", triangulate)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Do it for one match first: a matrix of four rows, its last right singular vector, a division. Which entry do you
# divide by, and why must that come before the depth?
#
# </details>
# <details><summary>Hint 2</summary>
#
# For one match the rows are `x1[0] * P1[2] - P1[0]`, `x1[1] * P1[2] - P1[1]`, and the same for camera 2. A loop over
# the matches is fine. `torch.linalg.svd` also takes a whole batch (N, 4, 4).
#
# </details>
# <details><summary>Hint 3</summary>
#
# For all at once: `x1[:, :, None] * P1[2] - P1[:2]` is (N, 2, 4); `torch.cat` of both cameras along `dim=1`, then
# `.Vh[:, -1]` is (N, 4). Divide by `X[:, 3:]`. Keep the rows with `X @ P1[2] > 0` *and* `X @ P2[2] > 0`.
#
# </details>

# %% [markdown]
# Everything comes together. Take the $F$ that RANSAC found and forget $R$ and $t$. With $K$ known, $E = K_2^\top F K_1$
# holds the cameras' pose, in four versions. The right one is the one with the points in front of both cameras
# ([Pose](../../book/epipolar.md#pose)).

# %%
points_of = working("epipolar.triangulate", globals())
E = geometry.essential_from_fundamental(F_robust, camera1.K, camera4.K)
R_found, t_found = geometry.recover_pose(E, camera1.K, camera4.K, given1[agree], given4[agree])
baseline = t.norm()  # the one thing that the pictures do not tell
angle = torch.rad2deg(torch.arccos(((R_found.T @ R).trace() - 1).clamp(-2, 2) / 2))
aside = torch.rad2deg(torch.arccos((t_found @ t / baseline).clamp(-1, 1)))
print(f"the second camera: turned wrongly by {angle:.2f} degrees, its direction by {aside:.2f} degrees")

X = points_of(reference.P, Camera(camera4.K, R_found, t_found).P, x1, x4)
exact = points_of(reference.P, second.P, x1, x4)
_, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for ax, column, title in ((axes[0], 1, "from above"), (axes[1], 0, "from the side")):
    for points, color, size, name in ((baseline * X, BLUE, 12, "from matches alone"), (exact, "black", 3, "exact")):
        across = points[:, column] if column else points[:, 2]
        along = points[:, 2] if column else points[:, 0]
        ax.scatter(across, along, s=size, color=color, label=name, linewidths=0)
    ax.set_title(title, fontsize=10)
    ax.set_aspect("equal", adjustable="datalim")
axes[0].set(xlabel="to the side", ylabel="depth")
axes[1].set(xlabel="depth", ylabel="upwards")
axes[1].legend(fontsize=8)
plt.show()
print(f"depths as computed, {X[:, 2].min():.2f} to {X[:, 2].max():.2f}, are in units of the baseline: the cameras'")
print(f"distance, {baseline:.3f}, is not in the pictures. The picture above is multiplied by it.")
if len(X) == len(exact):
    print(f"points off by {(baseline * X - exact).norm(dim=1).median():.4f} (median), at depths of about 0.56")

# %% [markdown]
# **Look:** a temple from above and from the side, out of two flat pictures and their matches. The shape is right. Two
# things are not.
#
# - The *size* is not in the data: a doll's temple seen from nearby gives the same pictures.
# - The blue points are a little off as a whole, though the lines fit to a fraction of a pixel. Through such a long
#   lens, turning around the temple and moving past it look nearly the same: the pose comes out right to about a degree,
#   and with other random matches it may be two or three. A model may fit its data well and still be wrong in what you
#   want to know.
#
# With the sixteen true cameras you get a cloud all around. The colours are looked up in four views.

# %%
cloud, colours = [], []
for i in (0, 4, 8, 12):
    here, picture = cameras[i], view(i)
    for j in ((i - 1) % 16, i + 1):
        X = points_of(here.P, cameras[j].P, *temple.matches(i, j))
        cloud.append(X)
        colours.append(colour_at(picture, to_pixels(here.K, here.R, here.t, X)))
cloud, colours = torch.cat(cloud), torch.cat(colours)
turntable(
    cloud,
    colours.numpy(),
    alt=f"A cloud of {len(cloud):,} stone-coloured points in the shape of the temple, turning once about the vertical.",
    turn=turn,
    n_frames=24,
)

# %% [markdown]
# **Look:** your temple. No point has a wrong colour now, not even at the back: each was seen by the view that coloured
# it.

# %% [markdown]
# ## 6. Find the bugs
#
# ### Exercise 7.12: Fix the line
#
# A classmate's program marks the pixels of an epipolar line: for each of the given columns, the row nearest to the
# line, and only pixels within the picture. It has *three* faults, all of which occur in published solutions.


# %%
def broken_line(F, x1, columns, width, height):
    F = F / F[2, 2]
    a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
    rows = (-(a * columns + c) / b).long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0)
    return torch.stack([columns, rows], dim=1)[inside]


roll = torch.linalg.matrix_exp(geometry.skew([0.0, 0.0, 0.9]))  # camera 4, held at an angle
tilted = Camera(camera4.K, roll @ camera4.R, roll @ camera4.t)
scenes = {
    "held at an angle": (geometry.fundamental(camera1, tilted), x, torch.from_numpy(render(tilted) / 255)),
    "a step forward": (geometry.skew([320.0, 240.0, 1.0]), torch.tensor([470.0, 320.0]).double(), view_closer),
}


def try_out(program, title):
    """Run a program on two scenes; print what can be counted, and show the pixels that it marks."""
    _, axes = plt.subplots(1, 2, figsize=(9.4, 3.7), layout="constrained")
    for ax, (name, (F, x1, picture)) in zip(axes, scenes.items(), strict=True):
        columns, rows = program(F, x1, torch.arange(-50, width + 50), width, height).T
        a, b, c = F @ homogeneous(x1)
        outside = ((rows < 0) | (rows >= height)).sum()
        error = f", rows {(-(a * columns + c) / b - rows).mean():.2f} too small on average" if len(rows) else ""
        print(f"{title}, {name}: {len(rows)} pixels, {outside} of them outside{error}")
        show_view(picture, ax, f"{title}: {name}")
        draw_line(geometry.epipolar_line(F, x1), ax, color=GREY, linewidth=1)
        ax.scatter(columns, rows, s=3, color=ORANGE, zorder=3)
    plt.show()


try_out(broken_line, "broken")

# %% [markdown]
# (In the second scene the camera only moves, straight ahead. Then $F = [e]_\times$, where $e$ is the epipole, here the
# picture's centre.)
#
# In the left picture, everything looks fine! Only the numbers don't: half a pixel is too small to see, and what lies
# outside the picture isn't drawn. In the right one, the true line (white) stays without a single orange pixel on it
# (some processors turn NaN into row 0: then there is a row of them along the upper edge). Three symptoms, three faults.
#
# Copy the program into the cell below and mend it.


# %% solution="fix_the_line"
def fix_the_line(F, x1, columns, width, height):
    """The pixels (M, 2), int64 and column before row, nearest to x1's line at these columns; only those in the picture.

    F is (3, 3), x1 (2,), columns a tensor of whole numbers. No line here is upright.
    """
    ### BEGIN SOLUTION
    a, b, c = F @ torch.cat([x1, x1.new_ones(1)])
    rows = (-(a * columns + c) / b).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return torch.stack([columns, rows], dim=1)[inside]
    ### END SOLUTION


# %% tests="fix_the_line_test" points=3
check("epipolar.fix_the_line", fix_the_line)
### BEGIN HIDDEN TESTS
grade("epipolar.fix_the_line", fix_the_line)
### END HIDDEN TESTS

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# One symptom at a time. Rows half a pixel too small: which operation always errs to the same side?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Pixels outside: a picture has four borders. No pixel *on the line*: print `F[2, 2]` of the second scene.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One fault is in each of three lines: the first, the third and the fourth. One line can simply go: a line's scale means
# nothing, and neither does that of $F$.
#
# </details>

# %%
try_out(working("epipolar.fix_the_line", globals()), "mended")

# %% [markdown]
# **Look:** no pixel outside, no error to one side, and the second line is there. None of the three faults would have
# shown in a picture of the first scene. More that hide as well:
# [Common mistakes](../../book/epipolar.md#epipolar-mistakes).

# %% [markdown]
# ## 7. In your own words
#
# ### Exercise 7.13: Seven numbers (3 points)
#
# Twenty matches between view 1 and the step forward, with a pixel of noise. Run the cell: it estimates $F$ twice, once
# with step 3 of Exercise 7.10 and once without it, and draws the lines of many points near the epipole.

# %%
generator = torch.Generator().manual_seed(3)
near = temple.points[temple.visible[0]]
near = near[torch.randperm(len(near), generator=generator)[:20]]
a, b = (c.project(near) + torch.randn(20, 2, generator=generator, dtype=torch.float64) for c in (camera1, closer))
F_two = geometry.eight_point(a, b)
Ta, Tb = geometry.normalising_transform(a), geometry.normalising_transform(b)
A = equations(homogeneous(a) @ Ta.T, homogeneous(b) @ Tb.T)
F_three = Tb.T @ torch.linalg.svd(A).Vh[-1].reshape(3, 3) @ Ta  # as it comes: no singular value is set to 0

ring = torch.linspace(0, 2 * torch.pi, 25, dtype=torch.float64)[:-1]
_, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for ax, matrix_, title in ((axes[0], F_three, "without the rank-2 step"), (axes[1], F_two, "with it")):
    centre = geometry.pixels(torch.linalg.svd(matrix_).Vh[-1])  # in view 1
    around = centre + 40 * torch.stack([ring.cos(), ring.sin()], dim=1)
    middle = geometry.pixels(torch.linalg.svd(matrix_.T).Vh[-1])  # in the other view
    for line in geometry.epipolar_line(matrix_, around) @ torch.tensor(
        [[1, 0, float(middle[0]) - 60], [0, 1, float(middle[1]) - 60], [0, 0, 1]], dtype=torch.float64
    ):
        draw_line(line, ax, 121, 121, color=BLUE, halo=False, linewidth=1)
    s = torch.linalg.svdvals(matrix_)
    ax.set(aspect="equal", xlim=(0, 120), ylim=(120, 0), xticks=[], yticks=[])
    ax.set_title(f"{title}\nsingular values 1, {s[1] / s[0]:.1e}, {s[2] / s[0]:.1e}", fontsize=10)
plt.show()

# %% [markdown]
# (Each panel shows 120 × 120 pixels around the place where the lines should meet. The third singular value on the left
# looks like nothing, but so does the second: the entries of $F$ are multiplied by pixels.)
#
# Answer in a few sentences each.
#
# **a)** $F$ has nine entries, but only *seven* numbers in it are free. Where did the other two go?
#
# **b)** Why does the true $F$ have rank 2, and what goes wrong without the rank-2 step? What does the step change, and
# in which sense as little as possible?
#
# **c)** You know $K$, and find $E$ from $F$. How many numbers describe how the second camera stands to the first, how
# many of them do you get, and where in section 5 did you see the missing one?

# %% [markdown] essay="seven_numbers" points=3
# **a) 1 point: half for each.** The scale (and with it the sign) means nothing: $x_2^\top (sF) x_1 = 0$ is the same
# equation, which takes one. $\det F = 0$ is one equation between the entries, which takes another: $9 - 1 - 1 = 7$.
# (Another right count: two epipoles, 2 + 2, and a map between the two bundles of lines, 3.)
#
# **b) 1 point: half for the reason, half for the effect.** Reason: $[t]_\times$ sends $t$ to 0, so that $F$ has a null
# vector; or, in pictures: every line of view 2 passes through the image of camera 1's centre, $e_2^\top F = 0$.
# Effect: an $F$ of rank 3 has no such point, and its lines pass one another (left panel); points near the epipole get
# lines in wrong directions, and there is no epipole to read off. The step replaces $F$ by the nearest matrix of rank 2
# in the sum of squares of the (normalised) entries, which is what dropping the least singular value does.
# Saying only "it sets the smallest singular value to 0" repeats the task: no point.
#
# **c) 1 point.** Six: three for the rotation, three for the shift. Five come out (half a point): the rotation and the
# *direction* of $t$. The missing one is the length of the baseline (half a point with where it was seen): $E$ has no
# scale, the cloud came out in units of the baseline and had to be multiplied by the true one; twice the scene at twice
# the distance gives the same pictures.
#
# Typical wrong answers, no points: "two entries of F are always zero"; "two rows depend on each other, so 6 are free";
# "F is symmetric"; "the rank-2 step removes noise" (it enforces a property of all true F; the fit is no better in each
# entry); "K is missing" in c), where it is given; "eight matches, so eight numbers" (eight equations fix a linear
# problem; seven matches are enough for F if one solves det F = 0 too).

# %% [markdown]
# ### Exercise 7.14: What the pictures leave open (3 points)
#
# So far somebody gave you the matches. To find them, one slides along the line: for each depth $z$, take a small patch
# of view 1, send it out to $z$ and look how well it fits view 2. Run the cell. The *likelihood* says how probable the
# pictures are at each depth. (The 147 differences of a patch count as *one*, with an error of 0.025: neighbouring
# pixels err together, as the patch is foreshortened and looked up at whole pixels. Taken as independent they would make
# the curve far too sure.)

# %%
view2, camera2 = view(1), cameras[1]
grid = torch.linspace(0.50, 0.63, 261, dtype=torch.float64)
offsets = torch.stack(torch.meshgrid(torch.arange(-3, 4), torch.arange(-3, 4), indexing="xy"), -1).reshape(-1, 2)


def misfit(x):
    """The mean squared difference in colour (261,) between the 7 x 7 patch at pixel x of view 1 and view 2."""
    patch = (x + offsets).repeat_interleave(len(grid), 0)  # every pixel at every depth
    X = to_world(camera1.K, camera1.R, camera1.t, patch, grid.repeat(len(offsets)))
    there = colour_at(view2, to_pixels(camera2.K, camera2.R, camera2.t, X))
    return (there - colour_at(view1, patch)).square().mean(1).reshape(len(offsets), -1).mean(0)


spots = {"A": torch.tensor([436.0, 248.0]).double(), "B": torch.tensor([184.0, 217.0]).double()}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", gridspec_kw={"width_ratios": [1.2, 1, 1]})
show_view(view1, axes[0], "view 1")
for ax, color, (name, spot) in zip(axes[1:], (GREEN, ORANGE), spots.items(), strict=True):
    draw_point(spot, axes[0], color=color)
    axes[0].annotate(name, spot.tolist(), (12, -12), textcoords="offset points", color="white", fontsize=13)
    likelihood = torch.exp(-misfit(spot) / (2 * 0.025**2))
    likelihood = likelihood / likelihood.sum()
    truth, mean = temple.depth(0)[int(spot[1]), int(spot[0])], likelihood @ grid
    ax.plot(grid, likelihood, color=color)
    ax.axvline(truth, color="black", lw=1, label=f"true depth {truth:.3f}")
    ax.axvline(mean, color="black", lw=1, ls=":", label=f"mean {mean:.3f}")
    ax.set(title=f"spot {name}", xlabel="depth", ylabel="likelihood", yticks=[])
    ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# Answer in a few sentences each.
#
# **a)** Two pictures, two exactly known cameras, and still spot B has more than one answer. What is missing? Name two
# different reasons for which the pictures alone may not decide.
#
# **b)** You now also know what temples look like, or at least that depths rarely jump. How does this *prior* enter,
# and what does it change at A, and what at B? What would the answer be without any second picture?
#
# **c)** At B, somebody returns the *mean* of the posterior. When is that a bad answer, and what would a *sample* do?
# Compare with a diffusion model: what plays the part of the pictures, of the depth, of the mean, and where does the
# comparison end?

# %% [markdown] essay="what_a_prior_adds" points=3
# **a) 1 point: half for what is missing, half for two reasons.** Missing is the *correspondence*: geometry leaves the
# whole epipolar line, and only the picture's content can choose a place on it. Reasons (two of): the texture repeats
# (flutes, joints, equal columns); the stone is plain, or the structure runs along the line; the spot is hidden in the
# other view; the surface is slanted or shines, so that even the true patch does not fit; noise;
# the likelihood itself is a model of the errors.
#
# **b) 1 point: half for the rule, half for A against B.** Bayes: posterior proportional to likelihood times prior. At A
# the likelihood has one narrow peak, so that any reasonable prior changes next to nothing: where the data suffice
# no prior is needed. At B it decides between peaks that fit about as well, for example for the depth of the
# neighbours. Without a second picture the likelihood is flat, and the answer is the prior itself: what depths are
# usual. Half a point at most for "it makes the result better".
#
# **c) 1 point: half for mean against sample, half for the comparison and its end.** With two peaks the mean lies
# between them, at a depth at which there may be nothing and which hardly fits either picture; it has the least squared
# error and is no possible scene. A sample is one of the peaks, each with its probability. In a diffusion model the
# noisy picture $x_t$ plays the part of the views, $x_0$ that of the depth, and the known forward process that of the
# projection; the network gives $E[x_0 \mid x_t]$, the mean, which at high noise is a blurred average; sampling goes on
# to one of the possible pictures. It ends (any one): there the prior is *learned* from data, here it is written down or
# absent; the forward process there is chosen by us and random, here it is the physics of a camera and exact; here one
# number can be tabulated on a grid, there a picture cannot; a diffusion model samples from pure noise, with no data to
# be true to.
#
# Typical wrong answers, no points: "more matches" or "a better F" (the cameras are exact); "the two cameras are too
# close" (the peaks are far apart compared with their width); "the prior corrects the noise" without what it knows; "the
# mean is always best"; "diffusion models do epipolar geometry inside".

# %% [markdown]
# ## Done
#
# You built a camera and its inverse, the fundamental matrix in two ways, its lines, an estimate from matches, and a
# temple in space; and you know three bugs that pictures do not show.
#
# **Hand in.** Restart the kernel and run all cells, save, and hand in this notebook under its name,
# `07_epipolar.ipynb`. Each check above should be content. Grading runs the same exercises on other numbers.
#
# **Go on.** With a network, `load_temple("download")` gives the real photographs and their measured cameras. What you
# wrote works on them as it is; exact points and depths nobody has there, and matches
# [have to be found](../../book/epipolar.md#matching). The chapter's [quiz](../../book/epipolar.md#epipolar-quiz) asks
# what you should now be able to answer.
