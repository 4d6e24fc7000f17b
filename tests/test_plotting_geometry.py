"""Pictures of cameras and views: what is drawn is where geometry says, and the element's script agrees with Python."""

import json
import re

import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from course_utils.data import load_temple  # noqa: E402
from course_utils.geometry import Camera, clip_line, epipolar_line, fundamental  # noqa: E402
from course_utils.plotting_geometry import (  # noqa: E402
    TwoViews,
    draw_cameras,
    draw_line,
    draw_point,
    show_view,
    turntable,
    upright,
)

DEPTHS = [0.4, 0.5, 0.6, 0.7, 0.8]
WORDS = "Two grey pictures of nothing."


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def cameras():
    return load_temple(quiet=True).cameras


def views(x=(500, 200), second=3, **options):
    """The element with plain grey pictures, which need no drawing."""
    grey = [np.full((480, 640, 3), level, dtype=np.uint8) for level in (90, 160)]
    all_cameras = cameras()
    return TwoViews(
        grey, [all_cameras[0], all_cameras[second]], x, DEPTHS, WORDS, names=("view 1", "view 4"), **options
    )


def test_a_view_keeps_its_pixels_centres():
    ax = show_view(np.zeros((480, 640, 3), dtype=np.uint8))
    assert ax.get_xlim() == (-0.5, 639.5) and ax.get_ylim() == (479.5, -0.5)


def test_lines_end_at_the_picture():
    ax = show_view(np.zeros((480, 640, 3), dtype=np.uint8))
    for line in ([1.0, 0.0, -300.0], [0.0, 1.0, -20.0], [0.6, 0.8, -400.0]):
        draw_line(line, ax)
        assert np.allclose(ax.lines[-1].get_xydata(), clip_line(line, 640, 480))
    before = len(ax.lines)
    draw_line([1.0, 0.0, 50.0], ax)  # to the left of the picture
    assert len(ax.lines) == before
    draw_point([3.0, 4.0], ax)
    assert np.allclose(ax.lines[-1].get_xydata(), [[3, 4]])


def test_lines_end_at_a_picture_of_any_size():
    line = [0.6, 0.8, -50.0]  # leaves the picture at the right and below
    ax = show_view(np.zeros((48, 80, 3), dtype=np.uint8))
    draw_line(line, ax)
    assert np.allclose(ax.lines[-1].get_xydata(), clip_line(line, 80, 48))
    draw_line(line, ax, 40, 60)
    assert np.allclose(ax.lines[-1].get_xydata(), clip_line(line, 40, 60))
    with pytest.raises(ValueError, match="show no picture"):
        draw_line(line, plt.figure().add_subplot())


def test_up_is_a_rotation_and_the_ring_lies_level():
    turn = upright(cameras())
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(turn).item() == pytest.approx(1)
    heights = torch.stack([turn @ camera.centre for camera in cameras()])[:, 2]
    assert heights.max() - heights.min() < 1e-6  # the drawn ring is a circle about the vertical


def test_cameras_are_drawn_where_they_stand():
    ax = plt.figure().add_subplot(projection="3d")
    one = cameras()[0]
    draw_cameras([one], ax, ["1"], size=0.2)
    base, *edges = (np.array(line.get_data_3d()).T for line in ax.lines)
    assert all(np.allclose(edge[0], one.centre) for edge in edges) and len(edges) == 4
    assert np.allclose(one.depth(base), 0.2) and np.allclose(one.project(base[2]), [639, 479])


def test_a_turn_ends_where_it_began():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(50, 3, generator=g)
    film = turntable(X, torch.rand(50, 3, generator=g), "fifty points turn about the vertical", n_frames=8)
    assert len(film.frames) == 8 and len({frame.tobytes() for frame in film.frames}) == 8
    with pytest.raises(ValueError, match="alt text"):
        turntable(X, torch.rand(50, 3), "")


def test_the_element_stands_without_scripts():
    """Its line and its dots, as written into the page, are those of the cameras."""
    element = views()
    page = BeautifulSoup(element.to_html(), "html.parser")
    one, four = element.cameras
    line = page.select_one(".tv-line")
    ends = [[float(line["x1"]), float(line["y1"])], [float(line["x2"]), float(line["y2"])]]
    assert np.allclose(ends, clip_line(epipolar_line(fundamental(one, four), [500.0, 200.0]), 640, 480), atol=0.01)
    marks = [re.findall(r"-?[\d.]+", mark["transform"]) for mark in page.select(".tv-marks > g")]
    expected = four.project(one.back_project([500.0, 200.0], DEPTHS))
    assert np.allclose(np.array(marks, dtype=float), expected, atol=0.01)
    assert all(svg["aria-label"] for svg in page.select("svg[role=img]"))
    assert page.select_one(".tv-controls").has_attr("hidden")  # nothing to press where nothing would happen
    assert "@" not in re.sub(r"@media", "", re.sub(r"base64,[^\"]*", "", str(page)))  # no placeholder is left
    assert not page.find_all(src=True)


def test_the_element_in_other_shapes():
    bundle = views()._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and WORDS in bundle["text/plain"]
    with pytest.raises(ValueError, match="alt text"):
        TwoViews([np.zeros((4, 4, 3), np.uint8)] * 2, cameras()[:2], (1, 1), DEPTHS, "")
    with pytest.raises(ValueError, match="one size"):
        TwoViews([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], cameras()[:2], (1, 1), DEPTHS, WORDS)
    with pytest.raises(ValueError, match="two cameras"):
        TwoViews([np.zeros((4, 4, 3))] * 2, cameras()[:3], (1, 1), DEPTHS, WORDS)
    with pytest.raises(ValueError, match="pixel is"):
        views(x=(1, 2, 3))


# In a browser, without the site


def opened(browser, element, width=1000, **options):
    """A page that holds only the element, and the list of errors that it has made."""
    tab = browser.new_page(viewport={"width": width, "height": 800}, **options)
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.set_content(f"<!doctype html><body>{element.to_html()}<div style='height: 2000px'></div>")
    return tab, errors


def drawn(tab):
    """What the second view shows: the line's ends (or None), and the place of the slider's ring."""
    return tab.evaluate(
        """() => { const line = document.querySelector(".tv-line"), here = document.querySelector(".tv-here");
        const place = here.getAttribute("transform").match(/-?\\d[\\d.e-]*/g).map(Number);
        const ends = ["x1", "y1", "x2", "y2"].map(name => +line.getAttribute(name));
        return { ends: line.style.display === "none" ? null : ends, here: place,
                 x: document.querySelector(".tv-handle").getAttribute("transform").match(/-?\\d+/g).map(Number) }; }"""
    )


@pytest.mark.browser
@pytest.mark.parametrize("second", [1, 3, 6, 9])
def test_the_script_agrees_with_python(chromium, second):
    """Wherever the point is dragged, the line and the ring are those of the cameras."""
    element = views(second=second)
    one, other = element.cameras
    tab, errors = opened(chromium, element)
    first = tab.locator(".tv-first")
    box = first.bounding_box()
    for across, down in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.2), (0.3, 0.95), (0.999, 0.999)]:
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.mouse.down()
        tab.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=3)
        tab.mouse.up()
        shown = drawn(tab)
        wanted = across * 640 - 0.5, down * 480 - 0.5
        assert np.allclose(shown["x"], wanted, rtol=0, atol=2)  # a dot of the screen is 1.5 pixels here
        ends = clip_line(epipolar_line(element.F, shown["x"]), 640, 480)
        if len(ends):
            found = np.array(shown["ends"]).reshape(2, 2)
            assert np.allclose(found, ends, atol=1e-6) or np.allclose(found[::-1], ends, atol=1e-6)
        else:
            assert shown["ends"] is None and "misses" in tab.locator(".tv-state").inner_text()
        point = one.back_project(shown["x"], 0.6)
        if other.depth(point) > 0:
            assert np.allclose(shown["here"], other.project(point), atol=1e-6)
    assert not errors
    tab.close()


@pytest.mark.browser
def test_keys_move_the_point_and_are_said(chromium):
    tab, errors = opened(chromium, views())
    first, said = tab.locator(".tv-first"), tab.locator(".tv-said")
    tab.keyboard.press("Tab")
    assert first.evaluate("part => part === document.activeElement") and "arrow keys" in first.get_attribute(
        "aria-label"
    )
    for key in ("ArrowRight", "Shift+ArrowDown", "ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    assert drawn(tab)["x"] == [500, 209] and tab.evaluate("scrollY") == 0
    tab.wait_for_function("document.querySelector('.tv-said').textContent.includes('(500, 209)')")
    tab.locator("input").press("ArrowRight")
    assert "0.605" in tab.locator(".tv-state").inner_text() and said.get_attribute("aria-live") == "polite"
    for _ in range(60):
        first.press("Shift+ArrowLeft")
    assert drawn(tab)["x"][0] == 0  # the point stays in the picture
    assert not errors
    tab.close()


@pytest.mark.browser
def test_a_finger_taps_and_the_phone_can_scroll(chromium):
    context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    tab = context.new_page()
    tab.set_content(
        f"<meta name=viewport content='width=device-width'><body style='margin:8px'>{views().to_html()}"
        "<div style='height: 2000px'></div>"
    )
    box = tab.locator(".tv-first").bounding_box()
    tab.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    x = drawn(tab)["x"]
    assert abs(x[0] - 160) <= 3 and abs(x[1] - 240) <= 3
    style = "part => getComputedStyle(document.querySelector(part)).touchAction"
    assert tab.evaluate(style, ".tv-first") == "auto" and tab.evaluate(style, ".tv-handle") == "none"
    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    radius = tab.locator(".tv-handle circle").first.bounding_box()
    assert radius["width"] >= 44  # pixels: as wide as a finger
    context.close()


@pytest.mark.browser
def test_without_scripts_the_picture_stays(chromium):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.set_content(views().to_html())
    assert tab.locator(".tv-line").is_visible() and not tab.locator(".tv-controls").is_visible()
    assert "(500, 200)" in tab.locator(".tv-state").inner_text()
    context.close()


def test_numbers_in_the_page_are_the_cameras():
    """F, and the two parts of the partner at depth z, z A x + b."""
    element = views()
    numbers = json.loads(re.search(r"\{ F, A, b \} = (\{.*?\});", element.to_html()).group(1))
    one, four = element.cameras
    A, b = (torch.tensor(numbers[name], dtype=torch.float64) for name in "Ab")
    for z in (0.4, 0.7):
        u = z * A @ torch.tensor([100.0, 50.0, 1.0], dtype=torch.float64) + b
        assert torch.allclose(u[:2] / u[2], four.project(one.back_project([100.0, 50.0], z)), atol=1e-9)
    assert torch.allclose(torch.tensor(numbers["F"], dtype=torch.float64), fundamental(one, four))


def test_a_camera_can_be_drawn_anywhere():
    """A pyramid turned with the world has its tip at the turned centre."""
    turn = upright(cameras())
    moved = Camera(cameras()[2].K, cameras()[2].R, cameras()[2].t + 1)
    ax = plt.figure().add_subplot(projection="3d")
    draw_cameras([moved], ax, turn=turn)
    assert np.allclose(np.array(ax.lines[1].get_data_3d())[:, 0], turn @ moved.centre)
