"""Random changes of a mini-batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fashion_mnist_extras.augmentation import Augmentation, find_mirrored_classes

NONE = Augmentation(mirror=False, shift=0, patch=0)
PHOTOGRAPHS = Augmentation(
    shift=0.1, zoom=0.2, rotation=10, color=0.2, patch=0.5, padding="reflection"
)


def new_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shift_by_hand(image: Tensor, down: int, right: int) -> Tensor:
    """The image (C, H, W) shifted row by row, and column by column."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


def test_augmented_images_are_mirrored_and_shifted_originals_and_nothing_else():
    image = torch.randint(1, 256, (2, 5, 6), dtype=torch.uint8)
    images = image.expand(2000, 2, 5, 6)
    augmented = Augmentation(shift=0.4, patch=0)(images, new_generator(), 0.0)
    possible = set()
    for original in (image, image.flip(-1)):
        for down in range(-2, 3):
            for right in range(-2, 3):
                possible.add(bytes(shift_by_hand(original, down, right).numpy()))
    assert len(possible) == 50
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    assert {bytes(each.contiguous().numpy()) for each in augmented} == possible


def test_every_image_of_a_batch_is_changed_in_a_way_of_its_own():
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8).expand(50, 3, 32, 32)
    augmented = PHOTOGRAPHS(images, new_generator(), 0.0)
    assert augmented.shape == (50, 3, 32, 32)
    assert augmented.dtype == torch.uint8
    assert len({bytes(each.numpy()) for each in augmented}) == 50
    assert torch.equal(PHOTOGRAPHS(images, new_generator(), 0.0), augmented)


GREY = torch.full((1000, 3, 32, 32), 100, dtype=torch.uint8)


def test_what_changes_nothing_leaves_images_as_they_are():
    assert torch.equal(NONE(GREY, new_generator(), 0.0), GREY)


def test_colours_change_as_much_as_is_said():
    changed = replace(NONE, color=0.2)(GREY, new_generator(), 0.0)
    assert (changed == changed[:, :1, :1, :1]).all(), "of one colour before and after"
    assert 80 <= changed.min() < 82
    assert 118 < changed.max() <= 120


def test_patches_are_as_frequent_and_as_large_as_is_said_and_images_whole_at_the_end():
    augment = replace(NONE, patch=0.5)
    generator = new_generator()
    patched = augment(GREY, generator, 0.0) != 100
    assert 0.4 < patched.any(dim=3).any(dim=2).any(dim=1).float().mean() < 0.55
    heights = patched[:, 0].sum(dim=1).amax(dim=1)
    assert 3 / 7 * 32 - 1 < heights.max() <= 3 / 7 * 32 + 1
    assert not torch.equal(augment(GREY, generator, 0.89), GREY)
    assert torch.equal(augment(GREY, generator, 0.9), GREY)


@pytest.mark.parametrize("augment", [Augmentation(), replace(PHOTOGRAPHS, color=0)])
def test_at_the_end_images_are_whole_and_in_their_place_and_still_mirrored(augment: Augmentation):
    images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    for progress, until, moves in ((0.79, 0.8, True), (0.8, 0.8, False), (0.0, 0.0, False)):
        changed = replace(augment, until=until)(images, new_generator(), progress)
        same = (changed == images).flatten(1).all(dim=1)
        mirrored = (changed == images.flip(-1)).flatten(1).all(dim=1)
        assert (same | mirrored).all() != moves
        assert moves or (same.any() and mirrored.any())


def test_images_are_rotated_as_far_as_is_said():
    bar = torch.zeros(1000, 1, 32, 32, dtype=torch.uint8)
    bar[:, :, :, 16:] = 255  # the right half
    rotated = replace(NONE, rotation=10, padding="border")(bar, new_generator(), 0.0)
    edges = 32 - (rotated > 127).sum(dim=3).float()  # of each row
    slopes = (edges[:, 0, -1] - edges[:, 0, 0]).abs() / 31
    assert math.tan(math.radians(9)) < slopes.max() < math.tan(math.radians(11))


def test_colour_images_keep_their_colours_apart_and_grey_ones_stay_grey():
    grey = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    generator = new_generator()
    assert PHOTOGRAPHS(grey, generator, 0.0).shape == grey.shape
    changed = PHOTOGRAPHS(grey.expand(20, 3, 28, 28), generator, 0.0)
    assert (changed.int() - changed[:, :1].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("matrix", "pair"),
    [
        ([[5, 5], [5, 5]], (0, 1)),
        ([[9, 1], [8, 2]], (0, 1)),
        ([[10, 0], [0, 10]], None),
        ([[7, 3], [3, 7]], None),
        ([[20, 0, 0, 0], [0, 9, 0, 11], [0, 0, 20, 0], [0, 8, 0, 12]], (1, 3)),
        ([[10, 10, 0], [0, 20, 0], [0, 0, 0]], None),
        ([[2, 2], [90, 110]], (0, 1)),
    ],
)
def test_classes_mistaken_for_each_other_as_if_by_a_coin_are_found(matrix, pair):
    assert find_mirrored_classes(torch.tensor(matrix)) == pair
