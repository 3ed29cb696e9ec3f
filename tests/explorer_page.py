"""The explorer page in a real browser: how tests make it, and what a visitor does on it.

Without a browser its tests are skipped, or fail if REQUIRE_BROWSER is set.
"""

import base64
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from torch import Tensor, nn

import fashion_mnist_cnn as program
from fashion_mnist_extras.analysis import Evidence, measure_shifts
from fashion_mnist_extras.explorer import (
    Snapshot,
    add_snapshot,
    build_page,
)

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MINUS = "\N{MINUS SIGN}"


class Explorer:
    """The page, opened when it is first looked at, and what a visitor does with it."""

    counter = itertools.count()

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.browser = driver
        self.folder = folder
        self.is_open = False

    def open(self, place: str = "#image=0") -> None:
        """Open the page, by default its last part, under an address of its own.

        Reloaded it would be as it was left.
        """
        address = (self.folder / "explorer.html").as_uri()
        self.browser.get(f"{address}?{next(Explorer.counter)}{place}")
        self.is_open = True

    @property
    def driver(self) -> webdriver.Chrome:
        if not self.is_open:
            self.open()
        return self.browser

    @property
    def chapters(self) -> list[str]:
        return self.run("return CHAPTERS.map(({ id }) => id)")

    def open_chapter(self, name: str) -> None:
        self.open(f"#chapter={name}")

    def stage(self, name: str) -> str:
        """What stands in a chapter, its text and its stage."""
        return self.run("return stageOf(arguments[0]).parentElement.textContent", name)

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def element(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def click(self, name: str) -> None:
        self.run("document.getElementById(arguments[0]).click()", name)

    def text_of(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def press(self, *keys: str) -> None:
        """Press keys on the image."""
        self.run("document.getElementById('picture').focus()")
        self.driver.switch_to.active_element.send_keys(*keys)

    def go(self, address: str) -> None:
        """Follow a link within the page, and wait until it has read the new address."""
        self.driver.execute_async_script(
            """const [address, done] = arguments;
            addEventListener("hashchange", () => done(), { once: true });
            location.hash = address;""",
            address,
        )

    def state(self, name: str) -> object:
        return self.run(
            "return window.explorer.state[arguments[0]] ?? window.explorer.address()", name
        )

    def move_mouse(self, name: str, x: float, y: float) -> ActionBuilder:
        """Scroll so that a place of an element, in its pixels, is near the top; point at it."""
        left, top = self.run(
            """const [element, x, y] = arguments;
            scrollTo(0, scrollY + element.getBoundingClientRect().top + y - 120);
            const box = element.getBoundingClientRect();
            return [box.left + x, box.top + y];""",
            self.element(name),
            x,
            y,
        )
        builder = ActionBuilder(self.driver, duration=0)
        builder.pointer_action.move_to_location(round(left), round(top))
        return builder

    def click_map(self, layer: int, channel: int, y: float, x: float) -> None:
        """Click on a map of the CNN, y and x in [0, 1]."""
        side, step, top = self.run("const {side, step, top} = layout(); return [side, step, top]")
        place = (layer - 1) * step + x * side, top + channel * step + y * side
        builder = self.move_mouse("maps", *place)
        builder.pointer_action.click()
        builder.perform()

    def drag(self, right: int, down: int, start: tuple[int, int] = (0, 0)) -> None:
        """Drag from start, in pixels of the image from its middle, by so many of its pixels."""
        width = self.run("return document.getElementById('picture').clientWidth")
        pixel = width / self.run("return W")
        builder = self.move_mouse("picture", *(width / 2 + v * pixel for v in start))
        builder.pointer_action.pointer_down()
        builder.perform()
        builder = self.move_mouse(
            "picture",
            *(width / 2 + (v + by) * pixel for v, by in zip(start, (right, down), strict=True)),
        )
        builder.pointer_action.pointer_up()
        builder.perform()

    def choose_tool(self, tool: str) -> None:
        self.run("document.querySelector(`[data-tool=${arguments[0]}]`).click()", tool)

    def set_size(self, width: int, height: int, scale: float = 1, **media: str) -> None:
        """Set the size of the page in CSS pixels, each scale x scale pixels of the screen.

        It is opened anew when it is next looked at.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": name.replace("_", "-"), "value": value} for name, value in media.items()
        ]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.is_open = False

    @property
    def image(self) -> Tensor:
        """What the networks see: float32 (1, C, H, W) in [0, 1]."""
        values = torch.tensor(self.run("return [...pixels]"), dtype=torch.float32)
        return values.reshape(1, *self.run("return [C, H, W]"))

    @property
    def shown(self) -> dict[str, list[float]]:
        """The percentages beside the classes, by network."""
        names = self.run("return NAMES")
        values = [float(text) for text in re.findall(r"([\d.]+)\s%", self.text("classes"))]
        return {name: values[k :: len(names)] for k, name in enumerate(names)}

    @property
    def data(self) -> dict[str, Any]:
        """What the page was given."""
        return read_data(self.folder)

    def result(self, name: str = "why-result") -> list[float]:
        """The sum, the bias, and what they add up to; then that of the network, unrounded."""
        sentence = self.text(name).replace(MINUS, "-")
        number = r"(-?\d+\.\d\d)"
        match = re.search(
            rf"{number} \+ bias {number} = {number}(?: \(unrounded {number}\))?", sentence
        )
        total, bias, printed, exact = match.groups()
        return [float(text) for text in (total, bias, printed, exact or printed)]

    def grids(self, selector: str = "#why-body .grid") -> list[list[float]]:
        script = """return [...document.querySelectorAll(arguments[0])].map((grid) =>
            [...grid.children].map((cell) => {
            const text = (cell.value ?? cell.textContent).replace("\u2212", "-");
            return text ? Number(text) : null;
        }))"""
        return self.run(script, selector)


def wait_for(condition: Callable[[], bool]) -> None:
    WebDriverWait(None, 20, poll_frequency=0.02).until(lambda _: condition())


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    if not (BROWSER and DRIVER):
        end = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        end("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,1600",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@dataclass(frozen=True)
class Trained:
    """A network, its learning curves, and what the page is given of it."""

    name: str
    result: program.TrainedNetwork
    snapshots: list[Snapshot]
    shift_accuracy: list[float]

    @property
    def network(self) -> nn.Module:
        return self.result.network

    @property
    def history(self) -> list[program.Record]:
        return self.result.history


def train_little(
    network: nn.Module,
    train_set: program.ImageSet,
    test_set: program.ImageSet,
    name: str | None = None,
) -> Trained:
    """Train the network for two epochs; its name is that of its class if none is given."""
    snapshots: list[Snapshot] = []

    def after_evaluation(state: program.TrainingState) -> None:
        record = state.history[-1]
        add_snapshot(snapshots, network, record.epoch, record.test_accuracy)

    history = program.train(
        network,
        train_set,
        test_set.subset(slice(50)),  # all evaluations would take longer than training
        epochs=2,
        batch_size=50,
        learning_rate=0.04,
        seed=0,
        after_evaluation=after_evaluation,
    )
    result = program.TrainedNetwork(
        kind=type(network),
        network=network,
        config=None,
        optimizer="Muon",
        learning_rate=0.04,
        seed=0,
        history=history,
        test_logits=program.predict_logits(network, test_set.images),
        test_labels=test_set.labels,
    )
    few = test_set.subset(slice(100))
    shift_accuracy = measure_shifts(network, few.images, few.labels)
    return Trained(name or type(network).__name__, result, snapshots, shift_accuracy)


def write_page(
    folder: Path,
    trained: Sequence[Trained],
    test_set: program.ImageSet,
    dataset: str = "FashionMNIST",
) -> None:
    evidence: Evidence = {
        "images": min(100, len(test_set)),
        "shift_accuracy": {each.name: each.shift_accuracy for each in trained},
        "dead_channels": [],
    }
    files = build_page(
        {each.name: each.result for each in trained},
        program.Dataset(dataset, test_set, test_set),
        {each.network: each.snapshots for each in trained},
        evidence,
    )
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def console(driver: webdriver.Chrome) -> Iterator[None]:
    """At the end of a test the browser's console must be empty."""
    driver.get_log("browser")
    yield
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert driver.get_log("browser") == []


@pytest.fixture
def open_page(driver: webdriver.Chrome, console: None, tmp_path: Path) -> Callable[..., Explorer]:
    """Write a page for networks and test images, and open it."""

    def open_page(
        trained: Sequence[Trained], test_set: program.ImageSet, dataset: str = "FashionMNIST"
    ) -> Explorer:
        write_page(tmp_path, trained, test_set, dataset)
        return Explorer(driver, tmp_path)

    return open_page


@pytest.fixture(scope="module")
def sets(fashion_mnist) -> tuple[program.ImageSet, program.ImageSet]:
    return fashion_mnist[0].subset(slice(4000)), fashion_mnist[1].subset(slice(1000))


@pytest.fixture(scope="module")
def trained(sets) -> list[Trained]:
    torch.manual_seed(0)
    return [train_little(network, *sets) for network in (program.MLP(), program.TinyVGG())]


@pytest.fixture(scope="module")
def page_folder(trained, sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, trained, sets[1])
    return folder


@pytest.fixture
def explorer(driver: webdriver.Chrome, console: None, page_folder: Path) -> Explorer:
    return Explorer(driver, page_folder)


def logits_of(trained: Trained, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return trained.network.eval()(image)[0]


def percentages(trained: Trained, image: Tensor) -> list[float]:
    return (100 * logits_of(trained, image).softmax(dim=0)).tolist()


def read_data(folder: Path) -> dict[str, Any]:
    page = (folder / "explorer.html").read_text()
    return json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])


def assert_percentages_are_those_of_pytorch(explorer: Explorer, trained: Sequence[Trained]) -> None:
    """Beside the classes, for the image as it is now."""
    shown = explorer.shown
    for each in trained:
        expected = percentages(each, explorer.image)
        assert shown[each.name] == pytest.approx(expected, abs=0.06), each.name


def assert_softmax_is_that_of_pytorch(explorer: Explorer, cnn: Trained, image: Tensor) -> None:
    rows = explorer.run("""const valueOf = ({ textContent }) => {
            const plain = textContent.replace(" \\u00d7 10", "e").replace(/[\\u207b\\u2212]/g, "-");
            return parseFloat(plain.replace(",", "").normalize("NFKC"));
        };
        return [...document.querySelectorAll("#softmax tbody tr")].map((row) =>
            [...row.querySelectorAll("td")].map(valueOf))""")
    expected = logits_of(cnn, image)
    scores, exponentials, shares = (list(column) for column in zip(*rows, strict=True))
    assert scores == pytest.approx(expected.tolist(), abs=0.0051)
    assert exponentials == pytest.approx(expected.exp().tolist(), rel=0.006)
    assert shares == pytest.approx(percentages(cnn, image), abs=0.06)


def prepare(explorer: Explorer, content: bytes) -> Tensor:
    """The pixels that the page makes of an image file: uint8 values."""
    script = """const [text, done] = arguments;
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const file = new File([bytes], "image");
        window.explorer.prepareFile(file).then(({ values }) => done([...values]))"""
    pixels = explorer.driver.execute_async_script(script, base64.b64encode(content).decode())
    return (255 * torch.tensor(pixels)).round().int()


# ---- Pages of other images and classes -----------------------------------------------------------
LONG_NAMES = (
    "a" * 75,
    "a coat that is worn over all other clothes on the coldest days of a winter",
    "\N{ARABIC LETTER SHEEN}\N{ARABIC LETTER MEEM} " * 25,
    "\N{THAI CHARACTER KO KAI}\N{THAI CHARACTER SARA AA}" * 37,
)


def write_noise(folder: Path, shape: tuple[int, int, int], names: Sequence[str]) -> Path:
    """Write the page of networks that were trained on noise of this shape (C, H, W)."""
    torch.manual_seed(0)
    channels, size, _ = shape
    images = torch.randint(256, (100, *shape), dtype=torch.uint8)
    image_set = program.ImageSet(images, torch.arange(100) % len(names), tuple(names))
    networks = [
        program.MLP(channels * size**2, 10, len(names)),
        program.TinyVGG(channels, 10, len(names), size),
    ]
    trained = [train_little(network, image_set, image_set) for network in networks]
    write_page(folder, trained, image_set, "noise")
    return folder


@pytest.fixture(scope="module")
def color_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of colour images in two classes, whose names are long."""
    return write_noise(tmp_path_factory.mktemp("color"), (3, 32, 32), LONG_NAMES[:2])


@pytest.fixture(scope="module")
def many_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of fifty classes, some with long names in three scripts."""
    names = (*LONG_NAMES, *(f"class number {k}" for k in range(46)))
    return write_noise(tmp_path_factory.mktemp("many"), (1, 28, 28), names)
