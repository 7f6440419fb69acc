"""Pipelines of diffusers as priors: tiny real ones, against diffusers' own sampling, and guided through the VAE."""

import importlib
import json
import shutil
import sys

import pytest
import torch

from igds.bundle import load_bundle
from igds.cli import main
from igds.encoders import Encoder, EncoderConfig, smooth
from igds.estimator import VariationalEstimator
from igds.imagenet import imagenet_classes
from igds.information import contextual_kl, prototype_information
from igds.priors.hf import DiffusersConfig, DiffusersPrior, pipeline_names, read_pipeline
from igds.rng import NoiseStreams
from igds.sampling import ClassBatch, Guidance, sample, sample_progressive

STEPS = 8
SEEDS = (3, 4)
LABELS = [497, 0, 999]
CLASSES = ["church", "n01440764", "999"]


@pytest.fixture(scope="module")
def diffusers(torchvision):
    return importlib.import_module("diffusers")


def seeded(build, seed: int):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def dit(diffusers):
    """The classes of DiT-XL/2-256, a few channels wide: 8×8 latents of 4 channels, 32×32 pixels, 1,000 classes."""

    def transformer():
        return diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_bias=True,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
            norm_num_groups=4,
        )

    def vae():
        return diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        )

    scheduler = diffusers.DDIMScheduler(num_train_timesteps=STEPS, beta_end=0.2, clip_sample=False)
    return diffusers.DiTPipeline(seeded(transformer, 1), seeded(vae, 2), scheduler)


@pytest.fixture(scope="module")
def dit_folder(dit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-dit"
    dit.save_pretrained(folder)
    names = {str(label): f"{name}, a thing" for label, name in enumerate(imagenet_classes().values())}
    change_json(folder / "model_index.json", id2label=names)  # which the published pipeline has, and save drops
    return folder


@pytest.fixture(scope="module")
def unet_folder(diffusers, tmp_path_factory):
    """A class-conditional UNet2DModel of three classes in 8×8 grey pixels."""

    def unet():
        return diffusers.UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            num_class_embeds=3,
        )

    folder = tmp_path_factory.mktemp("pipelines") / "tiny-unet"
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=STEPS, beta_end=0.2)
    diffusers.DDPMPipeline(seeded(unet, 3), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def names_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("Circle\nSquare\n\nTriangle\n")
    return path


@pytest.fixture(scope="module")
def bundle_path(dit_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "tiny-dit"
    assert main(["import", "diffusers", str(dit_folder), "--classes", *CLASSES, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def estimator():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = Encoder(EncoderConfig(channels=3, widths=(8, 16), features=16))
        smooth(encoder)
        return VariationalEstimator(encoder, 3, features=16, tau=0.07).eval().requires_grad_(False)


def their_pictures(diffusers, pipeline, scheduler, labels, *, scale: float, monkeypatch) -> torch.Tensor:
    """diffusers' own sampling, in [0, 1], with our noise streams in place of its draws."""
    noise = NoiseStreams(SEEDS)
    for module in ("pipelines.dit.pipeline_dit", "schedulers.scheduling_ddpm"):
        monkeypatch.setattr(
            importlib.import_module(f"diffusers.{module}"),
            "randn_tensor",
            lambda shape, **_: torch.cat([noise.draw(shape[1:])] * (shape[0] // len(SEEDS))),
        )
    kept, pipeline.scheduler = pipeline.scheduler, scheduler
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline(labels, guidance_scale=scale, num_inference_steps=STEPS, output_type="pt").images
    finally:
        pipeline.scheduler = kept


# agreement with diffusers


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_an_unguided_dit_draws_what_its_pipeline_draws(diffusers, dit, dit_folder, monkeypatch, solver, scale):
    kind = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[solver]
    scheduler = kind.from_config(dit.scheduler.config)
    theirs = their_pictures(diffusers, dit, scheduler, [7, 7], scale=scale, monkeypatch=monkeypatch)
    prior = read_pipeline(dit_folder, classes=1000, guidance_scale=scale)
    (ours,) = sample(prior, None, [ClassBatch(7, SEEDS, Guidance())], steps=STEPS, solver=solver)
    assert ours.shape == (2, 3, 32, 32) and theirs.std() > 0.01
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, rtol=1e-4, atol=1e-4)


def test_classifier_free_guidance_changes_what_is_drawn(dit_folder):
    batch = [ClassBatch(7, SEEDS, Guidance())]
    plain, guided = (
        sample(read_pipeline(dit_folder, classes=1000, guidance_scale=scale), None, batch, steps=4)[0]
        for scale in (1.0, 4.0)
    )
    assert not torch.allclose(plain, guided, atol=1e-2)


@pytest.mark.parametrize("label", [0, 2])
def test_a_unet_draws_what_its_schedulers_loop_draws(diffusers, unet_folder, label, monkeypatch):
    pipeline = diffusers.DDPMPipeline.from_pretrained(unet_folder, use_safetensors=True)
    noise = NoiseStreams(SEEDS)
    monkeypatch.setattr(
        importlib.import_module("diffusers.schedulers.scheduling_ddpm"),
        "randn_tensor",
        lambda shape, **_: noise.draw(shape[1:]),
    )
    x = noise.draw((1, 8, 8))
    pipeline.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(pipeline.unet(x, t, torch.full((2,), label)).sample, t, x).prev_sample
    prior = read_pipeline(unet_folder, classes=3)
    (ours,) = sample(prior, None, [ClassBatch(label, SEEDS, Guidance())], steps=STEPS, solver="ddpm")
    assert prior.shape == prior.state_shape == (1, 8, 8) and x.std() > 0.1
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_is_read_as_diffusers_reads_it(diffusers, unet_folder, prediction, tmp_path):
    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    change_json(folder / "scheduler/scheduler_config.json", prediction_type=prediction, clip_sample_range=0.1)
    prior = read_pipeline(folder, classes=3)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    x, y = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    with torch.no_grad():
        output = prior.network(x, 5, class_labels=y).sample
        expected = scheduler.step(output, 5, x).pred_original_sample
        torch.testing.assert_close(prior.denoise(x, 5, y).x0, expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() == pytest.approx(0.1)


# as a bundle


def test_a_bundle_of_a_dit_answers_as_the_pipeline_for_the_kept_classes(bundle_path, dit):
    bundle = load_bundle(bundle_path, needs=())
    assert bundle.classes == ("church", "tench", "toilet tissue") and bundle.card["wnids"][1] == "n01440764"
    assert bundle.card["prior"]["kind"] == "diffusers"
    assert (bundle.prior.shape, bundle.prior.state_shape) == ((3, 32, 32), (4, 8, 8))
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = dit.transformer(z, timestep=torch.full((3,), 5), class_labels=torch.tensor(LABELS)).sample
        pictures = dit.vae.decode(z / dit.vae.config.scaling_factor).sample
    assert torch.equal(bundle.prior(z, torch.full((3,), 5), torch.arange(3)), output)
    assert torch.equal(bundle.prior.decode(z), pictures)


def test_a_bundle_keeps_the_empty_class_of_classifier_free_guidance(dit_folder, dit, tmp_path):
    arguments = ["--classes", *CLASSES, "--guidance-scale", "3", "--out", str(tmp_path / "out")]
    assert main(["import", "diffusers", str(dit_folder), *arguments]) == 0
    prior = load_bundle(tmp_path / "out", needs=()).prior
    z, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((3,), 5)
    with torch.no_grad():
        given = dit.transformer(z, timestep=t, class_labels=torch.tensor(LABELS)).sample[:, :4]
        empty = dit.transformer(z, timestep=t, class_labels=torch.full((3,), 1000)).sample[:, :4]
    torch.testing.assert_close(prior(z, t, torch.arange(3))[:, :4], empty + 3 * (given - empty), rtol=1e-4, atol=1e-5)


def test_a_bundle_names_no_place_of_the_machine_that_made_it(bundle_path, dit_folder):
    assert str(dit_folder.parent) not in (bundle_path / "card.json").read_text()


def test_a_dit_draws_from_the_command_line(bundle_path, tmp_path):
    arguments = ["--bundle", bundle_path, "--ipc", 2, "--steps", 2, "--unguided", "--out", tmp_path / "out"]
    assert main(["sample", *map(str, arguments)]) == 0
    assert len(list((tmp_path / "out").glob("0000_church/*.png"))) == 2


def test_a_unets_classes_are_named_by_a_file(unet_folder, names_file, tmp_path):
    arguments = [unet_folder, "--names", names_file, "--classes", "triangle", "0", "--out", tmp_path / "out"]
    assert main(["import", "diffusers", *map(str, arguments)]) == 0
    bundle = load_bundle(tmp_path / "out", needs=())
    assert bundle.classes == ("Triangle", "Circle")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = read_pipeline(unet_folder, classes=3)
    expected = whole.denoise(x, 3, torch.tensor([2, 0])).x0
    assert torch.equal(bundle.prior.denoise(x, 3, torch.arange(2)).x0, expected)


def test_class_names_are_the_pipelines_own(dit_folder, tmp_path):
    assert pipeline_names(dit_folder) == tuple(imagenet_classes().values())
    folder = shutil.copytree(dit_folder, tmp_path / "pipeline")
    change_json(folder / "model_index.json", id2label={"0": "crane", "1": "crane, machine", "2": "Owl, bird"})
    assert pipeline_names(folder) == ("crane", "crane, machine", "Owl")
    change_json(folder / "model_index.json", id2label={"0": "crane", "1": "Crane"})
    with pytest.raises(ValueError, match="names 'crane' twice"):
        pipeline_names(folder)


def test_the_names_that_older_vaes_give_their_attention_are_read(dit_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(dit_folder, tmp_path / "pipeline")
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(weights).items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    assert any(".query." in name for name in tensors)
    save_file(tensors, weights)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    own, older = (read_pipeline(place, classes=1000).decode(z) for place in (dit_folder, folder))
    assert torch.equal(own, older)


# guidance in decoded pixels


@pytest.mark.parametrize("at", ["x_prev", "x0"])
def test_latents_move_along_the_gradient_through_the_decoder(dit_folder, estimator, at):
    prior = read_pipeline(dit_folder, classes=1000, labels=LABELS)
    beta, eta = 2.0, 20.0
    plain, guided = (
        next(
            sample_progressive(
                prior, estimator, [ClassBatch(1, SEEDS, Guidance(beta=beta, eta=e, at=at))], steps=4, solver="ddim"
            )
        ).batches[0]
        for e in (0.0, eta)
    )
    noise = NoiseStreams(SEEDS).draw((4, 8, 8))
    schedule = prior.schedule.respaced(4)
    x0 = prior.denoise(noise, schedule.timesteps[3], torch.tensor([1, 1])).x0
    a, before = schedule.alpha_bars[3], schedule.alpha_bars[2]

    def step(x0):
        return before**0.5 * x0 + (1 - before) ** 0.5 * (noise - a**0.5 * x0) / (1 - a) ** 0.5

    z = (x0 if at == "x0" else step(x0)).float().requires_grad_()
    log_probs, p = estimator(prior.decode(z))
    q = p.mean(0, keepdim=True).detach().expand_as(p)
    terms = prototype_information(log_probs, torch.tensor([1, 1]), estimator.label_entropy)
    (gradient,) = torch.autograd.grad((terms + beta * contextual_kl(p, q)).sum(), z)
    moved = z.detach() + eta * gradient
    expected = prior.decode((step(moved) if at == "x0" else moved).float())
    torch.testing.assert_close(guided.x, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.prototype, terms.detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided.x, plain.x, atol=1e-3)


def test_latent_microbatches_give_what_the_uncut_batch_gives(dit_folder, estimator):
    prior = read_pipeline(dit_folder, classes=1000, labels=LABELS)
    batches = [ClassBatch(2, (1, 2, 3), Guidance(beta=2.0, eta=0.5))]
    whole, cut = (sample(prior, estimator, batches, steps=3, solver="ddim", microbatch=size)[0] for size in (100, 1))
    torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-4)


def test_the_decoder_recomputes_its_activations_and_gives_the_same_gradient(dit_folder):
    prior = read_pipeline(dit_folder, classes=1000, labels=LABELS)
    gradients = []
    for recomputes in (True, False):
        prior.vae.decoder.gradient_checkpointing = recomputes
        saved = 0

        def count(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        z = torch.ones(1, 4, 8, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            (gradient,) = torch.autograd.grad(prior.decode(z).square().sum(), z)
        gradients.append((gradient, saved))
    assert DiffusersPrior(prior.config).vae.decoder.gradient_checkpointing
    assert torch.allclose(gradients[0][0], gradients[1][0])
    assert gradients[0][1] < 0.5 * gradients[1][1]


def test_bfloat16_stays_near_float32(dit_folder):
    prior = read_pipeline(dit_folder, classes=1000, labels=LABELS)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    exact, exact_picture = prior.denoise(z, 2, torch.tensor([0, 1])).x0, prior.decode(z)
    prior.bfloat16 = True
    near, near_picture = prior.denoise(z, 2, torch.tensor([0, 1])).x0, prior.decode(z)
    assert near.dtype == near_picture.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.1 and 0 < (near_picture - exact_picture).abs().max() < 0.1


# what does not fit


def change_json(path, **changes) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refusal(capsys, folder, tmp_path, *arguments) -> str:
    assert main(["import", "diffusers", str(folder), "--out", str(tmp_path / "out"), *map(str, arguments)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("igds: ") and len(said) < 500 and not (tmp_path / "out").exists()
    return said


def without_vae(folder):
    change_json(folder / "model_index.json", vae=None)


def with_text(folder):
    change_json(folder / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])


def with_vq(folder):
    change_json(folder / "model_index.json", vae=["diffusers", "VQModel"])


def other_network(folder):
    change_json(folder / "model_index.json", transformer=["diffusers", "PixArtTransformer2DModel"])


def pickled(folder):
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def weightless(folder):
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()


def cut_short(folder):
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def narrower(folder):
    change_json(folder / "transformer/config.json", attention_head_dim=16)


def deeper(folder):
    change_json(folder / "transformer/config.json", num_layers=3)


def shallower(folder):
    change_json(folder / "transformer/config.json", num_layers=1)


def unscheduled(folder):
    change_json(folder / "scheduler/scheduler_config.json", beta_schedule="sine")


def rescaled(folder):
    change_json(folder / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)


def not_json(folder):
    (folder / "model_index.json").write_text("{")


def nameless(folder):
    change_json(folder / "model_index.json", id2label=None)


def few_names(folder):
    change_json(folder / "model_index.json", id2label={"0": "one", "1": "two"})


@pytest.mark.parametrize(
    "damage, said",
    [
        (without_vae, "is a DiT without its VAE"),
        (with_text, "is a text-to-image pipeline (DiTPipeline), which draws no classes"),
        (with_vq, "decodes with VQModel"),
        (other_network, "PixArtTransformer2DModel"),
        (pickled, "only a pickle, which is never read"),
        (weightless, "holds no weights"),
        (cut_short, "cannot be read as a DiTTransformer2DModel"),
        (narrower, "DiTTransformer2DModel"),
        (deeper, "it lacks transformer_blocks.2."),
        (shallower, "it also has transformer_blocks.1."),
        (unscheduled, "has no schedule of betas that can be read"),
        (rescaled, "rescales its betas"),
        (not_json, "is not valid JSON of a pipeline"),
        (nameless, "does not name its classes: give --names"),
        (few_names, "draws 1,000 classes and 2 are named"),
    ],
)
def test_a_pipeline_that_does_not_fit_is_told(dit_folder, tmp_path, capsys, damage, said):
    folder = shutil.copytree(dit_folder, tmp_path / "pipeline")
    damage(folder)
    assert said in refusal(capsys, folder, tmp_path)


def test_an_unconditional_unet_is_told(unet_folder, names_file, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "class_embedding" not in k}, weights)
    change_json(folder / "unet/config.json", num_class_embeds=None)
    assert "is not class-conditional (UNet2DModel" in refusal(capsys, folder, tmp_path, "--names", names_file)


def test_wrong_names_and_scales_are_told(unet_folder, dit_folder, names_file, tmp_path, capsys):
    assert "does not name its classes" in refusal(capsys, unet_folder, tmp_path)
    assert "no.txt is not there" in refusal(capsys, unet_folder, tmp_path, "--names", tmp_path / "no.txt")
    (tmp_path / "twice.txt").write_text("Cat\ncat\nDog\n")
    assert "names 'Cat' twice" in refusal(capsys, unet_folder, tmp_path, "--names", tmp_path / "twice.txt")
    assert "draws 1,000 classes and 3 are" in refusal(capsys, dit_folder, tmp_path, "--names", names_file)
    scaled = ("--names", names_file, "--guidance-scale", 2)
    assert "UNet2DModel has no empty class" in refusal(capsys, unet_folder, tmp_path, *scaled)
    assert "must be at least 1, got 0.5" in refusal(capsys, dit_folder, tmp_path, "--guidance-scale", 0.5)
    assert "no class 'tensh': did you mean 'tench'" in refusal(capsys, dit_folder, tmp_path, "--classes", "tensh")


def test_a_folder_that_is_no_pipeline_is_told(tmp_path, capsys):
    assert "model_index.json is missing" in refusal(capsys, tmp_path / "nothing", tmp_path)


def test_a_missing_diffusers_is_told_with_how_to_get_it(bundle_path, dit_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "needs diffusers" in refusal(capsys, dit_folder, tmp_path)
    with pytest.raises(ValueError, match="needs diffusers .*: pip install diffusers$"):
        load_bundle(bundle_path, needs=())


@pytest.mark.parametrize(
    "change, said",
    [
        ({"architecture": "UNet3D"}, "architecture must be"),
        ({"prediction": "x"}, "prediction must be one of"),
        ({"guidance_scale": float("nan")}, "scale must be at least 1"),
    ],
)
def test_a_card_that_cannot_be_is_told(change, said):
    with pytest.raises(ValueError, match=said):
        DiffusersConfig(**{"architecture": "UNet2DModel", "network": {}, "schedule": {}, **change})
