"""Checkpoints of guided_diffusion (ADM, Dhariwal & Nichol 2021), official ones by name and others by their flags."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from igds.checkpoints import check_layout, differences, read_tensors, shapes_of
from igds.priors.unet import UNetConfig, UNetPrior

NUM_CLASSES = 1000  # guided_diffusion.script_util fixes it

# As the README of guided-diffusion gives them (MODEL_FLAGS), but for use_fp16: the files hold float32, which is kept.
FLAGS = {
    "adm-64": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 "
    "--learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
    "--resblock_updown True --use_new_attention_order True --use_scale_shift_norm True",
    "adm-128": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 128 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_heads 4 --num_res_blocks 2 "
    "--resblock_updown True --use_scale_shift_norm True",
    "adm-256": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 256 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
    "--resblock_updown True --use_scale_shift_norm True",
    "adm-512": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 512 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
    "--resblock_updown True --use_scale_shift_norm True",
}

# model_and_diffusion_defaults() of guided_diffusion, of what builds the network and its schedule.
_DEFAULTS = {
    "image_size": "64",
    "num_channels": "128",
    "num_res_blocks": "2",
    "num_heads": "4",
    "num_heads_upsample": "-1",
    "num_head_channels": "-1",
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": "0.0",
    "class_cond": "False",
    "use_scale_shift_norm": "True",
    "resblock_updown": "False",
    "use_new_attention_order": "False",
    "learn_sigma": "False",
    "diffusion_steps": "1000",
    "noise_schedule": "linear",
    "predict_xstart": "False",
    "rescale_timesteps": "False",
}
_NOT_OF_THE_NETWORK = ("use_fp16", "use_checkpoint", "use_kl", "rescale_learned_sigmas", "timestep_respacing")
_REFUSED = {
    "class_cond": (False, "it is not class-conditional, and guidance needs a class to draw"),
    "predict_xstart": (True, "it predicts x0 itself; ε is read, with or without a variance"),
    "rescale_timesteps": (True, "its timesteps are rescaled, which is not supported"),
}


def config_of_flags(flags: str) -> UNetConfig:
    """The network that guided_diffusion's own scripts build from command-line `flags`, for example `FLAGS["adm-64"]`.

    ValueError for a flag that its scripts do not have, for a value of the wrong kind, and for a model that is not
    class-conditional or predicts something other than ε.
    """
    words = shlex.split(flags.replace("=", " "))
    names, values = words[::2], words[1::2]
    given = {name.removeprefix("--"): value for name, value in zip(names, values)}
    for name in names:
        if not name.startswith("--") or len(words) % 2 or name[2:] not in {*_DEFAULTS, *_NOT_OF_THE_NETWORK}:
            raise ValueError(f"{name!r} is no flag of guided_diffusion with its value: write --image_size 64 and so on")
    text = _DEFAULTS | {name: value for name, value in given.items() if name in _DEFAULTS}
    parsed = {name: _parsed(name, value) for name, value in text.items()}
    for name, (value, reason) in _REFUSED.items():
        if parsed.pop(name) is value:
            raise ValueError(f"a checkpoint with --{name} {value} cannot be imported: {reason}")
    config = UNetConfig(channels=3, num_classes=NUM_CLASSES, **parsed)
    config.schedule()  # which knows what its name may be
    return config


def _parsed(name: str, value: str):
    """A flag's value as its default is written: True or False, a whole number, a fraction, or text."""
    default = _DEFAULTS[name]
    if default in ("True", "False"):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"--{name} must be True or False, got {value!r}")
        return value.lower() == "true"
    kind = float if "." in default else int if default.lstrip("-").isdigit() else str
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"--{name} must be a number, got {value!r}") from None


@cache
def layout(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of the network, without allocating any."""
    with torch.device("meta"):
        return shapes_of(config.build().state_dict())


def read_adm(path: Path, *, flags: str | None = None, labels: Sequence[int] | None = None) -> tuple[str, UNetPrior]:
    """The prior in a checkpoint of guided_diffusion and its name, every key and shape checked.

    Without `flags` the file must be one of the official ones, which its layout tells; with them it is what they build.
    `labels` keeps those of the 1,000 classes, in that order: their rows of the label embedding, the rest unchanged.
    Weights keep the file's precision. Raises ValueError for any other file, in one sentence.
    """
    config = config_of_flags(flags) if flags else None
    tensors = read_tensors(path)
    name = "adm" if config else _recognised(path, tensors)
    config = config or config_of_flags(FLAGS[name])
    check_layout(path, tensors, layout(config), "what these flags build" if flags else name)
    if labels is not None:
        tensors["label_emb.weight"] = tensors["label_emb.weight"][list(labels)].clone()
        config = replace(config, num_classes=len(labels))
    with torch.device("meta"):
        prior = UNetPrior(config)
    prior.network.load_state_dict(tensors, assign=True)
    return name, prior.eval().requires_grad_(False)


def _recognised(path: Path, tensors: dict) -> str:
    """The official checkpoint whose layout the tensors have, or ValueError with what they seem to be instead."""
    found = shapes_of(tensors)
    first = found.get("input_blocks.0.0.weight", ())
    if len(first) == 4 and first[1] == 6:
        raise ValueError(f"{path} is an upsampler, which enlarges images and draws none: give a ..._diffusion.pt")
    if first and "out.2.weight" not in found:
        raise ValueError(f"{path} is a classifier of guided_diffusion, no diffusion model: give a ..._diffusion.pt")
    if first and "label_emb.weight" not in found:
        raise ValueError(f"{path} is not class-conditional: give a checkpoint that was trained with classes")
    told = {name: differences(found, layout(config_of_flags(flags))) for name, flags in FLAGS.items()}
    name = min(told, key=lambda name: len(told[name]))
    if told[name]:
        raise ValueError(
            f"{path} is no official checkpoint of guided_diffusion: {name} is nearest, and {len(told[name]):,} tensors "
            f"differ ({told[name][0]}); give --flags if it was trained with others"
        )
    return name
