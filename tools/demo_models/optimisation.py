"""What both kinds of training share: the learning rate's course, steps in bfloat16, and averaged weights."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["Optimisation", "Share"]

Share = tuple[Tensor, Callable[[Tensor], Tensor]]
"""A part of a batch: pictures, uint8 RGB of shape (B, H, W, 3), and the loss of the network's answer to them."""

_WARM_UP_SHARE: Final = 0.06
_LAST_RATE_SHARE: Final = 0.01
_MAX_GRADIENT_NORM: Final = 10.0
_MAX_AVERAGE_DECAY: Final = 0.998
_DECAY: Final = 0.02


class Optimisation:
    """AdamW with a warm-up and a cosine, gradient clipping, and a running average of the weights.

    Each share of a batch is the work of one thread with a replica of its own. Threads that share the work of every
    single layer instead wait for each other some hundred times a step, and for whatever else the machine does.
    """

    def __init__(self, network: nn.Module, *, steps: int, rate: float, shares: int = 1) -> None:
        self._steps, self._rate, self._step = steps, rate, 0
        self.average: nn.Module = deepcopy(network).eval().requires_grad_(requires_grad=False)
        network = network.to(memory_format=torch.channels_last).train()
        self._replicas = [network, *(deepcopy(network) for _ in range(shares - 1))]
        self._threads = ThreadPoolExecutor(shares)
        kernels = [one for one in network.parameters() if one.ndim > 1]
        others = [one for one in network.parameters() if one.ndim <= 1]
        groups = [{"params": kernels, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=rate)

    def step(self, shares: Sequence[Share]) -> float:
        """Learn from one batch, given in as many shares as were announced; returns its mean loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * self._rate_share()
        losses = list(self._threads.map(_learn, self._replicas, shares))
        parameters = [list(replica.parameters()) for replica in self._replicas]
        for first, *copies in zip(*parameters, strict=True):
            for one in copies:
                first.grad.add_(one.grad)
            first.grad.div_(len(parameters))
        nn.utils.clip_grad_norm_(parameters[0], _MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._step += 1
        with torch.no_grad():
            for copied in parameters[1:]:
                for one, first in zip(copied, parameters[0], strict=True):
                    one.copy_(first)
            self._follow()
        return sum(losses) / len(losses)

    def _rate_share(self) -> float:
        warm_up = max(1, int(self._steps * _WARM_UP_SHARE))
        if self._step < warm_up:
            return (self._step + 1) / warm_up
        share = (self._step - warm_up) / max(1, self._steps - warm_up)
        return _LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * (1 + math.cos(math.pi * share)) / 2

    def _follow(self) -> None:
        """Move the average a little towards the weights, and towards the first replica's statistics."""
        decay = min(_MAX_AVERAGE_DECAY, self._step / (self._step + 10))
        own = self._replicas[0].state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(own[name], 1 - decay)
            else:
                value.copy_(own[name])


def _learn(network: nn.Module, share: Share) -> float:
    """Leave the gradients of one share in a replica; returns the loss."""
    images, loss_of = share
    # The memory stays in the order of the pictures, which is the order that convolutions on a CPU like.
    inputs = images.permute(0, 3, 1, 2).to(torch.bfloat16).div_(255)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(inputs)
    loss = loss_of(answer)
    loss.backward()
    return float(loss.detach())
