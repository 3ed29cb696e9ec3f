"""Shifted images, feature maps and dead channels."""

import pytest
import torch
import torch.nn.functional as F

import fashion_mnist_cnn as program
from fashion_mnist_extras.analysis import compute_feature_maps, find_dead_channels, measure_shifts


class BrightestColumn(torch.nn.Module):
    """Predicts the brightest column, so that only horizontal shifts make it wrong."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum(dim=(1, 2))


def test_shifts_are_the_mean_over_four_directions_with_black_coming_in():
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    images[labels, 0, 1, labels] = 200  # one bright pixel in the second of four rows
    accuracies = measure_shifts(BrightestColumn(), images, labels, 2)
    # By one: up and down correct; left, column 0 is lost, and black is predicted as 0.
    # By two: up, all is lost.
    assert accuracies == pytest.approx([1.0, (1 + 1 + 1 / 4 + 0) / 4, (1 / 4 + 1 + 1 / 4 + 0) / 4])


def test_feature_maps_are_those_the_model_computes():
    torch.manual_seed(0)
    network = program.TinyVGG(hidden_units=4)
    images = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    feature_maps = compute_feature_maps(network, images)
    shapes = [tuple(maps.shape) for maps in feature_maps]
    assert shapes == [(2, 4, 28, 28), (2, 4, 28, 28), (2, 4, 14, 14), (2, 4, 14, 14)]
    logits = network.classifier(F.max_pool2d(feature_maps[-1], 2))
    assert torch.allclose(logits, program.predict_logits(network, images), atol=1e-6)
    assert compute_feature_maps(program.MLP(), images) == []


def test_dead_channels_are_those_that_are_zero_on_all_images():
    torch.manual_seed(0)
    network = program.TinyVGG(hidden_units=4)
    images = torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        network.conv_block_1[0].bias[2] = -100
        network.conv_block_2[2].bias[0] = -100
    dead = find_dead_channels(network, images)
    expected = []
    for maps in compute_feature_maps(network, images):
        strongest = maps.amax(dim=(0, 2, 3))
        expected.append((strongest == 0).nonzero().flatten().tolist())
    assert dead == expected
    assert 2 in dead[0]
    assert 0 in dead[3]


def test_the_feature_maps_of_an_averaging_resnet_are_those_of_the_image_alone():
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    network = program.ResNet(hidden_units=2, mirror_averaging=True)
    averaging = compute_feature_maps(network, images)
    dead = find_dead_channels(network, images)
    network.mirror_averaging = None
    alone = compute_feature_maps(network, images)
    assert len(averaging) == len(alone) == len(dead) == 10
    assert all(torch.equal(*maps) for maps in zip(averaging, alone, strict=True))


class OneReLU(torch.nn.Module):
    """Uses one ReLU after both of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 2, 3)
        self.second = torch.nn.Conv2d(2, 3, 3)
        self.relu = torch.nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.relu(self.first(images)))).amax(dim=(2, 3))


def test_a_relu_used_twice_gives_two_feature_maps():
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    feature_maps = compute_feature_maps(OneReLU(), images)
    assert [tuple(maps.shape) for maps in feature_maps] == [(4, 2, 6, 6), (4, 3, 4, 4)]
