"""Priors made of guided_diffusion's UNet (Dhariwal & Nichol 2021)."""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igds.priors.base import Denoised
from igds.schedule import Schedule

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch.cuda.amp.custom_fwd, in guided_diffusion.nn
    from guided_diffusion.unet import UNetModel

_CHANNEL_MULT = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}


@dataclass(frozen=True)
class UNetConfig:
    """How to build the network: the options of `guided_diffusion.script_util.create_model`, and what it fixes.

    `create_model` always makes 3 channels and 1,000 classes; here both are free. `space_to_depth` s > 1 shows the
    network an image of s²·channels at 1/s of the side, which makes a step several times cheaper on a CPU;
    `attention_resolutions` counts in pixels of what the network sees. `prediction` is "epsilon" or "v".
    """

    image_size: int
    channels: int
    num_classes: int
    num_channels: int
    num_res_blocks: int
    channel_mult: str = ""
    learn_sigma: bool = False
    attention_resolutions: str = "16"
    num_heads: int = 1
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    use_checkpoint: bool = False
    use_fp16: bool = False
    dropout: float = 0.0
    space_to_depth: int = 1
    prediction: str = "epsilon"
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000

    def __post_init__(self):
        if self.prediction not in ("epsilon", "v"):
            raise ValueError(f"prediction must be 'epsilon' or 'v', got {self.prediction!r}")
        if self.image_size % self.space_to_depth:
            raise ValueError(f"space_to_depth {self.space_to_depth} does not divide image_size {self.image_size}")

    def schedule(self) -> Schedule:
        return Schedule.named(self.noise_schedule, self.diffusion_steps)

    def build(self) -> UNetModel:
        side = self.image_size // self.space_to_depth
        channels = self.channels * self.space_to_depth**2
        mult = self.channel_mult or _CHANNEL_MULT.get(side)
        if mult is None:
            raise ValueError(f"channel_mult has no default for a side of {side} pixels: give it, for example '1,2,2'")
        network = UNetModel(
            image_size=side,
            in_channels=channels,
            model_channels=self.num_channels,
            out_channels=channels * (2 if self.learn_sigma else 1),
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=tuple(side // int(r) for r in self.attention_resolutions.split(",")),
            dropout=self.dropout,
            channel_mult=tuple(float(m) if "." in m else int(m) for m in mult.split(",")),
            num_classes=self.num_classes,
            use_checkpoint=self.use_checkpoint,
            use_fp16=self.use_fp16,
            num_heads=self.num_heads,
            num_head_channels=self.num_head_channels,
            num_heads_upsample=self.num_heads_upsample,
            use_scale_shift_norm=self.use_scale_shift_norm,
            resblock_updown=self.resblock_updown,
            use_new_attention_order=self.use_new_attention_order,
        )
        if self.use_fp16:
            network.convert_to_fp16()
        return network


class UNetPrior(nn.Module):
    """A class-conditional UNet on images in [-1, 1]; x̃0 is clipped to that range, as guided_diffusion does.

    With `bfloat16` set, `denoise` computes the network in that precision (autocast), twice as fast where the processor
    has it; the sampler's state stays float32.
    """

    bfloat16 = False

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.network = config.build()
        self.schedule = config.schedule()
        self.shape = self.state_shape = (config.channels, config.image_size, config.image_size)
        self.num_classes = config.num_classes
        self.predicts_variance = config.learn_sigma

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The raw prediction (n, C, H, W) at timesteps `t` (n,); 2·C channels with `learn_sigma`."""
        s = self.config.space_to_depth
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x_t, s), t, y), s)

    def target(self, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """What the network is trained to predict: ε, or v = √ᾱ·ε − √(1−ᾱ)·x0 (Salimans & Ho 2022)."""
        if self.config.prediction == "epsilon":
            return noise
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0

    def denoise(self, x_t: Tensor, t: int, y: Tensor) -> Denoised:
        """x̃0 of eq. 25 for noisy images (n, C, H, W) at timestep `t`."""
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self(x_t, torch.full((len(x_t),), t, device=x_t.device), y).float()
        fraction = None
        if self.config.learn_sigma:
            output, variance = output.chunk(2, dim=1)
            fraction = (variance + 1) / 2
        alpha_bar = float(self.schedule.alpha_bars[t])
        a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x0 = (x_t - s * output) / a if self.config.prediction == "epsilon" else a * x_t - s * output
        return Denoised(x0.clamp(-1, 1), fraction)

    def decode(self, x: Tensor) -> Tensor:
        return x
