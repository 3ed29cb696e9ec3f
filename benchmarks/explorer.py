"""Open the explorer page in a browser: its size, how exact and how fast it is, and a screenshot.

python benchmarks/explorer.py    # the page of the last run (needs chromium and chromedriver)
python benchmarks/explorer.py --screenshot assets/explorer.png    # also draw it, for the README
"""

import argparse
import base64
import json
from pathlib import Path
from statistics import median

import torch
from selenium import webdriver
from textbook import DATA

import fashion_mnist_cnn as program

# Milliseconds of an arrow key: both networks, all maps, probabilities and explanation drawn, and
# the page laid out.
UPDATES = """
const [done] = arguments, times = [];
requestAnimationFrame(function update() {
  if (times.length === 60) return done(times.slice(10));
  const start = performance.now(), key = times.length % 2 ? "ArrowLeft" : "ArrowRight";
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  document.body.getBoundingClientRect();
  times.push(performance.now() - start);
  requestAnimationFrame(update);
});
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=DATA.parent / "assets", help="of explorer.html (assets)"
    )
    parser.add_argument(
        "--screenshot", type=Path, help="write a PNG file, of a garment shifted by four pixels"
    )
    arguments = parser.parse_args()
    data_path = arguments.folder / "explorer_data.js"
    print(f"{data_path.name}: {data_path.stat().st_size:,} bytes")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-sync",
        "hide-scrollbars",
    ):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        metrics = {"width": 1400, "height": 1130, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get((arguments.folder / "explorer.html").resolve().as_uri())
        print_differences(driver, data_path)
        times = driver.execute_async_script(UPDATES)
        print(
            f"an arrow key: {median(times):.1f} ms, the slowest of {len(times)} {max(times):.1f} ms"
        )
        if arguments.screenshot:
            for _ in range(4):
                driver.execute_script("press('arrowright')")
            driver.execute_script("point({layer: 1, channel: 9, y: 15, x: 15})")
            arguments.screenshot.write_bytes(base64.b64decode(driver.get_screenshot_as_base64()))
    finally:
        driver.quit()


def print_differences(driver: webdriver.Chrome, data_path: Path) -> None:
    """Print the largest difference between the page's logits and PyTorch's over the gallery."""
    data = json.loads(
        data_path.read_text().removeprefix("window.explorerData = ").removesuffix(";\n")
    )
    pixels = torch.frombuffer(bytearray(base64.b64decode(data["images"])), dtype=torch.uint8)
    images = program.to_float(pixels.reshape(len(data["labels"]), *data["shape"]))
    for name, tensors in data["networks"].items():
        state = {}
        for key, (shape, text) in tensors.items():
            state[key] = torch.frombuffer(
                bytearray(base64.b64decode(text)), dtype=torch.float32
            ).reshape(shape)
        kind, sizes = program.recognize_network(state)
        network = kind.build(sizes)
        network.load_state_dict(state)
        with torch.inference_mode():
            expected = network.eval()(images)
        script = (
            "return labels.map((_, k) => window.explorer.logits(arguments[0], galleryImage(k)))"
        )
        difference = (
            (torch.tensor(driver.execute_script(script, name)) - expected).abs().max().item()
        )
        print(
            f"{name}: logits of {len(images)} images differ from PyTorch's "
            f"by at most {difference:.1e}"
        )


if __name__ == "__main__":
    main()
