"""The live elements' networks against PyTorch, and their mathematics, in a browser, against the course's own.

onnxruntime from the package index is the second opinion on the exported networks; the same arrays go through the
scripts' samplers and through course_utils'.
"""

import functools
import gzip
import textwrap
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QuietHandler
from scipy.stats import kstest

from course_utils import guidance, samplers
from course_utils.authoring import live
from course_utils.authoring.errors import AuthoringError
from course_utils.authoring.myst import Book, Converter
from course_utils.data import toy_mixture
from course_utils.denoiser import Denoiser
from course_utils.mixtures import GaussianMixture
from course_utils.schedules import CosineSchedule, LinearSchedule, QuadraticSchedule, SigmoidSchedule
from course_utils.training import load_pretrained

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "book" / "_static"
SCHEDULES = {
    "linear": LinearSchedule(),
    "quadratic": QuadraticSchedule(),
    "sigmoid": SigmoidSchedule(),
    "cosine": CosineSchedule(),
    "tutorial": SigmoidSchedule(T=100, beta_start=1e-5, beta_end=5e-3),
    "continuous": CosineSchedule(None),
}


# The networks


def stored(name):
    return gzip.decompress((live.LIVE / "models" / f"{name}.onnx.gz").read_bytes())


@functools.cache
def session(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(stored(name), providers=["CPUExecutionProvider"])


class Exported(torch.nn.Module):
    """An exported network, called as the course's are."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x, t, y=None):
        y = torch.full((len(x),), -1) if y is None else y
        inputs = {"x": x.float().numpy(), "t": t.float().numpy(), "y": y.numpy()}
        return torch.from_numpy(session(self.name).run(["out"], inputs)[0]).to(x)


@pytest.mark.parametrize("n", [1, 3])
def test_the_digits_network_says_what_pytorch_says(n):
    torch.manual_seed(0)
    x, t, y = torch.randn(n, 1, 28, 28), torch.rand(n), torch.tensor([7, -1, 0])[:n]
    with torch.no_grad():
        expected = load_pretrained("mnist").net(x, t, y)
    assert (Exported("mnist")(x, t, y) - expected).abs().max() < 1e-4


def test_the_digits_weights_are_the_shipped_ones():
    """Bit for bit, all but those of the norms: stored in half precision, as they ship, they lose nothing."""
    found, expected = live.stored_weights(stored("mnist")), load_pretrained("mnist").net.state_dict()
    kept = [name for name in expected if name in found]
    assert all(torch.equal(found[name], expected[name]) for name in kept)
    assert sum(expected[name].numel() for name in kept) > 0.99 * sum(w.numel() for w in expected.values())


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim"])
def test_a_guided_sampling_ends_where_pytorch_ends(sampler):
    torch.manual_seed(1)
    model, y = load_pretrained("mnist"), torch.tensor([3, 8])
    exported = Denoiser(Exported("mnist"), model.schedule, "v")
    noise, times = model.schedule.prior(2, 1, 28, 28), model.schedule.timesteps(20)

    def end(model):
        denoise = guidance.cfg(guidance.condition(model, y), guidance.condition(model, None), 2.0)
        *_, x = getattr(samplers, sampler)(guidance.clip(denoise), model.schedule, noise, times)
        return x

    assert (end(exported) - end(model)).abs().max() <= 1e-3


def test_the_toys_network_says_what_pytorch_says():
    torch.manual_seed(2)
    x, t, y = torch.randn(50, 2), torch.rand(50), torch.randint(0, 21, (50,))
    with torch.no_grad():
        expected = live.load_toys().net(x, t, y)
    assert (Exported("toys")(x, t, y) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", live.TOYS)
def test_the_toys_network_has_learned_the_sets(name):
    """Its guess is near the exact one, for the whole set and for a class of it."""
    torch.manual_seed(3)
    model, exact = live.load_toys(), toy_mixture(name)
    first, size = live.toy_labels()[name], len(exact.means) // live.TOYS[name]
    part = GaussianMixture(exact.means[:size], exact.std[:size])
    for label, mixture in ((first, exact), (first + 1, part)):
        x0 = mixture.sample(2000)
        for t in (0.15, 0.4, 0.7):
            x = model.schedule.add_noise(x0, t, torch.randn_like(x0))
            with torch.no_grad():
                found = model(x, t, torch.full((len(x),), label))
            error = (found - mixture.denoiser(model.schedule)(x, t)).square().mean().sqrt()
            assert error < 0.15, f"{name}, label {label}, t = {t}: {error:.3f}"


# What is loaded


def test_all_of_it_together_is_small():
    """What a reader who opens every element loads: packed files as they are, scripts as a server compresses them."""
    files = [path for path in live.LIVE.rglob("*") if path.is_file() and path.parent.name != "stills"]
    sizes = {
        path.name: len(b if path.suffix == ".gz" else gzip.compress(b, 6)) for path in files if (b := path.read_bytes())
    }
    assert sum(sizes.values()) <= 6e6, sizes


def test_the_runtime_is_the_pinned_one():
    module = (live.LIVE / "runtime" / "ort.js").read_text("utf-8")
    version = live.RUNTIME_URL.rsplit("-", 1)[1].removesuffix(".tgz")
    assert f'"{version}"' in module and "sourceMappingURL" not in module
    assert gzip.decompress((live.LIVE / "runtime" / "ort.wasm.gz").read_bytes())[:4] == b"\0asm"
    assert version in (live.LIVE / "runtime" / "LICENSE.txt").read_text()


# The directive


def converted(tmp_path, text):
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text("utf-8"))
    (tmp_path / "book" / "page.md").write_text(f"# A page\n\n{text}\n")
    book = Book(tmp_path)
    return Converter(book, book.pages["book/page"]).convert(text)


def test_in_a_notebook_an_element_is_its_picture_and_a_link(tmp_path):
    text = converted(
        tmp_path, '```{live} digits\n:title: A digit\n:alt: a three\n:options: {"class": 3}\n\nTry it.\n```'
    )
    assert "![a three](https://" in text and "_images/digits.webp)" in text and "Try it." in text
    assert "book/page.html#live-digits)" in text


def test_an_element_without_words_is_refused(tmp_path):
    with pytest.raises(AuthoringError, match="alt"):
        converted(tmp_path, "```{live} digits\n:title: A digit\n```")


# The scripts, in a browser


@pytest.fixture(scope="module")
def scripts(chromium):
    """evaluate(code, argument): run the body of an async function in a page that can import the live modules."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=STATIC))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tab = chromium.new_page()
    tab.goto(f"http://127.0.0.1:{server.server_port}/live/runtime/LICENSE.txt", wait_until="commit")

    def evaluate(code, argument=None):
        imports = "const load = (name) => import(`/live/${name}.js`);"
        return tab.evaluate(f"async (given) => {{ {imports} {textwrap.dedent(code)} }}", argument)

    yield evaluate
    tab.close()
    server.shutdown()
    server.server_close()


@pytest.mark.browser
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_courses(scripts, name):
    schedule, times = SCHEDULES[name], [0.001, 0.0105, 0.37, 0.5, 0.7313, 0.99, 1.0]
    found = scripts(
        """const { schedule, timesteps } = await load("schedules"), s = schedule(given.name);
        return { alpha: given.times.map((t) => s.alpha(t)), sigma: given.times.map((t) => s.sigma(t)),
          steps: [1, 7, 16, 50].map((n) => timesteps(s, n)), late: timesteps(s, 9, 0.6) };""",
        {"name": name, "times": times},
    )
    for what in ("alpha", "sigma"):
        expected = [float(getattr(schedule, what)(t)) for t in times]
        np.testing.assert_allclose(found[what], expected, rtol=1e-9, atol=1e-12)
    for n, steps in zip((1, 7, 16, 50), found["steps"], strict=True):
        np.testing.assert_allclose(steps, schedule.timesteps(n), atol=1e-12)
    np.testing.assert_allclose(found["late"], schedule.timesteps(9, 0.6), atol=1e-12)


@pytest.mark.browser
@pytest.mark.parametrize("name", live.TOYS)
def test_mixtures_are_the_courses(scripts, name):
    """The exact denoiser and the density, of a set and of its last class; and the networks' labels."""
    torch.manual_seed(4)
    x, t, schedule = 1.5 * torch.randn(40, 2, dtype=torch.float64), 0.3, SCHEDULES["linear"]
    found = scripts(
        """const { TOYS, toyMixture, toyClass } = await load("toys"), { schedule } = await load("schedules");
        const s = schedule("linear"), set = TOYS[given.name], all = toyMixture(given.name), grid = 24;
        const denoise = (mixture) => [...mixture.denoiser(s)(given.x, given.t)];
        return { all: denoise(all), part: denoise(toyClass(given.name, set.classes.length - 1)), label: set.label,
          classes: set.classes.length, density: [...all.densityGrid(s.alpha(given.t), s.sigma(given.t), grid, 3)] };""",
        {"name": name, "x": x.flatten().tolist(), "t": t},
    )
    mixture = toy_mixture(name)
    last = len(mixture.means) // live.TOYS[name]
    part = GaussianMixture(mixture.means[-last:], mixture.std[-last:])
    for what, exact in (("all", mixture), ("part", part)):
        np.testing.assert_allclose(found[what], exact.denoiser(schedule)(x, t).flatten(), atol=1e-9)
    axis = 3 * ((2 * torch.arange(24, dtype=torch.float64) + 1) / 24 - 1)
    points = torch.stack([axis.repeat(24), -axis.repeat_interleave(24)], 1)
    density = mixture.noised(schedule.alpha(t), schedule.sigma(t)).log_prob(points).exp()
    np.testing.assert_allclose(found["density"], density, rtol=1e-6, atol=1e-9)
    assert (found["label"], found["classes"]) == (live.toy_labels()[name], live.TOYS[name])


@pytest.mark.browser
@pytest.mark.parametrize("sampler, steps", [("ddim", 12), ("heun", 9), ("dpmpp_2m", 15), ("ddpm", 20)])
@pytest.mark.parametrize("name", ["linear", "continuous"])
def test_samplers_are_the_courses(scripts, sampler, steps, name):
    """From the same noise, with the same draws on the way, to the same points; guided, so that cfg is in it too."""
    torch.manual_seed(5)
    schedule, moons = SCHEDULES[name], toy_mixture("moons")
    x, times = torch.randn(30, 2, dtype=torch.float64), schedule.timesteps(steps)
    draws = torch.randn(steps, 30, 2, dtype=torch.float64)
    found = scripts(
        """const { SAMPLERS } = await load("samplers"), { schedule, timesteps } = await load("schedules");
        const { toyMixture, toyClass } = await load("toys"), { cfg } = await load("guidance");
        const s = schedule(given.name), draws = given.draws.map((z) => Float64Array.from(z));
        const denoise = cfg(toyClass("moons", 0).denoiser(s), toyMixture("moons").denoiser(s), 2.5);
        let x = Float64Array.from(given.x);
        const sample = SAMPLERS[given.sampler][1](denoise, s, x, timesteps(s, given.steps), () => draws.shift());
        for await (const state of sample) x = state.x;
        return [...x];""",
        {
            "sampler": sampler,
            "steps": steps,
            "name": name,
            "x": x.flatten().tolist(),
            "draws": draws.flatten(1).tolist(),
        },
    )
    upper = GaussianMixture(moons.means[:200], moons.std[:200])
    denoise = guidance.cfg(upper.denoiser(schedule), moons.denoiser(schedule), 2.5)
    with pytest.MonkeyPatch.context() as patch:
        left = list(draws)
        patch.setattr(samplers, "noise_like", lambda x, generator=None: left.pop(0))
        *_, expected = getattr(samplers, sampler)(denoise, schedule, x, times)
    np.testing.assert_allclose(found, expected.flatten(), atol=1e-7)


@pytest.mark.browser
def test_editing_is_the_courses(scripts):
    """Known coordinates, times that rise, noise put back: a RePaint in the plane, draw by draw."""
    torch.manual_seed(6)
    schedule, moons = SCHEDULES["continuous"], toy_mixture("moons")
    x, known = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    mask = torch.tensor([1, 0]).repeat(20).reshape(20, 2)
    draws = torch.randn(60, 20, 2, dtype=torch.float64)
    found = scripts(
        """const { ddpm, repaint, repaintTimes } = await load("samplers");
        const { schedule, timesteps, renoise } = await load("schedules");
        const { toyMixture } = await load("toys"), { clip, inpaint } = await load("guidance");
        const s = schedule("continuous"), draws = given.draws.map((z) => Float64Array.from(z));
        const times = repaintTimes(timesteps(s, 10), 3, 3), known = Float64Array.from(given.known);
        const denoise = clip(inpaint(toyMixture("moons").denoiser(s), known, given.mask));
        let x = Float64Array.from(given.x);
        for await (const state of repaint(ddpm, renoise)(denoise, s, x, times, () => draws.shift())) x = state.x;
        return { x: [...x], times };""",
        {
            "x": x.flatten().tolist(),
            "known": known.clamp(-1, 1).flatten().tolist(),
            "mask": mask.flatten().tolist(),
            "draws": draws.flatten(1).tolist(),
        },
    )
    times = guidance.repaint_times(schedule.timesteps(10), 3, 3)
    np.testing.assert_allclose(found["times"], times, atol=1e-12)
    denoise = guidance.clip(guidance.inpaint(moons.denoiser(schedule), known.clamp(-1, 1), mask))
    with pytest.MonkeyPatch.context() as patch:
        left = list(draws)
        take = lambda x, generator=None: left.pop(0)  # noqa: E731
        patch.setattr(samplers, "noise_like", take)
        patch.setattr(guidance, "noise_like", take)
        *_, expected = guidance.repaint(samplers.ddpm)(denoise, schedule, x, times)
    np.testing.assert_allclose(found["x"], expected.flatten(), atol=1e-7)


@pytest.mark.browser
def test_a_guided_digit_in_the_browser_is_pytorchs(scripts):
    """The whole way: the packed network, unpacked and run by onnxruntime-web in the worker, twenty guided steps."""
    torch.manual_seed(7)
    model, y = load_pretrained("mnist"), torch.tensor([5])
    noise = model.schedule.prior(1, 1, 28, 28)
    found = scripts(
        """const { call } = await load("calls"), seen = [];
        const args = { seed: 0, label: 5, scale: 2, steps: 20, sampler: "dpmpp_2m", start: given };
        const { x } = await call("digit", args, { onState: ({ t }) => seen.push(t) });
        return { x: [...x], seen: seen.length };""",
        noise.flatten().tolist(),
    )
    denoise = guidance.clip(guidance.cfg(guidance.condition(model, y), guidance.condition(model, None), 2.0))
    *_, expected = samplers.dpmpp_2m(denoise, model.schedule, noise, model.schedule.timesteps(20))
    assert np.abs(np.array(found["x"]) - expected.flatten().numpy()).max() <= 1e-3
    assert found["seen"] == 21


@pytest.mark.browser
def test_the_learned_flow_is_pytorchs(scripts):
    """The network of the plane under a schedule that it was not trained with, guided."""
    found = scripts(
        """const { call } = await load("calls");
        const { states } = await call("flow", { source: { name: "circles" }, part: 1, scale: 2, schedule: "linear",
          sampler: "ddim", steps: 15, seed: 3, n: 40, which: "learned" });
        return [...states];"""
    )
    states = torch.tensor(found, dtype=torch.float64).reshape(16, 40, 2)
    schedule, model = SCHEDULES["linear"], live.load_toys()
    label = live.toy_labels()["circles"]

    def asked(label):
        def denoise(x, t):
            alpha, sigma = (float(c(t)) for c in (schedule.alpha, schedule.sigma))
            v = model.net(x.float(), torch.full((len(x),), np.arctan2(sigma, alpha) * 2 / np.pi).float(), label)
            return alpha * x - sigma * v

        return denoise

    whole, part = (torch.full((40,), n) for n in (label, label + 2))
    denoise = guidance.cfg(asked(part), asked(whole), 2.0)
    *_, expected = samplers.ddim(denoise, schedule, states[0], schedule.timesteps(15))
    assert (states[-1] - expected).abs().max() < 1e-3


@pytest.mark.browser
def test_noise_is_normal_and_decided_by_its_seed(scripts):
    found = scripts(
        """const { normals } = await load("random");
        return { a: [...normals(7)(20000)], again: [...normals(7)(20000)], other: [...normals(8)(20000)] };"""
    )
    a, other = np.array(found["a"]), np.array(found["other"])
    assert found["a"] == found["again"] and abs(np.corrcoef(a, other)[0, 1]) < 0.03
    assert kstest(a, "norm").pvalue > 1e-3 and kstest(other, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(a[::2], a[1::2])[0, 1]) < 0.04
