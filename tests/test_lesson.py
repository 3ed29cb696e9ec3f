"""The chapters of the explorer page in a real browser: for everyone, at all sizes, printed."""

import base64
import copy
import itertools
import math
import re
from pathlib import Path

import axe_core_python
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

import fashion_mnist_cnn as program
from conftest import PHOTOGRAPH, decode_moment
from explorer_page import (
    LONG_NAMES,
    MINUS,
    Explorer,
    assert_softmax_is_that_of_pytorch,
    logits_of,
    prepare,
    train_little,
    wait_for,
)
from fashion_mnist_extras.explorer import (
    read_source,
)
from fashion_mnist_extras.prediction import ModelMetadata, prepare_image

pytest_plugins = ["explorer_page"]


# ---- The chapters --------------------------------------------------------------------------------
# What each chapter speaks of, by what finds it.
SUBJECTS = {
    "image": ["#picture", "#numbers .grid", "#way", "#thumbnails button"],
    "convolution": ["#picture", "#sums .grid", "#close-up", "#square", "#play-window", "#kernel"],
    "pooling": ["#before-0", "#before-1", "#before-2", "#four-0 .grid", "#four-2 .grid"],
    "softmax": ["#parts-map", "#softmax tbody tr:last-child td"],
    "untrained": ["#picture", "#classes li:last-child", "#thumbnails button"],
    "learning": ["#accuracy-curves svg", "#loss-curves svg", "#step", "#classes li:last-child"],
    "shifts": ["#unit-0", "#unit-1", "#map-0", "#map-1", "#average svg", "#far", "#verdict"],
    "mistakes": ["#picture", "#guesses button:last-child"],
    "photograph": ["#picture", ".choose", "#classes li:last-child"],
}
SCREENS = [(1366, 625), (1920, 1080), (390, 844)]


HIDDEN = """
const [selectors, scrolls] = arguments;
const faultOf = (found) => {
    if (scrolls) found.scrollIntoView({ block: "center" });
    const { left, right, top, bottom, width } = found.getBoundingClientRect();
    if (!width || left < 0 || right > innerWidth + 0.5) return [left, right, "across"];
    if (top < 0 || bottom > innerHeight + 0.5) return [top, bottom, "down"];
    for (const share of [0.1, 0.5, 0.9]) {
        const x = left + share * (right - left), y = top + share * (bottom - top);
        const above = document.elementFromPoint(x, y);
        if (!found.contains(above) && !above.contains(found)) return above.outerHTML;
    }
};
return selectors.map((selector) => [selector, faultOf(document.querySelector(selector))])
    .filter(([, fault]) => fault);
"""


@pytest.mark.parametrize("zoom", [1, 1.5])
@pytest.mark.parametrize("screen", SCREENS)
def test_what_a_chapter_speaks_of_is_in_sight(explorer, screen, zoom: float):
    width, height = (round(side / zoom) for side in screen)
    explorer.set_size(width, height, scale=zoom)
    assert [*SUBJECTS, "everything"] == explorer.chapters
    for number, name in enumerate(SUBJECTS):
        explorer.run("turnTo(arguments[0])", number)
        assert explorer.run("return document.documentElement.scrollWidth") <= width, name
        parts = ("h2", ".text p", "summary", ".next")
        common = [f"article:not([hidden]) {part}" for part in parts]
        # On a phone, or where all is enlarged, one scrolls; else all is there at once.
        hidden = explorer.run(HIDDEN, [*common, *SUBJECTS[name]], width < 1056)
        assert hidden == [], name


def test_texts_are_readable_from_the_last_row_and_short(explorer):
    explorer.set_size(1366, 625)
    script = """const texts = [], walker = document.createTreeWalker(
            document.querySelector("article:not([hidden])"), NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const parent = walker.currentNode.parentElement;
            if (walker.currentNode.data.trim() && parent.checkVisibility())
                texts.push([walker.currentNode.data, parent.closest("svg") ? 0
                    : parseFloat(getComputedStyle(parent).fontSize)]);
        }
        return texts"""
    widths = """return [...document.querySelectorAll("article:not([hidden]) .text p")].map((p) =>
        p.clientWidth / parseFloat(getComputedStyle(p).fontSize))"""
    for number, name in enumerate(explorer.chapters[:-1]):
        explorer.run("turnTo(arguments[0])", number)
        for text, size in explorer.run(script):
            assert size == 0 or size >= 16 or len(text) < 3, (name, text)
            assert not re.search("undefined|NaN|null|Infinity", text), (name, text)
        # A character of this type is about half as wide as high.
        assert all(width / 0.5 <= 75 for width in explorer.run(widths)), name


def test_chapters_are_turned_by_keys_buttons_swipes_and_by_their_list(explorer):
    explorer.open("")
    reached = [explorer.state("chapter")]

    def note() -> None:
        reached.append(explorer.state("chapter"))

    body = explorer.driver.find_element(By.TAG_NAME, "body")
    for key in (Keys.ARROW_RIGHT, Keys.PAGE_DOWN, Keys.PAGE_UP, Keys.ARROW_LEFT):
        body.send_keys(key)
        note()
    explorer.run("document.querySelector('article:not([hidden]) .next').click()")
    note()
    explorer.click("next")
    note()
    explorer.click("previous")
    note()
    swipe = """const [from, to, selector] = arguments, target = document.querySelector(selector);
        const finger = (clientX) => new Touch({ identifier: 1, target, clientX, clientY: 300 });
        const send = (type, touches, changedTouches) =>
            target.dispatchEvent(new TouchEvent(type, { bubbles: true, touches, changedTouches }));
        send("touchstart", [finger(from)], [finger(from)]);
        send("touchend", [], [finger(to)])"""
    explorer.run(swipe, 300, 100, "article:not([hidden]) .text")
    note()
    explorer.run(swipe, 100, 300, "article:not([hidden]) .text")
    note()
    explorer.run(swipe, 300, 100, "#picture")  # which is drawn on, and shifted
    note()
    explorer.run("""const list = document.getElementById("chapters"); list.value = 4;
        list.dispatchEvent(new Event("change"))""")
    note()
    assert reached == [0, 1, 2, 1, 0, 1, 2, 1, 2, 1, 1, 4]
    assert explorer.run("return document.activeElement.textContent").startswith("5. ")
    wait_for(lambda: "chapter=untrained" in explorer.run("return location.hash"))
    assert (
        explorer.driver.title
        == "A network begins with a guess · How a neural network learns to see"
    )


def test_presenters_keys_turn_the_chapter_wherever_the_focus_is(explorer):
    explorer.open_chapter("learning")
    slider = explorer.element("step")
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    assert explorer.run("return thisChapter().id") == "learning" and explorer.state("moment") == 3
    slider.send_keys(Keys.PAGE_DOWN)
    assert explorer.run("return thisChapter().id") == "shifts"
    explorer.element("far").send_keys(Keys.PAGE_UP)
    assert explorer.run("return thisChapter().id") == "learning" and explorer.state("moment") == 3
    explorer.element("chapters").send_keys(Keys.PAGE_UP)
    assert explorer.run("return thisChapter().id") == "untrained"
    explorer.open("#chapter=everything")
    explorer.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.PAGE_DOWN)
    wait_for(lambda: explorer.run("return scrollY") > 100)
    assert explorer.run("return thisChapter().id") == "everything"
    body = explorer.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.HOME)
    wait_for(lambda: explorer.run("return scrollY") == 0)
    body.send_keys(Keys.PAGE_UP)
    assert explorer.run("return thisChapter().id") == "photograph"


def test_a_chapter_is_found_as_it_was_left(explorer):
    explorer.open_chapter("convolution")
    explorer.click("square")
    explorer.click("channel")
    square, point = explorer.image, explorer.state("point")
    address = explorer.run("return window.explorer.address()")
    body = explorer.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.PAGE_DOWN)
    assert explorer.run("return thisChapter().id") == "pooling"
    body.send_keys(Keys.PAGE_UP)
    assert torch.equal(explorer.image, square) and explorer.state("point") == point
    body.send_keys(Keys.PAGE_DOWN)
    explorer.driver.back()
    wait_for(lambda: explorer.run("return thisChapter().id") == "convolution")
    assert torch.equal(explorer.image, square) and explorer.state("point") == point
    explorer.open(address)
    assert torch.equal(explorer.image, square) and explorer.state("point") == point


def test_without_an_address_of_its_own_chapters_are_turned_too(explorer):
    """In JupyterLab the page may not change the address."""
    explorer.open("")
    explorer.run("""history.pushState = history.replaceState = () => {
        throw new DOMException("not of this document", "SecurityError");
    }""")
    for button, chapter in (("next", 1), ("next", 2), ("previous", 1)):
        explorer.click(button)
        assert explorer.state("chapter") == chapter


def test_arrow_keys_on_the_image_do_not_turn_the_chapter(explorer):
    explorer.open("")
    explorer.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert explorer.state("chapter") == 0
    assert explorer.state("point") == [0, 0, 15, 15]


def test_every_chapter_asks_a_question_whose_answer_can_be_shown(explorer):
    for number in range(len(explorer.chapters) - 1):
        explorer.run("turnTo(arguments[0])", number)
        details = explorer.driver.find_element(By.CSS_SELECTOR, "article:not([hidden]) details")
        answer = details.find_element(By.TAG_NAME, "p")
        assert details.text.endswith("?") and not answer.is_displayed()
        details.find_element(By.TAG_NAME, "summary").click()
        wait_for(lambda answer=answer: answer.is_displayed() and answer.text.endswith("."))


def test_the_numbers_beside_the_image_are_its_pixels(explorer):
    explorer.open_chapter("image")
    explorer.run("pick(10, 12)")
    found = explorer.grids("#numbers .grid")[0]
    assert found == pytest.approx(explorer.image[0, 0, 7:14, 9:16].flatten().tolist(), abs=0.0051)


def test_untrained_the_shares_hardly_depend_on_the_image_as_is_said(explorer, trained):
    data = explorer.data
    explorer.open_chapter("untrained")
    network = copy.deepcopy(trained[1].network)
    network.load_state_dict(decode_moment(data["networks"]["TinyVGG"], 0))
    images = torch.tensor(explorer.run("return [...imageBytes]")).reshape(-1, 1, 28, 28)[:10]
    with torch.inference_mode():
        shares = 100 * network(images / 255).softmax(dim=1)
    explorer.run("document.querySelector('article:not([hidden]) summary').click()")
    answer = "article:not([hidden]) details p"
    wait_for(lambda: explorer.text_of(answer))
    said = [int(text) for text in re.findall(r"(\d+)\s%", explorer.text_of(answer))]
    assert said == [math.floor(shares.min()), math.ceil(shares.max())]
    before = explorer.shown
    explorer.run("document.querySelectorAll('#thumbnails button')[3].click()")
    for name, shares in explorer.shown.items():
        assert shares == pytest.approx(before[name], abs=3), "of 100"
    assert explorer.state("moment") == 0


def test_the_curves_are_of_all_test_images_and_of_training_images(explorer, trained):
    explorer.open_chapter("learning")
    data = explorer.data["networks"]
    for step in (0, 5, 8):
        explorer.run("state.moment = arguments[0]; update()", step)
        said = explorer.run("return document.querySelector('#accuracy-curves svg').ariaLabel")
        for each in trained:
            assert re.search(
                rf"{each.name} {100 * each.history[step].test_accuracy:.1f}\s%", said
            ), said
    for each in trained:
        described = data[each.name]
        assert described["losses"] == [record.test_loss for record in each.history]
        assert described["trainLosses"] == [record.train_loss for record in each.history]
        assert described["trainAccuracies"] == [record.train_accuracy for record in each.history]


def test_a_convolution_is_computed_on_the_garment_and_on_a_drawn_square(explorer, trained):
    explorer.open_chapter("convolution")
    for _ in range(2):
        image = explorer.image
        _, channel, y, x = explorer.state("point")
        with torch.inference_mode():
            expected = trained[1].network.conv_block_1[0](image)[0, channel, y, x].item()
        window, weights, products = explorer.grids("#sums .grid")
        seen = F.pad(image, (1, 1, 1, 1))[0, 0, y : y + 3, x : x + 3].flatten().tolist()
        assert window == pytest.approx(seen, abs=0.0051)
        expected_products = [a * b for a, b in zip(window, weights, strict=True)]
        assert products == pytest.approx(expected_products, abs=0.02)
        total, bias, printed, exact = explorer.result("sum-text")
        assert exact == pytest.approx(expected, abs=0.0051)
        assert sum(products) == pytest.approx(total, abs=1e-9)
        assert total + bias == pytest.approx(printed, abs=1e-9)
        explorer.click("square")
    assert explorer.state("image") >= 0, "and back to the garment"
    before = explorer.state("point")[1]
    explorer.click("channel")
    assert explorer.state("point")[1] == (before + 1) % 10


def test_printed_products_add_up_to_the_printed_sum(explorer):
    explorer.open_chapter("convolution")
    for row, column in itertools.product(range(0, 28, 3), repeat=2):
        explorer.run("pick(arguments[0], arguments[1])", row, column)
        products = explorer.grids("#products-0 .grid")[0]
        total, bias, result, _ = explorer.result("sum-text")
        assert sum(v for v in products if v is not None) == pytest.approx(total, abs=1e-9)
        assert total + bias == pytest.approx(result, abs=1e-9)


def type_weights(explorer: Explorer, *texts: str) -> None:
    """Type into the nine weights, as a visitor does: one after the other."""
    for cell, text in zip(
        explorer.driver.find_elements(By.CSS_SELECTOR, "#kernel input"), texts, strict=True
    ):
        cell.send_keys(Keys.CONTROL + "a")
        cell.send_keys(text)


def test_nine_weights_are_set_and_the_map_follows(explorer, trained):
    explorer.open_chapter("convolution")
    channel = explorer.state("point")[1]
    trained_map = torch.tensor(explorer.run("return [...layers[1].values]"))
    type_weights(explorer, "-1", f"{MINUS}2", "-1", "0", "0", "0", "1", "2,0", "1.0")
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
    image = explorer.image
    bias = trained[1].network.conv_block_1[0].bias[[channel]].detach()
    expected = F.conv2d(image, kernel[None, None], bias, padding=1)[0, 0]
    found = torch.tensor(explorer.run("return [...layers[1].values]")).reshape(10, 28, 28)
    torch.testing.assert_close(found[channel], expected, atol=1e-5, rtol=1e-5)
    others = [k for k in range(10) if k != channel]
    assert torch.equal(found[others], trained_map.reshape(10, 28, 28)[others])
    assert explorer.run("return state.kernel") == kernel.flatten().tolist()
    assert "weights of your own" in explorer.text("channel-text")
    address = explorer.run("return window.explorer.address()")
    explorer.open(address)
    assert explorer.run("return state.kernel") == kernel.flatten().tolist()
    first, second, *_ = explorer.driver.find_elements(By.CSS_SELECTOR, "#kernel input")
    for text in ("x", "", "1e", "1e999", "1000", "Infinity"):
        first.send_keys(Keys.CONTROL + "a", Keys.DELETE, text)
        assert first.get_attribute("aria-invalid") == "true"
        assert explorer.run("return state.kernel") == kernel.flatten().tolist(), "as before"
    second.click()
    assert first.get_attribute("value") == f"{MINUS}1.00"
    assert first.get_attribute("aria-invalid") == "false"
    explorer.run("document.querySelector('[data-kernel=blur]').click()")
    assert len(set(explorer.run("return state.kernel"))) == 1
    explorer.run("document.querySelector('[data-kernel=trained]').click()")
    assert torch.equal(torch.tensor(explorer.run("return [...layers[1].values]")), trained_map)


def test_relu_and_max_pool_are_shown_on_four_values_some_below_zero(explorer, trained):
    explorer.open_chapter("pooling")
    _, channel, y, x = explorer.state("point")
    with torch.inference_mode():
        maps = trained[1].network.conv_block_1[:3](explorer.image)[0, channel]
    four = maps[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten()
    assert four.min() < 0 < four.max()
    for k, expected in enumerate((four, four.relu(), four.relu().max()[None])):
        found = explorer.grids(f"#four-{k} .grid")[0]
        assert found == pytest.approx(expected.tolist(), abs=0.0051)


def test_shares_follow_from_logits_and_a_class_can_be_asked(explorer, trained):
    explorer.open_chapter("softmax")
    assert_softmax_is_that_of_pytorch(explorer, trained[1], explorer.image)
    explorer.run("document.querySelectorAll('#softmax button')[2].click()")
    assert explorer.state("label") == 2
    assert "Pullover" in explorer.text("parts-text")


def test_the_mlps_sum_changes_by_a_shift_and_the_average_is_shown(explorer, trained):
    explorer.open_chapter("shifts")
    assert "was searched for" in explorer.text("searched")
    network = trained[0].network
    whole = explorer.image.sum()
    for far in (0, 2, 6):
        explorer.run(
            """const slider = document.getElementById("far"); slider.value = arguments[0];
            slider.dispatchEvent(new Event("input"))""",
            far,
        )
        assert max(map(abs, explorer.state("shift"))) == far
        with torch.inference_mode():
            sums = network.layer_stack[:2](explorer.image)[0]  # before the ReLU
        text = explorer.text("unit-text-1").replace(MINUS, "-")
        unit, value = re.search(r"unit (\d+), sum: (-?[\d.]+)", text).groups()
        assert float(value) == pytest.approx(sums[int(unit) - 1].item(), abs=0.0051)
        assert "Of 100 test images, shifted" in explorer.text("average")
        said = explorer.run("return document.querySelector('#average svg').ariaLabel")
        for each in trained:
            share = float(re.search(rf"{each.name} ([\d.]+)\s%", said)[1])
            assert share == pytest.approx(100 * each.shift_accuracy[far], abs=0.051)
            prediction = int(logits_of(each, explorer.image).argmax())
            name = explorer.run("return classes[arguments[0]]", prediction)
            mark = "✓" if prediction == explorer.run("return truth") else "✗"
            assert f"{each.name}: {name} {mark}" in explorer.text("verdict")
        if far == 0:
            whole = explorer.image.sum()
    gone = 100 * (1 - explorer.image.sum() / whole).item()
    assert gone > 1
    said = re.search(r"(\d+)\s% of the brightness", explorer.text("searched"))[1]
    assert float(said) == pytest.approx(gone, abs=0.51)


def guess(explorer: Explorer, label: int) -> None:
    explorer.run("document.querySelector(`[data-guess='${arguments[0]}']`).click()", label)


def test_one_guesses_before_the_answers_are_shown(explorer):
    explorer.open_chapter("mistakes")
    data = explorer.data
    predictions = data["networks"]["TinyVGG"]["predictions"]
    told = explorer.element("told")
    assert not told.is_displayed() and explorer.text("guessed") == ""
    seen = []
    right = 0
    for number in range(1, 7):
        image = explorer.state("image")
        seen.append(image)
        truth = data["labels"][image]
        assert not told.is_displayed()
        guess(explorer, truth if number % 2 else (truth + 1) % 10)
        assert told.is_displayed()
        right += predictions[image] == truth
        said = explorer.text("guessed")
        assert f"were right in {(number + 1) // 2} of {number}, TinyVGG in {right}." in " ".join(
            said.split()
        )
        explorer.click("another")
    assert len(set(seen)) == len(seen)
    guessed = explorer.run("return GUESSED")
    wrong = [predictions[k] != data["labels"][k] for k in guessed]
    assert sorted(set(guessed)) == sorted(guessed)
    assert 0.4 <= sum(wrong) / len(wrong) <= 0.6, "a guess is not won by construction"


def test_a_mistake_that_mirroring_fixes_is_mirrored(explorer, trained):
    data = explorer.data
    described = data["networks"]["TinyVGG"]
    images = torch.tensor(explorer.run("return [...imageBytes]")).reshape(-1, 1, 28, 28) / 255
    labels = torch.tensor(data["labels"])
    with torch.inference_mode():
        mirrored = trained[1].network.eval()(images.flip(3)).softmax(dim=1)
    is_fixed = (torch.tensor(described["predictions"]) != labels) & (
        mirrored.argmax(dim=1) == labels
    )
    assert set(described["fixedByMirroring"]) == set(is_fixed.nonzero().flatten().tolist())
    shares = mirrored[described["fixedByMirroring"], labels[described["fixedByMirroring"]]]
    assert shares.diff().max() <= 0, "the clearest comes first"
    explorer.open_chapter("mistakes")
    assert explorer.state("image") == described["fixedByMirroring"][0]
    guess(explorer, 0)
    explorer.click("mirror")
    truth = explorer.run("return classes[truth]")
    assert f"Mirrored, TinyVGG answers {truth}" in explorer.text("mirrored")
    assert torch.equal(explorer.image, images[described["fixedByMirroring"][:1]].flip(3))
    explorer.click("mirror")
    assert explorer.text("mirrored") == ""
    others = [k for k in explorer.run("return GUESSED") if k not in described["fixedByMirroring"]]
    explorer.run("choose(arguments[0]); update()", others[0])
    guess(explorer, 0)
    assert not explorer.element("mirror").is_displayed()


def test_of_the_max_pool_it_is_said_how_much_a_shift_by_a_pixel_leaves(explorer, trained):
    explorer.open_chapter("pooling")
    explorer.run("document.querySelector('article:not([hidden]) summary').click()")
    answer = "article:not([hidden]) details p"
    wait_for(lambda: explorer.text_of(answer))
    image = explorer.image
    with torch.inference_mode():
        pooled = trained[1].network.conv_block_1(image)[0]
        shown = (image[0, 0] > 0).nonzero().tolist()
        there = torch.zeros(14, 14, dtype=torch.bool)
        for y, x in shown:
            there[max(0, y // 2 - 1) : y // 2 + 2, max(0, x // 2 - 1) : x // 2 + 2] = True
        counted = there & (pooled > 0)
        stays = []
        for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            shifted = F.pad(image, (right, -right, down, -down))
            difference = trained[1].network.conv_block_1(shifted)[0] - pooled
            stays.append(difference.abs()[counted] < 1e-4)
    share = 100 * torch.cat(stays).float().mean().item()
    assert 5 < share < 95
    said = re.search(r"(\d+)\s% stay exactly", explorer.text_of(answer))[1]
    assert float(said) == pytest.approx(share, abs=0.51)


def test_equal_shares_of_the_mlp_are_explained_where_there_are_some(explorer, trained):
    explorer.open_chapter("learning")
    counts = set()
    for image in range(10):
        explorer.run("follow(arguments[0]); state.moment = LAST; update()", image)
        zeros = int((logits_of(trained[0], explorer.image) == 0).sum())
        counts.add(zeros)
        found = re.search(r"(\d+) equal shares", explorer.text("ties"))
        assert (int(found[1]) if found else 1) == max(1, zeros)
    assert max(counts) > 1
    explorer.run("turnTo(findChapter('photograph'))")
    assert explorer.text("ties") == ""


def test_the_strip_of_the_whole_network_frames_where_the_lesson_is(explorer):
    explorer.open_chapter("image")
    script = """return [...document.querySelectorAll("article:not([hidden]) #way li")]
        .filter(({ ariaCurrent }) => ariaCurrent).map(({ title }) => title)"""
    expected = {
        "image": ["image"],
        "convolution": ["conv 1"],
        "pooling": ["conv 2", "ReLU 2", "max-pool 1"],
        "softmax": ["logits", "shares"],
        "shifts": ["max-pool 1"],
    }
    for number, name in enumerate(explorer.chapters[:-1]):
        explorer.run("turnTo(arguments[0])", number)
        framed = explorer.run(script)
        assert framed == expected.get(name, framed)
        assert len(framed) == 13 if name in ("untrained", "learning") else 1 <= len(framed) < 13


FOLLOWING = ("image", "convolution", "pooling", "softmax", "untrained", "learning", "shifts")


def test_lines_lead_from_the_frame_from_the_first_moment_on(explorer):
    explorer.set_size(1366, 625)
    lines = """return [...document.querySelectorAll("article:not([hidden]) svg.lines line")]
        .map(({ x1, y1 }) => [x1.baseVal.value, y1.baseVal.value])"""
    for name in ("image", "convolution"):
        explorer.open_chapter(name)
        drawn = explorer.run(lines)
        place = """const stage = stageOf(arguments[0]).getBoundingClientRect();
            const box = document.getElementById("picture").getBoundingClientRect();
            const [row, column, size] = thisChapter().frame();
            const at = (y, x) => [box.left - stage.left + x * box.width / W,
                box.top - stage.top + y * box.height / H];
            return [at(row, column + size), at(row + size, column + size)];"""
        for found, expected in zip(drawn, explorer.run(place, name), strict=True):
            assert found == pytest.approx(expected, abs=3)
    explorer.run("pick(0, 27)")
    right = explorer.run("""const box = document.getElementById("picture").getBoundingClientRect();
        return box.right - stageOf("convolution").getBoundingClientRect().left""")
    assert max(x for x, _ in explorer.run(lines)) <= right + 1, "none from outside of the image"


def test_weights_stay_in_their_channel(explorer):
    explorer.open_chapter("convolution")
    explorer.click("channel")
    explorer.click("channel")
    explorer.run("document.querySelector('[data-kernel=edges]').click()")
    state = """return [state.point[1], [...document.querySelectorAll("#kernel input")]
        .map(({ value }) => value), [...layers[1].values], [...layers[2].values]]"""
    before = explorer.run(state)
    assert before[1][:3] == [f"{MINUS}1.00", "0.00", "1.00"]
    explorer.run("turnTo(findChapter('softmax')); turnTo(findChapter('convolution'))")
    assert explorer.run(state) == before
    explorer.open(explorer.run("return window.explorer.address()"))
    assert explorer.run(state) == before
    explorer.open("#chapter=everything&weights=1,1,1,1,1,1,1,1,1&image=0")
    assert explorer.run("return state.kernel") is None, "there they could not be put back"


def test_going_back_chooses_no_other_image(explorer):
    explorer.open("")
    followed = explorer.run("return followed.index")
    explorer.run("turnTo(findChapter('shifts'))")  # which has searched an example
    assert explorer.state("image") != followed
    explorer.run("turnTo(findChapter('mistakes'))")
    explorer.driver.back()
    wait_for(lambda: explorer.run("return thisChapter().id") == "shifts")
    explorer.run("turnTo(findChapter('pooling'))")
    assert explorer.state("image") == followed
    explorer.driver.back()
    explorer.open("#chapter=pooling&image=3")
    explorer.run("turnTo(findChapter('softmax'))")
    assert explorer.state("image") == 3, "a link chooses it"


def test_one_image_goes_through_all_chapters(explorer):
    explorer.open_chapter("image")
    explorer.run("document.querySelectorAll('#thumbnails button')[6].click()")
    chosen = explorer.image
    for name in FOLLOWING[1:]:
        explorer.run("turnTo(findChapter(arguments[0]))", name)
        if name == "shifts":
            explorer.run("state.shift = [0, 0]; update()")
        assert torch.equal(explorer.image, chosen), name
    explorer.run("turnTo(findChapter('mistakes'))")
    assert not torch.equal(explorer.image, chosen), "there one guesses"
    explorer.run("turnTo(findChapter('everything'))")
    assert torch.equal(explorer.image, chosen)


def test_a_photograph_goes_through_all_chapters(explorer):
    explorer.open_chapter("photograph")
    explorer.element("file").send_keys(str(PHOTOGRAPH))
    wait_for(lambda: "light on black" in explorer.text("status"))
    own = explorer.image
    for name in FOLLOWING:
        explorer.run("turnTo(findChapter(arguments[0]))", name)
        if name == "shifts":
            assert not re.search("[✓✗]", explorer.text("verdict")), "its class is not known"
            explorer.run("state.shift = [0, 0]; update()")
        assert torch.equal(explorer.image, own), name
    explorer.run("turnTo(findChapter('image'))")
    explorer.run("document.querySelectorAll('#thumbnails button')[2].click()")
    explorer.run("turnTo(findChapter('pooling'))")
    assert explorer.state("image") == 2, "another one was chosen"


def test_a_photograph_stands_beside_what_is_made_of_it(explorer):
    explorer.open_chapter("photograph")
    assert not explorer.element("original").is_displayed()
    explorer.element("file").send_keys(str(PHOTOGRAPH))
    wait_for(lambda: "light on black" in explorer.text("status"))
    for name in ("photo", "picture", "classes"):
        assert explorer.element(name).is_displayed()
    width, height = Image.open(PHOTOGRAPH).size
    size = explorer.run("const c = document.getElementById('photo'); return [c.width, c.height]")
    assert size == [width, height]


def test_a_photograph_stays_at_hand_and_makes_way_for_an_error(explorer, tmp_path: Path):
    explorer.open_chapter("photograph")
    example = explorer.image
    explorer.element("file").send_keys(str(PHOTOGRAPH))
    wait_for(lambda: "light on black" in explorer.text("status"))
    own = explorer.image
    assert not torch.equal(own, example)
    for name in ("everything", "photograph"):
        explorer.run("turnTo(arguments[0])", explorer.chapters.index(name))
        assert torch.equal(explorer.image, own), name
    (tmp_path / "notes.txt").write_text("nothing to see")
    explorer.element("file").send_keys(str(tmp_path / "notes.txt"))
    wait_for(lambda: "cannot be read" in explorer.text("status"))
    assert torch.equal(explorer.image, example), "no answer to the image before stands beside it"
    assert not explorer.element("original").is_displayed()


def test_a_photograph_of_many_pixels_is_made_smaller_first(explorer, tmp_path: Path, fashion_mnist):
    Image.open(PHOTOGRAPH).resize((4000, 5333)).save(tmp_path / "large.jpg")
    found = prepare(explorer, (tmp_path / "large.jpg").read_bytes())
    metadata = ModelMetadata(fashion_mnist[1].class_names, 28, 1, 10, "FashionMNIST")
    expected, _ = prepare_image(str(tmp_path / "large.jpg"), metadata)
    difference = (found - expected.flatten()).abs().float()
    assert difference.mean() < 2 and difference.max() < 40, "of 255"


def test_a_browser_that_gives_other_pixels_than_were_drawn_is_said_to(explorer):
    explorer.run("""const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;
        OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...place) {
            const found = read.apply(this, place);
            found.data.forEach((v, k) => { found.data[k] = v ^ (k % 3); });
            return found;
        }""")
    before = explorer.image
    explorer.element("file").send_keys(str(PHOTOGRAPH))
    wait_for(lambda: "does not let pages read images" in explorer.text("status"))
    assert torch.equal(explorer.image, before)


def test_without_scripts_it_says_what_to_do():
    notice = re.search(r"<noscript\s*>(.*?)</noscript\s*>", read_source("page.html"), re.DOTALL)[1]
    assert "Trust HTML" in notice and "needs scripts" in " ".join(notice.split())


@pytest.mark.parametrize("page", ["color_folder", "many_folder"])
def test_chapters_hold_for_other_images_and_classes(
    driver, console, page: str, request: pytest.FixtureRequest
):
    explorer = Explorer(driver, request.getfixturevalue(page))
    explorer.set_size(1366, 625)
    for number, name in enumerate(explorer.chapters[:-1]):
        explorer.run("turnTo(arguments[0])", number)
        text = explorer.stage(name)
        assert not re.search("undefined|NaN|null|Infinity", text), name
        shown = "return document.querySelectorAll('#classes li:not([hidden])').length"
        assert explorer.run(shown) <= 12


# ---- Boxes ---------------------------------------------------------------------------------------
# Texts, pictures and inputs that are to be seen, and do not contain each other.
OVERLAPS = """
const article = document.querySelector("article:not([hidden])");
const isSeen = (box) => box.checkVisibility({ visibilityProperty: true }) && box.offsetParent;
const boxes = [...article.querySelectorAll(
    "h2, p, button, input, canvas, details, .grid, table, label, figcaption, .arrow, li, .curve")]
    .filter((box) => isSeen(box) && !box.closest(".thumbnails") && box.id !== "way-text");
const places = boxes.map((box) => box.getBoundingClientRect());
const faults = [];
boxes.forEach((one, k) => {
    const a = places[k];
    if (a.width && (a.left < -0.5 || a.right > innerWidth + 0.5))
        faults.push(["across", one.outerHTML.slice(0, 80), a.left, a.right]);
    for (let l = k + 1; l < boxes.length; l++) {
        const other = boxes[l], b = places[l];
        if (one.contains(other) || other.contains(one)) continue;
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 1)
            faults.push([one.outerHTML.slice(0, 80), other.outerHTML.slice(0, 80)]);
    }
});
return faults.slice(0, 3);
"""


@pytest.mark.parametrize("page", ["page_folder", "color_folder", "many_folder"])
def test_boxes_do_not_overlap(driver, console, page: str, request: pytest.FixtureRequest):
    explorer = Explorer(driver, request.getfixturevalue(page))
    for width, height in (
        (1280, 720),
        (1366, 625),
        (1920, 1080),
        (961, 600),
        (800, 900),
        (390, 844),
    ):
        explorer.set_size(width, height)
        for number, name in enumerate(explorer.chapters[:-1]):
            explorer.run("turnTo(arguments[0])", number)
            if name == "mistakes":
                explorer.run("document.querySelector('[data-guess]').click()")
            assert explorer.run(OVERLAPS) == [], (width, name)
            assert explorer.run("return document.documentElement.scrollWidth") <= width, name


@pytest.mark.parametrize("width", [320, 390, 800])
def test_bars_have_room_on_a_device_with_a_camera(explorer, width: int):
    explorer.set_size(width, 800)
    explorer.run("turnTo(findChapter('photograph'))")
    widths = explorer.run("""return [...document.querySelectorAll("#classes .bar > :first-child")]
        .map((track) => track.getBoundingClientRect().width)""")
    assert len(widths) == 20 and min(widths) >= 40
    names = explorer.run("""return [...document.querySelectorAll("#classes bdi")]
        .map((name) => name.getClientRects().length)""")
    assert names == [1] * 10, "each on one line"


def test_zoom_enlarges_text_by_as_much(explorer):
    size = "return parseFloat(getComputedStyle(document.body).fontSize)"
    explorer.set_size(1366, 625)
    normal = explorer.run(size)
    explorer.set_size(911, 417, scale=1.5)
    assert 1.5 * explorer.run(size) >= 1.4 * normal
    rule = re.search(r"\nhtml \{[^}]*font-size: ([^;]+);", read_source("style.css"))[1]
    assert "100%" in rule, "of the size that is set in the browser"


# ---- For everyone --------------------------------------------------------------------------------
@pytest.mark.parametrize(("width", "scheme"), [(380, "light"), (1400, "dark")])
def test_axe_finds_nothing(explorer, width: int, scheme: str):
    explorer.set_size(width, 900, prefers_color_scheme=scheme)
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
    explorer.run(axe + ";window.axe = axe")
    wait_for(lambda: "Most in row" in explorer.text("occlusion-text"))
    script = """const [rules, done] = arguments;
        const options = { resultTypes: ["violations"], ...rules };
        axe.run(document, options).then((results) => done(results.violations))"""
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    for number, name in reversed(list(enumerate(explorer.chapters))):
        explorer.run("turnTo(arguments[0])", number)
        violations = explorer.driver.execute_async_script(script, rules)
        found = [(v["id"], [node["html"][:90] for node in v["nodes"][:3]]) for v in violations]
        assert found == [], name


def test_the_answer_is_announced_and_says_which_network(explorer, trained):
    assert explorer.element("answer").get_attribute("aria-live") == "polite"
    names = explorer.run("return classes")
    for each in trained:
        expected = names[int(logits_of(each, explorer.image).argmax())]
        assert re.search(rf"{each.name}: {re.escape(expected)} \d+\s%", explorer.text("answer"))
    bar = explorer.driver.find_element(By.CSS_SELECTOR, "#classes .bar b")
    assert bar.value_of_css_property("forced-color-adjust") == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_image_chosen_has_a_frame_with_a_gap(explorer, scheme: str):
    explorer.set_size(1366, 768, prefers_color_scheme=scheme)
    explorer.run("choose(3); update()")
    chosen = explorer.driver.find_element(By.CSS_SELECTOR, "#thumbnails [aria-pressed=true]")
    assert chosen.get_attribute("data-image") == "3"
    style = chosen.value_of_css_property
    frame = "rgb(204, 121, 167)"
    assert style("outline-color").replace("rgba", "rgb").startswith(frame[:-1])
    assert style("outline-style") == "solid" and style("outline-width") == "3px"
    assert style("padding-left") == "2px"
    page = explorer.run("return getComputedStyle(document.body).backgroundColor")
    found = explorer.run("return getComputedStyle(arguments[0]).backgroundColor", chosen)
    assert found == page, "the gap between image and frame"


def test_in_forced_colours_answers_are_not_greyed_and_pressed_tools_are_marked(explorer):
    explorer.set_size(1366, 768, forced_colors="active")
    colors = explorer.run("""const probe = document.createElement("i");
        document.body.append(probe);
        return ["CanvasText", "GrayText", "Highlight"].map((name) => {
            probe.style.color = name;
            return getComputedStyle(probe).color;
        })""")
    text, grey, highlight = colors
    pressed = explorer.driver.find_element(By.CSS_SELECTOR, "[data-tool=move]")
    background = "return getComputedStyle(arguments[0]).backgroundColor"
    assert explorer.run(background, pressed) == highlight
    other = explorer.driver.find_element(By.CSS_SELECTOR, "[data-tool=draw]")
    assert explorer.run(background, other) != highlight
    explorer.run("turnTo(1)")
    button = explorer.driver.find_element(By.CSS_SELECTOR, "#classes button")
    assert not button.is_enabled()
    assert explorer.run("return getComputedStyle(arguments[0]).color", button) == text != grey


def test_numbers_are_printed_readably(explorer):
    printed = explorer.run(
        "return [1.2345e-5, 0.01234, 1.2, 123.4, 1234.5, 123456, 4.56e9].map(threeDigits)"
    )
    times = "\N{MULTIPLICATION SIGN}"
    small = f"1.23 {times} 10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT FIVE}"
    large = f"4.56 {times} 10\N{SUPERSCRIPT NINE}"
    assert printed == [small, "0.0123", "1.20", "123", "1,230", "123,000", large]
    assert explorer.run("return [-0.004, -1.234, 0.005].map(twoDigits)") == [
        "0.00",
        f"{MINUS}1.23",
        "0.01",
    ]


def test_long_names_of_classes_break_nothing(driver, console, many_folder: Path):
    explorer = Explorer(driver, many_folder)
    script = """const track = (bar) => parseFloat(getComputedStyle(bar).gridTemplateColumns);
        const seen = [...document.querySelectorAll(".bar")].filter((bar) => bar.offsetParent);
        const sizes = (selector) => [...document.querySelectorAll(selector)]
            .filter((each) => each.offsetParent)
            .map((each) => [each.clientHeight, each.clientWidth,
                parseFloat(getComputedStyle(each).fontSize)]);
        return [document.documentElement.scrollWidth, Math.min(999, ...seen.map(track)),
            sizes("#classes span[title]"), sizes("#softmax .short"),
            sizes(".matrix tbody .short"), sizes(".matrix thead .short")]"""
    for width in (320, 699, 1000, 1300, 2000):
        explorer.set_size(width, 800)
        for number in (3, 7, 9):  # softmax, mistakes, everything
            explorer.run("turnTo(arguments[0])", number)
            explorer.run("drawSoftmax()")
            page, bar, buttons, table, rows, columns = explorer.run(script)
            assert page <= width, number
            assert bar >= 40, (width, number)
            assert all(high <= 2.9 * font for high, _, font in buttons)
            assert all(wide <= 12.1 * font and high < 2 * font for high, wide, font in table + rows)
            assert all(high <= 12.1 * font for high, _, font in columns)
    name = explorer.driver.find_element(By.CSS_SELECTOR, ".matrix tbody .short")
    assert name.get_attribute("title") == name.get_attribute("textContent") == LONG_NAMES[0]
    explorer.set_size(380, 740)
    explorer.run("point(0)")
    assert LONG_NAMES[0] in explorer.text("why-title")
    assert explorer.element("why-title").size["height"] < 80


def test_curves_of_loss_have_a_round_limit_gaps_and_a_legend(explorer):
    explorer.run("""const holder = document.getElementById("lesson");
        holder.hidden = false;
        holder.innerHTML = `<div id="drawn" style="width: 400px">${drawCurves({
            title: "Loss",
            lines: [
                { name: "MLP", values: [2.31, 1.2, 0.7] },
                {
                    name: "MLP",
                    label: "MLP, training images",
                    values: [null, 1.1, 0.5],
                    isDashed: true,
                },
                { name: "TinyVGG", values: [2.3, 0.9, 0.4] },
                { name: "TinyVGG", label: "TinyVGG, training images", values: [null, null, 0.3] },
            ],
            ticks: [0, 1, 2],
            now: 0,
            axis: "epochs",
            range: "loss",
        })}</div>`""")
    svg = explorer.driver.find_element(By.CSS_SELECTOR, "#drawn svg")
    assert svg.get_attribute("aria-label") == (
        "Loss: MLP 2.31, MLP, training images, TinyVGG 2.30, TinyVGG, training images"
    )
    texts = [each.text for each in svg.find_elements(By.TAG_NAME, "text")]
    assert texts == ["0", "1.5", "3", "0", "1", "2", "epochs"]
    lines = svg.find_elements(By.TAG_NAME, "polyline")
    counts = [len(line.get_attribute("points").split()) for line in lines]
    assert counts == [3, 2, 3]
    assert [bool(line.get_attribute("stroke-dasharray")) for line in lines] == [False, True, False]
    assert len(svg.find_elements(By.TAG_NAME, "circle")) == 1
    boxes = [
        key.rect for key in explorer.driver.find_elements(By.CSS_SELECTOR, "#drawn .keys span")
    ]
    for one, other in itertools.combinations(boxes, 2):
        is_beside = one["x"] + one["width"] <= other["x"]
        is_above = one["y"] + one["height"] <= other["y"] + 1
        assert is_beside or is_above
    assert explorer.run("return [0, 0.07, 0.4, 2.31, 9, 120].map(roundUp)") == pytest.approx(
        [1, 0.08, 0.4, 3, 10, 150]
    )


def test_every_class_and_thumbnail_is_reached_with_the_tab_key(explorer):
    explorer.run("""document.activeElement.blur();
        scrollTo(0, 0);
        window.reached = [];
        document.addEventListener("focusin", ({ target }) =>
            reached.push(target.id || target.ariaLabel || target.textContent.trim()))""")
    ActionChains(explorer.driver).send_keys(Keys.TAB * 70).perform()
    reached = set(explorer.run("return window.reached"))
    names = explorer.run("return classes")
    assert {f"image {k + 1}: {name}" for k, name in enumerate(names)} <= reached
    assert {"picture", "maps", "step", "play-training", "undo", "empty"} <= reached
    for name in names:
        assert any(text.removeprefix("✓ ").startswith(name) for text in reached), name


@pytest.mark.parametrize("width", [380, 700, 1000, 1600, 2000])
def test_nothing_is_cut_off_at_any_width(explorer, width: int):
    explorer.set_size(width, 900)
    assert explorer.run("return document.documentElement.scrollWidth") <= width
    assert explorer.run("return layout().side") >= 28  # a pixel of the screen for each of a map's


# ---- Print ---------------------------------------------------------------------------------------
def test_all_chapters_are_printed_one_on_a_page_and_answers_on_their_own(explorer):
    explorer.open_chapter("convolution")
    explorer.run("pick(12, 9); state.kernel = [0, 0, 0, 0, 2, 0, 0, 0, 0]; update()")
    before = explorer.run("return [window.explorer.address(), [...layers[1].values]]")
    explorer.run("window.onbeforeprint()")
    articles = explorer.driver.find_elements(By.CSS_SELECTOR, "#print article")
    assert len(articles) == len(explorer.chapters)  # of the last chapter it is the answers
    for article, name in zip(articles, explorer.chapters[:-1], strict=False):
        text = article.get_attribute("textContent")
        title = explorer.run("return CHAPTERS[findChapter(arguments[0])].title", name)
        assert title in text
        assert re.search(r"For the teacher: \d+ minutes. Ask: .*\?", text)
        blank = explorer.run(
            """return [...arguments[0].querySelectorAll(".stage canvas")].filter((canvas) => {
                if (canvas.closest("[hidden]")) return false;
                const { width, height } = canvas;
                const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                return !data.some((v) => v);
            }).map((canvas) => canvas.id)""",
            article,
        )
        assert blank == [], name
    answers = articles[-1].get_attribute("textContent")
    for chapter in explorer.run("return CHAPTERS.slice(0, -1).map(({ question }) => question)"):
        assert chapter in answers
    assert articles[-1].find_elements(By.TAG_NAME, "dd")[2].get_attribute("textContent")
    explorer.run("window.onafterprint()")
    assert explorer.driver.find_elements(By.CSS_SELECTOR, "#print *") == []
    assert explorer.run("return [window.explorer.address(), [...layers[1].values]]") == before
    options = {"preferCSSPageSize": True}
    printed = explorer.driver.execute_cdp_cmd("Page.printToPDF", options)["data"]
    pages = re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed))
    assert len(pages) == len(explorer.chapters)


# ---- As a file, and in a frame -------------------------------------------------------------------
def test_a_file_of_any_name_in_any_folder_is_opened(driver, console, page_folder: Path, tmp_path):
    folder = tmp_path / "my lesson #1 100%"
    folder.mkdir()
    copied = folder / "explorer (1).html"
    copied.write_bytes((page_folder / "explorer.html").read_bytes())
    driver.get(f"{copied.as_uri()}#chapter=pooling")
    assert driver.execute_script("return thisChapter().id") == "pooling"


def test_in_a_sandbox_chapters_are_turned_and_nothing_is_requested(
    driver, console, page_folder: Path, tmp_path: Path
):
    """As in JupyterLab: a blob in a frame that may run scripts, and nothing else."""
    content = base64.b64encode((page_folder / "explorer.html").read_bytes()).decode()
    host = tmp_path / "host.html"
    host.write_text(
        f"""<iframe sandbox="allow-scripts" width="1200" height="700"></iframe><script>
        const bytes = Uint8Array.from(atob("{content}"), (character) => character.charCodeAt(0));
        const blob = new Blob([bytes], {{ type: "text/html" }});
        document.querySelector("iframe").src = URL.createObjectURL(blob);
        </script>"""
    )
    driver.get(host.as_uri())
    driver.switch_to.frame(0)
    wait_for(lambda: driver.execute_script("return Boolean(window.explorer)"))
    assert driver.execute_script("return self.origin") == "null"
    for name in ("convolution", "pooling", "softmax"):
        driver.find_element(By.ID, "next").click()
        assert driver.execute_script("return thisChapter().id") == name
    driver.find_element(By.ID, "chapters").send_keys(Keys.PAGE_UP)
    assert driver.execute_script("return thisChapter().id") == "pooling"
    requested = driver.execute_script("return performance.getEntriesByType('resource').length")
    assert requested == 0
    driver.switch_to.default_content()


HOSTILE = (
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='broken = 1'>",
    "&lt;",
)


def test_a_class_is_not_taken_for_a_part_of_the_page(open_page, sets):
    few = sets[1].subset(slice(100))
    names = (*HOSTILE, *few.class_names[3:])
    hostile = program.ImageSet(few.images, few.labels, names)
    torch.manual_seed(0)
    networks = [program.MLP(), program.TinyVGG()]
    explorer = open_page([train_little(each, hostile, hostile) for each in networks], hostile)
    for number in range(len(explorer.chapters)):
        explorer.run("turnTo(arguments[0])", number)
    explorer.run("point(0)")
    assert HOSTILE[0] in explorer.text("why-title")
    assert explorer.run("return window.broken") is None
    assert explorer.run("return classes.slice(0, 3)") == list(HOSTILE)
