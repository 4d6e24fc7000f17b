"""Files from the network: mirrors in turn, resumed where they were cut off, checked before they are used, kept.

They are kept in one folder, the user's cache, which the variable COURSE_DATA moves. A file gets its name there only
once its checksum is right; until then it is a part, from which a later call goes on (HTTP's Range: RFC 9110, 14).
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from pathlib import Path

TIMEOUT = 30  # seconds without a byte
TRIES = 5  # of one address that breaks off, as long as each try brings something
CHUNK = 1 << 18  # bytes


def cache_folder():
    """Where downloads are kept: the folder in COURSE_DATA, or else the user's cache."""
    if folder := os.environ.get("COURSE_DATA"):
        return Path(folder).expanduser()
    import pooch  # on demand: only downloads need it

    return Path(pooch.os_cache("course_utils"))


def fetch(urls, sha256, name, advice="", opened=open, quiet=False):
    """The path of the file `name` in the cache, downloaded from the first of `urls` that works if it is not there yet.

    sha256: the checksum, or several of which one must fit. It is that of what `opened(path, "rb")` reads: with
    gzip.open, of the content, for mirrors that compress anew. `advice` is what to do instead, for the message.
    Two processes that want the same file download it once. Raises OSError where no address gives the right file, or
    where the cache can't be written.
    """
    path = cache_folder() / name
    sums = {sha256} if isinstance(sha256, str) else set(sha256)
    if _is_right(path, sums, opened):
        return path
    from filelock import FileLock  # on demand too; torch needs it, so it is always there

    failures = [f"the file that lies at {path} has a wrong checksum"] if path.exists() else []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if _is_right(path, sums, opened):  # another process was faster
                return path
            for url in urls:
                try:
                    return _download(url, path, sums, opened, quiet)
                except _AddressFailed as failure:
                    failures.append(f"{url}: {failure}")
    except OSError as error:
        raise OSError(
            f"can't keep {name} in {path.parent} ({error}). Set the variable COURSE_DATA to a folder where you may "
            f"write and where there is room. {advice}".strip()
        ) from error
    tried = "".join(f"\n  {failure}" for failure in failures)
    raise OSError(f"can't download {path.name}:{tried}\n{advice} Or get it elsewhere and put it at {path}.".lstrip())


class _AddressFailed(Exception):
    """One address does not give the file; the next may."""


def _is_right(path, sums, opened):
    """Has what the file holds one of these sha256 sums? A file that can't be read to its end has not."""
    digest = hashlib.sha256()
    try:
        with opened(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except (OSError, EOFError, zlib.error):
        return False
    return digest.hexdigest() in sums


def _download(url, path, sums, opened, quiet):
    """Download `url` to a part beside `path`, check it and give it its name."""
    # Each address has a part of its own: mirrors need not agree byte for byte.
    part = path.with_name(f"{path.name}.{zlib.crc32(url.encode()):08x}.part")
    while True:
        begun_earlier = part.exists()
        _complete(url, part, quiet)
        if _is_right(part, sums, opened):
            os.replace(part, path)
            return path
        part.unlink()
        if not begun_earlier:  # else the part was at fault, perhaps: once more from the start
            raise _AddressFailed("what it gives has a wrong checksum")


def _complete(url, part, quiet):
    """Append to the part what it lacks, in as many requests as it takes."""
    for _ in range(TRIES):
        have = part.stat().st_size if part.exists() else 0
        if _request(url, part, have, quiet):
            return
        if part.stat().st_size == have:
            break
    raise _AddressFailed(
        f"the connection broke off after {part.stat().st_size:,} bytes; the next call goes on from there"
    )


def _request(url, part, have, quiet):
    """Ask for the file from byte `have` on and write what comes. Returns whether that is all of it."""
    from tqdm.auto import tqdm

    # urllib and not requests: it leaves a .gz as it is where a server calls the gzip an encoding
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == 416:  # nothing follows byte `have`: the part is whole, or the checksum will tell
            return True
        raise _AddressFailed(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _AddressFailed(getattr(error, "reason", error)) from error
    with response:
        if response.status != 206:  # a server that knows no Range starts again
            have = 0
        length = response.headers.get("Content-Length")
        size = have + int(length) if length else None
        options = {"total": size, "initial": have, "unit": "B", "unit_scale": True, "disable": quiet}
        with open(part, "ab" if have else "wb") as file, tqdm(desc=part.name.split(".")[0], **options) as bar:
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
        return size is None or part.stat().st_size >= size


def _read(response):
    """The next bytes, or none at the end and where the connection breaks."""
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException):
        return b""
