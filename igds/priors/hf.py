"""Class-conditional pipelines of diffusers as priors: DiT with its VAE, and UNet2DModel in pixels or latents.

diffusers is imported where a prior is made, never before.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from igds.checkpoints import MissingPackage
from igds.imagenet import check_distinct, imagenet_classes
from igds.priors.base import Denoised
from igds.schedule import Schedule

DIT, UNET = "DiTTransformer2DModel", "UNet2DModel"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_SCHEDULE = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas")


@dataclass(frozen=True)
class DiffusersConfig:
    """How to build the networks. `architecture` is DIT or UNET; `network` and `vae` are their configurations.

    `schedule` are the options of diffusers' DDPMScheduler that decide its betas. `clip` bounds x̃0, None where the
    pipeline does not. `guidance_scale` s ≥ 1 is classifier-free guidance, ε = ε_∅ + s·(ε_y − ε_∅); 1 is without.
    `vae` None is a model in pixels.
    """

    architecture: str
    network: dict
    schedule: dict
    vae: dict | None = None
    prediction: str = "epsilon"
    clip: float | None = None
    guidance_scale: float = 1.0

    def __post_init__(self):
        if self.architecture not in (DIT, UNET):
            raise ValueError(f"architecture must be {DIT} or {UNET}, got {self.architecture!r}")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 1):
            raise ValueError(f"the classifier-free guidance scale must be at least 1, got {self.guidance_scale}")
        if self.guidance_scale > 1 and self.architecture != DIT:
            raise ValueError(f"{UNET} has no empty class: classifier-free guidance needs a DiT, leave the scale at 1")


class DiffusersPrior(nn.Module):
    """A DiT or UNet2DModel; `decode` is the VAE's decoder, which recomputes its activations in the backward pass.

    With `bfloat16` set, the networks compute in that precision (autocast); the sampler's state stays float32.
    """

    kind = "diffusers"
    bfloat16 = False

    def __init__(self, config: DiffusersConfig):
        super().__init__()
        diffusers = _diffusers()
        self.config = config
        self.network = getattr(diffusers, config.architecture).from_config(config.network)
        self.vae = None
        options = self.network.config
        side = options.sample_size
        self.state_shape = self.shape = (options.in_channels, side, side)
        if config.vae is not None:
            self.vae = diffusers.AutoencoderKL.from_config(config.vae)
            self.vae.encoder = self.vae.quant_conv = None  # nothing is encoded
            self.vae.enable_gradient_checkpointing()
            scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
            self.shape = (self.vae.config.out_channels, side * scale, side * scale)
        self.num_classes = options.num_embeds_ada_norm if config.architecture == DIT else options.num_class_embeds
        outputs = self.network.config.out_channels or options.in_channels
        self.predicts_variance = outputs == 2 * options.in_channels
        betas = diffusers.DDPMScheduler(**config.schedule).betas
        self.schedule = Schedule(betas.double().numpy())

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The network's raw output at timesteps `t` (n,), guided by the empty class where a scale is set."""
        scale, channels = self.config.guidance_scale, self.state_shape[0]
        if scale == 1:
            return self.network(x_t, t, class_labels=y).sample
        empty = torch.full_like(y, self.num_classes)
        output = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), class_labels=torch.cat([y, empty])).sample
        given, without = output.chunk(2)
        guided = without[:, :channels] + scale * (given[:, :channels] - without[:, :channels])
        return torch.cat([guided, given[:, channels:]], dim=1)

    def denoise(self, x_t: Tensor, t: int, y: Tensor) -> Denoised:
        """x̃0 of eq. 25 for noisy states (n, *state_shape) at timestep `t`."""
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self(x_t, torch.full((len(x_t),), t, device=x_t.device), y).float()
        fraction = None
        if self.predicts_variance:
            output, variance = output.chunk(2, dim=1)
            fraction = (variance + 1) / 2
        alpha_bar = float(self.schedule.alpha_bars[t])
        a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x0 = {
            "epsilon": lambda: (x_t - s * output) / a,
            "v_prediction": lambda: a * x_t - s * output,
            "sample": lambda: output,
        }[self.config.prediction]()
        if self.config.clip is not None:
            x0 = x0.clamp(-self.config.clip, self.config.clip)
        return Denoised(x0, fraction)

    def decode(self, x: Tensor) -> Tensor:
        if self.vae is None:
            return x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.vae.decode(x / self.vae.config.scaling_factor).sample.float()


def pipeline_names(folder: Path) -> tuple[str, ...]:
    """The names of a pipeline's labels, in their order, by its id2label; ImageNet's own where they are those.

    Of "tench, Tinca tinca" the first is taken, or all where two classes share it. ValueError where there are none.
    """
    index, _ = _index(folder)
    given = index.get("id2label")
    if not isinstance(given, dict) or not given or given.keys() != set(map(str, range(len(given)))):
        raise ValueError(f"{folder} does not name its classes: give --names, a file with one a line in label order")
    synonyms = [[word.strip() for word in str(given[str(label)]).split(",")] for label in range(len(given))]
    imagenet = tuple(imagenet_classes().values())
    if len(synonyms) == len(imagenet):
        agreeing = sum(
            name.casefold() in map(str.casefold, words) or name.casefold() == " ".join(words).casefold()
            for name, words in zip(imagenet, synonyms)
        )
        if agreeing >= 0.99 * len(imagenet):  # lists in circulation tell cranes and maillots apart in their own ways
            return imagenet
    first = [words[0] for words in synonyms]
    folded = [name.casefold() for name in first]
    names = tuple(
        name if folded.count(name.casefold()) == 1 else ", ".join(words) for name, words in zip(first, synonyms)
    )
    check_distinct(names, folder)
    return names


def read_pipeline(
    folder: Path, *, classes: int, guidance_scale: float = 1.0, labels: Sequence[int] | None = None
) -> DiffusersPrior:
    """The prior in a pipeline folder (model_index.json) of so many `classes`.

    Only safetensors are read, every key and shape checked. `labels` keeps those classes, in that order: their rows of
    the label embeddings, and the empty class's. Raises FileNotFoundError or ValueError, one sentence, for any other
    pipeline.
    """
    _, parts = _index(folder)
    main = "transformer" if "transformer" in parts else "unet"
    network = _read_network(folder / main, parts[main])
    vae = _read_network(folder / "vae", parts["vae"]) if "vae" in parts else None
    config, clip = _schedule(folder / "scheduler", parts["scheduler"])
    tensors = dict(network.state_dict())
    options = _plain(network.config)
    count = "num_embeds_ada_norm" if parts[main] == DIT else "num_class_embeds"
    if options.get(count) is None or options.get("class_embed_type") is not None:
        raise ValueError(f"{folder} is not class-conditional ({parts[main]} without {count}): give one that is")
    if options[count] != classes:
        raise ValueError(f"{folder} draws {options[count]:,} classes and {classes:,} are named: name each of them")
    _check_square(folder, options, vae)
    if labels is not None:
        rows = [*labels, options[count]] if parts[main] == DIT else list(labels)
        embedding = "embedding_table.weight" if parts[main] == DIT else "class_embedding.weight"
        for name in [name for name in tensors if name.endswith(embedding)]:
            tensors[name] = tensors[name][rows].clone()
        options[count] = len(labels)
    prior = DiffusersPrior(
        DiffusersConfig(
            architecture=parts[main],
            network=options,
            schedule=config,
            vae=_plain(vae.config) if vae is not None else None,
            prediction=_prediction(folder, parts["scheduler"]),
            clip=clip,
            guidance_scale=guidance_scale,
        )
    )
    prior.network.load_state_dict(tensors)
    if vae is not None:
        wanted = prior.vae.state_dict().keys()
        prior.vae.load_state_dict({name: tensor for name, tensor in vae.state_dict().items() if name in wanted})
    return prior.eval().requires_grad_(False)


def _index(folder: Path) -> tuple[dict, dict[str, str]]:
    """model_index.json, and the class of each part that it names; ValueError for a pipeline that cannot be read."""
    index = _json(folder / "model_index.json", "a pipeline that diffusers saved")
    parts = {name: part[1] for name, part in index.items() if isinstance(part, list) and len(part) == 2 and part[1]}
    _check_parts(folder, index.get("_class_name", "a pipeline"), parts)
    return index, parts


def _diffusers():
    try:
        import diffusers

        diffusers.AutoencoderKL, diffusers.DiTTransformer2DModel, diffusers.UNet2DModel  # noqa: B018, imported here
    except (ImportError, RuntimeError) as error:  # diffusers raises the latter for whatever it cannot import itself
        reason = str(error).strip().splitlines()[-1]
        raise MissingPackage(f"a prior of diffusers needs diffusers ({reason}): pip install diffusers") from None
    return diffusers


def _json(path: Path, what: str) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give the folder of {what}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not valid JSON of {what}: get it again")
    return content


def _check_parts(folder: Path, name: str, parts: dict[str, str]) -> None:
    if any(part.startswith(("text_encoder", "tokenizer")) for part in parts):
        raise ValueError(f"{folder} is a text-to-image pipeline ({name}), which draws no classes: give a DiTPipeline")
    main = [part for part in ("transformer", "unet") if parts.get(part) in (DIT, UNET)]
    other = sorted(parts.keys() - {*main, "vae", "scheduler"})
    if not main or other or "scheduler" not in parts:
        told = f"holds {', '.join(f'{part}: {kind}' for part, kind in parts.items())}" if parts else "names no parts"
        raise ValueError(f"{folder} is no pipeline that can be read ({name} {told}): give one of {DIT} or {UNET}")
    if main[0] == "transformer" and "vae" not in parts:
        raise ValueError(f"{folder} is a DiT without its VAE: its latents cannot be decoded; give the whole pipeline")
    if parts.get("vae", "AutoencoderKL") != "AutoencoderKL":
        raise ValueError(f"{folder} decodes with {parts['vae']}: only AutoencoderKL can be differentiated through")


def _read_network(folder: Path, kind: str) -> nn.Module:
    """A component by diffusers' own reader, from safetensors alone, with nothing missing and nothing left over."""
    _json(folder / "config.json", f"a component {kind} that diffusers saved")
    stem = folder / "diffusion_pytorch_model"
    if not any(stem.with_name(f"{stem.name}.{end}").is_file() for end in ("safetensors", "safetensors.index.json")):
        pickles = "only a pickle, which is never read" if list(folder.glob("*.bin")) else "no weights"
        raise ValueError(
            f"{folder} holds {pickles}: save the pipeline with diffusers' save_pretrained(..., safe_serialization=True)"
        )
    try:
        network, info = getattr(_diffusers(), kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except MissingPackage:
        raise
    except Exception as error:  # diffusers, safetensors and torch each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
        raise ValueError(f"{folder} cannot be read as a {kind} ({reason}): get it again") from None
    kinds_of_wrong = {"missing_keys": "it lacks", "unexpected_keys": "it also has", "mismatched_keys": "misshapen is"}
    for key, told in kinds_of_wrong.items():
        if wrong := sorted(map(str, info.get(key) or ())):
            raise ValueError(f"{folder} is not the {kind} of its config.json: {told} {wrong[0]}; get it again")
    return network


def _schedule(folder: Path, kind: str) -> tuple[dict, float | None]:
    """The options that decide the betas, and the bound of x̃0; the scheduler's own defaults for what is not written."""
    given = _json(folder / "scheduler_config.json", "a scheduler that diffusers saved")
    scheduler = getattr(_diffusers(), kind, None)
    try:
        options = scheduler.from_config(given).config
        config = {name: options.get(name) for name in _SCHEDULE}
        betas = _diffusers().DDPMScheduler(**config).betas
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} has no schedule of betas that can be read ({kind}: {reason})") from None
    if options.get("rescale_betas_zero_snr") or options.get("thresholding") or not 0 < float(betas[-1]) < 1:
        raise ValueError(f"{folder} rescales its betas or thresholds x0, which is not supported: give another pipeline")
    return config, float(options.get("clip_sample_range", 1.0)) if options.get("clip_sample") else None


def _prediction(folder: Path, kind: str) -> str:
    given = _json(folder / "scheduler" / "scheduler_config.json", "a scheduler that diffusers saved")
    return getattr(_diffusers(), kind).from_config(given).config.get("prediction_type", "epsilon")


def _check_square(folder: Path, options: dict, vae: nn.Module | None) -> None:
    side = options.get("sample_size")
    channels = options["in_channels"] if vae is None else vae.config.latent_channels
    if not isinstance(side, int):
        raise ValueError(f"{folder} has no square sample_size (got {side}): only square images are drawn")
    if channels != options["in_channels"]:
        raise ValueError(
            f"{folder} has a network of {options['in_channels']} channels and a VAE of {channels}: not one model"
        )


def _plain(config: dict) -> dict:
    """A configuration as JSON, without what diffusers notes about itself."""
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))
