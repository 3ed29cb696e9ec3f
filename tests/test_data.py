"""FashionMNIST: what is loaded, and how missing and corrupt files heal."""

import gzip
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

import fashion_mnist_cnn as program
from conftest import RAW, REPOSITORY

IMAGES = "train-images-idx3-ubyte"


def test_both_sets_have_the_documented_shapes(fashion_mnist):
    for image_set, count in zip(fashion_mnist, (60_000, 10_000), strict=True):
        assert image_set.images.shape == (count, 1, 28, 28)
        assert image_set.images.dtype == torch.uint8
        assert image_set.labels.dtype == torch.int64
        assert torch.bincount(image_set.labels).tolist() == [count // 10] * 10
        assert image_set.class_names[0] == "T-shirt/top" and image_set.class_names[9] == "Ankle boot"


def test_to_float_equals_to_tensor(fashion_mnist):
    stock = FashionMNIST(REPOSITORY / "data_1", train=False, transform=ToTensor())
    ours = program.to_float(fashion_mnist[1].images[:50])
    assert all(torch.equal(ours[i], stock[i][0]) for i in range(50))
    assert ours.min() == 0 and ours.max() == 1


def test_a_subset_keeps_images_and_labels_together(fashion_mnist):
    subset = fashion_mnist[1].subset(torch.tensor([7, 3]))
    assert len(subset) == 2 and subset.class_names == fashion_mnist[1].class_names
    assert torch.equal(subset.images[1], fashion_mnist[1].images[3]) and subset.labels[1] == fashion_mnist[1].labels[3]


def test_extracted_files_suffice(data_dir: Path):
    program.load_fashion_mnist(data_dir)
    for archive in (data_dir / "FashionMNIST/raw").glob("*.gz"):
        archive.unlink()
    assert len(program.load_fashion_mnist(data_dir)[0]) == 60_000


def test_a_file_in_place_of_the_data_folder_is_reported(tmp_path: Path):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(program.UserError, match=r"data/.*Not a directory"):
        program.load_fashion_mnist(tmp_path / "data")


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda path: path.write_bytes(path.read_bytes()[:30_000_000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), path.symlink_to(path.name)),
    ],
    ids=["truncated", "empty", "one byte changed", "named pipe", "device", "link to itself"],
)
def test_a_corrupt_extracted_file_heals(data_dir: Path, fashion_mnist, corrupt):
    program.load_fashion_mnist(data_dir)
    corrupt(data_dir / "FashionMNIST/raw" / IMAGES)
    healed, _ = program.load_fashion_mnist(data_dir)
    assert torch.equal(healed.images, fashion_mnist[0].images)
    names = {path.name for path in (data_dir / "FashionMNIST/raw").iterdir()}
    assert len(names) == 8, "archives and extracted files, and nothing temporary"


def test_a_folder_in_place_of_an_extracted_file_is_reported(data_dir: Path):
    (data_dir / "FashionMNIST/raw" / IMAGES).mkdir()
    with pytest.raises(program.UserError, match="Is a directory"):
        program.load_fashion_mnist(data_dir)


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers with what its path begins with: a status, other bytes, half of the file, or the file."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        content = (RAW / name).read_bytes()
        self.send_response(int(kind) if kind.isdigit() else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not kind.isdigit():
            self.wfile.write({"other": content[::-1], "half": content[:5000], "intact": content}[kind])

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
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the system accepts, and nobody answers
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


CORRUPTIONS = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "one bit changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "other archive": lambda path: path.write_bytes(gzip.compress(bytes(1000))),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_archive_is_reported_offline_and_heals_online(data_dir, monkeypatch, server, corruption):
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
def test_a_mirror_that_fails_is_reported_and_the_next_one_tried(tmp_path, monkeypatch, server, answer):
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/"])
    with pytest.raises(program.UserError, match=f"{server}{answer}"):
        program.load_fashion_mnist(tmp_path)
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/", f"{server}intact/"])
    assert len(program.load_fashion_mnist(tmp_path)[0]) == 60_000


@pytest.mark.parametrize("answer", ["other", "half"])
def test_what_a_mirror_sends_is_checked_and_not_kept_if_corrupt(tmp_path, monkeypatch, server, answer):
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}{answer}/"])
    with pytest.raises(program.UserError, match="File not found or corrupted"):
        program.load_fashion_mnist(tmp_path)
    assert list((tmp_path / "FashionMNIST/raw").iterdir()) == []
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server}intact/"])
    assert len(program.load_fashion_mnist(tmp_path)[0]) == 60_000


def test_a_server_that_does_not_answer_ends_in_an_error(tmp_path, monkeypatch, silent_server):
    monkeypatch.setattr(FashionMNIST, "mirrors", [silent_server])
    set_timeout, timeouts = socket.setdefaulttimeout, []

    def set_short_timeout(seconds: float) -> None:
        timeouts.append(seconds)
        set_timeout(1.0)  # nobody has time to wait longer

    monkeypatch.setattr(socket, "setdefaulttimeout", set_short_timeout)
    with pytest.raises(program.UserError, match="timed out"):
        program.load_fashion_mnist(tmp_path)
    set_timeout(None)
    assert timeouts == [15]
