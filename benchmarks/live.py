"""How fast the live elements are in headless Chromium, how long they keep the page from answering, what they weigh.

A time is the clock's, the median of several runs, and beside it stands the processor time of the thread that computes:
the two are the same where nothing else runs. The longest task of the page's main thread is processor time too.
"""

import functools
import gzip
import json
import shutil
import statistics
import threading
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

STATIC = Path(__file__).parents[1] / "book" / "_static"
PAGE = """<!doctype html><html data-theme="light"><link rel="stylesheet" href="live/live.css"><body>
<figure class="live" id="live" data-live="{name}" data-options="{options}"><div class="live-still"></div></figure>
<script type="module" src="live/start.js"></script>"""
RUN = """async ({ before, repeats }) => {
  const live = document.querySelector(".live-stage").live, seconds = [];
  for (let i = 0; i < repeats; i++) {
    Object.assign(live.chosen, before, { seed: i });
    const start = performance.now();
    await live.run();
    seconds.push((performance.now() - start) / 1000);
  }
  await new Promise(resolve => setTimeout(resolve, 3500));  // the flow plays to its end
  return seconds;
}"""
CASES = {
    "a guided digit: 20 steps, two evaluations each": ("digits", {}, {"scale": 2, "steps": 20}, 7),
    "a flow of 500 points: exact, 50 DDIM steps": ("two_dimensions", {}, {}, 7),
    "the same with arrows, and the network beside it": ("two_dimensions", {"which": "both", "arrows": True}, {}, 5),
    "a drawing finished: 17 steps": ("finish", {}, {"label": 3}, 5),
}


def serve():
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=STATIC))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def measured(browser, address, name, options, before, repeats):
    """Of each run its seconds; the worker's processor seconds a run; the longest task of the main thread in ms."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(300_000)
    html = PAGE.format(name=name, options=escape(json.dumps(options), quote=True))
    tab.route("**/bench.html", lambda route: route.fulfill(body=html, content_type="text/html"))
    tab.goto(f"{address}bench.html")
    tab.wait_for_selector("#live.live-on")
    tab.wait_for_timeout(1000)
    tab.wait_for_function("document.querySelector('.live-stage').getAttribute('aria-busy') !== 'true'")
    browser.start_tracing(page=tab, categories=["disabled-by-default-devtools.timeline", "__metadata"])
    seconds = tab.evaluate(RUN, {"before": before, "repeats": repeats})
    events = json.loads(browser.stop_tracing())["traceEvents"]
    tab.close()
    return seconds, sum(own_times(events, "DedicatedWorker")) / 1e3 / repeats, max(own_times(events, "CrRendererMain"))


def own_times(events, thread):
    """The processor time in ms of each task that a thread of this name ran while it was traced."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tasks = (e for e in events if e["name"].endswith("RunTask") and thread in names.get((e["pid"], e["tid"]), ""))
    return [e.get("tdur", 0) / 1e3 for e in tasks]


def weights():
    """What each part of the live folder weighs as it is sent, in MB; scripts as a server compresses them."""
    parts = {}
    for path in (STATIC / "live").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            sent = content if path.suffix in (".gz", ".webp") else gzip.compress(content, 6)
            kind = path.parent.name if path.parent.name != "live" else "scripts and style"
            parts[kind] = parts.get(kind, 0) + len(sent) / 1e6
    return parts


def main():
    load = psutil.getloadavg()[0]
    print(f"{psutil.cpu_count()} processors, {load:.1f} tasks on them before this began")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program:
        address = serve()
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=program, args=flags)
            for title, case in CASES.items():
                seconds, computing, longest = measured(browser, address, *case)
                clock = f"{statistics.median(seconds):5.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
                print(f"{title:48s} {clock}, computing {computing:.2f} s; longest task of the page {longest:.0f} ms")
            browser.close()
    else:
        print("no Chromium is installed: `make system` installs it on Debian")
    parts = weights()
    for kind, size in parts.items():
        print(f"{kind:20s} {size:6.2f} MB")
    print(f"{'together':20s} {sum(parts.values()):6.2f} MB")


if __name__ == "__main__":
    main()
