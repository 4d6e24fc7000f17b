"""The two views on chapter 7's page, in the built website and in a real browser."""

import re
from urllib.parse import urljoin

import pytest
from test_site import SITE

PAGE = SITE / "book" / "epipolar.html"
pytestmark = [
    pytest.mark.site,
    pytest.mark.browser,
    pytest.mark.skipif(not PAGE.exists(), reason="the page of chapter 7 is not on this site"),
]


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["laptop, light", "phone, dark"])
def tab(request, chromium, address):
    theme, width = request.param
    context = chromium.new_context(
        color_scheme=theme, viewport={"width": width, "height": 900}, reduced_motion="reduce", has_touch=width < 500
    )
    tab = context.new_page()
    tab.requests = []
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(urljoin(address, "book/epipolar.html"), wait_until="load")
    tab.home = address
    yield tab
    context.close()


def position(tab):
    return tuple(int(v) for v in re.search(r"Point \((\d+), (\d+)\)", tab.locator(".tv-state").inner_text()).groups())


def test_keys_move_the_point(tab):
    first = tab.locator(".tv-first")
    line = tab.locator(".tv-line").evaluate("part => part.getAttribute('x1')")
    x, y = position(tab)
    first.focus()
    for key in ("Shift+ArrowLeft", "Shift+ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    assert position(tab) == (x - 20, y - 1)
    assert tab.locator(".tv-line").evaluate("part => part.getAttribute('x1')") != line
    tab.wait_for_function(f"document.querySelector('.tv-said').textContent.includes('({x - 20}, {y - 1})')")
    assert not [url for url in tab.requests if not url.startswith((tab.home, "data:", "blob:"))]


def test_the_slider_moves_along_the_line(tab):
    state = tab.locator(".tv-state")
    for _ in range(3):
        tab.locator(".two-views input").press("ArrowRight")
        assert "0.00 pixels from the line" in state.inner_text()


def test_the_text_can_be_read(tab):
    """In light and in dark the words under the pictures have the page's own colour, on no background of their own."""
    colors = tab.evaluate(
        """() => ["article p", ".tv-state", ".two-views figcaption"].map(
        name => getComputedStyle(document.querySelector(name)).color)"""
    )
    assert colors[0] == colors[1]
    pictures = tab.locator(".two-views .tv-first, .two-views .tv-second")
    assert pictures.count() == 2
    for picture in pictures.all():
        assert picture.evaluate("part => getComputedStyle(part).filter") == "none"  # not turned over in the dark
        assert picture.bounding_box()["width"] > 250
