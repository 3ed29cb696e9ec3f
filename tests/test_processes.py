"""What needs several processes, or a GPU, as far as one machine without one can show it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import fashion_mnist_cnn as program
from conftest import REPOSITORY, save_lamps

# Runs the program, and after each training writes the weights that this process has.
RUN = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
import torch
import fashion_mnist_cnn as program

def after_evaluation(checkpoint, key, snapshots, state):
    original_callback(checkpoint, key, snapshots, state)
    place = f"{{type(state.network).__name__}} {{state.history[-1].epoch:.0f}}"
    is_first_try = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if place == os.environ.get("KILLED_IN") and is_first_try and program.process_rank()[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def train(network, train_set, test_set, **options):
    history = original(network, train_set, test_set, **options)
    rank = program.process_rank()[0]
    torch.save((network.state_dict(), train_set.labels, len(test_set)), f"rank{{rank}}.pth")
    if os.environ.get("DIES") == str(rank):
        os._exit(3)
    return history

original, program.train = program.train, train
original_callback, program.after_evaluation = program.after_evaluation, after_evaluation
sys.exit(program.main(sys.argv[1:]))
"""
QUICK = (
    "--images",
    "lamps",
    "--image-size",
    "12",
    "--epochs",
    "10",
    "--batch-size",
    "8",
    "--no-plots",
    "--networks",
    "mlp",
    "tinyvgg",
    "--learning-rate",
    "0.01",
)


def run_processes(
    folder: Path, count: int, *arguments: str, max_restarts: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    (folder / "run.py").write_text(RUN)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        "--max-restarts",
        str(max_restarts),
        "run.py",
    ]
    variables = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def lamps(tmp_path: Path) -> Path:
    save_lamps(tmp_path / "lamps", 61)
    return tmp_path


@pytest.mark.parametrize("network", ["tinyvgg", "resnet"])
def test_two_processes_train_one_network_each_on_half_of_the_images(lamps: Path, network: str):
    # In colour, so that they are mirrored.
    result = run_processes(lamps, 2, *QUICK, "--networks", network)
    assert result.returncode == 0, result.stderr
    (first, labels, tested), (second, other_labels, other_tested) = (
        torch.load(lamps / f"rank{k}.pth") for k in (0, 1)
    )
    for name, _ in (
        program.NETWORKS[network].build(program.NetworkSizes(3, 12, 10, 2)).named_parameters()
    ):
        assert torch.equal(first[name], second[name])
    assert len(labels) == len(other_labels) == 25  # 49 images, one is in both
    assert tested == other_tested == 12
    lines = [line for line in result.stdout.splitlines() if line]
    assert (
        len(lines) == len(set(lines)) and sum(line.startswith("  epoch 10:") for line in lines) == 1
    )
    report = json.loads((lamps / "assets/lamps/results.json").read_text())
    assert report["models"][0]["test_accuracy"] == 1.0 and report["dataset"]["train_images"] == 49
    saved = torch.load(
        lamps / "models/lamps" / program.NETWORKS[network].model_file, weights_only=True
    )
    assert all(torch.equal(saved[name], first[name]) for name in saved)
    loaded = program.load_model(lamps / "models/lamps" / program.NETWORKS[network].model_file)
    assert loaded.read_sizes(saved).mirror_averaging == (network == "resnet")
    image = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    assert report["models"][0]["multiply_adds"] == program.count_macs(loaded, image)
    if network == "resnet":
        logits = [program.predict_logits(loaded, pixels) for pixels in (image, image.flip(3))]
        assert torch.allclose(*logits, rtol=0, atol=1e-6)


def test_a_process_that_dies_ends_the_others_and_what_was_finished_is_whole(lamps: Path):
    assert run_processes(lamps, 1, *QUICK).returncode == 0
    names = (
        "models/lamps/CNN_model.pth",
        "models/lamps/CNN_model.json",
        "assets/lamps/results.json",
    )
    before = [(lamps / name).read_bytes() for name in names]
    assert run_processes(lamps, 2, *QUICK, "--seed", "1", DIES="1").returncode != 0
    assert [(lamps / name).read_bytes() for name in names] == before
    assert isinstance(program.load_model(lamps / "models/lamps/MLP_model.pth"), program.MLP)
    assert list(lamps.rglob(".fashion_mnist_cnn-*")) == []


def test_every_process_has_its_own_share_and_equally_many(monkeypatch):
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    train_set = program.ImageSet(images, torch.arange(10), tuple("abcdefghij"))
    shares = []
    for rank in range(3):
        monkeypatch.setattr(program, "process_rank", lambda rank=rank: (rank, 3))
        share = program.shard(train_set)
        assert share.images.flatten().tolist() == share.labels.tolist()
        shares.append(share.labels.tolist())
    assert [len(share) for share in shares] == [4, 4, 4] and {
        i for share in shares for i in share
    } == set(range(10))


def test_under_torchrun_each_process_has_a_gpu_of_its_own(monkeypatch):
    """As far as a machine without a GPU can show it: LOCAL_RANK is what decides."""
    chosen = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    store = torch.distributed.HashStore()
    monkeypatch.setattr(program, "rendezvous", lambda url: iter([(store, 0, 1)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **_: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    program.join_processes("cuda")
    assert chosen == [3]
    program.join_processes("cpu")
    assert chosen == [3]


PHOTOGRAPHS = program.Augmentation(
    shift=0.1, zoom=0.2, rotation=10, color=0.2, patch=0.5, padding="reflection"
)


@pytest.mark.parametrize("key", program.NETWORKS)
def test_on_cuda_nothing_is_on_another_device_and_nothing_waits(key: str):
    """On tensors that have a device and a shape but no memory.

    A tensor elsewhere or an .item() raises.
    """
    sizes = program.NetworkSizes(1, 28, 10, 10, mirror_averaging=True)
    network = program.NETWORKS[key].build(sizes)
    with FakeTensorMode():
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if (
                        tensor is not None
                    ):  # as the bias of a convolution before batch normalization
                        tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
        images = torch.empty(64, 1, 28, 28, dtype=torch.uint8, device="cuda")
        labels = torch.empty(64, dtype=torch.int64, device="cuda")
        augmented = program.augment(
            images[torch.arange(16, device="cuda")], PHOTOGRAPHS, generator=None
        )
        with torch.autocast("cuda", torch.bfloat16, enabled=False):
            logits = network(program.to_float(augmented))
        loss = F.cross_entropy(logits.float(), labels[:16], label_smoothing=0.05)
        predicted = program.predict_logits(network, images, batch_size=40)
        assert (loss.device.type, augmented.dtype, augmented.shape) == (
            "cuda",
            torch.uint8,
            (16, 1, 28, 28),
        )
        assert (predicted.device.type, predicted.dtype, predicted.shape) == (
            "cuda",
            torch.float32,
            (64, 10),
        )
        with pytest.raises(Exception, match="device"):
            network(torch.zeros(1, 1, 28, 28))
