"""Open the explorer page in a browser: its size, how exact and how fast it is, and a screenshot.

python benchmarks/explorer.py    # the page of the last run (needs chromium and chromedriver)
python benchmarks/explorer.py --hidden-units 64    # of a run of one epoch, so wide
python benchmarks/explorer.py --screenshot assets/explorer.png    # also draw it, for the README
"""

import argparse
import base64
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from selenium import webdriver
from speed import print_environment
from textbook import DATA
from torch import Tensor

import fashion_mnist_cnn as program

# Milliseconds of an arrow key on the image: both networks, all maps, probabilities and explanation
# drawn, and the page laid out.
UPDATES = """
const [done] = arguments, times = [], picture = document.getElementById("picture");
requestAnimationFrame(function update() {
  if (times.length === 60) return done(times.slice(10));
  const start = performance.now(), key = times.length % 2 ? "ArrowLeft" : "ArrowRight";
  picture.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  document.body.getBoundingClientRect();
  times.push(performance.now() - start);
  requestAnimationFrame(update);
});
"""
# Milliseconds from the start of loading until the script has run: then the page can be used.
LOADED = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=DATA.parent / "assets", help="of explorer.html (assets)"
    )
    parser.add_argument("--hidden-units", type=int, help="run the program for one epoch first")
    parser.add_argument("--screenshot", type=Path, help="write a PNG file")
    arguments = parser.parse_args()
    print_environment(torch.device("cpu"))
    if arguments.hidden_units:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--hidden-units", str(arguments.hidden_units), "--epochs", "1"]
            folders = ["--models-dir", folder, "--assets-dir", folder]
            command = [sys.executable, program.__file__, *options, *folders]
            subprocess.run(command, check=True, stdout=sys.stderr)
            return measure(Path(folder), None)
    measure(arguments.folder, arguments.screenshot)


def measure(folder: Path, screenshot: Path | None) -> None:
    path = folder / "explorer.html"
    page = path.read_text(encoding="utf-8")
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    moments = len(data["networks"]["TinyVGG"]["weights"])
    size = path.stat().st_size
    print("\n| the page of a run | |\n|---|---|")
    content = f"{moments} moments, {len(data['labels'])} images"
    print(f"| one file | {size / 1000:,.0f} KB: {content} |")
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
    driver.set_script_timeout(120)
    try:
        metrics = {"width": 1400, "height": 1130, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        address = path.resolve().as_uri()
        loaded = []
        for trial in range(5):
            driver.get(f"{address}?{trial}#image=0")  # its last chapter, where everything is
            loaded.append(driver.execute_script(LOADED) / 1000)
        print(f"| until it can be used | {median(loaded):.2f} s |")
        times = driver.execute_async_script(UPDATES)
        print(f"| an arrow key: both networks, maps, answers | {median(times):.1f} ms |")
        difference = largest_difference(driver, data)
        print(f"| logits, largest difference from PyTorch's | {difference:.1e} |")
        if screenshot:
            metrics |= {"width": 1366, "height": 625}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            driver.get(f"{address}?screenshot#chapter=convolution")
            driver.execute_async_script("setTimeout(arguments[0], 3000)")
            screenshot.write_bytes(base64.b64decode(driver.get_screenshot_as_base64()))
    finally:
        driver.quit()


def largest_difference(driver: webdriver.Chrome, data: dict[str, Any]) -> float:
    """Return that between the page's logits and PyTorch's, in the middle and at the end."""
    pixels = torch.frombuffer(bytearray(base64.b64decode(data["images"])), dtype=torch.uint8)
    images = program.to_float(pixels.reshape(len(data["labels"]), *data["shape"]))
    script = """const [name, moment] = arguments;
        return labels.map((_, k) => window.explorer.logits(name, storedImage(k), moment))"""
    differences = []
    for name, network in data["networks"].items():
        last = len(network["weights"]) - 1
        for moment in (last // 2, last):
            state = decode(network, moment)
            kind, sizes = program.recognize_network(state)
            with torch.inference_mode():
                expected = program.fill_network(kind, sizes, state).eval()(images)
            found = torch.tensor(driver.execute_script(script, name, moment))
            differences.append((found - expected).abs().max().item())
    return max(differences)


def decode(network: dict[str, Any], moment: int) -> dict[str, Tensor]:
    """Return the weights that the page has: float32 at the last moment, int8 before."""
    is_last = moment == len(network["weights"]) - 1
    text = network["last"] if is_last else network["weights"][moment]
    dtype = torch.float32 if is_last else torch.int8
    values = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)
    scale_bytes = bytearray(base64.b64decode(network["scales"][moment]))
    scales = torch.frombuffer(scale_bytes, dtype=torch.float32)
    state = {}
    for key, shape in network["shapes"].items():
        count = math.prod(shape)
        rows = shape[0] if len(shape) > 1 else 1
        tensor = values[:count].float().view(rows, -1)
        state[key] = (tensor if is_last else tensor * scales[:rows, None]).view(shape)
        values = values[count:]
        scales = scales[rows:]
    return state


if __name__ == "__main__":
    main()
