"""The noise schedule: betas, respacing and the DDPM posterior (eq. 26-27)."""

import math

import numpy as np
from guided_diffusion.gaussian_diffusion import get_named_beta_schedule
from guided_diffusion.respace import space_timesteps

# Of λ = log(√ᾱ / √(1−ᾱ)): from where a picture begins to show to where its noise is a few grey levels.
SNR_RANGE = (-3.0, 2.5)


class Schedule:
    """A discrete diffusion schedule; `alpha_bars[k]` is ᾱ at level k, level 0 being the least noisy.

    `timesteps[k]` is the index that the network was trained with for level k; `respaced` keeps those of the full
    schedule. All arithmetic is float64 and every scalar leaves as a Python float.
    """

    def __init__(self, betas: np.ndarray, timesteps: list[int] | None = None):
        self.betas = np.asarray(betas, dtype=np.float64)
        if self.betas.ndim != 1 or not ((self.betas > 0) & (self.betas < 1)).all():
            raise ValueError("betas must be a list of numbers strictly between 0 and 1")
        self.timesteps = list(range(len(self.betas))) if timesteps is None else list(timesteps)
        self.alpha_bars = np.cumprod(1 - self.betas)

    @classmethod
    def named(cls, name: str, steps: int) -> "Schedule":
        """The "linear" (Ho et al. 2020) or "cosine" (Nichol & Dhariwal 2021) schedule of `steps` levels."""
        if name not in ("linear", "cosine"):
            raise ValueError(f"noise_schedule must be 'linear' or 'cosine', got {name!r}")
        return cls(get_named_beta_schedule(name, steps))

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, steps: int, *, spacing: str = "time") -> "Schedule":
        """`steps` of these levels, the noisiest among them.

        "time" spaces them evenly in t, both ends kept: guided_diffusion's `timestep_respacing`. "snr" spaces the others
        evenly in λ over the part of SNR_RANGE that this schedule has, as multistep solvers want.
        """
        if not 2 <= steps <= len(self):
            raise ValueError(f"steps must be between 2 and {len(self)} for this model, got {steps}")
        kept = sorted(space_timesteps(len(self), [steps])) if spacing == "time" else self._evenly_in_snr(steps)
        alpha_bars = self.alpha_bars[kept]
        betas = 1 - alpha_bars / np.append(1.0, alpha_bars[:-1])
        return Schedule(betas, [self.timesteps[k] for k in kept])

    def _evenly_in_snr(self, steps: int) -> list[int]:
        snr = np.array([self.log_snr(k) for k in range(len(self))])
        low, high = max(SNR_RANGE[0], snr[-1]), min(SNR_RANGE[1], snr[0])
        wanted = np.linspace(high, low, steps - 1) if steps > 2 else np.array([high])
        nearest = [int(np.abs(snr - value).argmin()) for value in wanted] + [len(self) - 1]
        order = np.arange(steps)  # no level twice, which many steps would ask for
        return np.minimum(np.maximum.accumulate(nearest - order) + order, len(self) - steps + order).tolist()

    def alpha_bar_before(self, k: int) -> float:
        """ᾱ of the level that step k leads to; 1 for the last step, which ends at the clean image."""
        return float(self.alpha_bars[k - 1]) if k > 0 else 1.0

    def log_snr(self, k: int) -> float:
        """λ = log(√ᾱ / √(1−ᾱ)) of level k: half the logarithm of the signal-to-noise ratio."""
        alpha_bar = float(self.alpha_bars[k])
        return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))

    def posterior(self, k: int) -> tuple[float, float, float]:
        """Coefficients (a, b, σ̃) of x' = a·x_t + b·x̃0 + σ̃·z, eq. 26-27.

        The paper prints √α in front of x̃0; the DDPM posterior has √ᾱ_{t-1} there (Ho et al. 2020, eq. 7).
        """
        alpha_bar, before, beta = float(self.alpha_bars[k]), self.alpha_bar_before(k), float(self.betas[k])
        on_x_t = (1 - beta) ** 0.5 * (1 - before) / (1 - alpha_bar)
        on_x0 = before**0.5 * beta / (1 - alpha_bar)
        return on_x_t, on_x0, ((1 - before) / (1 - alpha_bar) * beta) ** 0.5

    def log_variance_range(self, k: int) -> tuple[float, float]:
        """(log σ̃², log β), between which a `learn_sigma` network interpolates; at k = 0, σ̃² is that of k = 1."""
        variance = self.posterior(max(k, 1))[2] ** 2 if len(self) > 1 else float(self.betas[0])
        return float(np.log(variance)), float(np.log(self.betas[k]))
