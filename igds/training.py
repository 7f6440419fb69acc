"""Training, as one resumable loop over small objectives.

An objective is an nn.Module that holds everything a checkpoint must hold (networks, averages, queues), whose forward
turns a batch of bytes into a loss. `Training` supplies batches, the optimiser, the budget and the checkpoints.

Where several processes train together, each draws all the randomness of the whole batch, so that it is what one process
would draw, and takes its rows of it through the network.
"""

import copy
import io
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from igds.augmentation import random_flip
from igds.classifiers import ImageClassifier
from igds.data import ImageSet, to_unit
from igds.device import has_fast_bfloat16
from igds.encoders import Encoder, smooth
from igds.estimator import VariationalEstimator
from igds.files import write_whole
from igds.information import contextual_kl
from igds.priors.unet import UNetPrior
from igds.processes import ALONE, Processes
from igds.schedule import Schedule

CHECKPOINT_SECONDS = 120


@dataclass(frozen=True)
class TrainingEvent:
    """`images` seen of `total`, over all sessions of a resumed run, and the mean loss since the last event."""

    images: int
    total: int
    loss: float


class PriorObjective(nn.Module):
    """Denoising: the mean squared error of the network's own target (ε or v) at a uniform random t.

    With `flip`, half of the images are mirrored left to right: right for photographs, wrong for letters.
    """

    def __init__(self, prior: UNetPrior, *, ema: float = 0.9995, flip: bool = False):
        super().__init__()
        if prior.config.learn_sigma:
            raise ValueError(
                "train prior fits x̃0 only: set learn_sigma to false (a checkpoint that has it can be sampled)"
            )
        self.network = prior
        self.flip = flip

        def warmed_up(averaged, current, count):
            count = int(count)
            torch._foreach_lerp_(averaged, current, 1 - min(ema, (1 + count) / (10 + count)))

        self.average = AveragedModel(prior, multi_avg_fn=warmed_up).requires_grad_(False)
        alpha_bars = torch.tensor(prior.schedule.alpha_bars, dtype=torch.float32)
        self.register_buffer("alpha_bars", alpha_bars, persistent=False)

    def forward(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, processes: Processes = ALONE
    ) -> Tensor:
        x0 = to_unit(images)
        if self.flip:
            x0 = random_flip(x0, generator)
        device = x0.device
        t = torch.randint(len(self.alpha_bars), (len(x0),), generator=generator, device=device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        x0, t, noise, labels = (whole[processes.rows(len(images))] for whole in (x0, t, noise, labels))
        alpha_bar = self.alpha_bars[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        predicted = self.network(x_t, t, labels)
        return (predicted.float() - self.network.target(x0, noise, alpha_bar)).square().mean()

    def after_step(self) -> None:
        self.average.update_parameters(self.network)

    @property
    def result(self) -> UNetPrior:
        """The moving average, which is what samples well."""
        return self.average.module


class ContrastiveObjective(nn.Module):
    """Algorithm 1: InfoNCE(q, k⁺, queue)/τ − λ·KL(H_q ‖ Q), with a momentum encoder and a queue of keys.

    λ = 0 is MoCo (He et al. 2020). Q is the mean of the two views' softmaxes, instance by instance (proposition 5).
    `noise_share` of the views carry diffusion noise of a random level below `noise_limit`·T of `schedule`: f has then
    seen what it will be asked about while sampling. 0 is the paper's clean f.

    `label_weight` adds the cross-entropy of a linear classifier of the `num_classes` labels on f(x_q)/τ, which is
    dropped afterwards. It asks X̂ to keep what X says of Y, which eq. 3 needs to be tight; 0 is the paper's f, trained
    without labels.
    """

    def __init__(
        self,
        encoder: Encoder,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        *,
        schedule: Schedule,
        num_classes: int,
        tau: float = 0.07,
        lambda_: float = 1.0,
        label_weight: float = 0.0,
        momentum: float = 0.99,
        queue: int = 4096,
        noise_share: float = 0.0,
        noise_limit: float = 0.7,
    ):
        super().__init__()
        self.network = encoder
        self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.augment = augment
        self.head = nn.Linear(encoder.config.features, num_classes)
        self.tau, self.lambda_, self.label_weight, self.momentum = tau, lambda_, label_weight, momentum
        self.noise_share, self.noise_limit = noise_share, noise_limit
        keys = torch.randn(queue, encoder.config.features, generator=torch.Generator().manual_seed(0))
        self.register_buffer("queue", F.normalize(keys, dim=1))
        self.schedule = schedule

    def forward(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, processes: Processes = ALONE
    ) -> Tensor:
        x, rows = to_unit(images), processes.rows(len(images))
        q = self.network(self._view(x, generator)[rows]).float()
        with torch.no_grad():
            k = self.momentum_encoder(self._view(x, generator)[rows]).float()
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T], dim=1) / self.tau
        self._keys = processes.gather(k, len(x))
        h_q, h_k = q.softmax(dim=1), k.softmax(dim=1)
        info_nce = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))
        loss = info_nce - self.lambda_ * contextual_kl(h_q, (h_q + h_k) / 2).mean()
        if self.label_weight:
            loss = loss + self.label_weight * F.cross_entropy(self.head(q / self.tau).float(), labels[rows])
        return loss

    def _view(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = self.augment(x, generator)
        return add_noise(x, self.schedule, generator, share=self.noise_share, limit=self.noise_limit)

    def after_step(self) -> None:
        with torch.no_grad():
            own, mean = list(self.network.parameters()), list(self.momentum_encoder.parameters())
            torch._foreach_lerp_(mean, own, 1 - self.momentum)
            self.queue.copy_(torch.cat([self._keys, self.queue])[: len(self.queue)])

    @property
    def result(self) -> Encoder:
        return self.network


class ClassifierObjective(nn.Module):
    """Cross-entropy on augmented real images, for the independent classifier."""

    def __init__(self, classifier: ImageClassifier, augment: Callable[[Tensor, torch.Generator], Tensor]):
        super().__init__()
        self.network = classifier
        self.augment = augment

    def forward(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, processes: Processes = ALONE
    ) -> Tensor:
        rows = processes.rows(len(images))
        logits = self.network(self.augment(to_unit(images), generator)[rows])
        return F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.1)

    def after_step(self) -> None:
        pass

    @property
    def result(self) -> ImageClassifier:
        return self.network


class Training:
    """One objective, trained for a number of images; resumes from `checkpoint` where that file exists.

    The learning rate warms up over 200 steps, stays, and falls linearly to zero over the last `decay` of the images.
    Arithmetic is bfloat16 (autocast) where the processor has it; `compile` pays from about 50,000 images on.

    `processes` that were given the same arguments and data share every batch: with the sum of their gradients, weighted
    by their shares, they do what one process does with the whole batch, to rounding. The first of them alone reads and
    writes the checkpoint, which any number of processes can go on from.

    Raises ValueError where there are more processes than images in a batch, where one has other data than the first,
    for a network with batch normalisation in several processes, and for a checkpoint of something else.
    """

    def __init__(
        self,
        objective: nn.Module,
        data: ImageSet,
        *,
        images: int,
        batch_size: int = 64,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.0,
        decay: float = 0.4,
        seed: int = 0,
        checkpoint: Path | None = None,
        device: str | torch.device = "cpu",
        compile: bool = False,
        processes: Processes = ALONE,
    ):
        if processes.world > batch_size:
            raise ValueError(
                f"{processes.world} processes cannot share a batch of {batch_size} images: start {batch_size} at most"
            )
        if processes.world > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in objective.modules()):
            raise ValueError(
                "batch normalisation would see the share of one process, not the batch: train such a network in one"
            )
        self.device = torch.device(device)
        self.objective = objective.to(self.device)
        self.images, self.batch_size = images, batch_size
        self.learning_rate, self.decay = learning_rate, decay
        self.seen = 0
        self.checkpoint = checkpoint if processes.is_main else None
        self._processes = processes
        self._data, self._labels = data.images.to(self.device), data.labels.to(self.device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._trained = [p for p in objective.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, learning_rate, weight_decay=weight_decay, fused=True)
        if self.checkpoint is not None and self.checkpoint.exists():
            self._load(self.checkpoint, str(self.checkpoint))
        if processes.world > 1:
            self._agree(data)
        if compile:
            objective.network.compile()

    def run(self, *, minutes: float | None = None, every: float = 1.0) -> Iterator[TrainingEvent]:
        """Train until `images` are seen or `minutes` have passed, an event every `every` seconds (0: each step).

        The checkpoint is written every two minutes, at the end, and when the generator is closed early.
        """
        return self._run(float("inf") if minutes is None else minutes * 60, every)

    def _run(self, limit: float, every: float) -> Iterator[TrainingEvent]:
        self.objective.train()
        started = spoken = saved = time.monotonic()
        losses = []
        try:
            while self.seen < self.images and not self._is_over(time.monotonic() - started, limit):
                losses.append(self._step())
                now = time.monotonic()
                if now - spoken > every or self.seen >= self.images:
                    yield TrainingEvent(self.seen, self.images, float(torch.stack(losses).mean()))
                    losses, spoken = [], time.monotonic()  # what is done with an event is not training
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now
        finally:
            self.save()

    def _is_over(self, seconds: float, limit: float) -> bool:
        """Whether the time is up by the clock of one process: then all stop after the same step."""
        return limit < float("inf") and self._processes.any(seconds >= limit)

    def _step(self) -> Tensor:
        before = self._generator.get_state()
        try:
            loss = self._loss_and_gradients()
        except BaseException:  # interrupted, or another process is gone: nothing of this step has happened
            self._generator.set_state(before)
            self._optimizer.zero_grad()
            raise
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * self._rate()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.objective.after_step()
        self.seen += self.batch_size
        return loss

    def _loss_and_gradients(self) -> Tensor:
        """Of the whole batch, whatever the share of it that this process computes."""
        index = torch.randint(len(self._data), (self.batch_size,), generator=self._generator, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            loss = self.objective(self._data[index], self._labels[index], self._generator, self._processes)
        rows = self._processes.rows(self.batch_size)
        loss = loss * ((rows.stop - rows.start) / self.batch_size)
        loss.backward()
        loss = loss.detach()
        self._processes.add([loss, *(p.grad for p in self._trained if p.grad is not None)])
        return loss

    def _rate(self) -> float:
        warm = min(1.0, (self.seen / self.batch_size + 1) / 200)
        left = (self.images - self.seen) / self.images
        return warm * min(1.0, left / self.decay)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.checkpoint, self._state())

    def _state(self) -> bytes:
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "seen": self.seen,
        }
        buffer = io.BytesIO()  # torch.save itself reports a full disk as a RuntimeError, or not at all
        torch.save(state, buffer)
        return buffer.getvalue()

    def _agree(self, data: ImageSet) -> None:
        """Start all processes from the state of the first, and make sure that they will draw the same batches."""
        own = [
            self.images,
            self.batch_size,
            *(zlib.crc32(part.cpu().contiguous().numpy()) for part in (data.images, data.labels)),
        ]
        if self._processes.from_main(repr(own).encode()) != repr(own).encode():
            raise ValueError(
                f"process {self._processes.rank} has other images or another training length than process 0: "
                "give all processes the same command and the same data"
            )
        state = self._processes.from_main(self._state() if self._processes.is_main else None)
        if not self._processes.is_main:
            self._load(io.BytesIO(state), "what process 0 sent")

    def _load(self, source: Path | io.BytesIO, name: str) -> None:
        try:
            state = torch.load(source, map_location=self.device, weights_only=True)
            self.objective.load_state_dict(state["objective"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._generator.set_state(state["generator"].cpu())
            self.seen = state["seen"]
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{name} is not a checkpoint of this training ({reason}): "
                "delete it to start afresh, or give the options that it was made with"
            ) from None


def add_noise(x: Tensor, schedule: Schedule, generator: torch.Generator, *, share: float, limit: float) -> Tensor:
    """A random `share` of x (n, ...), images or points, made x_t at a uniform t below `limit`·T; the others as is."""
    if not share:
        return x
    n, device = len(x), x.device
    noisy = torch.rand(n, generator=generator, device=device) < share
    t = torch.randint(int(limit * len(schedule)), (n,), generator=generator, device=device)
    alpha_bars = torch.tensor(schedule.alpha_bars, dtype=torch.float32, device=device)
    alpha_bar = torch.where(noisy, alpha_bars[t], 1.0).view(-1, *[1] * (x.ndim - 1))
    return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * torch.randn(x.shape, generator=generator, device=device)


@torch.no_grad()
def train_linear_classifier(
    encoder: Encoder,
    data: ImageSet,
    *,
    tau: float,
    views: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    passes: int = 1,
    seed: int = 0,
    iterations: int = 200,
    batch_size: int = 1000,
) -> VariationalEstimator:
    """Freeze f, make it smooth, then fit g by cross-entropy (section 4.1.3) and measure Q^y; in that order.

    f's features are computed once (`passes` times, where `views` makes random ones), and g is fitted to all of them by
    L-BFGS. Q^y and the class frequencies come from the images as they are.
    """
    encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
    smooth(encoder)
    device = next(encoder.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    def features(view=None):
        parts = [to_unit(part.to(device)) for part in data.images.split(batch_size)]
        return torch.cat([encoder(view(part, generator) if view else part) for part in parts])

    clean = features()
    labels = data.labels.to(device)
    seen = torch.cat([clean, *(features(views) for _ in range(passes if views else 0))])
    targets = labels.repeat(len(seen) // len(clean))
    estimator = VariationalEstimator(encoder, len(data.classes), features=encoder.config.features, tau=tau).to(device)
    fit_linear(estimator.classifier, seen, targets, iterations=iterations)
    p = F.softmax(clean / tau, dim=1)
    estimator.class_means.copy_(torch.stack([p[labels == y].mean(0) for y in range(len(data.classes))]))
    estimator.class_frequencies.copy_(data.class_frequencies())
    return estimator.requires_grad_(False)


def fit_linear(linear: nn.Linear, features: Tensor, labels: Tensor, *, iterations: int, decay: float = 1e-6) -> None:
    """Multinomial logistic regression of `labels` (n,) on `features` (n, d), by `iterations` of L-BFGS from zero."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
    )

    @torch.enable_grad()
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(features), labels) + decay * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
