import pytest
import torch

import fashion_mnist_cnn as program


def test_parameter_counts():
    assert program.count_parameters(program.MLP()) == 7960
    assert program.count_parameters(program.TinyVGG()) == 7740


def test_mlp_is_the_network_described():
    kinds = [type(layer).__name__ for layer in program.MLP().layer_stack]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "ReLU"]


def test_tiny_vgg_has_the_state_dict_keys_of_the_tutorial():
    layers = ["conv_block_1.0", "conv_block_1.2", "conv_block_2.0", "conv_block_2.2", "classifier.1"]
    expected = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(program.TinyVGG().state_dict()) == expected


@pytest.mark.parametrize(
    "in_channels, hidden_units, num_classes, image_size", [(1, 10, 10, 28), (3, 7, 4, 64), (1, 2, 2, 30)]
)
def test_tiny_vgg_takes_other_sizes(in_channels, hidden_units, num_classes, image_size):
    model = program.TinyVGG(in_channels, hidden_units, num_classes, image_size)
    logits = model(torch.rand(5, in_channels, image_size, image_size))
    assert logits.shape == (5, num_classes) and logits.dtype == torch.float32


def test_tiny_vgg_refuses_a_picture_that_two_poolings_make_nothing_of():
    with pytest.raises(ValueError, match="image_size"):
        program.TinyVGG(image_size=3)


def test_mlp_logits_are_never_negative():
    logits = program.MLP(in_features=12, num_classes=3)(torch.rand(100, 3, 2, 2))
    assert logits.shape == (100, 3) and logits.min() >= 0


def test_mlp_starts_with_every_class_alive(fashion_mnist):
    images = program.to_float(fashion_mnist[0].images[:2000])
    for seed in range(20):
        torch.manual_seed(seed)
        assert (program.MLP()(images) > 0).any(dim=0).all(), f"seed {seed}"
