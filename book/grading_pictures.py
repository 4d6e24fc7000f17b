"""Make the pictures of For instructors: a made-up class, graded, in a terminal, in formgrader and as feedback.

    python book/grading_pictures.py [--course FOLDER]

Runs the commands that the page names, in a temporary folder if none is given, and takes pictures of what they give, in
the system's Chromium.
"""

import argparse
import html
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from course_utils.grading import Course
from course_utils.grading.demo import LAB

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "book" / "_static"
PORT = 8899
TERMINAL = """<body style="margin:0;background:#15191f"><pre style="margin:0;padding:20px 24px;color:#e6edf3;
font:15px/1.5 'DejaVu Sans Mono',monospace;white-space:pre-wrap">{text}</pre></body>"""


def run(*command):
    """Run a command, and give back what a terminal would show in the end: of a bar, its last state."""
    environment = dict(os.environ, COLUMNS="110", OMP_NUM_THREADS="1")
    ran = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return "\n".join(line.split("\r")[-1] for line in ran.stdout.decode().replace("\r\n", "\n").split("\n"))


def save(page, name, clip=None):
    """Write a picture of a page, small."""
    image = Image.open(io.BytesIO(page.screenshot(clip=clip) if clip else page.screenshot(full_page=True)))
    image.convert("RGB").save(PICTURES / f"{name}.webp", quality=70, method=6)
    print(f"{name}.webp: {(PICTURES / f'{name}.webp').stat().st_size / 1000:.0f} kB")


def terminal(browser, course):
    printed = run(sys.executable, "-m", "course_utils.grading", "--course", course)
    page = browser.new_page(viewport={"width": 1150, "height": 300})
    page.set_content(TERMINAL.format(text=html.escape(f"$ make grade COURSE=demo\n{printed.replace(course, 'demo')}")))
    save(page, "grading_terminal")


def feedback(browser, course):
    page = browser.new_page(viewport={"width": 1000, "height": 640})
    path = Course(course).path("feedback", "demo_carl", LAB) / f"{LAB}.html"
    page.goto(path.as_uri())
    save(page, "grading_feedback", {"x": 0, "y": 0, "width": 1000, "height": 640})


def formgrader(browser, course):
    """A submission in formgrader, at its first written answer."""
    with Course(course).api.gradebook as gradebook:
        submission = gradebook.find_submission_notebook(LAB, LAB, "demo_ada").id
    command = ["jupyter", "lab", "--no-browser", "--allow-root", f"--port={PORT}", "--IdentityProvider.token="]
    command += ["--notebook-dir", course]
    server = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, COURSE=course), stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{PORT}/formgrader/submissions/{submission}/"
        for _ in range(120):
            time.sleep(1)
            try:
                urllib.request.urlopen(address, timeout=60).close()
                break
            except OSError:
                continue
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(address, wait_until="load", timeout=120_000)
        page.wait_for_timeout(3000)
        answer = page.locator(".nbgrader_cell", has=page.locator("input.score")).filter(has_text="Exercise").last
        answer.evaluate("cell => window.scrollBy(0, cell.getBoundingClientRect().top - 90)")
        save(page, "grading_formgrader", {"x": 0, "y": 0, "width": 1100, "height": 800})
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--course", help="a folder with a class that is graded already, or an empty one")
    parser.add_argument("--only", choices=("terminal", "feedback", "formgrader"))
    arguments = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        course = str(Path(arguments.course or folder).resolve())
        run(sys.executable, "-m", "course_utils.grading.demo", "--course", course)
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        for take in (terminal, feedback, formgrader):
            if arguments.only in (None, take.__name__):
                take(browser, course)
        browser.close()


if __name__ == "__main__":
    main()
