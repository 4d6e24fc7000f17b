"""For every test: one thread a process (small tensors gain nothing from more), and figures without a window.

And for those that need them: the website on localhost, and a browser.
"""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

SITE = Path(__file__).parents[1] / "_build" / "html"


def pytest_collection_modifyitems(items):
    """Tests of the website are skipped, and say so, where it has not been built."""
    if not SITE.exists():
        for item in items:
            if item.get_closest_marker("site"):
                item.add_marker(pytest.mark.skip(reason="there is no website yet: run `make book` first"))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """The site served on localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window; Playwright's own browser is not needed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium is installed: `make system` installs it on Debian")
    from playwright.sync_api import sync_playwright

    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet += " --disable-background-networking --disable-component-update"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=quiet.split())
        yield browser
        browser.close()
