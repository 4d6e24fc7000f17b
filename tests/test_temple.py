"""The temple: the drawn one against its own geometry, and the photographs' files, whole and damaged."""

import hashlib
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import temple as temple_module
from course_utils.data import load_temple
from course_utils.geometry import (
    Camera,
    eight_point,
    epipolar_line,
    fundamental,
    line_distance,
    ransac,
    sampson_distance,
    triangulate,
)
from course_utils.temple import PAR_FILE, parse_cameras
from course_utils.temple_scene import HEIGHT, WIDTH, Block, Drum, _box, build, cast, ring

DEPTHS = torch.linspace(0.4, 0.8, 81, dtype=torch.float64)


@pytest.fixture(scope="module")
def temple():
    return load_temple(quiet=True)


# ---- the cameras and the truth ---------------------------------------------------------------------------------------


def test_the_sixteen_cameras_stand_on_a_ring(temple):
    assert len(temple) == len(temple.images) == len(temple.names) == 16
    centres = torch.stack([camera.centre for camera in temple.cameras])
    middle = centres.mean(0)
    radius = (centres - middle).norm(dim=1)
    torch.testing.assert_close(radius, radius[:1].expand(16))
    step = (centres - centres.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(step, 2 * radius * np.sin(np.pi / 16))
    for camera in temple.cameras:
        assert (camera.R @ camera.R.T - torch.eye(3)).abs().max() < 1e-15


def test_every_view_sees_the_whole_temple_at_depths_like_the_photographs(temple):
    corners = np.concatenate([solid.corners for solid in build()])
    for camera in temple.cameras:
        x = camera.project(corners)
        assert (x > 10).all() and (x < torch.tensor([WIDTH - 10, HEIGHT - 10])).all()
        depth = camera.depth(corners)
        assert depth.min() > 0.45 and depth.max() < 0.70


def test_the_constraint_in_all_pairs_of_views(temple):
    """At most 1e-10 of the scale, the issue's figure; and rays through matches meet in the point itself."""
    for i in range(16):
        for j in range(16):
            x1, x2 = temple.matches(i, j)
            if i == j or len(x1) == 0:
                continue
            F = fundamental(temple.cameras[i], temple.cameras[j])
            h1, h2 = (torch.cat([x, torch.ones_like(x[:, :1])], 1) for x in (x1, x2))
            terms = h2[:, :, None] * F * h1[:, None, :]
            assert (terms.sum((1, 2)).abs() <= 1e-10 * terms.abs().sum((1, 2))).all()
            X = temple.points[temple.visible[i] & temple.visible[j]]
            assert (triangulate(temple.cameras[i], temple.cameras[j], x1, x2) - X).abs().max() < 1e-10


def test_both_constructions_of_the_line_in_all_views(temple):
    """From F, and by back-projection at depths 0.4 to 0.8: at most 0.01 pixels apart."""
    grid = torch.cartesian_prod(torch.linspace(0, WIDTH - 1, 5), torch.linspace(0, HEIGHT - 1, 4)).double()
    pixels = torch.cat([grid, torch.tensor([[500.0, 200]])])[:, None]
    for i in range(16):
        for j in range(16):
            if i != j:
                one, other = temple.cameras[i], temple.cameras[j]
                traced = other.project(one.back_project(pixels, DEPTHS))  # (21, 81, 2)
                lines = epipolar_line(fundamental(one, other), pixels)
                assert line_distance(lines, traced).max() < 1e-6


def test_neighbours_share_many_points_and_every_view_has_its_own(temple):
    assert temple.points.shape == (2400, 3) and temple.visible.shape == (16, 2400)
    for i in range(16):
        assert temple.visible[i, 150 * i : 150 * (i + 1)].all()  # where they come from
        x1, x2 = temple.matches(i, (i + 1) % 16)
        assert len(x1) == len(x2) > 300
        assert (x1 >= 0).all() and (x1 <= torch.tensor([WIDTH - 1, HEIGHT - 1])).all()
    assert temple.visible.any(0).all() and not temple.visible.all(0).any()


def test_visibility_agrees_with_the_depth_maps(temple):
    """Computed ray by ray on one side, on the grid of pixels on the other: they differ at edges only."""
    for i in (0, 5, 11):
        depth, camera = temple.depth(i), temple.cameras[i]
        x, y = camera.project(temple.points).round().long().T
        nearest = depth[y.clamp(0, HEIGHT - 1), x.clamp(0, WIDTH - 1)]
        claimed = camera.depth(temple.points) <= nearest + 1e-3
        assert (claimed == temple.visible[i]).double().mean() > 0.97


def test_depth_maps_of_two_views_agree(temple):
    """A pixel brought back to the world lies on the surface that the other view measures, or behind it."""
    one, other = temple.cameras[0], temple.cameras[1]
    depth, theirs = temple.depth(0), temple.depth(1)
    assert depth.shape == (HEIGHT, WIDTH) and depth.dtype == torch.float64
    rows, columns = depth.isfinite().nonzero()[::7].T
    X = one.back_project(torch.stack([columns, rows], 1), depth[rows, columns])
    x, y = other.project(X).round().long().T
    difference = other.depth(X) - theirs[y, x]
    assert (difference > -2e-3).double().mean() > 0.98  # nothing floats before the surface
    assert (difference.abs() < 1e-3).double().mean() > 0.6  # most are seen from both
    assert 0.15 < depth.isfinite().double().mean() < 0.5


def test_what_is_done_to_one_temple_is_not_done_to_the_next(temple):
    points, visible, P = (v.clone() for v in (temple.points, temple.visible, temple.cameras[2].P))
    spoilt = load_temple(quiet=True)
    for tensor in (spoilt.points, spoilt.cameras[2].K, spoilt.cameras[2].R, spoilt.cameras[2].t):
        tensor += 1
    spoilt.visible[:] = False
    again = load_temple(quiet=True)
    assert torch.equal(again.points, points) and torch.equal(again.visible, visible)
    assert torch.equal(again.cameras[2].P, P)


# ---- the drawing -----------------------------------------------------------------------------------------------------


def test_pictures_show_the_temple_where_its_depth_is_finite(temple):
    image, depth = temple.images[3], temple.depth(3).numpy()
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    lit = image.max(2) > 0
    assert (lit == np.isfinite(depth)).mean() > 0.99  # but for half pixels at the edge
    assert image[lit].mean() > 60 and image[lit].std() > 25
    assert (temple.images[3] == image).all() and (temple.images[-13] == image).all()
    with pytest.raises(IndexError):
        temple.images[16]


def test_a_point_has_the_same_colour_in_two_views(temple):
    """Flat shading and a stone in space: what correspondences need. Wrong partners differ more."""
    x1, x2 = temple.matches(3, 4)
    colours = []
    for i, x in ((3, x1), (4, x2)):
        column, row = x.round().long().T
        colours.append(temple.images[i][row, column].astype(float))
    difference = np.abs(colours[0] - colours[1]).mean(1)
    wrong = np.abs(colours[0] - np.roll(colours[1], 1, axis=0)).mean(1)
    assert np.median(difference) < 0.35 * np.median(wrong)


def test_features_found_in_the_pictures_lie_on_the_lines(temple):
    """OpenCV sees correspondences in two drawn neighbours, and they agree with the exact cameras."""
    import cv2

    sift, found = cv2.SIFT_create(), []
    for i in (3, 4):
        found.append(sift.detectAndCompute(cv2.cvtColor(temple.images[i], cv2.COLOR_RGB2GRAY), None))
    pairs = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    good = [first for first, second in pairs if first.distance < 0.75 * second.distance]
    x1 = np.array([found[0][0][match.queryIdx].pt for match in good])
    x2 = np.array([found[1][0][match.trainIdx].pt for match in good])
    F, inliers = ransac(x1, x2, threshold=1.5)
    assert inliers.sum() >= 50
    truth = fundamental(temple.cameras[3], temple.cameras[4])
    lines = epipolar_line(truth, x1[inliers])
    assert line_distance(lines, x2[inliers]).median() < 2


def test_a_block_against_the_slab_method():
    block = _box([0, 1], [0, 2], [0, 3], "smooth")
    origin = np.array([0.5, 1, 10.0])
    rays = np.array([[0, 0, -1.0], [0, 0, 1], [0, 0.05, -1], [0, 1, -1], [0.04, 0, -0.5]])
    s = block.enter(origin, rays)
    np.testing.assert_allclose(s, [7, np.inf, 7, np.inf, np.inf])
    np.testing.assert_array_equal(block.normal(origin + s[:1, None] * rays[:1]), [[0, 0, 1]])
    inside = np.array([[0.5, 1, 3], [0.5, 2, 1], [0, 1, 1.0]])
    np.testing.assert_array_equal(block.normal(inside), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


def test_a_drum_by_hand():
    drum = Drum(0, 0, 1, bottom=-1, top=1, stone="smooth")
    origin = np.array([0, 0, 5.0])
    rays = np.array([[0, 0, -1.0], [0, 0.9 / 4, -1], [0, 0.3, -1], [0.21, 0, -1], [0, 0, 1]])
    np.testing.assert_allclose(drum.enter(origin, rays), [4, 4, np.inf, np.inf, np.inf])
    from_above = drum.enter(np.array([0, 5, 0.5]), np.array([[0, -1.0, 0], [0, -1, 0.2]]))
    np.testing.assert_allclose(from_above, [4, np.inf])
    normals = drum.normal(np.array([[0, 0.2, 1], [0.6, 0, 0.8], [0.1, 1, 0.1]]))
    np.testing.assert_allclose(normals, [[0, 0, 1], [0.6, 0, 0.8], [0, 1, 0]], atol=1e-15)


def test_rays_end_on_the_surface_of_what_they_meet():
    """Every hit fulfils the equation of its solid, and no solid holds it inside."""
    camera = ring()[2]
    columns, rows = np.arange(100, 540, 8.0), np.arange(40, 440, 8.0)
    depth, which = cast(camera, columns, rows)
    hit = which >= 0
    assert (hit == np.isfinite(depth)).all() and hit.sum() > 300
    x = np.stack(np.meshgrid(columns, rows), -1)[hit]
    X = camera.back_project(x, depth[hit]).numpy()
    for number, solid in enumerate(build()):
        on = which[hit] == number
        if isinstance(solid, Block):
            beyond = (X @ solid.normals.T - solid.heights).max(1)
        else:
            side = np.linalg.norm(X[:, [0, 2]] - solid.centre, axis=1) - solid.radius
            beyond = np.maximum(side, np.maximum(solid.ends[0] - X[:, 1], X[:, 1] - solid.ends[1]))
        assert np.abs(beyond[on]).max(initial=0) < 1e-12
        assert (beyond > -1e-12).all()


# ---- what noise does, on this scene ----------------------------------------------------------------------------------


def test_the_figures_of_the_eight_point_algorithm(temple):
    """50 matches of two neighbours with noise of half a pixel: at most 1.5 pixels, and 5 times better normalised."""
    one, other = temple.cameras[3], temple.cameras[4]
    x1, x2 = temple.matches(3, 4)
    errors = {True: [], False: []}
    for seed in range(25):
        g = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x1), generator=g)[:50]
        y1, y2 = (x[chosen] + 0.5 * torch.randn(50, 2, dtype=torch.float64, generator=g) for x in (x1, x2))
        for normalise, found in errors.items():
            F = eight_point(y1, y2, normalise)
            found.append(line_distance(epipolar_line(F, x1), x2).median())
    with_it, without = (torch.stack(errors[normalise]).median() for normalise in (True, False))
    assert with_it < 1.5 and without > 5 * with_it
    assert sampson_distance(fundamental(one, other), x1, x2).max() < 1e-9


def test_what_is_not_known_of_photographs_is_said(tmp_path):
    photographs = load_temple(write_set(tmp_path), quiet=True)
    assert photographs.points is None and photographs.visible is None
    with pytest.raises(ValueError, match="depth of photographs is not known"):
        photographs.depth(0)
    with pytest.raises(ValueError, match="have to be found"):
        photographs.matches(0, 1)


# ---- the photographs' files ------------------------------------------------------------------------------------------


def line(name, camera):
    numbers = [*camera.K.flatten().tolist(), *camera.R.flatten().tolist(), *camera.t.tolist()]
    return f"{name} " + " ".join(repr(number) for number in numbers)


NAMES = [f"templeSR{i:04d}.png" for i in range(1, 4)]
TEXT = "\n".join(["3", *(line(name, camera) for name, camera in zip(NAMES, ring(), strict=False))]) + "\n"


def write_set(folder, text=TEXT, names=NAMES):
    (folder / PAR_FILE).write_text(text)
    for i, name in enumerate(names):
        Image.new("RGB", (64, 48), (i, 20, 30)).save(folder / name)
    return folder


def zipped(folder, where):
    with zipfile.ZipFile(where, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"templeSparseRing/{path.name}")
    return where


def test_the_camera_file_comes_back_exactly():
    names, cameras = parse_cameras(TEXT.replace("\n", "\r\n") + "\n\n")
    assert names == NAMES
    for camera, original in zip(cameras, ring(), strict=False):
        for entry in ("K", "R", "t"):
            assert (getattr(camera, entry) == getattr(original, entry)).all()


def test_a_folder_a_zip_and_the_folder_above(tmp_path, capsys):
    folder = tmp_path / "templeSparseRing"
    folder.mkdir()
    write_set(folder)
    archive = zipped(folder, tmp_path / "set.zip")
    for source in (folder, str(folder), tmp_path, archive):
        temple = load_temple(source)
        assert "3 photographs of a temple from" in capsys.readouterr().out
        assert temple.names == NAMES and len(temple) == 3
        assert [image[0, 0].tolist() for image in temple.images] == [[i, 20, 30] for i in range(3)]
        assert all(isinstance(camera, Camera) for camera in temple.cameras)


def test_what_is_in_use_is_said(capsys):
    load_temple()
    assert "drawn by the course" in capsys.readouterr().out
    load_temple(quiet=True)
    assert capsys.readouterr().out == ""


ROWS = TEXT.splitlines()
STRETCHED = line(NAMES[1], SimpleNamespace(K=ring()[1].K, R=1.01 * ring()[1].R, t=ring()[1].t))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must start with the number of its views"),
        ("\n".join(ROWS[1:]), "must start with the number of its views"),
        ("\n".join(ROWS[:3]), "promises 3 views and has 2: it is cut short"),
        ("\n".join([*ROWS, ROWS[1]]), "promises 3 views and has 4"),
        ("\n".join(ROWS)[:-200], r"view 3 \(templeSR0003.png\) of the camera file has \d+ numbers"),
        (TEXT.replace("1520.0", "wide", 1), "view 1 .* could not convert string to float: 'wide'"),
        (TEXT.replace("1520.0", "nan", 1), "view 1 .* K has entries that are not finite"),
        (TEXT.replace("1520.0", "0.0", 2), "view 1 .* K is singular"),
        ("\n".join([*ROWS[:2], STRETCHED, ROWS[3]]), "view 2 .* R is no rotation"),
    ],
)
def test_damaged_camera_files(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_cameras(text)
    with pytest.raises(ValueError, match=message):
        load_temple(write_set(tmp_path, text), quiet=True)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match="choose 'synthetic', 'download', a folder or a .zip"):
        load_temple("sythetic")
    with pytest.raises(FileNotFoundError, match=f"no camera file {PAR_FILE}"):
        load_temple(tmp_path)
    write_set(tmp_path, names=NAMES[:2])
    with pytest.raises(FileNotFoundError, match=f"picture {NAMES[2]} .* is missing"):
        load_temple(tmp_path)
    (tmp_path / NAMES[2]).write_bytes((tmp_path / NAMES[1]).read_bytes()[:60])
    with pytest.raises(ValueError, match=f"{NAMES[2]} can't be read as a picture"):
        load_temple(tmp_path)
    write_set(tmp_path)
    archive = zipped(tmp_path, tmp_path.parent / "cut.zip")
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(ValueError, match="no .zip, or a damaged one"):
        load_temple(archive)


def test_the_download_is_checked_and_kept(tmp_path, monkeypatch):
    """A kept file with the right checksum needs no network; a damaged one is not used, and the way out is said."""
    content = zipped(write_set(tmp_path), tmp_path.parent / "original.zip").read_bytes()
    kept = tmp_path / "cache" / "templeSparseRing.zip"
    kept.parent.mkdir()
    kept.write_bytes(content)
    monkeypatch.setenv("COURSE_DATA", str(kept.parent))
    monkeypatch.setattr(temple_module, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(temple_module, "URLS", ("http://127.0.0.1:9/templeSparseRing.zip",))  # nobody answers
    assert load_temple("download", quiet=True).names == NAMES
    kept.write_bytes(content[:-5])
    with pytest.raises(OSError, match=r"wrong checksum[\s\S]*load_temple\(\) draws a temple"):
        load_temple("download", quiet=True)
