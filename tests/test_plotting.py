"""Pictures: what is drawn is what was given, in the right place, with words for those who do not see it."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from course_utils.mixtures import GaussianMixture  # noqa: E402
from course_utils.plotting import (  # noqa: E402
    animate,
    animate_images,
    image_grid,
    scatter_2d,
    scatter_row,
    score_field,
    tile,
    trajectory,
)

CORNER = GaussianMixture([[1.5, -1.0]], 0.2)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def points(n=5, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def shading_peak(ax):
    """Where in the axes' coordinates the shading is darkest."""
    (image,) = ax.images
    density = np.asarray(image.get_array())
    row, column = np.unravel_index(density.argmax(), density.shape)
    left, right, bottom, top = image.get_extent()
    height, width = density.shape
    return left + (column + 0.5) / width * (right - left), bottom + (row + 0.5) / height * (top - bottom)


def test_scatter_draws_every_point_over_the_truth():
    x = points()
    ax = scatter_2d(x, truth=CORNER, title="five")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), x.numpy(), rtol=1e-6)
    assert shading_peak(ax) == pytest.approx((1.5, -1.0), abs=0.05)
    assert ax.get_title() == "five" and ax.get_aspect() == 1


def test_a_row_has_a_picture_for_each_set():
    sets = [points(4, s) for s in range(3)]
    axes = scatter_row(sets, titles=["a", "b", "c"], truth=[None, CORNER, None])
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    assert [len(ax.images) for ax in axes] == [0, 1, 0]
    for ax, x in zip(axes, sets, strict=True):
        np.testing.assert_allclose(ax.collections[0].get_offsets(), x.numpy(), rtol=1e-6)
    assert len(scatter_row([points()])) == 1


def test_arrows_point_along_the_score():
    ax = score_field(CORNER.score, truth=CORNER)
    (arrows,) = ax.collections
    start = torch.as_tensor(np.asarray(arrows.get_offsets()))
    drawn = torch.as_tensor(np.stack([arrows.U, arrows.V], 1))
    cosine = torch.cosine_similarity(drawn, CORNER.score(start))
    assert (cosine > 1 - 1e-6).all()
    assert drawn.norm(dim=1).max() <= 6 / 20  # arrows do not run over one another


def test_trajectories_end_where_the_path_ends():
    path = [points(5, s) for s in range(4)]
    ax = trajectory(path, n=3)
    ends = {line.get_label(): line.get_xydata() for line in ax.lines}
    np.testing.assert_allclose(ends["start"], path[0][:3].numpy(), rtol=1e-6)
    np.testing.assert_allclose(ends["end"], path[-1][:3].numpy(), rtol=1e-6)
    ways = [line.get_xydata() for line in ax.lines[:3]]
    np.testing.assert_allclose(np.stack(ways, 1), torch.stack(path)[:, :3].numpy(), rtol=1e-6)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["start", "end"]
    assert len(trajectory(iter(path)).lines) == 5 + 2  # a sampler itself is a path too


def still_of(x):
    """The one frame that a film of x alone shows."""
    return np.asarray(animate([x, x], "points").frames[-1], dtype=int)


def test_a_film_begins_with_the_first_state_and_ends_with_the_last():
    path = [points(30, s) for s in range(100)]
    film = animate(path, "points wander", n_frames=7)
    assert len(film.frames) == 7
    assert (np.asarray(film.frames[0]) == still_of(path[0])).all()
    assert (np.asarray(film.frames[-1]) == still_of(path[-1])).all()
    assert (np.asarray(film.frames[3]) != still_of(path[0])).any()
    assert not plt.get_fignums()  # no figure is left behind to be shown twice


def test_the_page_finds_each_frame_on_the_sheet():
    """As CSS does: a sheet of c x r frames at size c00% r00%, of which position p% shows the part p (size - 100%)."""
    film = animate([points(30, s) for s in range(5)], "points", truth=CORNER, titles=list("abcde"))
    html = film.to_html()
    sheet = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)\)", html)[1]))).convert("RGB")
    columns, rows = (int(c) // 100 for c in re.search(r"/ (\d+)% (\d+)%;", html).groups())
    width, height = film.frames[0].size
    assert sheet.size == (columns * width, rows * height)
    positions = re.findall(r"'([\d.]+)% ([\d.]+)%'", re.search(r"positions = \[(.*?)\]", html)[1])
    assert len(positions) == 5
    for i, (p, q) in enumerate(positions):
        left = round(float(p) / 100 * (sheet.width - width))
        top = round(float(q) / 100 * (sheet.height - height))
        shown = np.asarray(sheet.crop((left, top, left + width, top + height)), dtype=int)
        differences = [np.abs(shown - np.asarray(frame, dtype=int)).mean() for frame in film.frames]
        assert np.argmin(differences) == i and differences[i] < 3  # lossy, but this frame


def test_a_film_speaks_and_prints():
    film = animate([points(), points(seed=1)], 'from "noise" to <data> & back', still=0)
    bundle = film._repr_mimebundle_()
    assert 'aria-label="from &quot;noise&quot; to &lt;data&gt; &amp; back"' in bundle["text/html"]
    assert bundle["text/plain"] == '[animation: from "noise" to <data> & back]'
    still = Image.open(io.BytesIO(bundle["image/png"])).convert("RGB")
    assert (np.asarray(still) == np.asarray(film.frames[0])).all()
    assert bundle["text/html"] == animate([points(), points(seed=1)], film.alt, still=0).to_html()  # builds repeat
    assert not re.search(r"@[A-Z]+@", bundle["text/html"])
    assert "http" not in bundle["text/html"]  # it needs no network


def test_bad_input_is_named():
    for x in (torch.zeros(4, 3), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"points \(N, 2\) are drawn"):
            scatter_2d(x)
    with pytest.raises(ValueError, match="at least two states, not 1"):
        animate([points()], "one")
    with pytest.raises(ValueError, match="at least two states, not 0"):
        trajectory([])
    with pytest.raises(ValueError, match="needs an alt text"):
        animate([points(), points()], "")
    with pytest.raises(ValueError, match="n_frames = 1"):
        animate([points(), points()], "two", n_frames=1)
    with pytest.raises(ValueError, match="at least one set"):
        scatter_row([])
    for name, given in {"titles": ["one"], "truths": [CORNER] * 3, "colours": ["red"]}.items():
        with pytest.raises(ValueError, match=f"{len(given)} {name} for 2 sets: give one for each"):
            scatter_row([points(), points()], **{{"truths": "truth", "colours": "color"}.get(name, name): given})
    for name, given in {"titles": ["one"], "truth": [CORNER] * 3}.items():
        with pytest.raises(ValueError, match=f"{len(given)} {name}s? for 2 states: give one for each"):
            animate([points(), points()], "two", **{name: given})


def test_an_error_leaves_no_figure_open():
    class Broken:
        def log_prob(self, x):
            raise ArithmeticError

    for wrong in (
        lambda: animate([points(), torch.zeros(4, 3)], "a state of another shape"),
        lambda: animate([points(), points()], "too few titles", titles=["one"]),
        lambda: scatter_row([points(), points()], titles=["one"]),
        lambda: scatter_row([points(), torch.zeros(4, 3)]),
        lambda: trajectory([points(), torch.zeros(4, 3)]),
        lambda: animate([points(), points()], "found while drawing", truth=Broken()),
    ):
        with pytest.raises((ValueError, ArithmeticError)):
            wrong()
        assert not plt.get_fignums()


def test_points_that_are_no_numbers_are_counted_in_the_picture():
    x = points(5)
    said = lambda ax: [text.get_text() for text in ax.texts if text.get_text()]  # noqa: E731
    assert said(scatter_2d(x)) == said(trajectory([x, x])) == []
    broken = x.clone()
    broken[1, 0], broken[3] = float("nan"), float("inf")
    ax = scatter_2d(broken)
    assert said(ax) == ["2 of 5 points are not finite"]
    drawn = np.ma.getmaskarray(ax.collections[0].get_offsets()).any(1)
    assert drawn.tolist() == [False, True, False, True, False]  # masked: not drawn
    assert said(trajectory([x, broken, broken])) == ["2 of 5 points are not finite"]
    film = animate([x, broken, x], "three states")
    assert (np.asarray(film.frames[0]) == np.asarray(film.frames[2])).all()  # the words go with their state
    plain = animate([x, x[[0, 2, 4]], x], "three states").frames[1]
    differing = np.argwhere((np.asarray(film.frames[1]) != np.asarray(plain)).any(2))
    assert len(differing) and differing[:, 0].min() > 0.8 * plain.height  # words below, the finite points as ever


def disc(n=6, channels=1):
    """Discs of ink that grow, (n, channels, 12, 12) in [-1, 1]."""
    axis = torch.linspace(-1, 1, 12)
    radius = torch.cartesian_prod(axis, axis).norm(dim=1).reshape(12, 12)
    return torch.stack([1 - 2 * (radius > (i + 1) / n).float() for i in range(n)])[:, None].repeat(1, channels, 1, 1)


def found(picture, x, tolerance=0.02):
    """Where in a PIL image the pixels of x (H, W) in [0, 1] stand at a whole zoom: (row, column) of the first place."""
    grey = np.asarray(picture.convert("L"), dtype=float) / 255
    rows, columns = x.shape
    for zoom in range(1, 12):
        height, width = grey.shape[0] - rows * zoom + 1, grey.shape[1] - columns * zoom + 1
        match = np.ones((max(height, 0), max(width, 0)), dtype=bool)
        for i, j in np.ndindex(x.shape):
            if not match.any():
                break
            for corner in (0, zoom - 1):  # of the square that shows a pixel
                top, left = i * zoom + corner, j * zoom + corner
                match &= np.abs(grey[top : top + height, left : left + width] - x[i, j]) < tolerance
        if match.any():
            return tuple(np.argwhere(match)[0])
    return None


def test_a_sheet_holds_every_image_in_its_place():
    x = torch.rand(5, 1, 3, 4) * 2 - 1
    sheet = tile(x, columns=2, gap=1)
    assert sheet.shape == (3 * 4 - 1, 2 * 5 - 1)
    for i, image in enumerate(x):
        row, column = divmod(i, 2)
        part = sheet[row * 4 : row * 4 + 3, column * 5 : column * 5 + 4]
        np.testing.assert_allclose(part, (1 - image[0].numpy()) / 2, atol=1e-6)  # 1 is ink, and ink is black
    assert (sheet[8:, 5:] == 1).all() and (sheet[3] == 1).all()  # paper where there is no image
    colours = torch.rand(2, 3, 3, 4) * 2 - 1
    np.testing.assert_allclose(tile(colours, gap=0)[:, :4], (colours[0].permute(1, 2, 0) + 1) / 2, atol=1e-6)
    assert tile(torch.full((1, 1, 2, 2), 7.0)).max() == 0  # cut off
    assert tile(torch.full((1, 1, 2, 2), float("nan"))).tolist() == [[0.5, 0.5]] * 2


GRIDS = [
    {},
    {"titles": list("abcdef")},
    {"columns": 3, "titles": ["long\nname", "b", "c"]},
    {"columns": 2, "titles": list("abcdef"), "rows": ["one", "two", "three"]},
]


@pytest.mark.parametrize("options", GRIDS)
def test_a_grid_shows_every_image_sharp_and_in_order(options):
    x = torch.rand(6, 1, 12, 12) * 2 - 1
    grid = image_grid(x, "noise", **options)
    places = [found(grid.image, (1 - image[0].numpy()) / 2) for image in x]
    assert None not in places
    columns = options.get("columns", 6)
    order = sorted(range(6), key=lambda i: (places[i][0], places[i][1]))
    assert order == list(range(6))
    assert len({row for row, _ in places}) == 6 // columns and len({column for _, column in places}) == columns


def test_a_grid_speaks_and_its_colours_stay():
    html = image_grid(disc(), 'six "discs" & more')._repr_mimebundle_()["text/html"]
    assert 'alt="six &quot;discs&quot; &amp; more"' in html and "photo" not in html and "http" not in html
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
    assert (np.asarray(shown.convert("RGB")) == np.asarray(image_grid(disc(), "discs").image)).all()
    assert 'class="picture photo"' in image_grid(disc(channels=3), "discs")._repr_mimebundle_()["text/html"]
    assert not plt.get_fignums()


def test_a_film_of_images():
    path = [disc() * s for s in torch.linspace(0, 1, 50)]
    film = animate_images(path, "discs darken", columns=3, n_frames=5, titles=[f"state {i}" for i in range(50)])
    assert len(film.frames) == 5 and not plt.get_fignums()
    last = (1 - path[-1][4, 0].numpy()) / 2
    assert found(film.frames[-1], last) and not found(film.frames[1], last)
    grey = animate_images(path[:1] * 2, "grey").frames[0]
    assert found(grey, np.full((12, 12), 0.5), 0.01)
    assert 'class="film-screen"' in film.to_html()
    assert 'class="film-screen photo"' in animate_images([disc(channels=3)] * 2, "colours").to_html()


def test_bad_images_are_named():
    for x in (torch.zeros(4, 2), torch.zeros(28, 28), torch.zeros(2, 2, 8, 8), torch.zeros(0, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"images \(N, C, H, W\)"):
            image_grid(x, "nothing")
    with pytest.raises(ValueError, match="picture needs an alt text"):
        image_grid(disc(), "")
    with pytest.raises(ValueError, match="columns = 0"):
        image_grid(disc(), "discs", columns=0)
    with pytest.raises(ValueError, match="2 titles for 6 images"):
        image_grid(disc(), "discs", columns=3, titles=["a", "b"])
    with pytest.raises(ValueError, match="1 row titles for 2 rows"):
        image_grid(disc(), "discs", columns=3, rows=["a"])
    with pytest.raises(ValueError, match="at least two states, not 1"):
        animate_images([disc()], "discs")
    with pytest.raises(ValueError, match="1 titles for 2 states"):
        animate_images([disc(), disc()], "discs", titles=["a"])
    with pytest.raises(ValueError, match=r"state 1 has shape"):
        animate_images([disc(), disc(5)], "discs")
