"""Sixteen views around a temple: Middlebury's photographs, or a small temple that the course draws itself.

The drawn one (temple_scene.py) needs no network and is exact: its cameras, the depth of every pixel and the points that
two views share are known to rounding.

Source of the photographs: Seitz, Curless, Diebel, Scharstein & Szeliski 2006, "A comparison and evaluation of
multi-view stereo reconstruction algorithms": the data set templeSparseRing.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import torch

from course_utils.cameras import Camera
from course_utils.downloads import fetch
from course_utils.images import existing
from course_utils.temple_scene import HEIGHT, N_VIEWS, WIDTH, cast, first_hit, render, ring, sees

URLS = ("https://vision.middlebury.edu/mview/data/data/templeSparseRing.zip",)
SHA256 = "125c26962eaa01eec45a8e85c455b8391705e8f9a9e032e15501cb38f540bb66"
PAR_FILE = "templeSR_par.txt"


def load_temple(source="synthetic", quiet=False):
    """The sixteen views of a `Temple`: pictures, cameras and names.

    source: "synthetic", drawn by the course; "download", Middlebury's photographs (4 MB, kept for the next time); or a
    folder or .zip with them. The photographs 1 and 11 were taken from one place. Prints which it is, unless `quiet`.
    Raises ValueError for another source and damaged files, FileNotFoundError for missing ones, OSError without network.
    """
    if source == "synthetic":
        what, temple = "views of a temple, drawn by the course (source='download' gives photographs)", _Drawn()
    elif source == "download":
        advice = "Without a network, load_temple() draws a temple; or give the source as a folder with the photographs."
        path = fetch(URLS, SHA256, "templeSparseRing.zip", advice, quiet=quiet)
        what, temple = f"photographs of a temple (Middlebury), downloaded, in {path.parent}", _photographs(path)
    else:
        path = existing(source, "the temple", "'synthetic', 'download', a folder or a .zip")
        what, temple = f"photographs of a temple from {path}", _photographs(path)
    if not quiet:
        print(f"{len(temple)} {what}")
    return temple


class Temple:
    """Views of one scene: images[i] (480, 640, 3) uint8, NumPy; cameras[i], a `geometry.Camera`; and names[i].

    View 1 of the text is index 0. Of the drawn scene the truth is known too: `points` (M, 3) on the surfaces, float64,
    `visible` (views, M) bool, `depth(i)` and `matches(i, j)`. Of photographs points and visible are None.
    """

    points = visible = None

    def __init__(self, images, cameras, names):
        self.images, self.cameras, self.names = images, cameras, names

    def __len__(self):
        return len(self.cameras)

    def depth(self, i):
        """The depth z of every pixel's centre in view i, (480, 640) float64; infinite where nothing is.

        Raises ValueError for photographs, whose depth nobody knows.
        """
        raise ValueError("the depth of photographs is not known: load_temple('synthetic') has it")

    def matches(self, i, j):
        """The exact pixels, float64 (N, 2) each, of the points that the views i and j both see.

        Raises ValueError for photographs, in which they have to be found.
        """
        raise ValueError("matches between photographs have to be found: load_temple('synthetic') has exact ones")


# ---- photographs -----------------------------------------------------------------------------------------------------


def parse_cameras(text):
    """Names and cameras of a Middlebury *_par.txt: the number of views, then for each its name, K, R and t in a line.

    Raises ValueError where a line is missing or cut short, and where its numbers are no camera; it says which line.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or len(lines[0]) != 1 or not lines[0][0].isdigit():
        raise ValueError("the camera file must start with the number of its views")
    n = int(lines[0][0])
    if len(lines) - 1 != n:
        raise ValueError(
            f"the camera file promises {n} views and has {len(lines) - 1}: it is cut short or put together"
        )
    names, cameras = [], []
    for number, (name, *entries) in enumerate(lines[1:], 1):
        where = f"view {number} ({name}) of the camera file"
        if len(entries) != 21:
            raise ValueError(f"{where} has {len(entries)} numbers; K, R and t are 9 + 9 + 3 = 21")
        try:
            values = torch.tensor([float(entry) for entry in entries], dtype=torch.float64)
            cameras.append(Camera(values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        names.append(name)
    return names, cameras


def _photographs(path):
    """Pictures and cameras in a folder, or in the folder within a .zip."""
    try:
        root = path if path.is_dir() else zipfile.Path(path)
        inside = [root, root / "templeSparseRing"]
        root = next((folder for folder in inside if (folder / PAR_FILE).exists()), None)
        if root is None:
            raise FileNotFoundError(f"{path} has no camera file {PAR_FILE}")
        names, cameras = parse_cameras((root / PAR_FILE).read_text(encoding="utf-8"))
        return Temple([_picture(root / name) for name in names], cameras, names)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is no .zip, or a damaged one: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _picture(path):
    from PIL import Image  # only here

    if not path.exists():
        raise FileNotFoundError(f"the picture {path.name} that the camera file names is missing in {path.parent}")
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} can't be read as a picture: {error}") from error


# ---- the drawn temple, with its truth --------------------------------------------------------------------------------

POINTS_PER_VIEW = 150


class _Pictures(Sequence):
    """The pictures, each drawn when it is first asked for."""

    def __len__(self):
        return N_VIEWS

    def __getitem__(self, i):
        return [_drawn(k) for k in range(N_VIEWS)[i]] if isinstance(i, slice) else _drawn(range(N_VIEWS)[i])


@lru_cache(N_VIEWS)
def _drawn(i):
    image = render(ring()[i])
    image.flags.writeable = False  # it is kept for the next call
    return image


class _Drawn(Temple):
    def __init__(self):
        cameras = [Camera(c.K, c.R, c.t) for c in ring()]  # its own, as its points: the next temple's stay
        super().__init__(_Pictures(), cameras, [f"drawn{i + 1:02d}" for i in range(N_VIEWS)])
        self.points, self.visible = (value.clone() for value in _truth())

    def depth(self, i):
        depth, _ = cast(self.cameras[i], np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
        return torch.from_numpy(depth)

    def matches(self, i, j):
        X = self.points[self.visible[i] & self.visible[j]]
        return self.cameras[i].project(X), self.cameras[j].project(X)


@cache
def _truth():
    """Points (M, 3) on the surfaces, at which random rays of every view end, and which views see them (views, M)."""
    rng = np.random.default_rng(11)
    points = []
    for camera in ring():
        x = rng.uniform([100, 20], [540, 460], (6 * POINTS_PER_VIEW, 2))
        depth = first_hit(camera, x)
        x, depth = (v[np.isfinite(depth)][:POINTS_PER_VIEW] for v in (x, depth))
        points.append(camera.back_project(x, depth))
    points = torch.cat(points)
    return points, torch.stack([sees(camera, points) for camera in ring()])
