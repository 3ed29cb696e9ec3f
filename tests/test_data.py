"""FashionMNIST: what is loaded, and how missing and corrupt files heal."""

import gzip
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program
from conftest import RAW, REPOSITORY, WITHOUT_PRIVILEGES

IMAGES = "train-images-idx3-ubyte"


def test_both_sets_have_the_documented_shapes(fashion_mnist):
    for image_set, count in zip(fashion_mnist, (60_000, 10_000), strict=True):
        assert image_set.images.shape == (count, 1, 28, 28)
        assert image_set.images.dtype == torch.uint8
        assert image_set.labels.dtype == torch.int64
        assert torch.bincount(image_set.labels).tolist() == [count // 10] * 10
        assert (
            image_set.class_names[0] == "T-shirt/top" and image_set.class_names[9] == "Ankle boot"
        )


def test_to_float_equals_to_tensor(fashion_mnist):
    stock = FashionMNIST(REPOSITORY / "data_1", train=False, transform=ToTensor(), download=True)
    ours = program.to_float(fashion_mnist[1].images[:50])
    assert all(torch.equal(ours[i], stock[i][0]) for i in range(50))
    assert ours.min() == 0 and ours.max() == 1


def test_a_subset_keeps_images_and_labels_together(fashion_mnist):
    subset = fashion_mnist[1].subset(torch.tensor([7, 3]))
    assert len(subset) == 2 and subset.class_names == fashion_mnist[1].class_names
    assert (
        torch.equal(subset.images[1], fashion_mnist[1].images[3])
        and subset.labels[1] == fashion_mnist[1].labels[3]
    )


def test_images_and_labels_are_those_that_torchvision_reads(fashion_mnist):
    for image_set, train in zip(fashion_mnist, (True, False), strict=True):
        stock = FashionMNIST(REPOSITORY / "data_1", train=train, download=True)
        assert torch.equal(image_set.images[:, 0], stock.data)
        assert torch.equal(image_set.labels, stock.targets)
        assert list(image_set.class_names) == stock.classes


def test_a_data_folder_that_cannot_be_written_to_is_read_and_left_as_it_is(data_dir: Path):
    raw = data_dir / "FashionMNIST/raw"
    before = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    code = "import sys, fashion_mnist_cnn as f; print(len(f.load_fashion_mnist(sys.argv[1])[0]))"
    command = [*WITHOUT_PRIVILEGES, sys.executable, "-c", code, str(data_dir)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    raw.chmod(0o555)
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    raw.chmod(0o755)
    assert (result.stdout, result.stderr) == ("60000\n", "")
    assert {path: path.stat().st_mtime_ns for path in raw.iterdir()} == before


def test_a_file_in_place_of_the_data_folder_is_reported(tmp_path: Path):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(program.UserError, match=r"data/.*Not a directory"):
        program.load_fashion_mnist(tmp_path / "data")


def test_a_folder_in_place_of_an_archive_is_reported(data_dir: Path):
    archive = data_dir / "FashionMNIST/raw" / f"{IMAGES}.gz"
    archive.unlink()
    archive.mkdir()
    with pytest.raises(program.UserError, match="cannot be read"):
        program.load_fashion_mnist(data_dir)


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers what its path begins with: a status, other bytes, half of the file, or the file."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        content = (RAW / name).read_bytes()
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not kind.isdigit():
            self.wfile.write(
                {"other": content[::-1], "half": content[:5000], "intact": content}[kind]
            )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as listening:  # the system accepts, and nobody answers
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


CORRUPTIONS = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "one bit changed": lambda path: path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    ),
    "empty": lambda path: path.write_bytes(b""),
    "other archive": lambda path: path.write_bytes(gzip.compress(bytes(1000))),
    "named pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_archive_is_reported_offline_and_heals_online(
    data_dir, monkeypatch, server, corruption
):
    archive = data_dir / "FashionMNIST/raw" / f"{IMAGES}.gz"
    CORRUPTIONS[corruption](archive)
    with pytest.raises(program.UserError) as error:
        program.load_fashion_mnist(data_dir)
    message = str(error.value)
    assert f"{IMAGES}.gz" in message and str(data_dir) in message and "--data-dir" in message
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}intact/"])
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000
    assert archive.read_bytes() == (RAW / archive.name).read_bytes()


@pytest.mark.parametrize("answer", ["404", "503"])
def test_a_mirror_that_fails_is_reported_and_the_next_one_tried(
    tmp_path, monkeypatch, server, answer
):
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/"])
    with pytest.raises(program.UserError, match=f"{server}{answer}"):
        program.load_fashion_mnist(tmp_path)
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/", f"{server}intact/"])
    assert len(program.load_fashion_mnist(tmp_path)[0]) == 60_000


@pytest.mark.parametrize("answer", ["other", "half"])
def test_what_a_mirror_sends_is_checked_and_not_kept_if_corrupt(
    tmp_path, monkeypatch, server, answer
):
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/"])
    with pytest.raises(program.UserError, match="File not found or corrupted"):
        program.load_fashion_mnist(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}intact/"])
    assert len(program.load_fashion_mnist(tmp_path)[0]) == 60_000


def test_a_server_that_does_not_answer_ends_in_an_error(tmp_path, monkeypatch, silent_server):
    monkeypatch.setattr(FashionMNIST, "mirrors", [silent_server])
    set_timeout, timeouts = socket.setdefaulttimeout, []

    def set_short_timeout(seconds: float | None) -> None:
        timeouts.append(seconds)
        set_timeout(seconds and 1.0)  # nobody has time to wait longer

    monkeypatch.setattr(socket, "setdefaulttimeout", set_short_timeout)
    with pytest.raises(program.UserError, match="timed out"):
        program.load_fashion_mnist(tmp_path)
    assert timeouts == [15, None]


@pytest.mark.parametrize("answer", ["intact", "half"])
def test_a_download_leaves_the_time_limit_of_the_importer_alone(
    tmp_path, monkeypatch, server, answer
):
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/"])
    socket.setdefaulttimeout(77)
    try:
        with suppress(program.UserError):
            program.load_fashion_mnist(tmp_path)
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize("place", ["FashionMNIST/raw", ""])
def test_another_dataset_under_the_same_names_is_neither_used_nor_replaced(
    tmp_path, monkeypatch, server, place: str
):
    """MNIST and Kuzushiji-MNIST name their archives as FashionMNIST does."""
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}intact/"])
    folder = tmp_path / "data" / place
    folder.mkdir(parents=True)
    contents = {}
    for archive in RAW.glob("*.gz"):
        contents[folder / archive.name] = gzip.compress(archive.name.encode())
        (folder / archive.name).write_bytes(contents[folder / archive.name])
    with pytest.raises(
        program.UserError, match=r"archives in .* are not FashionMNIST's: move them"
    ):
        program.load_fashion_mnist(tmp_path / "data")
    assert {path: path.read_bytes() for path in contents} == contents


def test_images_that_were_computed_on_are_shown_as_their_thumbnails(random_set):
    features = torch.rand(len(random_set), 7, 1, 1)
    computed = program.ImageSet(
        features, random_set.labels, random_set.class_names, random_set.images
    )
    part = computed.to("cpu").subset(torch.tensor([4, 2]))
    assert part.images.equal(features[[4, 2]]) and part.pictures.equal(random_set.images[[4, 2]])
    assert random_set.pictures is random_set.images
    assert program.to_float(features) is features, "only bytes are scaled"
    dataset = program.Dataset("a", computed, computed, input_shape=(3, 96, 96))
    config = program.Recipe().configure(program.TinyVGG, dataset)
    assert (config.in_channels, config.image_size, config.num_classes) == (3, 96, 4)
    assert program.Dataset("a", random_set, random_set).image_shape == (1, 28, 28)
