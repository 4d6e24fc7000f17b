"""Execute the pages anew where the course's package or its environment has changed.

The execution cache compares a page's own cells only: without this, a changed course_utils would leave old pictures.
"""

import hashlib
import os
import shutil
from pathlib import Path

# what no page imports
APART = ("authoring", "grading")
# what a page may read besides: weights, measured numbers, the frame of an element
READ = (".py", ".json", ".safetensors", ".html")


def fingerprint(root):
    """Return one hash of everything besides its text that a page's outputs depend on."""
    package = root / "course_utils"
    files = [root / "requirements.txt"]
    found = (path for path in sorted(package.rglob("*")) if path.suffix in READ)
    files += [path for path in found if path.relative_to(package).parts[0] not in APART]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def drop_stale_outputs(app, env, added, changed, removed):
    """Name every page as outdated where the fingerprint is not the last complete build's, and empty a cache of another.

    What a build that failed or was stopped has executed is not executed again.
    """
    if os.environ.get("COURSE_KEEP_OUTPUTS"):  # `make serve`: an author who waits for a text
        return []
    now = fingerprint(Path(app.srcdir))
    if getattr(env, "course_fingerprint", None) == now:
        return []
    env.course_fingerprint = now  # kept with the environment, that is only once all pages have been read
    cache = Path(app.srcdir) / app.config.nb_execution_cache_path
    stamp = cache / "course_fingerprint"
    if not stamp.exists() or stamp.read_text() != now:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        stamp.write_text(now)
    return sorted(env.found_docs - removed)


def setup(app):
    app.connect("env-get-outdated", drop_stale_outputs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
