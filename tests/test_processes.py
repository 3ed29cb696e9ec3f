"""What needs several processes, or a GPU, as far as one machine without one can show it."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import fashion_mnist_cnn as program
from conftest import SCRIPT_NETWORKS, redirect, save_lamps, wait
from fashion_mnist_extras import checkpoints, processes
from fashion_mnist_extras.augmentation import Augmentation
from fashion_mnist_extras.command_line import Extras

QUICK = (
    *("--images", "lamps", "--image-size", "12", "--epochs", "10", "--batch-size", "8"),
    *("--no-plots", "--networks", "mlp", "tinyvgg", "--learning-rate", "0.01"),
)


def launch(
    folder: Path,
    count: int,
    function: Callable[..., int | None],
    arguments: tuple[object, ...],
    max_restarts: int = 0,
) -> None:
    """Call function in count processes in folder, as `torchrun --standalone` starts a script.

    The exit code is 1 if one of them fails. They are forks of this process, which is one itself.
    """
    os.chdir(folder)
    redirect(1, Path("output"))
    redirect(2, Path("errors"))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        start_method="fork",
    )
    exit_codes = elastic_launch(config, function)(*arguments)
    sys.exit(any(exit_codes.values()))


def run_program(arguments: tuple[str, ...], dies: int | None, killed_in: str) -> int:
    """Run the program; after each training write the weights that this process has.

    Process number dies ends then; process number 1 is killed when it has come to killed_in. If it
    is to be, a checkpoint is written after every epoch.
    """
    rank = int(os.environ["RANK"])
    train, after_evaluation = program.train, Extras.after_evaluation
    if killed_in:
        checkpoints.INTERVAL = 0

    def train_and_save(network, train_set, test_set, **options):
        history = train(network, train_set, test_set, **options)
        torch.save((network.state_dict(), train_set.labels, len(test_set)), f"rank{rank}.pth")
        if rank == dies:
            os._exit(3)
        return history

    def observe_or_end(observer, key, state):
        after_evaluation(observer, key, state)
        reached = f"{type(state.network).__name__} {state.history[-1].epoch:.0f}"
        is_first_try = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if reached == killed_in and is_first_try and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    program.train = train_and_save
    Extras.after_evaluation = observe_or_end
    return program.main(arguments)


def run_processes(
    fork,
    folder: Path,
    count: int,
    *arguments: str,
    dies: int | None = None,
    killed_in: str = "",
    max_restarts: int = 0,
) -> tuple[int | None, str, str]:
    """Return the exit code and what the processes printed to stdout and stderr."""
    run = (arguments, dies, killed_in)
    code = wait(fork(launch, folder, count, run_program, run, max_restarts))
    return code, (folder / "output").read_text(), (folder / "errors").read_text()


@pytest.fixture
def lamps(tmp_path: Path) -> Path:
    save_lamps(tmp_path / "lamps", 61)
    return tmp_path


@pytest.mark.parametrize("network", ["tinyvgg", "resnet"])
def test_two_processes_train_one_network_each_on_half_of_the_images(
    fork, lamps: Path, network: str
):
    # In colour, so that they are mirrored.
    code, out, err = run_processes(fork, lamps, 2, *QUICK, "--networks", network)
    assert code == 0, err
    (first, labels, tested), (second, other_labels, other_tested) = (
        torch.load(lamps / f"rank{k}.pth") for k in (0, 1)
    )
    kind = program.NETWORKS[network]
    for name, _ in kind.build(program.NetworkConfig(3, 12, 10, 2)).named_parameters():
        assert torch.equal(first[name], second[name])
    assert len(labels) == len(other_labels) == 25  # 49 images, one is in both
    assert tested == other_tested == 12
    lines = [line for line in out.splitlines() if line]
    assert len(lines) == len(set(lines))
    assert sum(line.startswith("  epoch 10:") for line in lines) == 1
    report = json.loads((lamps / "assets/lamps/results.json").read_text())
    assert report["models"][0]["test_accuracy"] == 1.0 and report["dataset"]["train_images"] == 49
    path = lamps / "models/lamps" / kind.model_file
    saved = torch.load(path, weights_only=True)
    assert all(torch.equal(saved[name], first[name]) for name in saved)
    loaded = program.load_model(path)
    assert loaded.read_config(saved).mirror_averaging == (network == "resnet")
    image = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    assert report["models"][0]["multiply_adds"] == program.count_macs(loaded, image)
    if network == "resnet":
        logits = [program.predict_logits(loaded, pixels) for pixels in (image, image.flip(3))]
        assert torch.allclose(*logits, rtol=0, atol=1e-6)


def test_a_process_that_dies_ends_the_others_and_what_was_finished_is_whole(
    fork, lamps: Path, monkeypatch
):
    monkeypatch.chdir(lamps)
    assert program.main(QUICK) == 0
    names = (
        "models/lamps/CNN_model.pth",
        "models/lamps/CNN_model.json",
        "assets/lamps/results.json",
    )
    before = [(lamps / name).read_bytes() for name in names]
    code, out, _ = run_processes(fork, lamps, 2, *QUICK, "--seed", "1", dies=1)
    assert code == 1 and "MLP: " in out
    assert [(lamps / name).read_bytes() for name in names] == before
    assert isinstance(program.load_model(lamps / "models/lamps/MLP_model.pth"), program.MLP)
    assert list(lamps.rglob(".fashion_mnist_cnn-*")) == []


# ---- Gradients -----------------------------------------------------------------------------------
def make_network() -> torch.nn.Module:
    """A network of which the last layer is not used and so gets no gradient."""
    torch.manual_seed(0)
    network = program.TinyVGG(hidden_units=2, num_classes=3, image_size=8)
    network.unused = torch.nn.Linear(2, 2)
    return network


def train_on(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Take three steps of SGD with momentum, on one mini-batch."""
    optimizer = program.OPTIMIZERS["sgd"].build(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


def draw_images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(12, 1, 8, 8, generator=generator)
    return images, torch.randint(3, (12,), generator=generator)


def train_on_half() -> None:
    """Train on the images of this process's number; then once more, when it is alone again."""
    images, labels = draw_images()
    network = make_network()
    with processes.join("cpu") as (rank, count):
        share = processes.choose_share(len(images), rank, count)
        train_on(network, images[share], labels[share])
        torch.save(network.state_dict(), f"together{rank}.pth")
    train_on(network, images[share], labels[share])
    torch.save(network.state_dict(), f"alone{rank}.pth")


def test_two_processes_take_the_steps_of_one_that_has_all_images(fork, tmp_path):
    assert wait(fork(launch, tmp_path, 2, train_on_half, ())) == 0, (
        tmp_path / "errors"
    ).read_text()
    expected = make_network()
    initial = {name: weights.clone() for name, weights in expected.state_dict().items()}
    images, labels = draw_images()
    train_on(expected, images, labels)
    first, second = (torch.load(tmp_path / f"together{rank}.pth") for rank in (0, 1))
    for name, weights in expected.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], weights, rtol=0, atol=1e-6)
        assert torch.equal(weights, initial[name]) == name.startswith("unused")
    # On its own half alone a process would have come to other weights.
    alone = make_network()
    train_on(alone, images[::2], labels[::2])
    bias = "classifier.1.bias"
    assert not torch.allclose(alone.state_dict()[bias], first[bias], rtol=0, atol=1e-3)
    # Afterwards nothing is exchanged.
    apart = [torch.load(tmp_path / f"alone{rank}.pth") for rank in (0, 1)]
    assert not torch.equal(apart[0][bias], apart[1][bias])


def average_own_gradients(folder: Path, rank: int) -> None:
    """Let two weights of this process have gradients of its own, and write their averages."""
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    weights = [torch.zeros(2, 3), torch.zeros(4), torch.zeros(1)]
    weights[0].grad = torch.arange(6.0).view(3, 2).T * (1 + rank)  # not contiguous
    weights[1].grad = torch.full((4,), 10.0**rank)
    parameters = [{"params": weights[:1]}, {"params": weights[1:]}]
    processes.average_gradients(torch.optim.SGD(parameters, lr=1.0))
    torch.save([weight.grad for weight in weights], folder / f"{rank}.pth")
    distributed.destroy_process_group()


def test_gradients_are_averaged_over_processes(fork, tmp_path):
    running = [fork(average_own_gradients, tmp_path, rank) for rank in (0, 1)]
    assert [wait(process) for process in running] == [0, 0]
    for rank in (0, 1):
        matrix, vector, none = torch.load(tmp_path / f"{rank}.pth")
        assert matrix.tolist() == [[0, 3, 6], [1.5, 4.5, 7.5]]
        assert vector.tolist() == [5.5] * 4
        assert none is None


# ---- Shares and devices --------------------------------------------------------------------------
def test_every_process_has_its_own_share_and_equally_many():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    train_set = program.ImageSet(images, torch.arange(10), tuple("abcdefghij"))
    dataset = program.Dataset("ten", train_set, train_set)
    recipe = program.Recipe(batch_size=20)
    shares = []
    for rank in range(3):
        own_recipe, own_dataset = processes.share_work(recipe, dataset, rank, 3)
        assert own_recipe == replace(recipe, batch_size=6)
        assert own_dataset.test_set is train_set
        share = own_dataset.train_set
        assert share.images.flatten().tolist() == share.labels.tolist()
        shares.append(share.labels.tolist())
    assert [len(share) for share in shares] == [4, 4, 4]
    assert {i for share in shares for i in share} == set(range(10))


def test_under_torchrun_each_process_has_a_gpu_of_its_own(monkeypatch):
    """As far as a machine without a GPU can show it: LOCAL_RANK is what decides."""
    chosen = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # started by torchrun
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    store = distributed.HashStore()
    monkeypatch.setattr(processes, "rendezvous", lambda url: iter([(store, 0, 1)]))
    monkeypatch.setattr(distributed, "init_process_group", lambda **_: None)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with processes.join("cuda") as joined:
        assert joined == (0, 1)
    assert chosen == [3]
    with processes.join("cpu") as joined:
        assert joined == (0, 1)
    assert chosen == [3]


PHOTOGRAPHS = Augmentation(
    shift=0.1, zoom=0.2, rotation=10, color=0.2, patch=0.5, padding="reflection"
)


@pytest.mark.parametrize("key", SCRIPT_NETWORKS)
def test_on_cuda_nothing_is_on_another_device_and_nothing_waits(key: str):
    """On tensors that have a device and a shape but no memory.

    A tensor elsewhere or an .item() raises.
    """
    config = program.NetworkConfig(1, 28, 10, 10, mirror_averaging=True)
    network = program.NETWORKS[key].build(config)
    with FakeTensorMode():
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is None:  # as the bias of a convolution before batch normalization
                        continue
                    tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
        images = torch.empty(64, 1, 28, 28, dtype=torch.uint8, device="cuda")
        labels = torch.empty(64, dtype=torch.int64, device="cuda")
        augmented = PHOTOGRAPHS(images[torch.arange(16, device="cuda")], None)
        with torch.autocast("cuda", torch.bfloat16, enabled=False):
            logits = network(program.to_float(augmented))
        loss = F.cross_entropy(logits.float(), labels[:16], label_smoothing=0.05)
        predicted = program.predict_logits(network, images, batch_size=40)
        assert loss.device.type == "cuda"
        described = (augmented.device.type, augmented.dtype, augmented.shape)
        assert described == ("cuda", torch.uint8, (16, 1, 28, 28))
        described = (predicted.device.type, predicted.dtype, predicted.shape)
        assert described == ("cuda", torch.float32, (64, 10))
        with pytest.raises(Exception, match="device"):
            network(torch.zeros(1, 1, 28, 28))


def test_random_changes_of_processes_are_seeded_as_if_they_took_turns(random_set):
    """From the first epoch on, and resumed at the third: no seed is used twice."""
    epochs, count, seed = 5, 3, 42
    seeds = {}
    for rank in range(count):
        for first_epoch in (1, 3):
            used = []

            def augment(images, generator, progress, used=used):
                used.append(generator.initial_seed())
                return images

            separate = processes.augment_separately(augment, epochs, rank, count)
            for epoch in range(first_epoch, epochs + 1):
                generator = torch.Generator().manual_seed(seed + 1000 * epoch)
                for step in range(7):
                    separate(None, generator, ((epoch - 1) * 7 + step) / (epochs * 7))
            assert used == [
                seed + 1000 * (epoch * count + rank)
                for epoch in range(first_epoch, epochs + 1)
                for _ in range(7)
            ]
        seeds[rank] = set(used)
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2]
