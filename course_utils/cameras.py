"""A pinhole camera, and the pixels and points that go through it.

depth * (x, y, 1) = K (R X + t). All is torch, as in the rest of the course, but in float64: float32 would cost
hundredths of a pixel. NumPy arrays and lists are taken too. Pixels (..., 2) are x to the right and y down, whole at a
pixel's centre, and are never rounded; points of the world are (..., 3). Everything raises ValueError for another shape
and for entries that are not finite. Source: Hartley & Zisserman 2004, "Multiple View Geometry", chapter 6.
"""

import torch

EYE = torch.eye(3, dtype=torch.float64)
TINY = 1e-10  # below this fraction of its scale a number is rounding error: float64 has 16 digits


class Camera:
    """A pinhole camera: a point X of the world is at R X + t in the camera's frame, and its pixel is K of that.

    K (3, 3): focal lengths and centre of the picture, in pixels; R (3, 3): a rotation; t (3,), in the world's unit.
    It keeps copies of the three, and looks along z. Raises ValueError where K is singular or not upper triangular, or R
    is no rotation.
    """

    def __init__(self, K, R, t):
        given = checked("K", K, (3, 3)), checked("R", R, (3, 3)), checked("t", t, (3,))
        self.K, self.R, self.t = (value.clone() for value in given)
        if self.K.tril(-1).any() or self.K[2, 2] != 1:
            raise ValueError(f"K must be upper triangular and end in 1, not {self.K.tolist()}")
        if self.K.diagonal().abs().min() <= TINY * self.K.abs().max():
            raise ValueError(f"K is singular: a focal length is 0 in {self.K.tolist()}")
        if not (torch.allclose(self.R @ self.R.T, EYE, rtol=0, atol=1e-6) and torch.linalg.det(self.R) > 0):
            raise ValueError(f"R is no rotation: R R^T is not 1 or det R is not 1 for {self.R.tolist()}")

    @property
    def P(self):
        """The projection matrix K [R t], (3, 4)."""
        return self.K @ torch.column_stack([self.R, self.t])

    @property
    def centre(self):
        """Where the camera stands in the world, (3,): the point that is at 0 in its frame."""
        return -self.R.T @ self.t

    def depth(self, X):
        """z in the camera's frame of points X (..., 3), not the distance along the ray: (...,)."""
        return self._in_frame(X)[..., 2]

    def project(self, X):
        """The pixels (..., 2) of points X (..., 3). Raises ValueError where a point does not lie before the camera."""
        X = self._in_frame(X)
        behind = X[..., 2] <= 0
        if behind.any():
            raise ValueError(
                f"{behind.sum()} of {behind.numel()} points lie behind the camera (depth <= 0): no picture"
            )
        return pixels(X @ self.K.T)

    def back_project(self, x, depth):
        """The points (..., 3) of the world at pixels x (..., 2) and depths z (...,).

        They broadcast: one pixel (2,) and depths (D,) give the D points of its ray. Raises ValueError for depths <= 0.
        """
        x, depth = checked("x", x, (..., 2)), checked("depth", depth, (...,))
        if (depth <= 0).any():
            raise ValueError(f"depths must be positive; the smallest given is {depth.min():.6g}")
        ray = homogeneous(x) @ torch.linalg.inv(self.K).T  # z = 1 on it
        return (depth[..., None] * ray - self.t) @ self.R  # R^T (X - t): rows times R

    def _in_frame(self, X):
        return checked("X", X, (..., 3)) @ self.R.T + self.t


def homogeneous(x):
    """(..., D) -> (..., D + 1), with a 1 appended."""
    x = torch.as_tensor(x, dtype=torch.float64)
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def pixels(x):
    """Homogeneous points (..., 3) -> pixels (..., 2). Raises ValueError for a point at infinity."""
    x = checked("x", x, (..., 3))
    if (x[..., 2].abs() <= 1e-15 * x.abs().amax(-1)).any():
        raise ValueError("a point at infinity has no pixel: its third coordinate is 0")
    return x[..., :2] / x[..., 2:]


def checked(name, value, shape):
    """The value as float64, of this shape; `...` stands for any number of axes, a string for an axis of any length."""
    try:
        array = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from None
    fixed = shape[1:] if shape[0] is ... else shape
    right = array.ndim == len(fixed) or (shape[0] is ... and array.ndim > len(fixed))
    sizes = array.shape[array.ndim - len(fixed) :]
    if not right or any(isinstance(n, int) and n != size for n, size in zip(fixed, sizes, strict=True)):
        said = ", ".join("..." if n is ... else str(n) for n in shape) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} has shape {tuple(array.shape)}; it must be ({said})")
    if not array.isfinite().all():
        raise ValueError(f"{name} has entries that are not finite (NaN or infinity)")
    return array
