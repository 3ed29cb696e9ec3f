// Layers and networks, computed from their weights: pure functions, which know nothing of the page.
//
// A tensor is {shape, values}. A layer's result is {kind, name, channels, height, width, values};
// its values are in the order of channel, row and column, as PyTorch has them.

/** Return the bytes that a text in base64 stands for. */
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const sizeOf = (shape) => shape.reduce((product, length) => product * length, 1);

/**
 * Return the weights of a network at a moment of its training, by their names in the state dict.
 * They are exact at the last moment, and at the others int8 times the scale of their row.
 */
function decodeWeights(network, moment) {
  if (moment === network.weights.length - 1) {
    return splitExact(network.shapes, new Float32Array(bytesOf(network.last).buffer));
  }
  const rounded = new Int8Array(bytesOf(network.weights[moment]).buffer);
  const scales = new Float32Array(bytesOf(network.scales[moment]).buffer);
  return splitRounded(network.shapes, rounded, scales);
}

function splitExact(shapes, all) {
  const weights = {};
  let first = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const size = sizeOf(shape);
    weights[name] = { shape, values: all.subarray(first, first + size) };
    first += size;
  }
  return weights;
}

function splitRounded(shapes, all, scales) {
  const weights = {};
  let first = 0;
  let firstRow = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const size = sizeOf(shape);
    const rows = shape.length > 1 ? shape[0] : 1;
    const values = new Float32Array(size);
    for (let k = 0; k < size; k++) {
      const row = firstRow + Math.floor((k * rows) / size);
      values[k] = all[first + k] * scales[row];
    }
    weights[name] = { shape, values };
    first += size;
    firstRow += rows;
  }
  return weights;
}

/** Return each channel with a border of one zero, row by row. */
function padWithZeros({ channels, height, width, values }) {
  const padded = new Float32Array(channels * (height + 2) * (width + 2));
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      const first = (channel * height + y) * width;
      const to = (channel * (height + 2) + y + 1) * (width + 2) + 1;
      padded.set(values.subarray(first, first + width), to);
    }
  }
  return padded;
}

/** Return the convolution of 3 x 3 weights with a layer, padded by one. */
function convolve(input, weight, bias, name) {
  const { channels, height, width } = input;
  const padded = padWithZeros(input);
  const area = height * width;
  const out = weight.shape[0];
  const values = new Float32Array(out * area);
  for (let o = 0; o < out; o++) {
    const map = values.subarray(o * area, (o + 1) * area);
    map.fill(bias.values[o]);
    for (let c = 0; c < channels; c++) {
      const first = 9 * (o * channels + c);
      const kernel = weight.values.subarray(first, first + 9);
      addWindows(map, padded, c * (height + 2) * (width + 2), height, width, kernel);
    }
  }
  return { kind: "conv", name, channels: out, height, width, values, weight, bias };
}

/** Add to a map, at each place, the nine values under the window times the nine weights. */
function addWindows(map, padded, start, height, width, kernel) {
  const [k0, k1, k2, k3, k4, k5, k6, k7, k8] = kernel;
  for (let y = 0; y < height; y++) {
    let place = y * width;
    let top = start + y * (width + 2);
    let middle = top + width + 2;
    let bottom = middle + width + 2;
    for (let x = 0; x < width; x++) {
      map[place] +=
        k0 * padded[top] +
        k1 * padded[top + 1] +
        k2 * padded[top + 2] +
        k3 * padded[middle] +
        k4 * padded[middle + 1] +
        k5 * padded[middle + 2] +
        k6 * padded[bottom] +
        k7 * padded[bottom + 1] +
        k8 * padded[bottom + 2];
      place++;
      top++;
      middle++;
      bottom++;
    }
  }
}

function relu(input) {
  const name = input.name.replace("conv", "ReLU");
  return { ...input, kind: "relu", name, values: input.values.map((v) => (v > 0 ? v : 0)) };
}

/** Return the largest of each 2 x 2 square; an odd last row or column is left out. */
function maxPool(input, name) {
  const { channels, values } = input;
  const height = input.height >> 1;
  const width = input.width >> 1;
  const largest = new Float32Array(channels * height * width);
  let place = 0;
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const top = (c * input.height + 2 * y) * input.width + 2 * x;
        const bottom = top + input.width;
        largest[place] = Math.max(values[top], values[top + 1], values[bottom], values[bottom + 1]);
        place++;
      }
    }
  }
  return { kind: "pool", name, channels, height, width, values: largest };
}

/** Return, for each output, its bias and the sum of all inputs times its weights. */
function linear(inputs, weight, bias) {
  return Array.from(bias.values, (sum, output) => {
    const first = output * inputs.length;
    for (let k = 0; k < inputs.length; k++) {
      sum += inputs[k] * weight.values[first + k];
    }
    return sum;
  });
}

/**
 * Return the layers of TinyVGG, from the image, {channels, height, width, values}, to max-pool 2.
 */
function runTinyVGG(image, weights) {
  const input = { ...image, kind: "input", name: "image" };
  const first = runBlock(input, weights, 1);
  const second = runBlock(first.at(-1), weights, 2);
  return [input, ...first, ...second];
}

/** Return the five layers of a block: convolution, ReLU, convolution, ReLU, max-pool. */
function runBlock(input, weights, block) {
  const layers = [];
  for (const k of [0, 1]) {
    const key = `conv_block_${block}.${2 * k}`;
    const name = `conv ${2 * block - 1 + k}`;
    const before = layers.at(-1) ?? input;
    const conv = convolve(before, weights[`${key}.weight`], weights[`${key}.bias`], name);
    layers.push(conv, relu(conv));
  }
  layers.push(maxPool(layers.at(-1), `max-pool ${block}`));
  return layers;
}

/** Return TinyVGG's logits, from the values of max-pool 2. */
function classify(values, weights) {
  return linear(values, weights["classifier.1.weight"], weights["classifier.1.bias"]);
}

/**
 * Return what the MLP computes from an image's values: its hidden units before and after the ReLU,
 * and its logits, which pass a ReLU too.
 */
function runMLP(values, weights) {
  const sums = linear(values, weights["layer_stack.1.weight"], weights["layer_stack.1.bias"]);
  const hidden = sums.map((v) => Math.max(0, v));
  const last = linear(hidden, weights["layer_stack.3.weight"], weights["layer_stack.3.bias"]);
  return { sums, hidden, logits: last.map((v) => Math.max(0, v)) };
}

function softmax(scores) {
  const largest = Math.max(...scores);
  const exponentials = scores.map((z) => Math.exp(z - largest));
  const sum = exponentials.reduce((total, e) => total + e);
  return exponentials.map((e) => e / sum);
}

const indexOfLargest = (values) => values.indexOf(Math.max(...values));
