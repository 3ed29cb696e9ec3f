"""assets/explorer.html in a real browser.

Skipped where there is none, unless REQUIRE_BROWSER is set.
"""

import base64
import functools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fashion_mnist_cnn as program
from conftest import MODEL, REPOSITORY, make_run, save_lamps

PAGE = REPOSITORY / "assets/explorer.html"
MINUS = "\N{MINUS SIGN}"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER) and not os.environ.get("REQUIRE_BROWSER"):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402


class Explorer:
    """The page, opened, and what a visitor does with it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        self.driver.find_element(By.TAG_NAME, "body").send_keys(*keys)

    def point(self, layer: int, channel: int, y: float, x: float) -> None:
        """Move the mouse to a map of the CNN, y and x in [0, 1]."""
        side, step, top = self.run("const {side, step, top} = layout(); return [side, step, top]")
        maps = self.driver.find_element(By.ID, "maps")
        size = maps.size
        right = (layer - 1) * step + x * side - size["width"] / 2
        down = top + channel * step + y * side - size["height"] / 2
        ActionChains(self.driver, duration=0).move_to_element_with_offset(
            maps, round(right), round(down)
        ).perform()

    def drag(self, right: int, down: int) -> None:
        """Drag the middle of the image by so many of its pixels."""
        picture = self.driver.find_element(By.ID, "picture")
        pixel = picture.size["width"] / self.run("return W")
        actions = ActionChains(self.driver, duration=0).click_and_hold(picture)
        actions.move_by_offset(round(right * pixel), round(down * pixel)).release().perform()

    @property
    def image(self) -> Tensor:
        """What the networks see: float32 (1, C, H, W) in [0, 1]."""
        return torch.tensor(self.run("return [...pixels]")).reshape(
            1, *self.run("return [C, H, W]")
        )

    @property
    def shown(self) -> dict[str, list[float]]:
        """The percentages beside the classes, by network."""
        names = self.run("return Object.keys(networks)")
        values = [float(text) for text in re.findall(r"([\d.]+) %", self.text("classes"))]
        return {name: values[k :: len(names)] for k, name in enumerate(names)}

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def numbers(self) -> list[float]:
        """The numbers in the last sentence of the explanation."""
        sentence = self.driver.find_element(By.CSS_SELECTOR, "#detail p:last-child").text.replace(
            MINUS, "-"
        )
        return [float(number) for number in re.findall(r"-?\d+\.\d+", sentence)]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    quiet = (
        "--disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,1600",
        *quiet.split(),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[Callable[..., Explorer]]:
    """Write a page for networks and test images, and open it.

    At the end its console must be empty.
    """
    shutil.copy(PAGE, tmp_path)

    def open_page(networks: dict[str, nn.Module], test_set: program.ImageSet) -> Explorer:
        trained = {name: make_run(network) for name, network in networks.items()}
        program.write_explorer(trained, test_set, seed=0, folder=tmp_path)
        return Explorer(driver, (tmp_path / PAGE.name).as_uri())

    driver.get_log("browser")
    yield open_page
    assert driver.get_log("browser") == []


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"MLP": program.MLP(), "TinyVGG": program.load_model(MODEL)}


@pytest.fixture
def explorer(open_page, networks: dict[str, nn.Module], small_sets) -> Explorer:
    return open_page(networks, small_sets[1])


def percentages(network: nn.Module, image: Tensor) -> list[float]:
    with torch.inference_mode():
        return (100 * network.eval()(image).softmax(dim=1)[0]).tolist()


def assert_logits_are_those_of_pytorch(explorer: Explorer, networks: dict[str, nn.Module]) -> None:
    count, shape = explorer.run("return labels.length"), explorer.run("return [C, H, W]")
    images = torch.tensor(
        [explorer.run("return [...galleryImage(arguments[0])]", k) for k in range(count)]
    )
    for name, network in networks.items():
        script = (
            "return labels.map((_, k) => "
            "window.explorer.logits(arguments[0], [...galleryImage(k)]))"
        )
        with torch.inference_mode():
            expected = network.eval()(images.reshape(count, *shape))
        torch.testing.assert_close(
            torch.tensor(explorer.run(script, name)), expected, atol=1e-3, rtol=0
        )
        assert expected.std() > 0.01  # they would be alike if all were zero


def test_its_logits_are_those_of_pytorch_for_every_image_of_the_gallery(explorer, networks):
    assert explorer.run("return labels.length") == 60
    assert_logits_are_those_of_pytorch(explorer, networks)


def test_the_arrow_keys_move_the_image_and_the_probabilities_follow(explorer, networks):
    before = explorer.image
    explorer.press(Keys.ARROW_RIGHT * 3, Keys.ARROW_DOWN)
    assert torch.equal(explorer.image, F.pad(before, (3, -3, 1, -1)))
    for name, network in networks.items():
        assert explorer.shown[name] == pytest.approx(percentages(network, explorer.image), abs=0.06)
    explorer.press(Keys.ARROW_LEFT * 5, Keys.ARROW_UP)  # and what left the frame comes back
    assert torch.equal(explorer.image, F.pad(before, (-2, 2, 0, 0)))
    explorer.press("0")
    assert torch.equal(explorer.image, before)


def test_the_image_is_mirrored_turned_and_made_lighter(explorer):
    before = explorer.image
    explorer.press(Keys.ARROW_LEFT, "m")
    assert torch.equal(explorer.image, F.pad(before, (-1, 1)).flip(3))
    explorer.press("m", Keys.ARROW_RIGHT, "+")
    torch.testing.assert_close(explorer.image, (1.25 * before).clamp(max=1))
    explorer.press("0", "-")
    torch.testing.assert_close(explorer.image, before / 1.25)
    explorer.press("0", "r" * 12)  # a quarter turn to the right, in twelve steps
    torch.testing.assert_close(explorer.image, before.rot90(-1, (2, 3)), atol=1e-4, rtol=0)
    explorer.press("l" * 12)
    torch.testing.assert_close(explorer.image, before, atol=1e-4, rtol=0)


def test_the_image_is_dragged_drawn_on_and_wiped(explorer):
    before = explorer.image
    explorer.drag(4, -2)
    assert torch.equal(explorer.image, F.pad(before, (4, -4, -2, 2)))
    for tool, value in (("draw", 1.0), ("wipe", 0.0)):
        explorer.driver.find_element(By.CSS_SELECTOR, f"[data-tool={tool}]").click()
        explorer.drag(0, 0)
        assert (explorer.image[0, 0, 13:15, 13:15] == value).all()
        assert torch.equal(
            explorer.image[:, :, :10], F.pad(before, (4, -4, -2, 2))[:, :, :10]
        )  # and nowhere else
    explorer.press("0")
    assert torch.equal(explorer.image, before)


def test_another_image_is_chosen_by_key_and_by_click(explorer, small_sets):
    first = explorer.image
    explorer.press("n")
    second = explorer.image
    assert not torch.equal(first, second)
    explorer.press("p")
    assert torch.equal(explorer.image, first)
    explorer.driver.find_elements(By.CSS_SELECTOR, "#thumbnails button")[1].click()
    assert torch.equal(explorer.image, second)
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:2]
    assert torch.equal(second, program.to_float(small_sets[1].images[indices[1]])[None])
    assert (
        f"true class: {small_sets[1].class_names[small_sets[1].labels[indices[1]]]}"
        in explorer.text("answer")
    )


def test_pointing_at_a_convolution_and_its_relu_shows_window_weights_products_sum_and_bias(
    explorer, networks
):
    image = explorer.image
    with torch.inference_mode():
        first = networks["TinyVGG"].conv_block_1[:2](image)
        third = networks["TinyVGG"].conv_block_1[2](first)[0, 5, 14, 7].item()
        first = networks["TinyVGG"].conv_block_1[0](image)[0, 4, 14, 7].item()
    explorer.point(1, 4, 14.5 / 28, 7.5 / 28)
    grids = explorer.driver.find_elements(By.CSS_SELECTOR, "#detail .grid")
    window, weights, products = (
        [float(v) for v in grid.text.replace(MINUS, "-").split()] for grid in grids
    )
    assert window == pytest.approx(image[0, 0, 13:16, 6:9].flatten().tolist(), abs=0.0051)
    assert weights == pytest.approx(
        networks["TinyVGG"].conv_block_1[0].weight[4].flatten().tolist(), abs=0.0051
    )
    assert products == pytest.approx(
        [w * v for w, v in zip(window, weights, strict=True)], abs=0.02
    )
    for layer, channel, value in ((1, 4, first), (2, 4, first), (3, 5, third), (4, 5, third)):
        explorer.point(layer, channel, 14.5 / 28, 7.5 / 28)
        total, bias, shown, after_relu = explorer.numbers()
        assert total + bias == pytest.approx(value, abs=0.02) and shown == pytest.approx(
            value, abs=0.0051
        )
        assert after_relu == pytest.approx(max(0, value), abs=0.0051)


def test_pointing_at_a_max_pool_shows_which_of_the_four_was_taken(explorer, networks):
    with torch.inference_mode():
        four = networks["TinyVGG"].conv_block_1[:4](explorer.image)[0, 7, 8:10, 12:14].flatten()
    explorer.point(5, 7, 4.5 / 14, 6.5 / 14)
    cells = explorer.driver.find_elements(By.CSS_SELECTOR, "#detail .grid i")
    assert [float(cell.text) for cell in cells] == pytest.approx(four.tolist(), abs=0.0051)
    assert [cell.get_attribute("class") for cell in cells].index("taken") == four.argmax()


def test_pointing_at_a_class_shows_what_each_place_adds_to_its_logit(explorer, networks):
    expected = explorer.run("return window.explorer.logits('TinyVGG', [...pixels])")
    for label in (0, 9):
        button = explorer.driver.find_elements(By.CSS_SELECTOR, "#classes button")[label]
        ActionChains(explorer.driver, duration=0).move_to_element(button).perform()
        places = explorer.driver.find_elements(By.CSS_SELECTOR, "#detail .grid i")
        total, bias, logit = explorer.numbers()
        assert len(places) == 49 and logit == pytest.approx(expected[label], abs=0.0051)
        assert sum(float(place.text.replace(MINUS, "-")) for place in places) == pytest.approx(
            total, abs=0.3
        )
        assert bias == pytest.approx(
            networks["TinyVGG"].classifier[1].bias[label].item(), abs=0.0051
        )


def test_the_maps_are_explored_by_keyboard(explorer):
    before = explorer.image
    maps = explorer.driver.find_element(By.ID, "maps")
    explorer.run("arguments[0].focus()", maps)
    explorer.point(1, 0, 0.1, 0.1)
    maps.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN * 2)
    assert "conv 1, channel 1, row 5, column 4" in explorer.text("detail")
    maps.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT * 4 + Keys.ARROW_DOWN)
    assert "max-pool, channel 2, row 3, column 2" in explorer.text("detail")
    assert torch.equal(explorer.image, before)  # the keys moved the pointer, not the image


def drop(explorer: Explorer, content: bytes, name: str) -> None:
    explorer.run(
        """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], arguments[1]));
        const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
        document.body.dispatchEvent(new DragEvent("drop", options));""",
        base64.b64encode(content).decode(),
        name,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(None, 10, poll_frequency=0.05).until(lambda _: condition())


@pytest.mark.parametrize(("background", "garment"), [("white", (200, 0, 0)), ("black", "white")])
def test_a_dropped_file_is_made_grey_scaled_and_light_on_dark(
    explorer, tmp_path: Path, background, garment
):
    photograph = Image.new("RGB", (300, 600), background)
    photograph.paste(garment, (100, 100, 200, 500))
    photograph.save(tmp_path / "shirt.png")
    before = explorer.image
    drop(explorer, (tmp_path / "shirt.png").read_bytes(), "shirt.png")
    wait_for(lambda: not torch.equal(explorer.image, before))
    image = explorer.image[0, 0]
    assert (
        image[:4].max() < 0.05 and image[:, :11].max() < 0.05
    )  # above the garment, and beside the photograph
    expected = 1 - 0.299 * 200 / 255 if background == "white" else 1
    assert image[8:20, 13:15].flatten().tolist() == pytest.approx([expected] * 24, abs=0.02)
    assert "true class" not in explorer.text("answer")


def test_a_chosen_file_that_is_no_image_is_reported(explorer, tmp_path: Path):
    before = explorer.image
    (tmp_path / "notes.txt").write_text("nothing to see")
    explorer.driver.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.txt"))
    wait_for(lambda: "notes.txt cannot be read as an image" in explorer.text("status"))
    assert torch.equal(explorer.image, before)


def test_wide_networks_are_drawn_in_part_and_say_so(open_page, small_sets):
    torch.manual_seed(0)
    networks = {"MLP": program.MLP(hidden_units=20), "TinyVGG": program.TinyVGG(hidden_units=20)}
    explorer = open_page(networks, small_sets[1])
    assert "The first sixteen of 20 channels are shown." in explorer.text("help")
    assert_logits_are_those_of_pytorch(explorer, networks)
    explorer.point(3, 15, 0.5, 0.5)
    assert "conv 2, channel 16" in explorer.text(
        "detail"
    ) and "all 20 channels together" in explorer.text("detail")
    assert len(explorer.driver.find_elements(By.CSS_SELECTOR, "#detail .products div")) == 16


@pytest.mark.parametrize("size", [20, 30])
def test_coloured_images_of_another_size_are_explored_too(open_page, tmp_path: Path, size: int):
    save_lamps(tmp_path / "lamps", 12)
    _, test_set = program.load_image_folder(tmp_path / "lamps", size, seed=0)
    torch.manual_seed(0)
    networks = {"MLP": program.MLP(3 * size**2, 10, 2), "TinyVGG": program.TinyVGG(3, 10, 2, size)}
    networks["MLP"].layer_stack[3].weight.data *= 10  # before training the output layers are small
    networks["TinyVGG"].classifier[1].weight.data *= 10
    explorer = open_page(networks, test_set)
    assert_logits_are_those_of_pytorch(explorer, networks)
    explorer.point(1, 0, 0.5, 0.5)
    assert len(explorer.driver.find_elements(By.CSS_SELECTOR, "#detail .products div")) == 3
    explorer.point(10, 0, 0.5, 0.5)
    assert "max-pool" in explorer.text("detail")


def test_without_an_mlp_it_shows_the_cnn_alone(open_page, networks, small_sets):
    explorer = open_page({"TinyVGG": networks["TinyVGG"]}, small_sets[1])
    assert list(explorer.shown) == ["TinyVGG"] and len(explorer.shown["TinyVGG"]) == 10


def test_it_requests_nothing_but_its_data(driver, explorer, tmp_path: Path):
    requested = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            requested.append(self.path)

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        explorer = Explorer(driver, f"http://127.0.0.1:{server.server_port}/explorer.html")
        explorer.press("n", "m", Keys.ARROW_UP)
        server.shutdown()
    assert requested == ["/explorer.html", "/explorer_data.js"]
    assert not re.search(r"https?:|//[a-z]", PAGE.read_text().replace("http://www.w3.org", ""))


def test_without_a_cnn_it_says_so(driver, open_page, networks, small_sets):
    open_page({"MLP": networks["MLP"], "ResNet": program.ResNet()}, small_sets[1])
    assert "trained no TinyVGG" in driver.find_element(By.TAG_NAME, "main").text
    driver.get_log("browser")


def test_without_its_data_it_says_what_to_do(driver, tmp_path: Path):
    shutil.copy(PAGE, tmp_path)
    Explorer(driver, (tmp_path / PAGE.name).as_uri())
    assert "run fashion_mnist_cnn.py first" in driver.find_element(By.TAG_NAME, "main").text
    driver.get_log("browser")


@pytest.mark.parametrize("width", [380, 700, 1000, 1600, 2000])
def test_nothing_is_cut_off_at_any_width(explorer, width: int):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    explorer.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        explorer.driver.refresh()
        assert explorer.run("return document.documentElement.scrollWidth") <= width
        side = explorer.run("return layout().side")
        assert side >= 28  # one of the screen's pixels or more for each of a map's
    finally:
        explorer.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name(explorer):
    script = """
        return [...document.querySelectorAll("button, input, [tabindex]")].filter((control) =>
            !(control.ariaLabel || control.textContent.trim() ||
              control.closest("label")?.textContent)).length"""
    assert explorer.run(script) == 0


def test_the_committed_page_is_that_of_the_committed_cnn(fashion_mnist):
    text = (REPOSITORY / "assets/explorer_data.js").read_text()
    assert len(text) < 400_000
    data = json.loads(text.removeprefix("window.explorerData = ").removesuffix(";\n"))
    state = torch.load(MODEL, weights_only=True)
    assert data["classes"] == list(fashion_mnist[1].class_names) and set(data["labels"]) == set(
        range(10)
    )
    for name, (shape, values) in data["networks"]["TinyVGG"].items():
        assert shape == list(state[name].shape)
        assert base64.b64decode(values) == state[name].numpy().tobytes()
    assert set(data["networks"]) == {"MLP", "TinyVGG"}
