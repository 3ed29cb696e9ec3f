import math
from dataclasses import replace

import pytest
import torch

import fashion_mnist_cnn as program
from conftest import SCRIPT_NETWORKS


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts():
    assert count_parameters(program.MLP()) == 7960
    assert count_parameters(program.TinyVGG()) == 7740


def test_mlp_has_the_documented_layers():
    kinds = [type(layer).__name__ for layer in program.MLP().layer_stack]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "ReLU"]


def test_the_resnet_is_deeper_normalized_and_has_shortcuts():
    network = program.ResNet()
    layers = [type(layer).__name__ for layer in network.modules()]
    assert count_parameters(network) == 338_682
    assert layers.count("Conv2d") == 10
    assert layers.count("BatchNorm2d") == 10
    assert layers.count("Residual") == 3


def test_the_shortcut_of_a_residual_block_adds_its_input():
    network = program.ResNet().eval()
    activations = torch.rand(2, 32, 7, 7)
    shortcut = next(layer for layer in network.features if isinstance(layer, program.Residual))
    torch.nn.init.zeros_(shortcut[1][0].weight)  # nothing is left of the convolutions
    assert torch.equal(shortcut(activations), activations)


def test_the_resnet_does_not_see_where_a_garment_is():
    """Shifted by four pixels, far from the frame, it gives the same logits.

    Four pixels are one position after both poolings.
    """
    image = torch.zeros(1, 1, 128, 128)
    image[:, :, 56:72, 52:72] = torch.rand(16, 20)
    network = program.ResNet().eval()
    shifted = network(image.roll((4, -4), dims=(2, 3)))
    assert torch.allclose(shifted, network(image), atol=1e-5)
    assert not torch.allclose(network(image.flip(3)), network(image), atol=1e-5)


def mirror_averaging_resnet(image_size: int = 28) -> program.ResNet:
    """As after some training: running means and variances are not those of the start."""
    config = program.NetworkConfig(3, image_size, 4, 5, mirror_averaging=True)
    network = program.ResNet.build(config).train()
    network(torch.rand(50, 3, image_size, image_size))
    return network


@pytest.mark.parametrize("image_size", [4, 28, 29])
def test_a_mirror_averaging_resnet_gives_an_image_and_its_mirror_image_the_same_logits(image_size):
    network = mirror_averaging_resnet(image_size)
    images = torch.rand(20, 3, image_size, image_size)
    training_logits = network(images)
    with torch.inference_mode():
        network.eval()
        logits = network(images)
        assert torch.allclose(network(images.flip(3)), logits, rtol=0, atol=1e-6)
        network.mirror_averaging = None
        mean = (network(images) + network(images.flip(3))) / 2
        assert torch.allclose(logits, mean, rtol=0, atol=1e-6)
        assert not torch.allclose(network(images), logits, atol=1e-3)
        network.train()  # in which it sees each image once, as it is
        assert torch.allclose(network(images), training_logits, atol=1e-5)


def test_whether_a_resnet_averages_is_read_off_its_weights_and_others_are_as_before():
    network = mirror_averaging_resnet()
    kind, config = program.recognize_network(network.state_dict())
    assert kind is program.ResNet
    assert config == program.NetworkConfig(3, 28, 4, 5, mirror_averaging=True)
    loaded = program.fill_network(kind, config, network.state_dict()).eval()
    images = torch.rand(2, 3, 28, 28)
    assert torch.equal(loaded(images), network.eval()(images))
    other = program.ResNet().state_dict()
    assert not any("mirror" in name for name in other)
    assert program.recognize_network(other)[1].mirror_averaging is False


def test_tiny_vgg_has_the_state_dict_keys_of_the_tutorial():
    expected = []
    for layer in (
        "conv_block_1.0",
        "conv_block_1.2",
        "conv_block_2.0",
        "conv_block_2.2",
        "classifier.1",
    ):
        expected += [f"{layer}.weight", f"{layer}.bias"]
    assert list(program.TinyVGG().state_dict()) == expected


@pytest.mark.parametrize("key", SCRIPT_NETWORKS)
@pytest.mark.parametrize("sizes", [(1, 28, 10, 10), (3, 64, 7, 4), (1, 32, 2, 2)])
def test_networks_are_built_for_other_sizes_and_their_config_read_off_their_weights(key, sizes):
    kind = program.NETWORKS[key]
    config = program.NetworkConfig(*sizes)
    network = kind.build(config)
    logits = network(torch.rand(5, config.in_channels, config.image_size, config.image_size))
    assert logits.shape == (5, config.num_classes)
    assert logits.dtype == torch.float32
    if key == "resnet":  # its weights do not depend on the size of the images
        config = replace(config, image_size=28)
    assert program.recognize_network(network.state_dict()) == (kind, config)


def test_tiny_vgg_rejects_images_that_two_poolings_would_leave_empty():
    with pytest.raises(ValueError, match="image_size"):
        program.TinyVGG(image_size=3)


def test_mlp_logits_are_never_negative():
    logits = program.MLP(in_features=12, num_classes=3)(torch.rand(100, 3, 2, 2))
    assert logits.shape == (100, 3)
    assert logits.min() >= 0


def test_every_class_of_the_mlp_is_alive_at_the_start(fashion_mnist):
    images = program.to_float(fashion_mnist[0].images[:2000])
    for seed in range(20):
        torch.manual_seed(seed)
        assert (program.MLP()(images) > 0).any(dim=0).all(), f"seed {seed}"


@pytest.mark.parametrize("kind", [program.MLP, program.TinyVGG])
def test_at_the_start_all_classes_are_about_equally_likely(kind, fashion_mnist):
    sample = fashion_mnist[0].subset(slice(500))
    for seed in range(20):
        torch.manual_seed(seed)
        loss = program.evaluate(kind(), sample).loss
        assert loss == pytest.approx(math.log(10), abs=0.1), f"seed {seed}"


@pytest.mark.parametrize("key", SCRIPT_NETWORKS)
def test_an_exported_network_takes_a_batch_of_any_size(key: str):
    config = program.NetworkConfig(1, 28, 4, 10, mirror_averaging=True)
    network = program.NETWORKS[key].build(config).eval()
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(network, (torch.rand(4, 1, 28, 28),), dynamic_shapes=(batch,))
    for count in (2, 7):
        images = torch.rand(count, 1, 28, 28)
        torch.testing.assert_close(exported.module()(images), network(images))


def test_each_network_has_a_file_of_its_own():
    files = [kind.model_file for kind in program.NETWORKS.values()]
    assert len(set(files)) == len(files)
