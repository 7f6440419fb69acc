"""The two kinds of information as pure tensor functions. Everything is in nats."""

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """H(p) = −Σ p log p over the last axis; between 0 and log of its length."""
    return torch.special.entr(p).sum(dim=-1)


def prototype_information(log_probs: Tensor, labels: Tensor, label_entropy: float) -> Tensor:
    """H(Y) + log P(y | g(f(x))) of each image, (n,): the first term of eq. 29, lifted by H(Y) as in eq. 7.

    Its mean over held-out data is a lower bound of I(X;Y). At most H(Y) ≤ log K; unbounded below, where the
    classifier is sure of another class. `log_probs` (n, K), `labels` (n,).
    """
    return label_entropy + log_probs.gather(1, labels[:, None])[:, 0]


def contextual_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p_i ‖ q) of each row of p (n, d) to q (d,) or (n, d): the second term of eq. 29.

    Not negative, but for rounding. Where q is the mean of these p, its mean is at most log n (0 when n = 1) and
    at most log d.
    """
    # A softmax can underflow to 0, where the gradient of p·log p is not a number.
    p, q = (value.clamp(min=torch.finfo(value.dtype).tiny) for value in (p, q))
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(dim=-1)


def batch_reference(p: Tensor) -> Tensor:
    """Q̂ = mean_i p_i (eq. 30), detached as in line 10 of algorithm 2: (n, d) to (d,)."""
    return p.detach().mean(dim=0)
