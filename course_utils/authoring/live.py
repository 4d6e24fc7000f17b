"""What the live elements of the website load: networks, the program that runs them, and stills.

    python -m course_utils.authoring.live             # the network of the digits, from its weights, and the stills
    python -m course_utils.authoring.live toys        # train the network of the two-dimensional sets anew: minutes
    python -m course_utils.authoring.live runtime     # fetch and pack the pinned onnxruntime-web: needs a network

Weights are stored as float16 and cast in the graph, so that a page computes with the very numbers that PyTorch has
after loading them. All large files are packed with gzip's format and unpacked by the page: they weigh as little with
any server.
"""

import argparse
import gzip
import hashlib
import io
import tarfile
import urllib.request
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from course_utils.data import load_mnist, toy_2d, toy_mixture
from course_utils.denoiser import Denoiser, diffusion_loss
from course_utils.films import frame_of, webp
from course_utils.guidance import cfg, clip, condition, sdedit
from course_utils.models import MLP
from course_utils.plotting import image_grid, scatter_row
from course_utils.samplers import ddim, dpmpp_2m
from course_utils.schedules import CosineSchedule, LinearSchedule
from course_utils.training import batches, fit, load_pretrained

LIVE = Path(__file__).parents[2] / "book" / "_static" / "live"

RUNTIME_URL = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"

TOYS = {"moons": 2, "circles": 2, "swiss_roll": 2, "s_curve": 2, "mixture": 8}  # sets and their numbers of classes


def toy_labels():
    """The label of each set: dict name -> the one of the whole set; its classes have the labels that follow."""
    starts = np.cumsum([0, *(1 + n for n in TOYS.values())]).tolist()
    return dict(zip(TOYS, starts, strict=False))


def toy_net():
    """One network for all two-dimensional sets: the set is a label, and so is each class of each set."""
    return MLP(width=112, depth=3, n_classes=sum(TOYS.values()) + len(TOYS))


def train_toys(n=20_000, n_steps=5000, dropped=0.3):
    """The network of the two-dimensional sets as a Denoiser, trained on n points of each.

    Its weights are rounded to half precision. A class is dropped with that probability; the label of its set stays.
    """
    torch.manual_seed(0)
    points, labels, whole = [], [], torch.zeros(sum(TOYS.values()) + len(TOYS), dtype=torch.long)
    for name, first in toy_labels().items():
        x, y = toy_2d(name, n, seed=0, return_labels=True)
        points.append(x)
        labels.append(first + 1 + y)
        whole[first : first + 1 + TOYS[name]] = first

    def loss(model, x, y):
        return diffusion_loss(model, x, torch.where(torch.rand(len(y)) < dropped, whole[y], y))

    model = Denoiser(toy_net(), CosineSchedule(None), "v")
    average, losses = fit(model, loss, batches((torch.cat(points), torch.cat(labels)), 384), n_steps)
    print(f"mean loss over the last thousand steps: {np.mean(losses[-1000:]):.4f}")
    return average.half().float()


def exported(net, shape):
    """net(x, t, y) as the bytes of an ONNX model: any number of samples of `shape`, weights in half precision."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    class Traced(torch.nn.Module):  # the exporter names its inputs after a forward with exactly these
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t, y):
            return self.net(x, t, y)

    n = torch.export.Dim("n")
    example = torch.zeros(2, *shape), torch.full((2,), 0.5), torch.tensor([0, 1])
    program = torch.onnx.export(
        Traced().eval(), example, dynamo=True, external_data=False, verbose=False,
        dynamic_shapes={"x": {0: n}, "t": {0: n}, "y": {0: n}}, input_names=["x", "t", "y"], output_names=["out"],
    )  # fmt: skip
    model = program.model_proto
    graph, casts = model.graph, []
    for part in [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.doc_string = ""  # where in Python each came from: nobody needs it, and it weighs
        del part.metadata_props[:]
    del graph.value_info[:]
    for stored in graph.initializer:
        values = numpy_helper.to_array(stored)
        if values.dtype != np.float32 or values.size < 2 or (values.astype(np.float16) != values).any():
            continue  # only where nothing is lost
        name = stored.name
        stored.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def stored_weights(onnx_bytes):
    """The weights that such bytes hold under a name of the network's: dict name -> float32 tensor.

    The exporter folds those of a group norm into others without a name.
    """
    import onnx
    from onnx import numpy_helper

    stored = onnx.load_from_string(onnx_bytes).graph.initializer
    names = (i.name.removeprefix("net.").removesuffix(".half") for i in stored)
    return {k: torch.tensor(numpy_helper.to_array(i).astype(np.float32)) for k, i in zip(names, stored, strict=True)}


def load_toys():
    """The shipped network of the two-dimensional sets, as a Denoiser."""
    net = toy_net()
    stored = stored_weights(gzip.decompress((LIVE / "models" / "toys.onnx.gz").read_bytes()))
    net.load_state_dict({name: stored[name] for name in net.state_dict()})
    return Denoiser(net, CosineSchedule(None), "v").eval().requires_grad_(False)


def pack(content, path, iterations=15):
    """Write content to `path`, compressed as well as gzip's format allows; the same content gives the same file."""
    import zopfli.gzip

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zopfli.gzip.compress(content, numiterations=iterations))
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, unpacked {len(content) / 1e6:.2f} MB")


def make_networks(toys=None):
    """Export MNIST's network, and the one of the two-dimensional sets where one is given."""
    pack(exported(load_pretrained("mnist").net, (1, 28, 28)), LIVE / "models" / "mnist.onnx.gz")
    if toys is not None:
        pack(exported(toys.net, (2,)), LIVE / "models" / "toys.onnx.gz")


def make_stills():
    """The pictures that stand where no scripts run: what each element shows, computed by the course's own code."""
    import matplotlib.pyplot as plt

    torch.manual_seed(0)
    model, linear, moons = load_pretrained("mnist"), LinearSchedule(), toy_mixture("moons")
    x = linear.prior(800, 2)
    path, times = [x, *ddim(moons.denoiser(linear), linear, x, linear.timesteps(50))], linear.timesteps(50)
    shown = [0, 40, 46, 50]
    truths = [moons.noised(linear.alpha(times[i]), linear.sigma(times[i])) for i in shown]
    scatter_row([path[i] for i in shown], [f"t = {times[i]:.2f}" for i in shown], truth=truths)
    keep("two_dimensions", frame_of(plt.gcf()))
    plt.close()

    x, times = model.schedule.prior(1, 1, 28, 28), model.schedule.timesteps(20)
    denoise = clip(cfg(condition(model, 3), condition(model, None), 2.0))
    path = [x, *dpmpp_2m(denoise, model.schedule, x, times)]
    guesses = [denoise(x, t) if t > 0 else x for x, t in zip(path, times, strict=True)]
    shown = [0, 3, 6, 9, 12, 15, 18, 20]
    pictures = torch.cat([states[i] for states in (path, guesses) for i in shown])
    titles = [f"t = {times[i]:.2f}" for i in shown]
    keep("digits", image_grid(pictures, "-", 8, titles, ["picture", "guess"]).image)

    digit, noise = load_mnist("test", quiet=True)[0][8:9], torch.randn(1, 1, 28, 28)
    schedules = {"linear": linear, "cosine": CosineSchedule()}
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0]
    pictures = torch.cat([s.add_noise(digit, t, noise) for s in schedules.values() for t in times])
    keep("noise_levels", image_grid(pictures, "-", 8, [f"t = {t:g}" for t in times], list(schedules)).image)

    sketch = -torch.ones(1, 1, 28, 28)
    for (x0, y0), (x1, y1) in pairwise([(8, 6), (19, 6), (12, 12), (20, 16), (17, 22), (8, 22)]):
        for s in torch.linspace(0, 1, 40).tolist():
            column, row = round(x0 + s * (x1 - x0)), round(y0 + s * (y1 - y0))
            sketch[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    strengths = [0.4, 0.6, 0.7, 0.8]
    finished = [list(sdedit(clip(model), model.schedule, sketch, t, n=16))[-1] for t in strengths]
    titles = ["your sketch", *(f"t* = {t:g}" for t in strengths)]
    keep("finish", image_grid(torch.cat([sketch, *finished]), "-", 5, titles, zoom=84).image)


def keep(name, image):
    path = LIVE / "stills" / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(webp(image, quality=70))
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {image.width} x {image.height}")


def make_runtime(archive=None):
    """Pack onnxruntime-web: its WebAssembly for processors, and the module that drives it; `archive` is the package."""
    if archive:
        content = Path(archive).read_bytes()
    else:
        with urllib.request.urlopen(RUNTIME_URL, timeout=60) as response:
            content = response.read()
    if (found := hashlib.sha256(content).hexdigest()) != RUNTIME_SHA256:
        raise ValueError(f"onnxruntime-web has the checksum {found}, not {RUNTIME_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        read = lambda name: package.extractfile(f"package/dist/{name}").read()  # noqa: E731
        module = read("ort.wasm.bundle.min.mjs").decode()
        pack(read("ort-wasm-simd-threaded.wasm"), LIVE / "runtime" / "ort.wasm.gz", iterations=5)
    module = module[: module.rindex("//# sourceMappingURL=")]  # the map is not kept
    (LIVE / "runtime" / "ort.js").write_text(module)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m course_utils.authoring.live", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", default="all", choices=["all", "stills", "toys", "runtime"])
    parser.add_argument("--archive", help="runtime: the npm package, where it lies on disk already")
    chosen = parser.parse_args(arguments)
    if chosen.what == "runtime":
        make_runtime(chosen.archive)
    if chosen.what in ("all", "toys"):
        make_networks(train_toys() if chosen.what == "toys" else None)
    if chosen.what in ("all", "stills"):
        make_stills()


if __name__ == "__main__":
    main()
