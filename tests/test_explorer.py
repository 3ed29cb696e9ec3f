"""The explorer page in a real browser: what it is given, and all that its last chapter explains."""

import base64
import copy
import functools
import itertools
import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageOps
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from torch import Tensor, nn

import fashion_mnist_cnn as program
from conftest import MODEL, PHOTOGRAPH, REPOSITORY, decode_moment, load_folder, save_lamps
from explorer_page import (
    MINUS,
    Explorer,
    assert_percentages_are_those_of_pytorch,
    assert_softmax_is_that_of_pytorch,
    logits_of,
    prepare,
    read_data,
    train_little,
    wait_for,
    write_page,
)
from fashion_mnist_extras.explorer import (
    Snapshot,
    add_snapshot,
    join_scripts,
    read_source,
)
from fashion_mnist_extras.prediction import ModelMetadata, prepare_image

pytest_plugins = ["explorer_page"]


# ---- What it is given ----------------------------------------------------------------------------
def test_its_logits_are_those_of_pytorch_at_every_moment(explorer, trained):
    """For some images; at the last moment the weights are the network's own."""
    data = explorer.data
    shape = explorer.run("return [C, H, W]")
    images = []
    for index in (0, 1, len(data["labels"]) - 1):
        images.append(explorer.run("return [...storedImage(arguments[0])]", index))
    batch = torch.tensor(images).reshape(-1, *shape)
    script = """const [images, name, moments] = arguments;
        return [...Array(moments).keys()].map((moment) =>
            images.map((image) => window.explorer.logits(name, image, moment)))"""
    for each in trained:
        described = data["networks"][each.name]
        moments = len(described["weights"])
        found = torch.tensor(explorer.run(script, images, each.name, moments))
        network = copy.deepcopy(each.network).eval()
        for moment in range(moments):
            is_last = moment == moments - 1
            network.load_state_dict(
                each.network.state_dict() if is_last else decode_moment(described, moment)
            )
            with torch.inference_mode():
                expected = network(batch)
            torch.testing.assert_close(found[moment], expected, atol=2e-3, rtol=1e-4)
        assert expected.std() > 0.01  # they would be alike if all were zero


def test_the_moments_are_those_of_the_whole_training(page_folder: Path, trained):
    data = read_data(page_folder)["networks"]["TinyVGG"]
    accuracies = {record.epoch: record.test_accuracy for record in trained[1].history}
    assert data["epochs"] == [0, *(step / 80 for step in (2, 3, 5, 10, 20, 40)), 1, 2]
    assert data["accuracies"] == [accuracies[epoch] for epoch in data["epochs"]]
    first = decode_moment(data, 0)["classifier.1.weight"]
    last = decode_moment(data, 8)["classifier.1.weight"]
    assert first.abs().max() < last.abs().max() / 3


def test_networks_that_were_evaluated_at_other_moments_are_shown_at_those_of_both(
    tmp_path: Path, trained, sets
):
    few = [trained[1].snapshots[k] for k in (0, 5, 6, 7, 8)]
    networks = [trained[0], replace(trained[1], snapshots=few)]
    write_page(tmp_path, networks, sets[1])
    described = read_data(tmp_path)["networks"]
    epochs = [snapshot["epoch"] for snapshot in few]
    assert described["MLP"]["epochs"] == described["TinyVGG"]["epochs"] == epochs
    for name, each in zip(("MLP", "TinyVGG"), trained, strict=True):
        accuracies = {record.epoch: record.test_accuracy for record in each.history}
        assert described[name]["accuracies"] == [accuracies[epoch] for epoch in epochs]


def test_of_a_long_training_sixteen_moments_are_kept_more_of_them_early():
    snapshots: list[Snapshot] = []
    network = program.MLP(4, 1, 2)
    for epoch in range(1000):
        add_snapshot(snapshots, network, epoch, 0.5)
        assert len(snapshots) <= 16
        assert snapshots[-1]["epoch"] == epoch
    epochs = [snapshot["epoch"] for snapshot in snapshots]
    assert epochs[:2] == [0, 1]
    assert epochs == sorted(epochs)
    assert sum(epoch <= 100 for epoch in epochs) >= 8


def test_it_is_given_an_image_of_each_class_and_six_mistakes_of_each_cell(
    page_folder: Path, trained
):
    data = read_data(page_folder)
    labels = torch.tensor(data["labels"])
    assert labels[: data["typical"]].tolist() == list(range(10))
    known = 0
    for each in trained:
        described = data["networks"][each.name]
        predictions = torch.tensor(described["predictions"])
        assert (predictions[:10] == labels[:10]).all()
        confusion = each.result.metrics.confusion_matrix
        assert described["confusion"] == confusion.tolist()
        for true, predicted in itertools.permutations(range(10), 2):
            in_cell = (labels == true) & (predictions == predicted)
            count = int(in_cell[10:].sum())
            assert count >= min(6, int(confusion[true, predicted])) or len(labels) == 220
            known += count > 0
    assert known > 40
    assert len(labels) <= 220


def test_wide_networks_stay_under_four_megabytes(open_page, sets):
    torch.manual_seed(0)
    few = [part.subset(slice(200)) for part in sets]
    wide = [train_little(kind(hidden_units=64), *few) for kind in (program.MLP, program.TinyVGG)]
    explorer = open_page(wide, few[1])
    assert (explorer.folder / "explorer.html").stat().st_size < 4_000_000
    moments = len(explorer.data["networks"]["MLP"]["weights"])
    assert 3 <= moments < 9
    assert_percentages_are_those_of_pytorch(explorer, wide)
    assert "The first sixteen of 64 channels are shown." in explorer.text("help")
    explorer.click_map(3, 15, 0.5, 0.5)
    assert "conv 2, channel 16" in explorer.text("why-title")
    assert "16 of its 64 channels shown" in explorer.text("why-body")
    total, bias, printed, exact = explorer.result()
    assert total + bias == pytest.approx(printed, abs=1e-9)
    assert printed == pytest.approx(exact, abs=0.011), "what is not shown is not rounded"


def test_coloured_images_of_another_size_are_explored_too(open_page, tmp_path: Path):
    size = 30  # whose half is odd
    save_lamps(tmp_path / "lamps", 40)
    lamps = load_folder(tmp_path / "lamps", size)
    torch.manual_seed(0)
    mlp = train_little(program.MLP(3 * size**2, 10, 2), *lamps)
    cnn = train_little(program.TinyVGG(3, 10, 2, size), *lamps)
    explorer = open_page([mlp, cnn], lamps[1], "lamps")
    assert (explorer.folder / "explorer.html").stat().st_size < 4_000_000
    assert_percentages_are_those_of_pytorch(explorer, [mlp, cnn])
    explorer.click_map(1, 0, 0.5, 0.5)
    assert len(explorer.grids()) == 9
    assert_printed_numbers_add_up(explorer)
    explorer.click_map(10, 0, 0.5, 0.5)
    assert "max-pool" in explorer.text("why-title")
    path = next((tmp_path / "lamps").rglob("*.png"))
    prepared = prepare(explorer, path.read_bytes())
    expected, _ = prepare_image(str(path), ModelMetadata(["blue", "red"], size, 3, 10))
    assert (prepared - expected.flatten()).abs().max() <= 2


def test_without_an_mlp_it_shows_the_cnn_alone(open_page, trained, sets):
    explorer = open_page(trained[1:], sets[1])
    assert list(explorer.shown) == ["TinyVGG"]
    assert len(explorer.shown["TinyVGG"]) == 10
    assert not explorer.element("mlp").is_displayed()
    assert "shifts" not in explorer.chapters, "a chapter that compares it with the MLP"
    assert len(explorer.chapters) == 9


def test_it_requests_nothing(driver, console, page_folder: Path):
    requested = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            requested.append(self.path)

    handler = functools.partial(Handler, directory=page_folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get(f"http://127.0.0.1:{server.server_port}/explorer.html")
        driver.execute_script("document.getElementById('picture').focus()")
        driver.switch_to.active_element.send_keys("m", Keys.ARROW_UP)
        server.shutdown()
    assert requested == ["/explorer.html"]
    sources = [read_source("page.html"), read_source("style.css"), join_scripts()]
    assert not re.search(r"https?:|//[a-z]", "".join(sources))


def test_without_a_cnn_it_says_so(driver, trained, sets, tmp_path: Path):
    write_page(tmp_path, trained[:1], sets[1])
    Explorer(driver, tmp_path).open()
    assert "trained no TinyVGG" in driver.find_element(By.TAG_NAME, "main").text


# ---- The image -----------------------------------------------------------------------------------
def test_keys_on_the_image_shift_it_and_the_probabilities_follow(explorer, trained):
    before = explorer.image
    explorer.press(Keys.ARROW_RIGHT * 3, Keys.ARROW_DOWN)
    assert torch.equal(explorer.image, F.pad(before, (3, -3, 1, -1)))
    assert_percentages_are_those_of_pytorch(explorer, trained)
    explorer.press(Keys.ARROW_LEFT * 5, Keys.ARROW_UP)  # and what left the frame comes back
    assert torch.equal(explorer.image, F.pad(before, (-2, 2, 0, 0)))
    explorer.press("0")
    assert torch.equal(explorer.image, before)


def test_keys_elsewhere_are_the_browsers(explorer):
    explorer.set_size(1366, 768)
    before = explorer.image
    explorer.run("document.activeElement.blur()")
    explorer.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_DOWN * 5, "m", "l")
    assert torch.equal(explorer.image, before)
    wait_for(lambda: explorer.run("return scrollY") > 0)


def test_the_image_is_mirrored_and_turned(explorer):
    before = explorer.image
    explorer.press(Keys.ARROW_LEFT, "m")
    assert torch.equal(explorer.image, F.pad(before, (-1, 1)).flip(3))
    explorer.press("0", "r" * 6)  # a quarter turn to the right, in six steps
    torch.testing.assert_close(explorer.image, before.rot90(-1, (2, 3)), atol=1e-4, rtol=0)
    explorer.press("l" * 6)
    torch.testing.assert_close(explorer.image, before, atol=1e-4, rtol=0)


def test_drawing_destroys_nothing(explorer):
    before = explorer.image
    explorer.drag(6, 0)
    shifted = F.pad(before, (6, -6))
    assert torch.equal(explorer.image, shifted)
    explorer.choose_tool("draw")
    explorer.drag(0, 0, start=(-4, 0))
    assert (explorer.image[0, 0, 13:15, 9:11] == 1).all()
    # What was drawn goes with the garment, of which all is there.
    explorer.press(Keys.ARROW_LEFT * 6)
    assert (explorer.image[0, 0, 13:15, 3:5] == 1).all()
    assert torch.equal(explorer.image[..., 8:], before[..., 8:])
    explorer.click("undo")
    assert torch.equal(explorer.image, before)


def test_a_fast_stroke_is_a_line_and_wiping_wipes(explorer):
    explorer.click("empty")
    assert explorer.image.count_nonzero() == 0
    assert "true class" not in explorer.text("answer")
    explorer.drag(20, 0, start=(-10, 0))  # one movement from left to right
    assert (explorer.image[0, 0, 13:15, 4:24] == 1).all()
    explorer.choose_tool("wipe")
    explorer.drag(0, 20, start=(0, -10))
    assert (explorer.image[0, 0, 4:24, 13:15] == 0).all()
    assert explorer.image.max() == 1
    explorer.click("undo")
    explorer.click("undo")
    assert explorer.image.count_nonzero() == 0


def assert_prepared_as_for_predict(found: Tensor, path: Path, metadata: ModelMetadata) -> None:
    expected, _ = prepare_image(str(path), metadata)
    difference = (found - expected.flatten()).abs().float()
    assert difference.max() <= 8, path  # of 255
    assert difference.mean() < 0.4, path
    assert expected.max() > 200  # so that there is something to compare


# What is made of pixels is compared with Python's in test_page_scripts.py: here files are decoded.
def test_a_photograph_is_prepared_as_for_predict(explorer, tmp_path: Path, fashion_mnist):
    metadata = ModelMetadata(fashion_mnist[1].class_names, 28, 1, 10, "FashionMNIST")
    white = Image.new("RGBA", (350, 450), (0, 0, 0, 0))  # on a black page
    ImageDraw.Draw(white).ellipse((100, 50, 250, 400), (250, 250, 250, 255))
    white.save(tmp_path / "white.png")
    ImageDraw.Draw(white).rectangle((160, 100, 180, 120), (20, 20, 40, 255))
    white.save(tmp_path / "label.png")
    for path in (PHOTOGRAPH, tmp_path / "white.png", tmp_path / "label.png"):
        found = prepare(explorer, path.read_bytes())
        assert_prepared_as_for_predict(found, path, metadata)
    own = fashion_mnist[1].images[3, 0]
    Image.fromarray(own.numpy()).save(tmp_path / "own.png")
    assert torch.equal(prepare(explorer, (tmp_path / "own.png").read_bytes()), own.flatten().int())


def test_ink_on_paper_is_prepared_as_for_predict(explorer, tmp_path: Path):
    explorer.run("DATA.dataset = 'digits'; DATA.inkSize = 0.7")
    metadata = ModelMetadata(list("01"), 28, 1, 10, "digits", ink_size=0.7)
    paper = Image.new("L", (300, 400), 235)
    ImageDraw.Draw(paper).line([(60, 100), (160, 100), (100, 250)], fill=20, width=16)
    ImageOps.expand(paper, 3, 0).save(tmp_path / "framed.png")
    ImageOps.invert(paper).save(tmp_path / "dark.png")  # which is not turned
    mask = ImageOps.invert(paper)
    Image.merge("LA", (Image.new("L", paper.size), mask)).save(tmp_path / "transparent.png")
    for path in tmp_path.glob("*.png"):
        found = prepare(explorer, path.read_bytes())
        assert_prepared_as_for_predict(found, path, metadata)
        assert found[0] < 64, path


def test_a_small_colour_image_is_prepared_and_not_taken_for_one_of_the_datasets(
    explorer, tmp_path: Path, fashion_mnist
):
    metadata = ModelMetadata(fashion_mnist[1].class_names, 28, 1, 10, "FashionMNIST")
    image = fashion_mnist[1].images[1, 0]
    path = tmp_path / "plot.png"
    Image.fromarray(torch.stack([image, image // 2, image // 3], dim=2).numpy()).save(path)
    found = prepare(explorer, path.read_bytes())
    expected, preparation = prepare_image(str(path), metadata)
    assert "prepared" in preparation
    assert (found - expected.flatten()).abs().max() <= 8  # of 255


@pytest.mark.parametrize("color", ["white", "tan"])
def test_a_photograph_of_nothing_is_said_to_show_nothing(explorer, tmp_path: Path, color: str):
    explorer.run("choose(1); update()")
    before = explorer.image
    Image.new("RGB", (300, 400), color).save(tmp_path / "sheet.png")
    explorer.element("file").send_keys(str(tmp_path / "sheet.png"))
    wait_for(lambda: "sheet.png: nothing stands out from its background" in explorer.text("status"))
    assert torch.equal(explorer.image, before)


def test_the_same_file_is_chosen_twice(explorer):
    chosen = []
    for _ in range(2):
        explorer.run("document.getElementById('file').value = ''; choose(0); update()")
        before = explorer.image
        explorer.element("file").send_keys(str(PHOTOGRAPH))
        wait_for(lambda before=before: not torch.equal(explorer.image, before))
        wait_for(lambda: explorer.run("return document.getElementById('file').value") == "")
        chosen.append(explorer.image)
    assert torch.equal(*chosen)
    assert "light on black" in explorer.text("status")
    assert "true class" not in explorer.text("answer")


def test_what_is_no_image_file_is_reported(explorer, tmp_path: Path):
    before = explorer.image
    (tmp_path / "notes.txt").write_text("nothing to see")
    explorer.element("file").send_keys(str(tmp_path / "notes.txt"))
    wait_for(lambda: "notes.txt cannot be read as an image" in explorer.text("status"))
    explorer.run("""const transfer = new DataTransfer();
        const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
        options.dataTransfer.setData("text/uri-list", "file:///shirt.png");
        document.body.dispatchEvent(new DragEvent("drop", options));""")
    wait_for(lambda: "Only a file can be dropped" in explorer.text("status"))
    assert torch.equal(explorer.image, before)


# ---- Why -----------------------------------------------------------------------------------------
SIZES = [(1366, 768), (1600, 900), (1000, 800), (380, 740)]


def test_only_a_click_explains(explorer):
    explorer.click_map(3, 2, 0.5, 0.5)
    assert "conv 2, channel 3" in explorer.text("why-title")
    explorer.move_mouse("maps", 5, 60).perform()
    assert "conv 2, channel 3" in explorer.text("why-title")
    explorer.click_map(6, 4, 0.5, 0.5)
    assert "conv 3, channel 5" in explorer.text("why-title")


def test_pointing_at_a_convolution_shows_window_weights_products_sum_and_bias(explorer, trained):
    image = explorer.image
    network = trained[1].network
    with torch.inference_mode():
        first = network.conv_block_1[0](image)
        third = network.conv_block_1[2](first.relu())[0, 5, 14, 7].item()
        first = first[0, 4, 14, 7].item()
    explorer.click_map(1, 4, 14.5 / 28, 7.5 / 28)
    window, weights, products = explorer.grids()
    assert window == pytest.approx(image[0, 0, 13:16, 6:9].flatten().tolist(), abs=0.0051)
    kernel = network.conv_block_1[0].weight[4].flatten().tolist()
    assert weights == pytest.approx(kernel, abs=0.0051)
    expected = [w * v for w, v in zip(window, weights, strict=True)]
    assert products == pytest.approx(expected, abs=0.02)
    for layer, channel, value in ((1, 4, first), (2, 4, first), (3, 5, third), (4, 5, third)):
        explorer.click_map(layer, channel, 14.5 / 28, 7.5 / 28)
        assert explorer.result()[3] == pytest.approx(value, abs=0.0051)
        after_relu = re.search(r"ReLU makes it ([\d.]+)", explorer.text("why-result"))[1]
        assert float(after_relu) == pytest.approx(max(0, value), abs=0.0051)


def test_pointing_at_a_max_pool_shows_which_of_the_four_was_taken(explorer, trained):
    with torch.inference_mode():
        four = trained[1].network.conv_block_1[:4](explorer.image)[0, 7, 8:10, 12:14].flatten()
    explorer.click_map(5, 7, 4.5 / 14, 6.5 / 14)
    assert explorer.grids()[0] == pytest.approx(four.tolist(), abs=0.0051)
    cells = explorer.driver.find_elements(By.CSS_SELECTOR, "#why-body .grid i")
    assert [cell.get_attribute("class") for cell in cells].index("taken") == four.argmax()


def test_pointing_at_a_class_shows_what_each_place_adds_to_its_logit(explorer, trained):
    expected = logits_of(trained[1], explorer.image)
    for label in (0, 9):
        button = explorer.driver.find_elements(By.CSS_SELECTOR, "#classes button")[label]
        explorer.run("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        total, bias, printed, logit = explorer.result()
        places = explorer.grids()[0]
        assert len(places) == 49
        assert logit == pytest.approx(expected[label].item(), abs=0.0051)
        assert sum(places) == pytest.approx(total, abs=1e-9)
        assert total + bias == pytest.approx(printed, abs=1e-9)
        own_bias = trained[1].network.classifier[1].bias[label].item()
        assert bias == pytest.approx(own_bias, abs=0.0051)


def test_the_maps_are_explored_by_keyboard(explorer):
    before = explorer.image
    explorer.click_map(1, 0, 0.1, 0.1)
    maps = explorer.element("maps")
    explorer.run("arguments[0].focus()", maps)
    maps.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN * 2)
    assert "conv 1, channel 1, row 5, column 4" in explorer.text("why-title")
    maps.send_keys(Keys.SHIFT + Keys.ARROW_RIGHT * 4 + Keys.ARROW_DOWN)
    assert "max-pool 1, channel 2, row 3, column 2" in explorer.text("why-title")
    assert torch.equal(explorer.image, before)  # the keys moved the pointer, not the image


def test_a_finger_enlarges_a_map_and_reaches_its_values(explorer):
    explorer.set_size(380, 740)
    for name in ("maps", "picture"):
        assert explorer.element(name).value_of_css_property("touch-action") == "pan-y"
    explorer.click_map(3, 2, 0.5, 0.5)
    close_up = explorer.element("close-up")
    explorer.run("arguments[0].scrollIntoView()", close_up)
    assert close_up.size["width"] / 28 >= 7  # of the screen's pixels for each of the map's
    script = """const [canvas, share] = arguments, box = canvas.getBoundingClientRect();
        const [x, y] = [box.left + share * box.width, box.top + share * box.height];
        const options = { clientX: x, clientY: y, pointerType: "touch", buttons: 1 };
        canvas.dispatchEvent(new PointerEvent("pointerdown", options))"""
    explorer.run(script, close_up, 10.5 / 28)
    assert "conv 2, channel 3, row 11, column 11" in explorer.text("why-title")


def test_the_same_value_has_the_same_colour(explorer):
    explorer.click_map(3, 5, 0.5, 0.5)
    script = """const rows = [...document.querySelectorAll("#why-body .products > div")];
        const cellsOf = (row, kind) => [...row.querySelectorAll(".grid")[kind].children];
        return [0, 1, 2].map((kind) => rows.flatMap((row) => cellsOf(row, kind)
            .map((cell) => [cell.textContent, cell.style.background])))"""
    for cells in explorer.run(script):  # windows, weights, products
        shades: dict[float, list[int]] = {}
        for text, color in cells:
            value = float(text.replace(MINUS, "-"))
            shades.setdefault(value, []).append(sum(map(int, re.findall(r"\d+", color))))
        assert all(max(same) - min(same) <= 30 for same in shades.values())  # 0.004 is 0.00 too
        for small, large in itertools.permutations(shades, 2):
            if abs(large) > 2 * abs(small) + 0.02 and small * large >= 0:
                assert max(shades[large]) < min(shades[small])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_click_on_a_map_leaves_it_where_it_is_and_uncovered(explorer, width: int, height: int):
    explorer.set_size(width, height)
    step, top = explorer.run("const {step, top} = layout(); return [step, top]")
    script = """const boxOf = (name) => document.querySelector(name).getBoundingClientRect();
        const [x, y] = arguments;
        const at = document.elementFromPoint(boxOf("#maps").left + x, boxOf("#maps").top + y);
        const panel = boxOf("#why");
        const isInSight = (name) =>
            boxOf(name).top >= panel.top && boxOf(name).bottom <= panel.bottom;
        return [scrollY, boxOf("#maps").top, at?.id, panel.height,
            ["#why-title", "#why-result", "#why-body .grid"].filter((name) => !isInSight(name))]"""
    for layer, channel, wanted in ((1, 4, 120), (4, 5, height - 90), (8, 7, height / 2 - 40)):
        explorer.open()
        x, y = (layer - 0.5) * step, top + (channel + 0.5) * step
        builder = explorer.move_mouse("maps", x, y)
        builder.perform()
        explorer.run("scrollBy(0, arguments[0])", 120 - wanted)
        left, shown = explorer.run(
            """const box = document.getElementById("maps").getBoundingClientRect();
            return [box.left + arguments[0], box.top + arguments[1]]""",
            x,
            y,
        )
        before = explorer.run("return [scrollY, maps.getBoundingClientRect().top]")
        builder = ActionBuilder(explorer.driver, duration=0)
        builder.pointer_action.move_to_location(round(left), round(shown)).click()
        builder.perform()
        *after, under, tall, hidden = explorer.run(script, x, y)
        assert f"channel {channel + 1}" in explorer.text("why-title")
        assert after == before
        assert under == "maps", "the panel does not cover what was clicked"
        assert tall <= height / 2
        assert hidden == []
        too_wide = explorer.run(
            """return [...document.querySelectorAll("#why-body, .products > div")]
            .filter((row) => row.scrollWidth > row.clientWidth)
            .map((row) => [row.id, row.scrollWidth, row.clientWidth, row.textContent])"""
        )
        assert too_wide == [], "rows do not overlap"
    explorer.click("close")
    assert not explorer.element("why").is_displayed()
    assert "point=" not in explorer.run("return window.explorer.address()")


def test_the_panel_closes_by_keyboard_and_gives_the_focus_back(explorer):
    explorer.click_map(3, 2, 0.5, 0.5)
    explorer.run("document.getElementById('close').focus()")
    explorer.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not explorer.element("why").is_displayed()
    assert explorer.run("return document.activeElement.id") == "maps"


def assert_printed_numbers_add_up(explorer: Explorer) -> None:
    """In explanations of every convolution and class, added up in whole hundredths."""
    script = """const found = [];
        const read = () => {
            const rows = [...document.querySelectorAll("#why-body .products > div")];
            found.push([
                document.getElementById("why-result").textContent,
                rows.map((row) => [
                    [...row.querySelectorAll(".grid:last-of-type i")].map((i) => i.textContent),
                    row.textContent.split("\u2192")[1] ?? "",
                ]),
                [...document.querySelectorAll("#why-body > .grid i")].map((i) => i.textContent),
            ]);
        };
        layers.forEach(({ kind, channels, height, width }, l) => {
            for (let k = 0; kind === "conv" && k < 40; k++) {
                point([l, k % channels, (7 * k) % height, (5 * k) % width]);
                read();
            }
        });
        classes.forEach((_, k) => { point(k); read(); });
        return found;"""

    def hundredths(text: str) -> int:
        return round(100 * float(text.replace(MINUS, "-")))

    number = rf"{MINUS}?\d+\.\d\d"
    differing = 0
    for result, rows, places in explorer.run(script):
        total, bias, printed = map(
            hundredths, re.search(rf"({number}) \+ bias ({number}) = ({number})", result).groups()
        )
        added = sum(map(hundredths, places))
        for products, sum_of_row in rows:
            of_row = sum(map(hundredths, products))
            assert sum_of_row == "" or hundredths(sum_of_row) == of_row
            added += of_row
        assert added == total
        assert total + bias == printed
        differing += "unrounded" in result
    assert differing > 0, "what the network computes is said too"


def test_the_printed_numbers_add_up(explorer):
    assert_printed_numbers_add_up(explorer)


def test_the_same_product_has_the_same_colour_wherever_the_window_stands(explorer):
    for layer in (1, 3):
        cells = explorer.run(
            """const found = [];
            for (let k = 0; k < 28; k += 3) {
                point([arguments[0], 4, k, (5 * k) % 28]);
                for (const row of document.querySelectorAll("#why-body .products > div")) {
                    const products = row.querySelector(".grid:last-of-type");
                    found.push(...[...products.children].map((cell) =>
                        [cell.textContent, cell.style.background]));
                }
            }
            return found""",
            layer,
        )
        shades: dict[str, list[int]] = {}
        for text, color in cells:
            shades.setdefault(text, []).append(sum(map(int, re.findall(r"\d+", color))))
        assert len(shades) > 5
        assert all(max(same) - min(same) <= 40 for same in shades.values())  # 0.004 is 0.00 too


def test_outside_of_the_image_there_are_no_numbers(explorer):
    script = """point(arguments[0]);
        const textOf = (cell) => (cell.className === "outside" ? null : cell.textContent);
        return [...document.querySelectorAll("#why-body .grid")].map((grid) =>
            [...grid.children].map(textOf))"""
    window, weights, products = explorer.run(script, [1, 0, 0, 0])
    assert [k for k, text in enumerate(window) if text is None] == [0, 1, 2, 3, 6]
    assert None not in weights
    assert products[:4] == ["0.00"] * 4
    assert "outside (hatched) counts as 0" in explorer.text("why-body")
    assert explorer.run(script, [0, 0, 0, 0])[0].count(None) == 16
    explorer.open_chapter("image")
    explorer.run("pick(0, 0)")
    empty = explorer.run("return document.querySelectorAll('#numbers .outside').length")
    assert empty == 49 - 16


def luminance(rgb: Tensor) -> Tensor:
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ torch.tensor([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_maps_can_be_told_from_the_page(explorer, scheme: str):
    explorer.set_size(1600, 1000, prefers_color_scheme=scheme)
    script = """const { side, step, top } = layout(), canvas = document.getElementById("maps");
        const data = canvas.getContext("2d").getImageData(2 * step, top, side, side).data;
        return [[...data], getComputedStyle(document.body).backgroundColor]"""
    pixels, page = explorer.run(script)
    colors = luminance(torch.tensor(pixels).reshape(-1, 4)[:, :3] / 255)
    behind = luminance(torch.tensor([int(v) / 255 for v in re.findall(r"\d+", page)[:3]]))
    contrast = (torch.maximum(colors, behind) + 0.05) / (torch.minimum(colors, behind) + 0.05)
    if scheme == "dark":
        assert (contrast > 1.25).float().mean() > 0.99
    else:  # white is zero on a white page, and each map has a frame
        assert (contrast > 1.25).float().mean() > 0.2


# ---- Learning, and what is asked -----------------------------------------------------------------
def test_the_slider_shows_the_network_as_it_learned(explorer, trained):
    data = explorer.data["networks"]["TinyVGG"]
    for moment in (0, 3, 8):
        explorer.run(
            """const slider = document.getElementById("step"); slider.value = arguments[0];
            slider.dispatchEvent(new Event("input"))""",
            moment,
        )
        network = copy.deepcopy(trained[1].network)
        if moment < 8:
            network.load_state_dict(decode_moment(data, moment))
        with torch.inference_mode():
            expected = 100 * network.eval()(explorer.image)[0].softmax(dim=0)
        assert explorer.shown["TinyVGG"] == pytest.approx(expected.tolist(), abs=0.06)
        accuracy = data["accuracies"][moment]
        said = (
            "random weights" if moment == 0 else f"TinyVGG {100 * accuracy:.1f}\N{NO-BREAK SPACE}%"
        )
        assert said in explorer.text("moment-text")


def test_training_is_played_from_the_start_to_the_end(explorer):
    explorer.run("window.setInterval = (f) => { window.tick = f; return 1; }")
    explorer.click("play-training")
    seen = [explorer.state("moment")]
    while explorer.text("play-training") == "stop":
        explorer.run("window.tick()")
        seen.append(explorer.state("moment"))
    assert list(dict.fromkeys(seen)) == list(range(9))


def test_any_state_is_an_address(explorer):
    explorer.press(Keys.ARROW_LEFT * 2, Keys.ARROW_UP, "m", "r")
    explorer.click_map(4, 3, 0.2, 0.6)
    image = explorer.image
    title = explorer.text("why-title")
    address = explorer.state("address")
    wait_for(lambda: explorer.run("return location.hash") == address)
    explorer.driver.refresh()
    assert torch.equal(explorer.image, image)
    assert explorer.text("why-title") == title
    explorer.open_chapter("learning")
    explorer.run("document.getElementById('step').value = 4; state.moment = 4; update()")
    wait_for(lambda: "step=4" in explorer.run("return location.hash"))
    explorer.driver.refresh()
    assert explorer.state("moment") == 4
    assert explorer.run("return thisChapter().id") == "learning"


NONSENSE = {
    "#image=999&step=99&point=99.99.99.99": "everything",
    "#image=x&step=&shift=&class=-3": "everything",
    "#point=3": "everything",
    "#chapter=99": "image",
    "#chapter=-4&point=10.9.6.6": "image",
    "#chapter=nowhere": "image",
    "#somewhere": "image",
    "#%": "image",
    "": "image",
    "#chapter=convolution&class=2&weights=1,2,x": "convolution",
    "#chapter=pooling&class=2": "pooling",
    "#chapter=mistakes&image=square": "mistakes",
    "#chapter=mistakes&image=0": "mistakes",
}


def test_an_address_that_says_nonsense_is_taken_as_near_as_can_be(explorer):
    for address, chapter in NONSENSE.items():
        explorer.open(address)
        assert explorer.run("return thisChapter().id") == chapter, address
        assert explorer.run("return pixels.length") == 784, address
        assert explorer.run("return pixels.some((v) => v > 0)"), address


def test_addresses_by_number_lead_to_the_chapters_of_that_time(explorer):
    before = (
        *("image", "untrained", "learning", "convolution", "pooling", "softmax"),
        *("shifts", "mistakes", "photograph", "everything"),
    )
    for number, name in enumerate(before, 1):
        explorer.open(f"#chapter={number}")
        assert explorer.run("return thisChapter().id") == name
    explorer.open("#chapter=4&image=3&step=9&point=1.2.10.12")
    assert explorer.state("point") == [1, 2, 10, 12] and explorer.state("image") == 3


@pytest.mark.parametrize("layer", [1, 4])
def test_the_convolution_is_played_value_by_value(explorer, trained, layer: int):
    with torch.inference_mode():
        block = trained[1].network.conv_block_1[:layer]
        expected = block(explorer.image)[0, 2].flatten()
    explorer.click_map(layer, 2, 0.5, 0.5)
    explorer.run("""const button = document.getElementById("step-window");
        for (let step = 0; step < 40; step++) button.click()""")
    played = explorer.run(
        "return [...window.explorer.played()].map((v) => (Number.isNaN(v) ? null : v))"
    )
    found = torch.tensor([math.nan if value is None else value for value in played])
    # Where nothing of the garment is under the window all is there at once; the rest follows.
    there = F.max_pool2d((explorer.image > 0).float(), 3, 1, 1).flatten() > 0
    places = there.nonzero().flatten()
    known = ~there
    known[places[:40]] = True
    assert (~known).any() and (~there).any()
    torch.testing.assert_close(found[known], expected[known], atol=1e-4, rtol=1e-4)
    assert found[~known].isnan().all()
    row, column = divmod(int(places[39]), 28)
    assert f"row {row + 1}, column {column + 1}" in explorer.text("player-text")
    assert f"row {row + 1}, column {column + 1}" in explorer.text("why-title")


def test_without_motion_the_window_goes_in_single_steps_until_it_is_stopped(explorer, trained):
    explorer.set_size(1400, 1000, prefers_reduced_motion="reduce")
    explorer.click_map(1, 0, 0.5, 0.5)
    explorer.run("""const start = window.setInterval;
        window.setInterval = (f, delay) => { window.delay = delay; return start(f, 20); }""")
    computed = """const there = markImage(layers[1]);
        const values = window.explorer.played() ?? [];
        return values.filter((v, k) => there[k] && !Number.isNaN(v)).length"""
    explorer.click("play-window")
    assert explorer.text("play-window") == "stop"
    assert explorer.run("return window.delay") == 500
    wait_for(lambda: explorer.run(computed) >= 3)
    explorer.click("play-window")
    before = explorer.run(computed)
    row = explorer.text("player-text")
    assert explorer.text("play-window") == "slide the window"
    assert explorer.run("return walking") is None
    assert re.fullmatch(r"row \d+, column \d+", row)
    explorer.click("step-window")
    assert explorer.run(computed) == before + 1
    with torch.inference_mode():
        expected = trained[1].network.conv_block_1[0](explorer.image)[0, 0].flatten()
    found = torch.tensor(
        explorer.run("return [...window.explorer.played()].map((v) => (isNaN(v) ? null : v) ?? 99)")
    )
    known = found != 99
    torch.testing.assert_close(found[known], expected[known], atol=1e-4, rtol=1e-4)


def test_occlusion_is_what_a_dark_patch_takes_from_the_probability(explorer, trained):
    wait_for(lambda: len(explorer.run("return window.explorer.covered()")) == 196)
    image = explorer.image
    cnn = trained[1]
    label = int(logits_of(cnn, image).argmax())
    found = explorer.run("return window.explorer.covered()")
    whole = logits_of(cnn, image).softmax(dim=0)[label]
    for place in (0, 31, 90, 104, 195):
        top = 2 * (place // 14) + 1 - 2
        left = 2 * (place % 14) + 1 - 2
        covered = image.clone()
        covered[..., max(0, top) : top + 5, max(0, left) : left + 5] = 0
        expected = whole - logits_of(cnn, covered).softmax(dim=0)[label]
        assert found[place] == pytest.approx(expected.item(), abs=1e-3)
    assert max(found) > 0.01
    name = explorer.run("return classes[arguments[0]]", label)
    wait_for(lambda: "Most in row" in explorer.text("occlusion-text"))
    assert f"probability of {name} falls" in " ".join(explorer.text("occlusion-text").split())


def test_the_shift_map_shows_where_each_network_is_right(open_page, trained, sets):
    torch.manual_seed(0)
    resnet = program.ResNet(hidden_units=4, mirror_averaging=True)
    networks = [*trained, train_little(resnet, sets[0].subset(slice(500)), sets[1])]
    explorer = open_page(networks, sets[1])
    explorer.go("#image=7")
    wait_for(lambda: explorer.run("return window.explorer.rightAt().MLP?.length") == 225)
    image = explorer.image
    shifted = []
    for down, right in itertools.product(range(-7, 8), repeat=2):
        shifted.append(F.pad(image, (right, -right, down, -down)))
    for each in networks:
        found = explorer.run("return window.explorer.rightAt()[arguments[0]]", each.name)
        with torch.inference_mode():
            predictions = each.network.eval()(torch.cat(shifted)).argmax(dim=1)
        assert found == (predictions == 7).tolist()
        assert 0 < sum(found) <= 225
    canvas = explorer.driver.find_element(By.CSS_SELECTOR, "#shift-maps canvas")
    explorer.run("arguments[0].scrollIntoView()", canvas)
    side = canvas.size["width"]
    ActionChains(explorer.driver, duration=0).move_to_element_with_offset(
        canvas, round(4 * side / 15), round(-2 * side / 15)
    ).click().perform()
    assert explorer.run("return window.explorer.state.shift") == [4, -2]
    wait_for(lambda: explorer.run("return window.explorer.rightAt().MLP?.length") == 225)
    explorer.press("m")  # for what was changed the ResNet's answers are not known
    wait_for(lambda: "ResNet" not in explorer.run("return Object.keys(window.explorer.rightAt())"))
    assert "For ResNet only the first images" in explorer.text("shift-text")


class WithoutLastReLU(program.MLP):
    def forward(self, images: Tensor) -> Tensor:
        return self.layer_stack[:-1](images)


def edited_pooling() -> program.TinyVGG:
    network = program.TinyVGG()
    for block in (network.conv_block_1, network.conv_block_2):
        block[4] = nn.AvgPool2d(kernel_size=2)
    return network


def a_layer_less() -> program.TinyVGG:
    network = program.TinyVGG()
    network.conv_block_1[2] = nn.Identity()
    return network


@pytest.mark.parametrize(
    ("edit", "name"),
    [(edited_pooling, "TinyVGG"), (a_layer_less, "TinyVGG"), (WithoutLastReLU, "MLP")],
)
def test_a_network_with_edited_layers_is_said_to_be_another(
    driver, tmp_path: Path, trained, sets, edit: Callable[[], nn.Module], name: str
):
    torch.manual_seed(0)
    edited = train_little(edit(), sets[0].subset(slice(1000)), sets[1], name)
    networks = [edited if each.name == name else each for each in trained]
    write_page(tmp_path, networks, sets[1])
    # Its console is not looked at: where layers are missing the page is incomplete.
    explorer = Explorer(driver, tmp_path)
    wait_for(lambda: explorer.element("edited").is_displayed())
    assert explorer.text("edited").startswith(f"{name} was changed in the program")


def test_networks_as_they_come_are_not_said_to_be_edited(explorer):
    wait_for(lambda: explorer.text("softmax"))  # which is drawn later
    assert explorer.text("edited") == ""
    assert not explorer.element("edited").is_displayed()


def test_the_mlps_units_and_the_way_from_logits_to_shares_are_shown(explorer, trained):
    image = explorer.image
    with torch.inference_mode():
        hidden = trained[0].network.layer_stack[:3](image)[0]
    wait_for(lambda: explorer.text("softmax") and explorer.text("units"))
    units = [float(text) for text in re.findall(r"unit \d+: ([\d.]+)", explorer.text("units"))]
    assert units == pytest.approx(hidden.tolist(), abs=0.0051)
    assert_softmax_is_that_of_pytorch(explorer, trained[1], image)


def test_a_cell_of_a_confusion_matrix_shows_its_mistakes(explorer):
    data = explorer.data
    buttons = explorer.run(
        """return [...document.querySelectorAll("[data-cell]")]
        .map((b) => [b.dataset.cell, b.textContent, b.ariaLabel])"""
    )
    counts = {}
    for name in ("MLP", "TinyVGG"):
        counts[name] = torch.tensor(data["networks"][name]["confusion"])
    mistakes = []
    for index, (cell, count, label) in enumerate(buttons):
        row, column = map(int, cell.split())
        name = label.split(":")[0]
        assert int(count) == counts[name][row, column]
        if row != column and name == "TinyVGG" and int(count) > 1:
            mistakes.append((index, row, column))
    index, row, column = mistakes[0]
    # As a browser does that translates the page: the click comes from an element of its own.
    explorer.run(
        """const cell = document.querySelectorAll("[data-cell]")[arguments[0]];
        cell.innerHTML = `<font>${cell.innerHTML}</font>`;
        cell.firstChild.click()""",
        index,
    )
    chosen = explorer.run(
        """return [...document.querySelectorAll("#mistakes [data-image]")]
        .map((b) => Number(b.dataset.image))"""
    )
    assert 1 <= len(chosen) <= 6
    assert explorer.state("image") == chosen[0]
    for image in chosen:
        assert data["labels"][image] == row
        assert data["networks"]["TinyVGG"]["predictions"][image] == column
    assert explorer.state("label") == column  # and why it is answered
    assert f"{len(chosen)} of {counts['TinyVGG'][row, column]}" in explorer.text("mistakes-text")


def test_the_cells_are_reached_by_arrow_keys(explorer):
    first = explorer.run(
        "const b = document.querySelector('[data-cell]'); b.focus(); return b.dataset.cell"
    )
    explorer.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    row, column = map(int, explorer.run("return document.activeElement.dataset.cell").split())
    assert (row, column) > tuple(map(int, first.split()))
    assert column > 0


def test_the_committed_page_is_that_of_the_committed_networks(fashion_mnist):
    assert (REPOSITORY / "assets/explorer.html").stat().st_size <= 900_000
    data = read_data(REPOSITORY / "assets")
    assert data["classes"] == list(fashion_mnist[1].class_names)
    for name, kind in (("TinyVGG", program.TinyVGG), ("MLP", program.MLP)):
        state = torch.load(MODEL.with_name(kind.model_file), weights_only=True)
        values = torch.cat([tensor.flatten() for tensor in state.values()])
        assert base64.b64decode(data["networks"][name]["last"]) == values.numpy().tobytes()
        assert len(data["networks"][name]["weights"]) == 10
