"""Several processes that torchrun has started train one network together."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous
from torch.optim.optimizer import register_optimizer_step_pre_hook

Augment = Callable[[Tensor, torch.Generator, float], Tensor]


@contextmanager
def join(device: str) -> Iterator[tuple[int, int]]:
    """Join the processes; yield the number of this one, and how many they are.

    In the meantime every step of an optimizer uses the mean of all processes' gradients. The first
    process speaks for all: what the others print is dropped.
    """
    if device == "cuda":  # has run with one GPU only: no machine with several was at hand
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, count = next(rendezvous("env://"))
    # After a restart torchrun's store still has the addresses of the processes that were ended.
    store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    distributed.init_process_group(store=store, rank=rank, world_size=count)
    hook = register_optimizer_step_pre_hook(average_gradients)
    with open(os.devnull, "w", errors="backslashreplace") as nowhere:
        try:
            with redirect_stdout(nowhere if rank > 0 else sys.stdout):
                yield rank, count
        finally:
            hook.remove()
            distributed.destroy_process_group()


def average_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Replace each gradient by its mean over all processes, in one exchange.

    DistributedDataParallel does the same, but wraps the network: the training loop and the names of
    the weights would have to know of it.
    """
    gradients: list[Tensor] = []
    for group in optimizer.param_groups:
        gradients.extend(weights.grad for weights in group["params"] if weights.grad is not None)
    count = distributed.get_world_size()
    means = torch.cat([gradient.flatten() for gradient in gradients]) / count
    distributed.all_reduce(means)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, average in zip(gradients, means.split(sizes), strict=True):
        gradient.copy_(average.view(gradient.shape))


def choose_share(images: int, rank: int, count: int) -> Tensor:
    """Return the indices of this process's images, int64; all processes have equally many."""
    rounded_up = math.ceil(images / count) * count
    return torch.arange(rank, rounded_up, count) % images


def augment_separately(augment: Augment, first_seed: int, rank: int, count: int) -> Augment:
    """Return augment with random numbers of this process's own.

    Training seeds the generator of each epoch with its seed + 1000 * epoch, in every process.
    """

    current: torch.Generator | None = None

    def augment_share(images: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        nonlocal current
        if generator is not current:  # an epoch begins
            current = generator
            epoch, run = divmod(generator.initial_seed() - first_seed, 1000)
            generator.manual_seed(first_seed + run + 1000 * (epoch * count + rank))
        return augment(images, generator, progress)

    return augment_share
