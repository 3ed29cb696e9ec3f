// network.js computes what PyTorch computes: tests/test_page_scripts.py has written what that is.
const assert = require("node:assert/strict");
const test = require("node:test");
const { loadCases, loadSource } = require("./load.js");

const { bytesOf, classify, decodeWeights, indexOfLargest, runMLP, runTinyVGG, softmax } =
  loadSource("network.js", [
    "bytesOf",
    "classify",
    "decodeWeights",
    "indexOfLargest",
    "runMLP",
    "runTinyVGG",
    "softmax",
  ]);

const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);

function assertClose(found, expected, name) {
  assert.equal(found.length, expected.length, name);
  for (let k = 0; k < expected.length; k++) {
    const difference = Math.abs(found[k] - expected[k]);
    const isClose = difference <= 1e-4 + 1e-4 * Math.abs(expected[k]); // false for NaN
    assert.ok(isClose, `${name} at ${k}: ${found[k]} instead of ${expected[k]}`);
  }
}

/** Compare weights, in the order of the state dict, to the last bit. */
function assertEqualWeights(weights, expected) {
  const found = Object.values(weights).flatMap(({ values }) => [...values]);
  assert.equal(found.length, expected.length);
  assert.equal(
    found.findIndex((value, k) => value !== expected[k]),
    -1,
    "the first weight that differs",
  );
}

function assertTinyVGG(image, weights, expected) {
  const layers = runTinyVGG(image, weights);
  const names = ["image", "conv 1", "ReLU 1", "conv 2", "ReLU 2", "max-pool 1"];
  names.push("conv 3", "ReLU 3", "conv 4", "ReLU 4", "max-pool 2");
  assert.deepEqual(
    layers.map(({ name }) => name),
    names,
  );
  expected.layers.forEach(({ shape, values }, k) => {
    const layer = layers[k + 1]; // the first one is the image
    assert.deepEqual([layer.channels, layer.height, layer.width], shape, layer.name);
    assertClose(layer.values, floatsOf(values), layer.name);
  });
  return classify(layers.at(-1).values, weights);
}

function assertMLP({ values }, weights, expected) {
  const { sums, hidden, logits } = runMLP(values, weights);
  assertClose(sums, floatsOf(expected.sums), "sums");
  assertClose(hidden, floatsOf(expected.hidden), "hidden units");
  return logits;
}

for (const { name, described, shape, image, moments } of loadCases()) {
  test(name, () => {
    const [channels, height, width] = shape;
    const input = { channels, height, width, values: floatsOf(image) };
    assert.equal(moments.length, described.weights.length);
    moments.forEach((expected, moment) => {
      const weights = decodeWeights(described, moment);
      assertEqualWeights(weights, floatsOf(expected.weights));
      const run = "layers" in expected ? assertTinyVGG : assertMLP;
      const logits = run(input, weights, expected);
      assertClose(logits, floatsOf(expected.logits), `logits at moment ${moment}`);
      assertClose(softmax(logits), floatsOf(expected.probabilities), "probabilities");
      assert.equal(indexOfLargest(logits), expected.prediction);
    });
  });
}
