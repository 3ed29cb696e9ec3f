"""Random changes of a mini-batch: what `train(..., augment=Augmentation())` of the script calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Changes each image at random in a way of its own; by default as suits FashionMNIST."""

    mirror: bool = True  # half of the images
    shift: float = 1 / 7  # at most, as a share of the side: 4 of 28 pixels
    zoom: float = 0.0  # at most, larger or smaller by this share
    rotation: float = 0.0  # at most, in degrees
    color: float = 0.0  # brightness, contrast and colour at most, up or down by this share
    patch: float = 0.5  # the share of images that get a rectangle in a random grey
    until: float = 0.9  # of training: then images are whole and in their place, as in use
    padding: str = "zeros"  # what is around: black, or "reflection" of the image

    def __call__(
        self, images: Tensor, generator: torch.Generator | None, progress: float = 0.0
    ) -> Tensor:
        """Return uint8 images (N, C, H, W), changed.

        progress is the share of training that is done, in [0, 1]. From `until` on images are only
        mirrored and recoloured.
        """
        active = self
        if progress >= self.until:
            active = replace(self, shift=0.0, zoom=0.0, rotation=0.0, patch=0.0)
        changed = active.move(images.float(), generator)
        if active.color:
            changed = recolor(changed, active.color, generator)
        if active.patch:
            changed = add_patches(changed, active.patch, generator)
        return changed.clamp(0, 255).round().byte()

    def move(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Mirror, rotate, zoom and shift each of the float images (N, C, H, W)."""
        count, _, height, width = images.shape
        device = images.device
        angle = draw_numbers(images, math.radians(self.rotation), generator).flatten()
        zoom = 1 + draw_numbers(images, self.zoom, generator).flatten()
        mirrored = torch.randint(2, (count,), generator=generator, device=device)
        direction = 1 - 2 * mirrored * self.mirror
        # A map from the pixels of the result to those of the image, both from -1 to 1.
        maps = torch.zeros(count, 2, 3, device=device)
        maps[:, 0, 0] = angle.cos() / zoom * direction
        maps[:, 0, 1] = -angle.sin() / zoom
        maps[:, 1, 0] = angle.sin() / zoom * direction
        maps[:, 1, 1] = angle.cos() / zoom
        for axis, side in enumerate((width, height)):
            most = round(self.shift * side)  # whole pixels leave the image as sharp as it is
            pixels = torch.randint(-most, most + 1, (count,), generator=generator, device=device)
            maps[:, axis, 2] = 2 * pixels / side
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode=self.padding, align_corners=False)


def find_mirrored_classes(confusion_matrix: Tensor) -> tuple[int, int] | None:
    """Return the two classes that are mistaken for each other as if by a coin, or None.

    confusion_matrix is (classes, classes), rows the true class. Of two classes that are each
    other's mirror image, as left and right, both shares of mistakes add up to about 1.
    """
    shares = confusion_matrix / confusion_matrix.sum(dim=1, keepdim=True).clamp(min=1)
    mistaken = (shares + shares.T).triu(diagonal=1)
    if mistaken.max() <= 0.6:
        return None
    first, second = divmod(int(mistaken.argmax()), len(mistaken))
    return first, second


def draw_numbers(images: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Return a random number from -most to most for each image: float32 (N, 1, 1, 1)."""
    shape = (len(images), 1, 1, 1)
    return most * (2 * torch.rand(shape, generator=generator, device=images.device) - 1)


def recolor(images: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Change brightness, contrast and colour of each of the float images (N, C, H, W)."""
    images = images * (1 + draw_numbers(images, most, generator))
    average = images.mean(dim=(1, 2, 3), keepdim=True)
    images = average + (images - average) * (1 + draw_numbers(images, most, generator))
    grey = images.mean(dim=1, keepdim=True)
    return grey + (images - grey) * (1 + draw_numbers(images, most, generator))


def add_patches(images: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Put a rectangle in a random grey on a share of the float images (N, C, H, W).

    No single part may decide the class (random erasing, Zhong et al. 2017, arXiv:1708.04896).
    """
    is_inside = draw_numbers(images, 0.5, generator) + 0.5 < share
    for dim in (2, 3):
        shape = [1, 1, 1, 1]
        shape[dim] = images.shape[dim]
        positions = torch.linspace(-1, 1, images.shape[dim], device=images.device).view(shape)
        middle = draw_numbers(images, 1, generator)
        half_size = (2 + draw_numbers(images, 1, generator)) / 7  # of a side from -1 to 1
        is_inside = is_inside & ((positions - middle).abs() < half_size)
    return torch.where(is_inside, 127.5 + draw_numbers(images, 127.5, generator), images)
