// photograph.js prepares photographs as image_files.py does: tests/test_page_scripts.py has written
// what that makes of them.
const assert = require("node:assert/strict");
const test = require("node:test");
const { loadCases, loadSource } = require("./load.js");

const { cutFrame, hasLightBorder, lanczos, prepareGarment, prepareInk, resize, toGrey } =
  loadSource("photograph.js", [
    "cutFrame",
    "hasLightBorder",
    "lanczos",
    "prepareGarment",
    "prepareInk",
    "resize",
    "toGrey",
  ]);

const PREPARATIONS = {
  garment: (planes) => prepareGarment(planes),
  ink: (planes, size, inkSize) => prepareInk(cutFrame(planes), size, inkSize),
  square: fitSquare,
  "grey square": (planes, size) => fitSquare([toGrey(planes)], size),
};

function fitSquare(planes, size) {
  const { width, height } = planes[0];
  const side = Math.min(width, height);
  const left = (width - side) / 2;
  const top = (height - side) / 2;
  const box = [left, top, left + side, top + side];
  return planes.flatMap((plane) => [...resize(plane, size, size, lanczos, 3, box).values]);
}

function planesOf([width, height], pixels) {
  const values = new Uint8Array(Buffer.from(pixels, "base64"));
  const area = width * height;
  return [0, 1, 2].map((color) => ({
    width,
    height,
    values: values.subarray(color * area, (color + 1) * area),
  }));
}

for (const { name, preparation, size, pixels, parameters, expected } of loadCases()) {
  test(`${name}: ${preparation}`, () => {
    const planes = planesOf(size, pixels);
    const inside = cutFrame(planes);
    assert.deepEqual([inside[0].width, inside[0].height], expected.sizeInside);
    assert.equal(hasLightBorder(inside), expected.hasLightBorder);
    const found = PREPARATIONS[preparation](planes, ...parameters);
    assert.equal(found.length, expected.values.length);
    const differences = expected.values.map((value, k) => Math.abs(found[k] - value));
    const largest = Math.max(...differences);
    const mean = differences.reduce((sum, difference) => sum + difference) / differences.length;
    assert.ok(largest <= expected.largestDifference, `the largest difference is ${largest}`);
    assert.ok(mean < 0.4, `the mean difference is ${mean}`);
  });
}
