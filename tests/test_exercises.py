"""The graders are graded: each known mistake is refused and recognised, each other right answer accepted."""

import copy
import functools
import math
import pkgutil
import re
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from course_utils import energy, geometry, guidance, langevin, losses, metrics, models, training
from course_utils.denoiser import Denoiser, diffusion_loss, from_x0, to_x0
from course_utils.exercises import EXERCISES, Exercise, __main__, check, grade, running, working
from course_utils.exercises.__main__ import student
from course_utils.exercises.comparing import difference
from course_utils.exercises.ddpm_2d import ToyNet, gaussian_net, schedule_of
from course_utils.exercises.exercise import in_memory
from course_utils.mixtures import GaussianMixture
from course_utils.samplers import ddim, ddpm, heun
from course_utils.schedules import CosineSchedule, LinearSchedule, QuadraticSchedule
from course_utils.training import warmed_up

SEEDS = (100, 101)
BOOK = Path(__file__).parents[1] / "book"
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


def named(kind):
    """Every (exercise, name) of its misconceptions or equivalents, as parameters of a test."""
    pairs = [(e, name) for e in EXERCISES.values() for name in getattr(e, kind)]
    return pytest.mark.parametrize("exercise, name", pairs, ids=[f"{e.id}-{name}" for e, name in pairs])


def takes_tensors(exercise):
    """Whether it takes anything that an answer could change, and not numbers only."""
    _, inputs = next(exercise.cases(torch.Generator().manual_seed(0)))
    return not all(isinstance(v, (int, float)) for v in inputs.values())


def right_answer(exercise):
    return student(exercise, next(iter(exercise.equivalents.values())))


def changed(exercise, change):
    """A right answer, spoilt: `change` is applied to each tensor it returns."""
    answer = right_answer(exercise)

    def spoilt(*inputs):
        value = answer(*inputs)
        return type(value)(map(change, value)) if isinstance(value, (tuple, list)) else change(value)

    return spoilt


@each_exercise
def test_is_complete(exercise):
    assert exercise.title and exercise.contract.endswith(".") and exercise.points > 0
    assert exercise.contract.startswith(f"{exercise.name}(")
    assert len(exercise.misconceptions) >= 6 and len(exercise.equivalents) >= 3
    assert all(pkgutil.resolve_name(name) for name in exercise.finished)


@each_exercise
def test_sentences_lead_to_the_page(exercise):
    page = BOOK / f"{exercise.chapter}.md"
    if not page.exists():
        pytest.skip(f"{page.name} is not written yet")
    anchors = re.findall(r"^\(([\w-]+)\)=$", page.read_text(), re.MULTILINE)
    for target in [exercise.section, *(m.read for m in exercise.misconceptions.values())]:
        html, _, anchor = target.partition("#")
        assert html == f"{exercise.chapter}.html" and anchor in anchors
    sentences = [m.sentence for m in exercise.misconceptions.values()]
    assert len(set(sentences)) == len(sentences) and all(len(s) > 20 and s[-1] in ".?" for s in sentences)


@named("misconceptions")
def test_a_misconception_is_refused_and_recognised(exercise, name):
    answer = student(exercise, exercise.misconceptions[name])
    result = exercise.grade(answer, SEEDS[0])
    assert not result and result.misconception == name
    known = exercise.misconceptions[name]
    assert known.sentence in result.message and known.read in result.message
    assert not re.search(r"\d\.\d", result.reason.replace(known.sentence, ""))  # no expected number is told
    with pytest.raises(AssertionError, match=re.escape(known.sentence)):
        grade(exercise.id, answer, seed=SEEDS[1])


@named("misconceptions")
def test_a_misconception_works_somewhere(exercise, name):
    """One that raises everywhere would be taken for every other answer that raises."""

    def works(inputs):
        try:
            return exercise.misconceptions[name](*copy.deepcopy(inputs).values()) is not None
        except Exception:
            return False

    assert any(works(inputs) for _, inputs in exercise.cases(torch.Generator().manual_seed(0)))


@named("equivalents")
def test_a_right_answer_written_differently_is_accepted(exercise, name, capsys):
    answer = student(exercise, exercise.equivalents[name])
    for seed in SEEDS:
        assert exercise.grade(answer, seed)
    assert grade(exercise.id, answer) is None
    assert check(exercise.id, answer) is None
    assert "is right" in capsys.readouterr().out


@each_exercise
def test_the_reference_is_right(exercise):
    free = copy.copy(exercise)
    free.allows = ("course_utils", "the exercise's own answer")
    assert all(free.grade(exercise.reference, seed) for seed in SEEDS)


def ddpm_step(net, x, k, beta, alpha_bar, z):
    schedule = schedule_of(alpha_bar)
    return next(ddpm(Denoiser(net, schedule), schedule, x, torch.tensor([k, k - 1]).double() / schedule.T))


def chain(step, x):
    return next(langevin.langevin(lambda x: -x, x, step, 1))


FINISHED = {
    "energy.log_density": lambda e, x, grid, cell: energy.log_density(e, grid, cell)[: len(x)],
    "energy.score": lambda e, x: energy.score_of(e)(x).detach(),
    "energy.langevin": lambda score, x, step, noise: chain(step, x),
    "energy.metropolis": lambda e, score, x, proposal, step, u: next(langevin.mala(e, x, step, 1)),
    "energy.contrastive_divergence": losses.contrastive_divergence,
    "energy.replay_step": lambda buffer, *_: losses.ReplayBuffer(lambda n: buffer[:n], len(buffer)).draw(1),
    "energy.compose": lambda a, b, x: (energy.product(a, b)(x), energy.mixture(a, b)(x)),
    "energy.fix_the_chain": lambda e, score, x, step, noise, u: next(langevin.mala(e, x, step, 1))[0],
    "score_matching.mixture_score": lambda x, *mixture: GaussianMixture(*mixture).score(x),
    "score_matching.implicit_loss": losses.implicit_score_matching,
    "score_matching.sliced_loss": lambda score, x, v: losses.sliced_score_matching(score, x, v[None]),
    "score_matching.dsm_loss": lambda score, x0, noise, sigma: losses.denoising_score_matching(
        lambda x: score(x, sigma), x0, sigma, noise, weighted=True
    ),
    "score_matching.tweedie": lambda score, x, alpha, sigma: (to_x0("score", score(x), x, alpha, sigma), x),
    "score_matching.annealed_langevin": lambda score, x, sigmas, eps, noise: next(
        langevin.annealed_langevin(score, sigmas, x, 1, eps)
    ),
    "score_matching.heun_step": lambda score, x, *_: next(heun(lambda x, t: x, CosineSchedule(None), x, [0.9, 0.5])),
    "score_matching.reverse_step": lambda score, x, *_: next(
        langevin.reverse_sde(lambda x, t: x, CosineSchedule(None), x, [0.9, 0.5])
    ),
    "score_matching.fix_the_corrector": lambda score, x, *_: next(
        langevin.predictor_corrector(lambda x, t: x, CosineSchedule(None), x, [0.9, 0.5])
    ),
    "ddpm_2d.quadratic_betas": lambda T, beta_start, beta_end: QuadraticSchedule(T, beta_start, beta_end).beta,
    "ddpm_2d.alpha_bar": lambda beta: LinearSchedule(len(beta) - 1).alpha_bar,
    "ddpm_2d.q_sample": lambda x0, k, noise, ab: LinearSchedule(len(ab) - 1).add_noise(x0, k / (len(ab) - 1), noise),
    "ddpm_2d.posterior": lambda x0, x, k, beta, alpha_bar: EXERCISES["ddpm_2d.posterior"].equivalents[
        "through_the_noise"
    ](x0, x, k, beta, alpha_bar),
    "ddpm_2d.loss": lambda net, x0, k, noise, ab: diffusion_loss(
        Denoiser(net, LinearSchedule(len(ab) - 1)), x0, t=k / (len(ab) - 1), noise=noise
    ),
    "ddpm_2d.reverse_step": ddpm_step,
    "ddpm_2d.ema_update": lambda ema, params, decay, step: [
        torch.lerp(p.detach(), e, warmed_up(decay, step)) for e, p in zip(ema, params, strict=True)
    ],
    "ddpm_2d.ddim_step": lambda net, x, k, k_next, ab: next(
        ddim(
            Denoiser(net, LinearSchedule(len(ab) - 1)),
            LinearSchedule(len(ab) - 1),
            x,
            torch.tensor([k, k_next]) / (len(ab) - 1),
        )
    ),
    "ddpm_2d.fix_the_sampler": lambda net, x, beta, ab, noise: ddpm_step(net, x, 1, beta, ab, None),
    "ddpm_mnist.time_embedding": lambda t, dim: models.TimeEmbedding(dim)(t),
    "ddpm_mnist.group_norm": lambda x, groups, eps: models.group_norm(x.shape[1])(x),
    "ddpm_mnist.residual_block": lambda x, context, layers: models.ResidualBlock(8, 8, 5)(x, context),
    "ddpm_mnist.cosine_alpha_bar": lambda T, s, beta_max: CosineSchedule(T, s, beta_max).alpha_bar,
    "ddpm_mnist.drop_labels": training.drop_labels,
    "ddpm_mnist.training_loss": lambda net, x0, y, ab: diffusion_loss(
        Denoiser(net, CosineSchedule(len(ab) - 1)), x0, y
    ),
    "ddpm_mnist.clipped_step": lambda net, x, k, ab, z: guidance.clip(Denoiser(net, CosineSchedule(8)))(x, 0.5),
    "ddpm_mnist.strided_coefficients": lambda ab, levels: list(ddpm(lambda x, t: x, schedule_of(ab), ab, [1, 0])),
    "ddpm_mnist.fix_the_loss": lambda net, x0, k, ab: diffusion_loss(Denoiser(net, CosineSchedule(len(ab) - 1)), x0),
    "ddpm_mnist.fix_the_clipping": lambda net, x, ab, noise: guidance.clip(Denoiser(net, schedule_of(ab)))(x, 1.0),
    "ddpm_mnist.fix_the_strides": lambda net, x, levels, ab, noise: ddpm_step(net, x, 1, None, ab, None),
    "guidance.attention": lambda q, k, v: (models.Attention(4)(torch.zeros(1, 4, 2, 2)), q),
    "guidance.multi_head_attention": lambda x, to_qkv, to_out, heads: models.Attention(4, heads)(x),
    "guidance.fourier_features": lambda t, frequency: models.FourierFeatures(2 * len(frequency))(t),
    "guidance.v_target": lambda x0, t, noise: (x0, from_x0("v", x0, x0, 0.6, 0.8)),
    "guidance.convert": lambda kind, out, x, alpha, sigma: (to_x0(kind, out, x, alpha, sigma),) * 4,
    "guidance.guided_score": lambda x, y, means, std, scale: GaussianMixture(means, std).score(x),
    "guidance.cfg": lambda net, x, t, y, scale: guidance.cfg(
        lambda x, t: net(x, t, y), lambda x, t: net(x, t, None), scale
    )(x, t),
    "guidance.dynamic_clip": lambda x0, q: guidance.dynamic_clip(lambda x, t: x0, q)(x0, 0),
    "guidance.ddim_step": lambda x0, x, ab, ab_next, eta, z: next(
        ddim(lambda x, t: x0, CosineSchedule(None), x, [0.9, 0.5], eta)
    ),
    "guidance.frechet_distance": lambda *moments: metrics.frechet_gaussians(*moments),
    "guidance.fix_the_guidance": lambda net, x, y, scale, times: guidance.cfg(
        guidance.condition(net, y), guidance.condition(net, None), scale
    )(x, times[:1].to(x).expand(len(x))),
    "editing.one_step": lambda net, x, t, alpha, sigma: to_x0("v", net(x, torch.ones(len(x))), x, alpha, sigma),
    "editing.sdedit_start": lambda image, t_start, n, noise, alpha, sigma: (
        CosineSchedule(None).add_noise(image, t_start, noise),
        torch.ones(n + 1),
    ),
    "editing.inpainted": lambda denoise, known, mask, x, t: guidance.inpaint(denoise, known, mask)(x, t),
    "editing.renoise": lambda x, alpha_from, sigma_from, alpha_to, sigma_to, noise: CosineSchedule(None).renoise(
        x, 0.2, 0.4, noise
    ),
    "editing.repaint_times": guidance.repaint_times,
    "editing.anagram": lambda denoise, denoise_turned, view, inverse, x, t: guidance.anagram(
        [denoise, denoise_turned], [(torch.clone, torch.clone), (view, inverse)]
    )(x, t),
    "editing.hybrid": lambda denoise_far, denoise_near, blur, x, t: guidance.factorized(
        [denoise_far, denoise_near], [blur, lambda x: x - blur(x)]
    )(x, t),
    "editing.fix_the_inpainting": lambda denoise, known, mask, x, *_: guidance.inpaint(denoise, known, mask)(x, 0.5),
    "epipolar.skew": geometry.skew,
    "epipolar.relative_pose": lambda R1, t1, R2, t2: geometry.relative_pose(
        geometry.Camera(torch.eye(3), R1, t1), geometry.Camera(torch.eye(3), R2, t2)
    ),
    "epipolar.project": lambda K, R, t, X: geometry.Camera(K, R, t).project(X),
    "epipolar.back_project": lambda K, R, t, x, depth: geometry.Camera(K, R, t).back_project(x, depth),
    "epipolar.look_up": lambda image, x: EXERCISES["epipolar.look_up"].equivalents["place_by_place"](image, x),
    "epipolar.fundamental": lambda K1, R1, t1, K2, R2, t2: geometry.fundamental(
        geometry.Camera(K1, R1, t1), geometry.Camera(K2, R2, t2)
    ),
    "epipolar.epipolar_line": geometry.epipolar_line,
    "epipolar.clip_line": geometry.clip_line,
    "epipolar.fix_the_line": lambda F, x1, columns, width, height: geometry.epipolar_line(F, x1),
    "epipolar.normalise": lambda x: (x, geometry.normalising_transform(x)),
    "epipolar.eight_point": lambda x1, x2, T1, T2: geometry.eight_point(x1, x2),
    "epipolar.triangulate": lambda P1, P2, x1, x2: geometry.triangulate(
        *(geometry.Camera(torch.eye(3), torch.eye(3), P[:, 3]) for P in (P1, P2)), x1, x2, strict=False
    ),
}


@each_exercise
def test_the_courses_own_function_is_not_an_answer(exercise, capsys):
    answers = [exercise.reference, lambda *a: exercise.reference(*a), functools.partial(exercise.reference)]
    answers += [lambda *a, f=f: f(*a) for f in exercise.equivalents.values()]
    for answer in [*answers, FINISHED[exercise.id]]:
        result = exercise.grade(answer, 0)
        assert not result and "hands the work to" in result.reason
    with pytest.raises(AssertionError, match="calling the course's finished function gets no points"):
        grade(exercise.id, FINISHED[exercise.id])
    check(exercise.id, exercise.reference)
    assert "hands the work to" in capsys.readouterr().out


def test_an_import_or_an_allowed_function_is_no_cheating(monkeypatch):
    exercise = copy.copy(EXERCISES["ddpm_2d.ema_update"])
    finished = FINISHED[exercise.id]
    assert "course_utils.training.warmed_up" in exercise.grade(finished).reason
    exercise.allows = ("course_utils.training.warmed_up",)
    assert exercise.grade(finished)
    importing = student(exercise, exercise.equivalents["step_towards_the_new"])

    def answer(*inputs):
        monkeypatch.delitem(sys.modules, "course_utils.metrics", raising=False)
        import course_utils.metrics  # noqa: F401

        return importing(*inputs)

    assert EXERCISES[exercise.id].grade(answer)


def stub(*inputs):
    raise NotImplementedError


@each_exercise
@pytest.mark.parametrize("answer", [stub, lambda *inputs: None, lambda *inputs: ..., None, ...])
def test_a_stub_scores_nothing(exercise, answer, capsys):
    with pytest.raises(AssertionError, match="not written yet"):
        grade(exercise.id, answer)
    check(exercise.id, answer)
    assert capsys.readouterr().out.startswith("…")


SPOILT = {
    "zero": (lambda v: 0 * v, "is 0 everywhere"),
    "constant": (lambda v: torch.full_like(v, 0.7), "is the same number everywhere|has wrong values|has a wrong value"),
    "NaN": (lambda v: v * math.nan, "is NaN"),
    "negated": (lambda v: -v, "is right but for its sign"),
    "a little off": (lambda v: v + 0.003, "has wrong values|has a wrong value"),
    "wrong shape": (lambda v: v[None, None], "has shape"),
    "wrong dtype": (lambda v: v.half(), "is float16; it should be float"),
    "numpy": (lambda v: v.detach().numpy(), "is a numpy array; it should be a torch tensor"),
    "a float": (lambda v: 0.5, "is a float; it should be a torch tensor"),
    "too many": (lambda v: (v, v), "a torch tensor|asked for"),
}


LABELS = {  # whole numbers are spoilt in other words
    "constant": "is 0 everywhere",
    "NaN": "is float32; it should be int64",
    "negated": "has wrong values",
    "a little off": "is float32; it should be int64",
    "wrong dtype": "is float16; it should be int64",
}


OTHER_WORDS = {
    "ddpm_mnist.drop_labels": LABELS,
    "epipolar.fix_the_line": LABELS | {"negated": "is right but for its sign"},
    "epipolar.clip_line": {"negated": "has wrong values"},  # the two ends change places
}
ANY_SIGN = ("epipolar.fundamental", "epipolar.epipolar_line", "epipolar.eight_point")


@each_exercise
@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_answer_is_refused_with_its_reason(exercise, kind):
    change, words = SPOILT[kind]
    words = OTHER_WORDS.get(exercise.id, {}).get(kind, words)
    answer = changed(exercise, change)
    if kind == "negated" and exercise.id in ANY_SIGN:
        return grade(exercise.id, answer)
    with pytest.raises(AssertionError, match=words) as raised:
        grade(exercise.id, answer)
    assert not re.search(r"\d\.\d", str(raised.value))  # no expected number is told


@each_exercise
def test_an_answer_that_raises_is_told_its_own_line(exercise, capsys):
    text = "def answer(*inputs):\n    one, none = 1, 0\n    return one / none\n"
    namespace = {}
    exec(compile(text, "<cell>", "exec"), namespace)
    result = exercise.grade(namespace["answer"])
    assert "your code raised ZeroDivisionError: division by zero (line 3)" in result.reason
    check(exercise.id, namespace["answer"])
    shown = capsys.readouterr()
    assert not shown.err and "Traceback" not in shown.out and "course_utils/" not in shown.out


LONG = {
    "a list of numbers": [0.5] * 1001,
    "a list of lists": [[0.5] * 100] * 100,
    "a list of tensors": [torch.zeros(3)] * 1001,
    "a tuple": (0.5,) * 1001,
    "a dict": {i: i for i in range(1001)},
    "a text": "long" * 5000,
}


@each_exercise
@pytest.mark.parametrize("kind", LONG)
def test_a_long_answer_gets_a_short_message(exercise, kind):
    result = exercise.grade(lambda *inputs: LONG[kind])
    assert not result and result.misconception is None
    assert len(result.message) < 600 and len(result.reason) < 600


@each_exercise
def test_a_long_error_gets_a_short_message(exercise):
    def answer(*inputs):
        raise ValueError("long " * 5000)

    result = exercise.grade(answer)
    assert "raised ValueError: long long" in result.reason and len(result.message) < 600


ENDLESS = """
def answer(*inputs):
    while True:
        try:
            one = 1
        except Exception:
            pass
"""


def test_an_answer_without_an_end_is_stopped_and_told_where(monkeypatch):
    """Once, and what was set to stop it is undone: longer work after it goes on."""
    namespace, exercise = {}, EXERCISES["guidance.cfg"]
    exec(compile(ENDLESS, "<cell>", "exec"), namespace)
    before, started = signal.getsignal(signal.SIGVTALRM), time.process_time()
    with monkeypatch.context() as patch:
        patch.setattr(running, "PATIENCE", 0.5)
        reason = exercise.grade(namespace["answer"]).reason
    assert "0.5 seconds of processor time without an end" in reason and "(line " in reason
    assert time.process_time() - started < 3
    assert signal.getsignal(signal.SIGVTALRM) is before and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert exercise.grade(right_answer(exercise))


def test_an_answer_may_be_checked_in_a_thread():
    """Where no signal can stop it."""
    exercise = EXERCISES["guidance.cfg"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(exercise.grade, right_answer(exercise)).result()


@pytest.mark.parametrize("exercise", [e for e in EXERCISES.values() if isinstance(e.returns, tuple)])
def test_results_in_another_order_are_told(exercise):
    answer = right_answer(exercise)

    def swapped(*inputs):
        return tuple(answer(*inputs))[::-1]

    assert f"in another order: return {', '.join(exercise.returns)}" in exercise.grade(swapped).reason


def test_one_wrong_number_is_not_counted():
    reason = EXERCISES["ddpm_2d.loss"].grade(lambda *inputs: torch.tensor(-1.0)).reason
    assert "has a wrong value" in reason and "1 of 1" not in reason


def test_a_list_in_place_of_a_tensor_is_told(capsys):
    check("ddpm_2d.alpha_bar", lambda beta: (1 - beta).cumprod(0).tolist())
    assert "alpha_bar is a list of 1001; it should be a torch tensor" in capsys.readouterr().out


@pytest.mark.parametrize("n, words", [(0, "a list of 0"), (1, "is missing"), (3, "returns 3")])
def test_a_list_of_another_length_is_refused(n, words):
    right = right_answer(EXERCISES["ddpm_2d.ema_update"])
    result = EXERCISES["ddpm_2d.ema_update"].grade(lambda *inputs: (right(*inputs) * 2)[:n])
    assert not result and words in result.reason


@pytest.mark.parametrize("exercise", [e for e in EXERCISES.values() if takes_tensors(e)])
def test_an_answer_that_changes_its_inputs_is_refused(exercise):
    answer = right_answer(exercise)

    def careless(*inputs):
        value = answer(*inputs)
        for tensor in inputs:
            if torch.is_tensor(tensor):
                tensor.add_(1)
        for tensor in inputs[0] if isinstance(inputs[0], list) else []:
            tensor.add_(1)
        return value

    assert "in place: work on a copy" in exercise.grade(careless).reason


def test_marking_an_input_for_autograd_is_a_change_of_it():
    exercise = EXERCISES["energy.score"]
    reason = exercise.grade(student(exercise, exercise.misconceptions["input_marked"])).reason
    assert "marks its input x for autograd: work on x.detach().requires_grad_()" in reason


def test_a_step_in_float32_is_named():
    """And not shown as 2.7923 instead of 2.7923."""

    def in_float32(energy, x, grid, cell):
        log_p = -energy(x).float() - (-energy(grid)).logsumexp(0).float() - math.log(cell)
        return log_p.to(x.dtype)

    message = EXERCISES["energy.log_density"].grade(in_float32).message
    assert "right to six digits only" in message and "float32" in message and "instead of" not in message


@each_exercise
def test_other_things_are_not_an_answer(exercise):
    assert "it should be a function, but it is an int" in exercise.grade(3).reason
    assert "is called as" in exercise.grade(lambda: 1).reason
    assert "raised SystemExit" in exercise.grade(lambda *inputs: exit(1)).reason
    assert "a generator" in exercise.grade(lambda *inputs: (i for i in inputs)).reason


@each_exercise
def test_prints_warnings_and_draws_of_an_answer_stay_with_it(exercise, capsys):
    answer = right_answer(exercise)

    def noisy(*inputs):
        print("seen")
        warnings.warn("careful", stacklevel=1)
        torch.randn(3)
        for value in inputs:
            if torch.is_tensor(value):
                print(f"{value.double().mean():.3f}")  # the device meta has no numbers to show: not the answer's fault
        return answer(*inputs)

    before = torch.get_rng_state()
    check(exercise.id, noisy)
    grade(exercise.id, noisy)
    shown = capsys.readouterr()
    assert "is right" in shown.out and shown.out.startswith("(your function printed: seen") and not shown.err
    assert torch.equal(before, torch.get_rng_state())


def test_a_result_missing_in_some_case_is_not_taken_for_a_stub():
    exercise = EXERCISES["ddpm_2d.reverse_step"]
    right = right_answer(exercise)
    result = exercise.grade(lambda net, x, k, *rest: right(net, x, k, *rest) if k > 1 else None)
    assert "is a NoneType" in result.reason and "k = 1" in result.case


def test_a_notebooks_own_defaults_do_not_matter():
    exercise = EXERCISES["ddpm_2d.loss"]
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        with torch.no_grad():
            assert exercise.grade(right_answer(exercise))
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@each_exercise
@pytest.mark.parametrize(
    "error", [RuntimeError("meta tensors"), TypeError("Tensor.__format__"), NotImplementedError("meta")]
)
def test_an_error_is_excused_only_where_there_are_no_numbers(exercise, error):
    def answer(*inputs):
        raise error

    assert not exercise.grade(answer)


@torch.no_grad()
def averaged_in_place(ema, params, decay, step):
    d = min(decay, (1 + step) / (10 + step))
    for e, p in zip(ema, params, strict=True):
        e.mul_(d).add_(p, alpha=1 - d)
    return ema


@pytest.mark.parametrize("answer", [averaged_in_place, averaged_in_place.__wrapped__])
def test_right_numbers_in_a_wrong_way_are_not_taken_for_wrong_numbers(answer):
    result = EXERCISES["ddpm_2d.ema_update"].grade(answer)
    assert "changes its input ema in place" in result.reason and result.misconception is None


def test_another_error_is_not_taken_for_a_misconceptions():
    exercise = EXERCISES["ddpm_2d.q_sample"]
    name = "points_only"  # raises for pictures, as the shapes don't fit

    def answer(*inputs, error=None):
        try:
            return exercise.misconceptions[name](*copy.deepcopy(inputs))
        except RuntimeError as raised:
            raise error or raised from None

    exercise = copy.copy(exercise)
    exercise.allows = ("course_utils", "the exercise's own answer")
    assert exercise.grade(answer).misconception == name
    for error in (RuntimeError("no memory left"), ValueError("a size")):
        assert exercise.grade(functools.partial(answer, error=error)).misconception is None


def test_two_results_are_not_alike_for_a_common_nan():
    nan, inf = math.nan, math.inf

    def alike(expected, got):
        return not difference({"x": torch.tensor(expected)}, {"x": torch.tensor(got)}, same_nan=True)

    assert alike([nan, 1.0, inf], [nan, 1.0, inf])
    assert not alike([nan, 1.0], [nan, 2.0]) and not alike([inf, 1.0], [inf, 2.0])
    assert not alike([nan, 1.0], [1.0, 1.0]) and not alike([1.0, 1.0], [nan, 1.0]) and not alike([inf], [-inf])


def test_reading_on_is_a_full_address_where_the_site_is_known(monkeypatch, capsys):
    mistake = EXERCISES["ddpm_2d.alpha_bar"].misconceptions["root_taken"]
    answer = student(EXERCISES["ddpm_2d.alpha_bar"], mistake)
    monkeypatch.delenv("COURSE_SITE", raising=False)
    check("ddpm_2d.alpha_bar", answer)
    assert "Read on: ddpm_2d.html#schedules\n" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_SITE", "https://example.org/course/")
    check("ddpm_2d.alpha_bar", answer)
    assert "Read on: https://example.org/course/book/ddpm_2d.html#schedules\n" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="Read on: https://example.org/course/book/ddpm_2d.html#schedules$"):
        grade("ddpm_2d.alpha_bar", answer)


def test_a_lab_goes_on_with_the_students_answer_or_the_courses(capsys):
    exercise = EXERCISES["ddpm_2d.q_sample"]
    right, wrong = right_answer(exercise), student(exercise, exercise.misconceptions["swapped"])
    assert working(exercise.id, {"q_sample": right}) is right
    assert not capsys.readouterr().out
    for namespace in ({}, {"q_sample": wrong}, {"q_sample": stub}, {"q_sample": 3}):
        assert working(exercise.id, namespace) is exercise.reference
        assert capsys.readouterr().out == "(q_sample: yours is not ready, so the course's stands in)\n"


def test_the_function_that_stands_in_is_not_an_answer():
    def answer(*inputs):
        return working("ddpm_2d.q_sample", {})(*inputs)

    assert "hands the work to" in EXERCISES["ddpm_2d.q_sample"].grade(answer).reason


def test_a_network_brought_into_memory_holds_numbers():
    """Not what happens to lie there, which may be NaN and would fail a reference that looks at its numbers."""
    weights = in_memory(torch.nn.Linear(3, 200, device="meta")).state_dict().values()
    assert all(w.device.type == "cpu" and (w == 1).all() for w in weights)


def test_an_unknown_exercise_is_named():
    for judge in (check, grade, working):
        with pytest.raises(ValueError, match="there is no exercise 'ddpm_2d.qsample': did you mean 'ddpm_2d.q_sample'"):
            judge("ddpm_2d.qsample", stub)
    with pytest.raises(ValueError, match="there are energy.log_density"):
        check("pottery", stub)


def test_a_notebook_shows_the_message_and_no_line_of_the_test():
    with pytest.raises(AssertionError) as raised:
        grade("ddpm_2d.q_sample", stub)
    assert raised.value._render_traceback_() == [f"AssertionError: {raised.value}"]


def test_the_matrix(capsys, monkeypatch):
    for id in reversed(list(EXERCISES)[3:]):  # judged above, here it is about the table; what left last returns first
        monkeypatch.delitem(EXERCISES, id)
    assert __main__.main(seeds=(5,)) == 0
    shown = capsys.readouterr().out
    assert "✗" not in shown and all(id in shown for id in EXERCISES)


def test_a_faulty_grader_would_be_seen():
    """The proof itself can fail: a grader that compares with a wrong reference accepts none of its equivalents."""
    exercise = copy.copy(EXERCISES["ddpm_2d.alpha_bar"])
    exercise.reference = exercise.misconceptions["root_taken"].function
    assert not any(exercise.grade(student(exercise, f)) for f in exercise.equivalents.values())
    assert exercise.grade(student(exercise, exercise.misconceptions["root_taken"]))
    assert isinstance(exercise, Exercise)


# ---- the references against the package and against mathematics ------------------------------------------------------


@pytest.fixture
def schedule():
    return LinearSchedule(1000)


def test_the_oracle_says_the_noise_of_a_gaussian(schedule):
    """E[eps | x] = sigma (x - alpha m) / (alpha^2 s^2 + sigma^2) for data N(m, s^2)."""
    x = torch.randn(5, 1, dtype=torch.float64)
    t = torch.tensor([1, 2, 10, 300, 1000]) / 1000
    ab = schedule.alpha_bar[[1, 2, 10, 300, 1000]][:, None]
    exact = (1 - ab).sqrt() * (x - ab.sqrt() * 0.3) / (ab * 0.5**2 + 1 - ab)
    torch.testing.assert_close(gaussian_net(schedule.alpha_bar)(x, t.double()), exact, rtol=1e-6, atol=1e-6)


def test_one_reverse_step_is_the_packages(schedule):
    net, x = ToyNet(torch.Generator().manual_seed(0)), torch.randn(5, 2, dtype=torch.float64)
    for k in (1, 2, 500, 1000):
        times = torch.tensor([k, k - 1]).double() / 1000
        step = ddpm(Denoiser(net, schedule), schedule, x, times, generator=torch.Generator().manual_seed(1))
        z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        ours = EXERCISES["ddpm_2d.reverse_step"].reference(net, x, k, schedule.beta, schedule.alpha_bar, z)
        torch.testing.assert_close(ours, next(step), rtol=1e-9, atol=1e-9)


def test_the_mended_sampler_reaches_the_gaussian_and_the_given_one_does_not(schedule):
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(1001, 2000, 1, generator=g)
    exercise = EXERCISES["ddpm_2d.fix_the_sampler"]
    inputs = gaussian_net(schedule.alpha_bar), torch.randn(2000, 1, generator=g), schedule.beta, schedule.alpha_bar
    mended, given = exercise.reference(*inputs, noise), exercise.misconceptions["as_given"](*inputs, noise)
    assert abs(mended.mean() - 0.3) < 0.04 and abs(mended.std() - 0.5) < 0.04  # three standard errors
    assert given.std() > 0.8
