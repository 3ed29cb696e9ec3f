// What the run wrote: images, and networks at moments of their training; what follows from them.

const element = (id) => document.getElementById(id);
const DATA = JSON.parse(document.getElementById("data").textContent);
const [C, H, W] = DATA.shape; // channels, height and width of an image
const { classes, labels } = DATA;
const NAMES = Object.keys(DATA.networks); // MLP and TinyVGG, or TinyVGG alone
const isFashion = DATA.dataset === "FashionMNIST";
const EXAMPLE = DATA.typical - 1; // the image that goes through all chapters at first
const LAST = DATA.networks.TinyVGG.weights.length - 1; // the last of the moments of training

const imageBytes = bytesOf(DATA.images);

/** Return the values of a stored image: C * H * W numbers in [0, 1]. */
function storedImage(k) {
  const size = C * H * W;
  return Float32Array.from(imageBytes.subarray(k * size, (k + 1) * size), (byte) => byte / 255);
}

const asLayer = (values) => ({ channels: C, height: H, width: W, values });

const decoded = new Map(); // weights, by name and moment
function weightsOf(name, moment) {
  const key = `${name} ${moment}`;
  if (!decoded.has(key)) {
    decoded.set(key, decodeWeights(DATA.networks[name], moment));
  }
  return decoded.get(key);
}

/** Return a network's logits for an image at a moment; TinyVGG's layers if they are known. */
function logits(name, image, moment = state.moment, known = null) {
  const weights = weightsOf(name, moment);
  if (name === "MLP") {
    return runMLP(image, weights).logits;
  }
  const found = known ?? runTinyVGG(asLayer(Float32Array.from(image)), weights);
  return classify(found.at(-1).values, weights);
}

/** Return the share of all test images that a trained network gets right. */
function accuracyOf(name) {
  const { confusion } = DATA.networks[name];
  const right = confusion.reduce((sum, row, k) => sum + row[k], 0);
  return right / confusion.flat().reduce((sum, count) => sum + count);
}

const countWeights = (name) =>
  Object.values(DATA.networks[name].shapes).reduce((sum, shape) => sum + sizeOf(shape), 0);

/** Return a class's name in HTML, cut off where it is too long for its place. */
function shortName(k) {
  const name = escapeHtml(classes[k]);
  return `<bdi class="short" title="${name}">${name}</bdi>`;
}

/** Return a class's name in HTML, in its own direction of writing. */
const nameOf = (k) => `<bdi>${escapeHtml(classes[k])}</bdi>`;
