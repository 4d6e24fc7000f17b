"""The page on public text-to-image models: its cells run, word for word, on tiny random pipelines of the same classes.

Nothing is downloaded. The pipelines are made here, saved, and loaded with the page's own line, less the address.
"""

import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from course_utils.denoiser import from_x0
from course_utils.samplers import ddim
from course_utils.views import high_pass, low_pass, rotation

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install '.[text]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[text]'")

PAGE = Path(__file__).parents[1] / "book" / "text_to_image.md"
CELLS = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
BLOCKS = dict(
    sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
    cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip

TOLERANCE = 1e-4  # of the latents' root mean square: measured 3e-6

pytestmark = pytest.mark.slow


def latent_pipeline():
    """Stable Diffusion with networks of a few thousand parameters, and a vocabulary of letters."""
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    text = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        ),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=77),
        unet=diffusers.UNet2DConditionModel(in_channels=4, out_channels=4, **BLOCKS),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def pixel_pipeline():
    """DeepFloyd IF's first stage, as small: its network says a variance behind the noise."""
    words = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    text = transformers.T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    tokenizer = transformers.T5Tokenizer([(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)
    return diffusers.IFPipeline(
        tokenizer=tokenizer, text_encoder=transformers.T5EncoderModel(text),
        unet=diffusers.UNet2DConditionModel(in_channels=3, out_channels=6, **BLOCKS),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True
        ),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What stands in memory after each of the page's cells: a list of dicts."""
    folder, made, states = tmp_path_factory.mktemp("models"), [], []
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # in single precision, on the CPU
        for make in (latent_pipeline, pixel_pipeline):
            pipeline = make()
            cls = type(pipeline)
            pipeline.save_pretrained(folder / cls.__name__, variant="fp16")

            def from_pretrained(name, load=cls.from_pretrained, where=folder / cls.__name__, **options):
                made.append(name)
                return load(where, local_files_only=True, **options)

            patch.setattr(cls, "from_pretrained", from_pretrained)
        memory = {}
        for cell in CELLS:
            exec(compile(cell, str(PAGE), "exec"), memory)
            states.append(dict(memory))
    assert [name.split("/")[0] for name in made] == ["stable-diffusion-v1-5", "DeepFloyd"]
    return states


def at(page, name):
    """What stands in memory after the first cell that makes `name`."""
    return next(state for state in page if name in state)


def rms(x):
    return x.square().mean().sqrt()


def test_the_page_says_that_it_is_not_run():
    text = PAGE.read_text("utf-8")
    assert 'execution_mode: "off"' in text and "not run" in text and len(CELLS) > 8


def test_our_ddim_ends_where_the_library_does(page):
    state = at(page, "ours")
    assert (state["ours"] - state["theirs"]).abs().max() < TOLERANCE * rms(state["theirs"])


def test_also_at_the_times_that_it_comes_with(page):
    state = at(page, "ours_as_delivered")
    ours, theirs = state["ours_as_delivered"], state["theirs_as_delivered"]
    assert (ours - theirs).abs().max() < TOLERANCE * rms(theirs)
    assert rms(ours - state["ours"]) > 0.01 * rms(ours)  # the two are not the same thing


def test_the_comparison_would_see_another_level_prompt_or_scale(page):
    """A level too high, a forgotten empty prompt, a scale of 7: each ends elsewhere than the library."""
    state = at(page, "ours")
    pipe, schedule, noise, castle = (state[name] for name in ("pipe", "schedule", "noise", "castle"))
    right = state["guided"](pipe, castle)
    wrong = {
        "level": lambda x, t: right(x, min(1.0, t + 1 / schedule.T)),
        "prompt": state["denoiser"](pipe, castle),
        "scale": state["guided"](pipe, castle, 7),
    }
    for name, denoise in wrong.items():
        *_, other = ddim(denoise, schedule, noise, schedule.timesteps(20))
        assert (other - state["theirs"]).abs().max() > 10 * TOLERANCE * rms(state["theirs"]), name


@pytest.mark.parametrize("name", ["pipe", "stage"])
def test_the_schedule_is_the_librarys_table(page, name):
    pipe, schedule_of = page[-1][name], page[-1]["schedule_of"]
    schedule = schedule_of(pipe)
    assert schedule.T == 1000
    torch.testing.assert_close(schedule.alpha_bar[1:].float(), pipe.scheduler.alphas_cumprod, rtol=1e-5, atol=1e-9)


def test_how_much_of_the_picture_is_left_at_the_last_level(page):
    alpha = page[-1]["schedule_of"](page[-1]["pipe"]).alpha(1.0)
    assert alpha.item() == pytest.approx(0.068, abs=5e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_whatever_the_network_says_the_denoiser_gives_the_data(page, kind):
    """A made-up network that knows the answer, and is told the library's index, not our level."""
    denoiser, kinds = page[-1]["denoiser"], page[-1]["KINDS"]
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, beta_schedule="scaled_linear", clip_sample=False)
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def unet(x, index, encoder_hidden_states):
        assert encoder_hidden_states.shape == (len(x), 77, 5)
        alpha_bar = scheduler.alphas_cumprod[index].double()
        told = from_x0(kinds[kind], x0, x.double(), alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        return SimpleNamespace(sample=torch.cat([told, torch.full_like(told, torch.nan)], 1))  # a variance behind

    words = torch.zeros(1, 77, 5, dtype=torch.float64)
    pipe = SimpleNamespace(
        scheduler=scheduler, unet=unet, device="cpu", encode_prompt=lambda prompt, **options: (words, None)
    )
    for index in (0, 499, 999):
        x = scheduler.add_noise(x0, noise, torch.tensor([index]))  # the library's own x_t
        torch.testing.assert_close(denoiser(pipe, "")(x, (index + 1) / 1000), x0, rtol=1e-3, atol=1e-3)


def test_the_first_stages_noise_means_what_the_library_takes_it_for(page):
    """x0_hat is the library's, before it is clipped; the variance is left out."""
    state = page[-1]
    stage, prompt, x, index = state["stage"], "a horse", state["noise_for"](page[-1]["stage"], n=2), 700
    scheduler = diffusers.DDIMScheduler.from_config(stage.scheduler.config, thresholding=False, clip_sample=False)
    words = stage.encode_prompt(prompt, do_classifier_free_guidance=False)[0].expand(2, -1, -1)
    with torch.no_grad():
        out = stage.unet(x, index, encoder_hidden_states=words).sample
    scheduler.set_timesteps(1000)
    theirs = scheduler.step(out[:, :3], index, x).pred_original_sample
    ours = state["denoiser"](stage, prompt)(x, (index + 1) / 1000)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_prompt_is_heard(page):
    state = page[-1]
    for pipe in (state["pipe"], state["stage"]):
        x = state["noise_for"](pipe)
        one, other = (state["denoiser"](pipe, prompt)(x, 0.5) for prompt in ("a castle", "a horse"))
        assert (one - other).abs().max() > 1e-4


def test_the_known_is_kept(page):
    """The latents exactly, and after pasting the pixels too; what was to be drawn is not what was there."""
    state = at(page, "pasted")
    encoded = state["encode"](state["picture"] * state["known_pixels"])
    known = state["mask"].bool().expand_as(encoded)
    assert 0.5 < known.float().mean() < 1
    torch.testing.assert_close(state["x0"][known], encoded[known])
    pixels = state["known_pixels"].bool().expand_as(state["picture"])
    assert (state["pasted"] == state["picture"])[pixels].all()
    assert not (state["pasted"] == state["picture"])[~pixels].all()


def test_a_latent_is_known_where_all_its_pixels_are(page):
    state = at(page, "pasted")
    mask, pixels = state["mask"][0, 0], state["known_pixels"][0, 0]
    f = state["pipe"].vae_scale_factor
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            assert mask[i, j] == pixels[f * i : f * (i + 1), f * j : f * (j + 1)].min()


def test_the_edits_go_further_from_the_drawing(page):
    state = at(page, "edits")
    assert all(edit.shape == state["drawing"].shape and edit.isfinite().all() for edit in state["edits"])
    alphas = [state["schedule"].alpha(t) for t in (0.4, 0.6, 0.8)]
    assert alphas == sorted(alphas, reverse=True)
    drawing = state["drawing"]
    assert drawing.abs().max() <= 1 and len(drawing[0].flatten(1).T.unique(dim=0)) == 3  # sky, sun and hill


def test_an_anagram_is_the_mean_of_its_views(page):
    state = at(page, "both")
    x, (view, inverse) = state["noise_for"](state["stage"], n=2), rotation(1)
    expected = (state["village"](x, 0.6) + inverse(state["horse"](view(x), 0.6))) / 2
    torch.testing.assert_close(state["both"](x, 0.6), expected)
    assert state["x0"].shape == (4, 3, 8, 8) and state["x0"].abs().max() <= 1 + 1e-4


def test_a_hybrid_is_the_sum_of_its_parts(page):
    state = at(page, "hybrid")
    x = state["noise_for"](state["stage"], n=1)
    expected = low_pass(2)(state["village"](x, 0.6)) + high_pass(2)(state["horse"](x, 0.6))
    torch.testing.assert_close(state["hybrid"](x, 0.6), expected)
