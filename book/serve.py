"""`make serve`: shows the website on localhost; a page that is saved is built anew, and reloads in the browser.

Only what changed is read again, and only changed cells run. Outputs that an edit of course_utils has made stale are
left to `make book`: while one writes, all pages running anew at each save would be no help.
"""

import argparse
import logging
import os
import subprocess
import time
from pathlib import Path

from livereload import Server

ROOT = Path(__file__).parents[1]
WATCHED = ("book/*.md", "book/*.bib", "book/_toc.yml", "book/_static/**/*.*", "notebooks/*/*.ipynb", "_config.yml")


def rebuild(root=ROOT):
    """Build what is new since the last build, and say how long it took; returns whether it went without a warning."""
    print("Something changed: building ...", flush=True)
    began = time.perf_counter()
    command = ["jupyter-book", "build", ".", "--toc", "book/_toc.yml", "-n", "-q", "--keep-going", "-W"]
    environment = os.environ | {"COURSE_KEEP_OUTPUTS": "1"}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    said = [line for line in result.stderr.splitlines() if "WARNING: " in line or "ERROR: " in line]
    print("\n".join([*said, f"{time.perf_counter() - began:.0f} s, {len(said) or 'no'} warnings."]), flush=True)
    return result.returncode == 0


def serve(port, root=ROOT):
    """Serve root/_build/html on localhost until Ctrl-C, and build whenever a source of the website is saved."""
    logging.disable(logging.WARNING)  # livereload notes its own doings, and each address that is not there
    server = Server()
    for pattern in WATCHED:
        server.watch(str(root / pattern), lambda: rebuild(root))
    server.serve(port=port, host="127.0.0.1", root=str(root / "_build" / "html"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    serve(parser.parse_args().port)
