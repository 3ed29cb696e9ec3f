"""Several processes that torchrun has started train one network together."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous
from torch.optim.optimizer import register_optimizer_step_pre_hook

import fashion_mnist_cnn as program


@contextmanager
def join(device: str) -> Iterator[tuple[int, int]]:
    """Join the processes; yield the rank of this one and their number: 0, 1 without torchrun.

    Meanwhile every step of an optimizer uses the mean of all processes' gradients. Only the first
    process prints: the others' stdout is discarded.
    """
    if not distributed.is_torchelastic_launched():
        yield 0, 1
        return
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


def share_work(
    recipe: program.Recipe, dataset: program.Dataset, rank: int, count: int
) -> tuple[program.Recipe, program.Dataset]:
    """Return this process's part of each mini-batch and of the training set."""
    if count == 1:
        return recipe, dataset
    augment = recipe.augment
    if augment:
        augment = augment_separately(augment, recipe.epochs, rank, count)
    batch_size = max(1, recipe.batch_size // count)
    share = dataset.train_set.subset(choose_share(len(dataset.train_set), rank, count))
    own_recipe = replace(recipe, batch_size=batch_size, augment=augment)
    return own_recipe, replace(dataset, train_set=share)


def choose_share(images: int, rank: int, count: int) -> Tensor:
    """Return the indices of this process's images, int64; all processes have equally many."""
    rounded_up = math.ceil(images / count) * count
    return torch.arange(rank, rounded_up, count) % images


def augment_separately(
    augment: program.Augment, epochs: int, rank: int, count: int
) -> program.Augment:
    """Return augment with random numbers of this process's own.

    Training seeds each epoch's generator alike in every process. It is reseeded here, as if the
    processes took turns in a training of count times as many epochs.
    """
    current: torch.Generator | None = None

    def augment_share(images: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        nonlocal current
        if generator is not current:  # an epoch begins
            current = generator
            epoch = round(progress * epochs) + 1
            epochs_apart = epoch * (count - 1) + rank
            generator.manual_seed(generator.initial_seed() + 1000 * epochs_apart)
        return augment(images, generator, progress)

    return augment_share
