"""What a student handed in, read with care: no link followed, no size trusted, and of a damaged file what it gives."""

import codecs
import contextlib
import hashlib
import itertools
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

LARGEST_NOTEBOOK = 100 * 2**20
LARGEST_REST = 100 * 2**20
MOST_TOGETHER = 2 * LARGEST_NOTEBOOK  # of all notebooks of a submission
MOST_FILES = 1000
MOST_CELLS = 2000
PICTURES = {"image/png", "image/jpeg", "image/gif"}


class Unreadable(Exception):
    """Why a submission can't be graded, in words for the student."""


@dataclass
class Cell:
    """A submitted cell: what it says, and what it claims to be."""

    kind: str  # "code", "markdown" or "raw"
    source: str
    grade_id: str | None = None
    ids: frozenset = frozenset()
    attachments: dict = field(default_factory=dict)


@dataclass
class Parcel:
    """The files of one submission, {"03_lab.ipynb": bytes, "data/x.csv": bytes}, and what was left out of them."""

    files: dict
    notes: list

    @property
    def notebooks(self):
        return [name for name in self.files if name.lower().endswith(".ipynb")]


def pack(folder, notebooks=True):
    """Read a submission's folder: plain files only, within bounds; raises Unreadable where a notebook is too large.

    Without `notebooks`, only what was handed in beside them.
    """
    files, notes, rest, together = {}, [], 0, 0
    for path in sorted(_plain_files(Path(folder), notes), key=lambda path: path.suffix.lower() != ".ipynb"):
        name = path.relative_to(folder).as_posix()
        size, is_notebook = path.lstat().st_size, path.suffix.lower() == ".ipynb"
        if is_notebook and not notebooks:
            continue
        if is_notebook and size > LARGEST_NOTEBOOK:
            raise Unreadable(
                f"{name} has {size / 2**20:.0f} MB, and {LARGEST_NOTEBOOK / 2**20:.0f} MB is the most that is read: "
                "clear its outputs (Edit, Clear All Outputs), save, and hand it in again."
            )
        rest += 0 if is_notebook else size
        together += size if is_notebook else 0
        if len(files) == MOST_FILES or rest > LARGEST_REST or together > MOST_TOGETHER:
            notes.append(
                f"Of the files handed in only the first {len(files)} were used: {MOST_FILES} files and "
                f"{LARGEST_REST / 2**20:.0f} MB are the most."
            )
            break
        content = _content(path)
        if content is None:
            notes.append(f"{name} could not be read and was left out.")
        else:
            files[name] = content
    return Parcel(files, notes)


def fingerprint(folder):
    """A hash of a submission's files; what is too large to be read counts by its size."""
    digest = hashlib.sha256()
    for path in itertools.islice(_plain_files(Path(folder), []), 2 * MOST_FILES):
        size = path.lstat().st_size
        digest.update(f"\n{path.relative_to(folder).as_posix()} {size}\n".encode("utf-8", "surrogateescape"))
        if size <= LARGEST_NOTEBOOK:
            digest.update(hashlib.sha256(_content(path) or b"").digest())
    return digest.hexdigest()


def _plain_files(folder, notes):
    """The files below a folder in order, but no links, devices or hidden folders, which are noted."""
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        mode = path.lstat().st_mode
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if stat.S_ISDIR(mode):
            yield from _plain_files(path, notes)
        elif stat.S_ISREG(mode):
            yield path
        else:
            what = "a link" if stat.S_ISLNK(mode) else "not a plain file"
            notes.append(f"{path.name} is {what} and was left out.")


def _content(path):
    """A plain file's bytes, or None; what becomes a link or a pipe meanwhile is neither followed nor waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with contextlib.suppress(OSError):
        with open(os.open(path, flags), "rb") as file:
            return file.read(max(LARGEST_NOTEBOOK, LARGEST_REST) + 1)
    return None


def read_notebook(content):
    """The cells of a notebook file's bytes, and notes on what was wrong with it.

    Outputs are dropped while reading. Any encoding that JSON may have, a byte order mark, Windows' line ends and old
    formats are read as they are; of a file that was cut off, the complete cells. Raises Unreadable.
    """
    if not content.strip(b"\0 \t\r\n"):
        raise Unreadable("The file is empty: save the notebook and hand it in again.")
    text, notes = _decoded(content)
    try:
        data = json.loads(text, object_pairs_hook=_without_outputs)
    except json.JSONDecodeError as error:
        data = _salvaged(text, error, notes)
    except (RecursionError, ValueError):
        raise Unreadable("The file is not a Jupyter notebook: download it anew as .ipynb.") from None
    cells = [cell for raw in _raw_cells(data) if (cell := _cell(raw))]
    if not cells:
        raise Unreadable("The file is a notebook without cells: hand in the notebook that you worked in.")
    if len(cells) > MOST_CELLS:
        raise Unreadable(f"The notebook has {len(cells)} cells, and {MOST_CELLS} is the most that is read.")
    return cells, notes


def _decoded(content):
    """The text of a file, and a note where it is in none of JSON's encodings."""
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        return text, ["The file is not text in UTF-8: letters beyond a to z may have changed."]
    return text.removeprefix(codecs.BOM_UTF8.decode("utf-8")), []


def _without_outputs(pairs):
    """A JSON object; an output gives None at once, so that a large one takes no memory for long."""
    found = dict(pairs)
    return None if "output_type" in found else found


def _salvaged(text, error, notes):
    """The complete cells of damaged JSON."""
    damaged = f"The file is damaged or cut off (at line {error.lineno})"
    begin, cells = re.search(r'"cells"\s*:\s*\[\s*', text), []
    decoder, position = json.JSONDecoder(object_pairs_hook=_without_outputs), begin.end() if begin else len(text)
    with contextlib.suppress(ValueError, RecursionError):
        while position < len(text):
            cell, position = decoder.raw_decode(text, position)
            cells.append(cell)
            position = re.compile(r"[\s,]*").match(text, position).end()
    if not cells:
        raise Unreadable(f"{damaged}: download the notebook anew as .ipynb.") from None
    notes.append(f"{damaged}: only its first {len(cells)} cells could be read. Download the notebook anew as .ipynb.")
    return {
        "nbformat": 3 if '"worksheets"' in text[: begin.end()] else 4,
        "worksheets": [{"cells": cells}],
        "cells": cells,
    }


def _raw_cells(data):
    """The cells, as format 4 has them, of what a file holds; raises Unreadable where that is no notebook."""
    if not isinstance(data, dict):
        raise Unreadable("The file is not a Jupyter notebook: download it anew as .ipynb.")
    cells = data.get("cells")
    if data.get("nbformat") in (1, 2, 3):
        cells = _upgraded(data)
    if not isinstance(cells, list):
        raise Unreadable("The file is not a Jupyter notebook: download it anew as .ipynb.")
    return cells


def _upgraded(data):
    """The cells of an old notebook in format 4."""
    try:
        sheets = data.get("worksheets") or [{"cells": data.get("cells", [])}]
        for cell in (cell for sheet in sheets for cell in sheet["cells"]):
            cell["outputs"] = []
            cell.setdefault("metadata", {})
        old = {"metadata": {}, "nbformat_minor": 0} | data | {"worksheets": sheets}
        return nbformat.convert(nbformat.from_dict(old), 4).cells
    except Exception:  # of many kinds, for files of many kinds
        raise Unreadable("The notebook's format is old and can't be read: save it in a newer one.") from None


def _cell(raw):
    """A Cell from a cell's JSON, or None where it is none."""
    if not isinstance(raw, dict) or raw.get("cell_type") not in ("code", "markdown", "raw"):
        return None
    source = raw.get("source", "")
    source = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    if not isinstance(source, str):
        return None
    metadata = raw["metadata"] if isinstance(raw.get("metadata"), dict) else {}
    claims = metadata["nbgrader"] if isinstance(metadata.get("nbgrader"), dict) else {}
    ids = {i for i in (raw.get("id"), metadata.get("id")) if isinstance(i, str)}  # Colab's stands in the metadata
    grade_id = claims.get("grade_id") if isinstance(claims.get("grade_id"), str) else None
    source = source.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode("utf-8")
    return Cell(raw["cell_type"], source, grade_id, frozenset(ids), _pictures(raw.get("attachments")))


def _pictures(attachments):
    """A cell's pasted pictures, and nothing else that may hang on it."""
    found = {}
    for name, bundle in attachments.items() if isinstance(attachments, dict) else []:
        for kind, data in bundle.items() if isinstance(bundle, dict) else []:
            if kind in PICTURES and isinstance(data, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", data):
                found.setdefault(name, {})[kind] = data
    return found
