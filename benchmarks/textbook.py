"""The comparison as tutorials write it: the program that ours is measured against.

    python benchmarks/textbook.py FOLDER    # trains both models, writes model and figures to FOLDER

Every image is decoded and converted again, one by one, in every epoch; plain SGD at learning rate
0.1, batches of 32, PyTorch's default initialization, float32.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from fashion_mnist_cnn import MLP, TinyVGG

DATA = Path(__file__).parent.parent / "data_1"
BATCH_SIZE, LEARNING_RATE, EPOCHS = 32, 0.1, 3


def build_textbook_model(kind: type[nn.Module], seed: int) -> nn.Module:
    """Return an MLP or TinyVGG with PyTorch's own initialization and plain memory layout."""
    torch.manual_seed(seed)
    model = kind().to(memory_format=torch.contiguous_format)
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return model


def train_textbook(model: nn.Module, epochs: int = EPOCHS) -> float:
    """Train model as tutorials do; return the seconds spent in the training loop."""
    train_data = datasets.FashionMNIST(DATA, train=True, transform=ToTensor(), download=True)
    loader = DataLoader(train_data, batch_size=BATCH_SIZE, shuffle=True)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    start = time.perf_counter()
    for _ in range(epochs):
        total = 0.0
        for batch, labels in loader:
            loss = loss_function(model(batch), labels)
            total += loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    import matplotlib.pyplot as plt
    from mlxtend.plotting import plot_confusion_matrix
    from torchmetrics import ConfusionMatrix

    folder = Path(sys.argv[1])
    test_data = datasets.FashionMNIST(DATA, train=False, transform=ToTensor(), download=True)
    loader = DataLoader(test_data, batch_size=BATCH_SIZE)
    accuracies = []
    for kind in (MLP, TinyVGG):
        model = build_textbook_model(kind, seed=42)
        train_textbook(model)
        with torch.inference_mode():
            predictions = torch.cat([model(images).argmax(dim=1) for images, _ in loader])
        accuracies.append((predictions == test_data.targets).float().mean().item())
    torch.save(model.state_dict(), folder / "model.pth")
    confusion_matrix = ConfusionMatrix(task="multiclass", num_classes=10)(
        predictions, test_data.targets
    )
    plot_confusion_matrix(confusion_matrix.numpy(), class_names=test_data.classes, figsize=(10, 7))
    plt.savefig(folder / "confusion_matrix.png")
    plt.figure()
    plt.bar(["MLP", "TinyVGG"], accuracies)
    plt.savefig(folder / "accuracy.png")
    plt.figure(figsize=(9, 9))
    for index in range(9):
        plt.subplot(3, 3, index + 1)
        plt.imshow(test_data.data[index], cmap="gray")
        plt.title(test_data.classes[predictions[index]])
    plt.savefig(folder / "predictions.png")


if __name__ == "__main__":
    main()
