"""The live elements of the built website, driven in a real browser by mouse, touch and keys."""

from urllib.parse import urljoin

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from test_site import SITE

from course_utils.data import toy_mixture
from course_utils.schedules import CosineSchedule, LinearSchedule

pytestmark = [
    pytest.mark.site,
    pytest.mark.browser,
    pytest.mark.skipif(not (SITE / "_static" / "live").exists(), reason="this site has no live elements"),
]
PATIENCE = 120_000  # ms: a busy machine loads slowly


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["laptop, light", "phone, dark"], scope="module")
def context(request, chromium):
    theme, width = request.param
    context = chromium.new_context(
        color_scheme=theme, viewport={"width": width, "height": 900}, reduced_motion="reduce", has_touch=width < 500
    )
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def visit(context, address):
    """visit(page, element, hash) opens a page and waits until its element is live and has computed something."""
    tab = context.new_page()
    tab.heard, tab.requests = [], []
    tab.on("pageerror", lambda error: tab.heard.append(str(error)))
    tab.on("console", lambda message: tab.heard.append(message.text) if message.type == "error" else None)
    tab.on("response", lambda response: tab.heard.append(response.url) if response.status >= 400 else None)
    tab.on("request", lambda request: tab.requests.append(request.url))

    def open_page(page, element, fragment="", ready=True):
        tab.goto(urljoin(address, f"book/{page}.html{fragment}"), wait_until="load")
        box = tab.locator(f"#{element}")
        box.scroll_into_view_if_needed()
        if ready:
            tab.wait_for_selector(f"#{element}.live-on")
            rest(tab, element)
        return tab, box

    yield open_page
    elsewhere = [url for url in tab.requests if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere
    tab.close()


def rest(tab, element):
    """Wait until the element has nothing more to compute; changes are taken up with a little delay."""
    tab.wait_for_timeout(400)
    stage = f"document.querySelector('#{element} .live-stage')"
    tab.wait_for_function(f"{stage}.getAttribute('aria-busy') !== 'true'")


def value(tab, element, expression):
    return tab.evaluate(
        f"(() => {{ const live = document.querySelector('#{element} .live-stage').live; return {expression}; }})()"
    )


def check_access(tab, element):
    found = Axe().run(tab, context={"include": [[f"#{element}"]]})
    assert not found.response["violations"], found.generate_report()


def points(tab, element, panel=0):
    """The states of a flow: (steps + 1, n, 2)."""
    states, n = value(tab, element, f"[[...live.panels[{panel}].states], live.panels[{panel}].n]")
    return np.array(states).reshape(-1, n, 2)


def test_points_flow_to_the_data(visit):
    """The element's last state is a sample of the moons, and the keys go through time both ways."""
    name = "live-two-dimensions"
    tab, box = visit("ddpm_2d", name)
    states, moons = points(tab, name), toy_mixture("moons")
    assert states.shape == (51, 500, 2) and abs(states[0].std() - 1) < 0.1
    nearest = np.linalg.norm(states[-1][:, None] - moons.means.numpy(), axis=2).min(1)
    assert np.mean(nearest < 4 * moons.std[0].item()) > 0.98
    time = box.get_by_label("time, from noise to data")
    time.focus()
    tab.keyboard.press("Home")
    assert box.locator(".live-time output").inner_text() == "t = 1.00"
    tab.keyboard.press("ArrowRight")
    assert box.locator(".live-time output").inner_text() == "t = 0.98"
    tab.keyboard.press("End")
    assert box.locator(".live-time output").inner_text() == "t = 0.00"
    assert "exact denoiser" in box.locator(".live-state").inner_text()
    tab.wait_for_function(f"document.querySelector('#{name} .live-said').textContent.includes('points flow')")
    assert not tab.heard
    check_access(tab, name)  # last: it asks for style sheets in ways of its own


def test_exact_and_learned_stand_side_by_side(visit):
    name = "live-two-dimensions"
    tab, box = visit("ddpm_2d", name)
    assert not [url for url in tab.requests if "runtime/" in url], "the network is loaded before anybody asks for it"
    box.get_by_text("both", exact=True).click()
    rest(tab, name)
    assert box.locator(".live-plane:visible").count() == 2
    exact, learned = points(tab, name), points(tab, name, 1)
    assert np.array_equal(exact[0], learned[0])  # from the same noise
    apart = np.linalg.norm(exact[-1] - learned[-1], axis=1)
    assert 0 < np.median(apart) < 0.1
    assert not tab.heard
    check_access(tab, name)


def test_guidance_gathers_the_points(visit):
    name = "live-two-dimensions"
    tab, box = visit("guidance", name)
    moons = toy_mixture("moons")

    def share_at_the_upper():
        far = np.linalg.norm(points(tab, name)[-1][:, None] - moons.means.numpy(), axis=2)
        return np.mean(far.argmin(1) < 200)

    assert share_at_the_upper() > 0.99
    scale = box.get_by_label("Guidance")
    scale.focus()
    tab.keyboard.press("Home")  # w = 0: nobody asked
    rest(tab, name)
    assert 0.35 < share_at_the_upper() < 0.65


@pytest.mark.parametrize("how", ["pointer", "keys"])
def test_a_drawing_is_a_data_set(visit, how):
    name = "live-two-dimensions"
    tab, box = visit("intro", name)
    box.get_by_role("button", name="Clear").click()
    plane = box.locator(".live-plane").first
    if how == "keys":
        plane.focus()
        tab.keyboard.press(" ")
        for _ in range(4):
            tab.keyboard.press("Shift+ArrowRight")
        tab.keyboard.press(" ")
        expected = np.array([1.0, 0.0])
    else:
        plane.scroll_into_view_if_needed()
        at = plane.bounding_box()
        x, y = at["x"] + at["width"] / 3, at["y"] + at["height"] / 4  # (-1, 1.5)
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x + at["width"] / 3, y, steps=5)
        tab.mouse.up()
        expected = np.array([0.0, 1.5])
    rest(tab, name)
    end = points(tab, name)[-1]
    assert np.abs(end.mean(0) - expected).max() < 0.15
    assert 0.4 < end[:, 0].std() < 0.75 and end[:, 1].std() < 0.15  # a line, two long
    assert not tab.heard
    check_access(tab, name)


def test_a_digit_is_its_seed_and_its_class(visit):
    """The address sets the element up; the same address draws the same digit; another seed another one."""
    name = "live-digits"
    link = "#seed=11&class=4&scale=2&steps=8&sampler=ddim"
    last = "[...live.states.at(-1).x]"
    tab, box = visit("ddpm_mnist", name, link)
    first = np.array(value(tab, name, last))
    assert "a 4, guided at scale 2: DDIM, 8 steps, seed 11" in box.locator(".live-state").inner_text()
    assert len(value(tab, name, "live.states")) == 9 and np.abs(first).max() <= 1.001
    box.get_by_role("button", name="Copy link").click()
    assert tab.evaluate("location.hash") == "#seed=11&class=4&scale=2&steps=8&sampler=ddim"
    tab.reload()
    box.scroll_into_view_if_needed()
    tab.wait_for_selector(f"#{name}.live-on")
    rest(tab, name)
    assert np.array_equal(first, np.array(value(tab, name, last)))
    box.get_by_label("4", exact=True).focus()
    tab.keyboard.press("ArrowRight")
    rest(tab, name)
    assert "a 5, guided" in box.locator(".live-state").inner_text()
    assert np.abs(first - np.array(value(tab, name, last))).mean() > 0.05
    assert not tab.heard
    check_access(tab, name)


def test_levels_are_the_courses(visit):
    """What the cards say at the slider's time are the schedules' coefficients."""
    name = "live-noise-levels"
    tab, box = visit("ddpm_mnist", name)
    slider = box.get_by_label("Time t")
    slider.focus()
    for _ in range(10):
        tab.keyboard.press("ArrowLeft")
    t = float(slider.input_value())
    assert t == pytest.approx(0.4)
    for title, schedule in (("linear", LinearSchedule()), ("cosine", CosineSchedule())):
        card = box.locator(".live-levels figure", has=tab.get_by_text(title, exact=True))
        alpha, sigma, ratio = (float(text) for text in card.locator("dd").all_inner_texts())
        assert alpha == pytest.approx(schedule.alpha(t).item(), abs=6e-4)
        assert sigma == pytest.approx(schedule.sigma(t).item(), abs=6e-4)
        assert ratio == pytest.approx(schedule.log_snr(t).exp().item(), rel=2e-3, abs=6e-4)
    assert not tab.heard
    check_access(tab, name)


def test_a_drawing_is_finished(visit):
    """A sketch becomes another picture; of half a digit the known half stays to the last bit."""
    name = "live-finish"
    tab, box = visit("editing", name)
    assert "Noised to t = 0.70" in box.locator(".live-state").inner_text()
    box.get_by_text("half a digit", exact=True).click()
    rest(tab, name)
    sheet = box.get_by_role("application")
    sheet.focus()
    tab.keyboard.press(" ")
    tab.keyboard.press("Shift+ArrowUp")
    tab.keyboard.press(" ")
    rest(tab, name)
    given, made = (np.array(value(tab, name, f"[...live.{what}]")).reshape(28, 28) for what in ("picture", "result"))
    assert np.array_equal(given[:, :14].astype(np.float32), made[:, :14].astype(np.float32))
    assert made.std() > 0.3 and np.abs(made).max() <= 1.001
    assert not tab.heard
    check_access(tab, name)


def test_a_finger_draws_and_the_page_stays(chromium, address):
    context = chromium.new_context(viewport={"width": 390, "height": 900}, has_touch=True, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    tab, name = context.new_page(), "live-finish"
    tab.goto(urljoin(address, "book/editing.html"), wait_until="load")
    box = tab.locator(f"#{name}")
    box.scroll_into_view_if_needed()
    tab.wait_for_selector(f"#{name}.live-on")
    rest(tab, name)
    pad = box.get_by_role("application")
    pad.scroll_into_view_if_needed()
    frame, scrolled = pad.bounding_box(), tab.evaluate("scrollY")
    before = np.array(value(tab, name, "[...live.picture]"))
    hand = context.new_cdp_session(tab)
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", None)):
        place = {"x": frame["x"] + frame["width"] / 8, "y": frame["y"] + frame["height"] * (share or 0)}
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place] if share else []})
    rest(tab, name)
    after = np.array(value(tab, name, "[...live.picture]"))
    drawn = (after > before + 0.5).reshape(28, 28)
    rows = np.flatnonzero(drawn.any(1))
    assert rows.size and rows.max() - rows.min() > 10  # a stroke from above to below, beside what was drawn already
    assert tab.evaluate("scrollY") == scrolled
    box.get_by_role("button", name="Undo").tap()  # is a click, if the browser has not begun to glide after the stroke
    rest(tab, name)
    assert np.array_equal(np.array(value(tab, name, "[...live.picture]")), before)
    context.close()


# Where something is missing


def test_without_scripts_the_pictures_stand(chromium, address):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(urljoin(address, "book/ddpm_mnist.html"))
    still = tab.locator("#live-digits .live-still img")
    assert still.is_visible() and len(still.get_attribute("alt")) > 40
    assert "runs scripts" in tab.locator("#live-digits noscript").inner_text()
    context.close()


def test_what_fails_to_load_says_so(chromium, address):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.route("**/live/models/mnist*", lambda route: route.abort())
    tab.route("**/live/noise_levels.js", lambda route: route.abort())
    tab.goto(urljoin(address, "book/ddpm_mnist.html"))
    tab.locator("#live-noise-levels").scroll_into_view_if_needed()
    message = tab.locator("#live-noise-levels .live-failed")
    message.wait_for()
    assert "reload the page" in message.inner_text()
    assert tab.locator("#live-noise-levels .live-still img").is_visible()
    tab.locator("#live-digits").scroll_into_view_if_needed()
    tab.wait_for_function(
        "document.querySelector('#live-digits .live-state')?.textContent.includes('Check the connection')"
    )
    tab.unroute_all()
    tab.locator("#live-digits").get_by_role("button", name="Draw").click()  # the next try loads anew
    tab.wait_for_function("document.querySelector('#live-digits .live-state').textContent.startsWith('Asked')")
    context.close()


def test_nothing_is_loaded_before_it_is_in_sight(chromium, address):
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(urljoin(address, "book/ddpm_mnist.html"), wait_until="load")
    tab.wait_for_timeout(500)
    assert [url for url in requests if "/live/start.js" in url]
    assert not [
        url for url in requests if "/live/models/" in url or "/live/runtime/" in url or "/live/digits.js" in url
    ]
    tab.close()
