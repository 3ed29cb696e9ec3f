// How the picture of each chapter is drawn, and what can be done on it.

const stageOf = (id) => element(`chapter-${id}`).querySelector(".stage");

/** Draw lines from a box on the image, [row, column, size], to the numbers beside it. */
function connect(id, canvas, [row, column, size], target) {
  const stage = stageOf(id);
  const outer = stage.getBoundingClientRect();
  const from = canvas.getBoundingClientRect();
  const to = target.getBoundingClientRect();
  const unit = from.width / W;
  // What is outside of the image is not drawn.
  const top = from.top + unit * Math.max(0, row);
  const bottom = from.top + unit * Math.min(H, row + size);
  const x = from.left + unit * Math.min(W, column + size);
  const lines = [
    [x, top, to.left, to.top],
    [x, bottom, to.left, to.bottom],
  ].map(([x1, y1, x2, y2]) => {
    return `<line x1="${x1 - outer.left}" y1="${y1 - outer.top}"
      x2="${x2 - outer.left}" y2="${y2 - outer.top}"/>`;
  });
  stage.querySelector("svg.lines").innerHTML = lines.join("");
}

/** Return the place of a layer whose score(channel, row, column, value) is the largest. */
function bestPoint(all, l, score) {
  const { channels, height, width, values } = all[l];
  const area = height * width;
  let best = -Infinity;
  let found = [l, 0, 0, 0];
  for (let k = 0; k < Math.min(MOST, channels) * area; k++) {
    const place = [Math.floor(k / area), Math.floor((k % area) / width), k % width];
    const value = score(...place, values[k]);
    if (value > best) {
      best = value;
      found = [l, ...place];
    }
  }
  return found;
}

const trainedLayers = (image) => runTinyVGG(asLayer(image), weightsOf("TinyVGG", LAST));

/** Point at a pixel of the image: in a chapter that asks for it. */
function pick(row, column) {
  const layer = thisChapter().id === "image" ? 0 : 1;
  point([layer, state.point[1], clampIndex(row, H), clampIndex(column, W)]);
}

// ---- An image is numbers ------------------------------------------------------------------------
const SEEN = C > 1 ? 2 : 3; // how far around a pixel the numbers are shown
const COLORS = ["red", "green", "blue"];

function drawNumbers() {
  const [, , y, x] = state.point;
  const size = 2 * SEEN + 1;
  const grids = [];
  for (let c = 0; c < C; c++) {
    const seen = windowOf(layers[0], c, y - SEEN, x - SEEN, size);
    const middle = SEEN * size + SEEN;
    const title = C > 1 ? `<span>${COLORS[c]}</span>` : "";
    grids.push(title + grid(seen, size, 1, { taken: middle, isImage: true }));
  }
  element("numbers").innerHTML = grids.join("");
  const box = [y - SEEN, x - SEEN, size];
  connect("image", element("picture"), box, element("numbers").querySelector(".grid"));
}

// ---- A convolution ------------------------------------------------------------------------------
const KERNELS = {
  edges: [-1, 0, 1, -1, 0, 1, -1, 0, 1],
  blur: Array(9).fill(0.11), // as two digits are printed
  trained: null,
};

/**
 * Return the place of conv 1 at which an edge answers most, in a channel of weights of both signs.
 */
function findEdge() {
  const { values } = weightsOf("TinyVGG", LAST)["conv_block_1.0.weight"];
  const all = trainedLayers(original);
  const contrasts = [];
  for (let channel = 0; channel < all[1].channels; channel++) {
    const kernel = [...values.subarray(9 * channel * C, 9 * (channel + 1) * C)];
    const sum = kernel.reduce((total, v) => total + v);
    const size = kernel.reduce((total, v) => total + Math.abs(v), 1e-9);
    contrasts.push(1 - Math.abs(sum) / size);
  }
  return bestPoint(all, 1, (channel, row, column, value) => {
    const isAtBorder = Math.min(row, column, H - 1 - row, W - 1 - column) < 2;
    return isAtBorder ? 0 : value * contrasts[channel] ** 3;
  });
}

/** Return weights with these nine in a channel of conv 1, for each colour. */
function setKernel(weights, channel, kernel) {
  const name = "conv_block_1.0.weight";
  const { shape, values } = weights[name];
  const changed = values.slice();
  for (let c = 0; c < C; c++) {
    changed.set(kernel, 9 * (channel * C + c));
  }
  return { ...weights, [name]: { shape, values: changed } };
}

function prepareConvolution() {
  const rows = [];
  for (let c = 0; c < C; c++) {
    const title = C > 1 ? `<b>${"RGB"[c]}</b>` : "";
    rows.push(`<div class="sum">${title}<span id="seen-${c}"></span><span>×</span>
      <span id="weights-${c}">${c ? "" : writeWeightInputs()}</span><span>=</span>
      <span id="products-${c}"></span></div>`);
  }
  element("sums").innerHTML = `${rows.join("")}<p id="sum-text"></p>`;
  if (C > 1) {
    element("sums").closest(".row").classList.add("in-color");
  }
  for (const input of document.querySelectorAll("#kernel input")) {
    input.oninput = readKernel;
    input.onblur = show;
  }
  for (const button of document.querySelectorAll("[data-kernel]")) {
    button.onclick = () => {
      state.kernel = KERNELS[button.dataset.kernel];
      update();
    };
  }
  element("square").onclick = toggleSquare;
  element("channel").onclick = () => {
    state.kernel = null;
    const [l, channel, y, x] = state.point;
    const count = Math.min(MOST, layers[1].channels);
    state.point = [l, (channel + 1) % count, y, x];
    update();
  };
}

function writeWeightInputs() {
  const inputs = [];
  for (let k = 0; k < 9; k++) {
    const place = `row ${Math.floor(k / 3) + 1}, column ${(k % 3) + 1}`;
    inputs.push(`<input inputmode="decimal" aria-label="weight, ${place}">`);
  }
  return `<span class="grid" id="kernel" style="--columns: 3">${inputs.join("")}</span>`;
}

/** Take over the nine weights as they are typed; one that is no number is marked, and ignored. */
function readKernel() {
  const typed = [...document.querySelectorAll("#kernel input")].map((input) => {
    const value = Number(input.value.replace("−", "-").replace(",", ".") || NaN);
    input.ariaInvalid = !isWeight(value);
    return value;
  });
  if (typed.every(isWeight)) {
    state.kernel = typed;
    update();
  }
}

/** Show the drawn square, or again the image that is followed; the window stays in its place. */
function toggleSquare() {
  const kept = state.point;
  if (state.image === SQUARE) {
    setImage(followed.values, followed.label, followed.index);
  } else {
    setImage(drawSquare(), -1, SQUARE);
  }
  Object.assign(state, { point: kept, isOpen: true });
  update();
}

function drawConvolution() {
  const [, channel, y, x] = state.point;
  const [input, conv] = layers;
  const parts = productsAt(conv, input, channel, y, x);
  const scales = scalesOf(conv, input, channel);
  parts.forEach(({ seen, kernel, products }, c) => {
    element(`seen-${c}`).innerHTML = grid(seen, 3, scales.seen, { isImage: true });
    element(`products-${c}`).innerHTML = grid(products, 3, scales.products);
    if (c === 0) {
      showKernel(kernel, scales.weights);
    } else {
      element(`weights-${c}`).innerHTML = grid(kernel, 3, scales.weights);
    }
  });
  const sums = parts.map(({ roundedSum }) => roundedSum);
  const value = valueAt(conv, channel, y, x);
  element("sum-text").innerHTML = addUp("sum", sums, conv.bias.values[channel], value);
  const count = Math.min(MOST, conv.channels);
  const own = state.kernel ? ", with weights of your own" : "";
  element("channel-text").textContent = `conv 1, channel ${channel + 1} of ${count}${own}`;
  element("square").textContent = state.image === SQUARE ? `show the ${thing}` : "draw a square";
  element("player").hidden = false;
  drawCloseUp();
  const target = element("seen-0").firstChild;
  connect("convolution", element("picture"), frameOfPoint(), target);
}

/** Write the nine weights, but for the one that is being typed. */
function showKernel(kernel, largest) {
  [...document.querySelectorAll("#kernel input")].forEach((input, k) => {
    const rgb = colorOf(kernel[k] / largest);
    input.style.background = `rgb(${rgb})`;
    input.style.color = inkOn(rgb);
    if (document.activeElement !== input) {
      input.value = twoDigits(kernel[k]);
      input.ariaInvalid = false;
    }
  });
}

/** Keep what is pointed at in a layer: at another one the chapter begins anew. */
function keepPointIn(l, find) {
  state.label = -1;
  state.isOpen = true;
  if (state.point[0] !== l) {
    state.point = find();
  }
}

// ---- ReLU and max-pool --------------------------------------------------------------------------
/** Return the place of max-pool 1 whose four values differ most, some of them below zero. */
function findPool() {
  const all = trainedLayers(original);
  return bestPoint(all, 5, (channel, row, column) => {
    const four = windowOf(all[3], channel, 2 * row, 2 * column, 2);
    const most = Math.max(...four);
    const least = Math.min(...four);
    return Math.min(most, -least, 0.5 * (most - least));
  });
}

const DIRECTIONS = [
  [1, 0],
  [-1, 0],
  [0, 1],
  [0, -1],
];

/**
 * Return the share of max-pool 1's values, where it is not empty, that a shift by a pixel leaves.
 */
function shareStaying() {
  const before = layers[5];
  let count = 0;
  let staying = 0;
  for (const direction of DIRECTIONS) {
    const shift = [state.shift[0] + direction[0], state.shift[1] + direction[1]];
    const weights = weightsOf("TinyVGG", state.moment);
    const after = runTinyVGG(asLayer(render(shift)), weights)[5];
    const there = markImage(before);
    before.values.forEach((v, k) => {
      if (there[k % there.length] && v > 0) {
        count++;
        staying += Math.abs(after.values[k] - v) < 1e-4;
      }
    });
  }
  return staying / Math.max(1, count);
}

function preparePooling() {
  const move = (y, x) => {
    const { height, width } = layers[5];
    point([5, state.point[1], clampIndex(y, height), clampIndex(x, width)]);
  };
  for (const k of [0, 1, 2]) {
    const canvas = element(`before-${k}`);
    canvas.onclick = ({ offsetX, offsetY }) => {
      const { height, width } = layers[5];
      const y = (offsetY / canvas.clientHeight) * height;
      move(y, (offsetX / canvas.clientWidth) * width);
    };
    canvas.onkeydown = (event) => {
      const step = ARROWS[event.key];
      if (step && isPlain(event)) {
        event.preventDefault();
        move(state.point[2] + step[0], state.point[3] + step[1]);
      }
    };
  }
}

function drawPooling() {
  const [, channel, y, x] = state.point;
  const largest = largestOf(mapOf(layers[3], channel));
  [3, 4, 5].forEach((l, k) => {
    const isPooled = l === 5;
    const size = isPooled ? 1 : 2;
    const frame = isPooled ? [y, x, 1] : [2 * y, 2 * x, 2];
    const values = windowOf(layers[l], channel, frame[0], frame[1], size);
    const taken = l === 4 ? indexOfLargest(values) : -1;
    paintMap(element(`before-${k}`), layers[l], channel, frame, largest);
    element(`four-${k}`).innerHTML = grid(values, size, largest, { taken });
  });
}

// ---- Softmax ------------------------------------------------------------------------------------
function drawParts() {
  if (state.label < 0) {
    state.label = indexOfLargest(logits("TinyVGG", pixels, state.moment, layers));
  }
  paintParts(element("parts-map"), state.label);
  element("parts-text").textContent = `for and against ${classes[state.label]}`;
  drawSoftmax();
}

// ---- Learning -----------------------------------------------------------------------------------
let firstGuess; // a sentence, once it was computed

/** Say how little the untrained network's answers depend on the image. */
function describeFirstGuess() {
  if (!firstGuess) {
    const shares = [];
    for (let k = 0; k < Math.min(10, DATA.typical); k++) {
      shares.push(softmax(logits("TinyVGG", storedImage(k), 0)));
    }
    firstGuess = `${describeGuess("TinyVGG", shares)} The weights of its last layer are so small
      that what it sees moves its answer very little.`;
  }
  return firstGuess;
}

/** Return the share that is right by always answering the most frequent class. */
function shareOfLargestClass() {
  const counts = DATA.networks.TinyVGG.confusion.map((row) => row.reduce((sum, v) => sum + v));
  return Math.max(...counts) / counts.reduce((sum, count) => sum + count);
}

function drawTraining() {
  const { epochs } = DATA.networks.TinyVGG;
  const ticks = epochs.map((epoch) => Number(epoch.toFixed(2)));
  const common = { ticks, now: state.moment, width: 470, height: 150 };
  const linesOf = (test, train) =>
    NAMES.flatMap((name) => [
      { name, label: name, values: DATA.networks[name][test] },
      {
        name,
        label: `${name} on training images`,
        values: DATA.networks[name][train],
        isDashed: true,
        hasKey: false,
      },
    ]);
  element("accuracy-curves").innerHTML = drawCurves({
    ...common,
    title: "Accuracy",
    lines: linesOf("accuracies", "trainAccuracies"),
    range: "share",
  });
  element("loss-curves").innerHTML = drawCurves({
    ...common,
    title: "Loss",
    lines: linesOf("losses", "trainLosses"),
    range: "loss",
    axis: "epochs, not evenly spaced",
  });
}

// ---- Shifted images -----------------------------------------------------------------------------

/** Return an image, shifted by [right, down] pixels. */
function shiftValues(values, [right, down]) {
  return Float32Array.from(values, (_, k) => {
    const y = (Math.floor(k / W) % H) - down;
    const x = (k % W) - right;
    return isInside(y, x) ? values[k - down * W - right] : 0;
  });
}

/** Return a short shift of an image at which the MLP is wrong and TinyVGG right, or null. */
function findShiftOf(values, label) {
  for (const length of [2, 3, 4]) {
    for (const direction of DIRECTIONS) {
      const pixelsAway = direction.map((v) => v * length * DATA.shiftStep);
      const shifted = shiftValues(values, pixelsAway);
      const isRight = (name) => indexOfLargest(logits(name, shifted, LAST)) === label;
      if (!isRight("MLP") && isRight("TinyVGG")) {
        return { direction, length };
      }
    }
  }
  return null;
}

/** Return the first of the known images with such a shift: {image, direction, length}. */
function searchShift() {
  for (let k = 0; k < Math.min(10, DATA.typical); k++) {
    const isRight = NAMES.every((name) => DATA.networks[name].predictions[k] === labels[k]);
    const found = isRight ? findShiftOf(storedImage(k), labels[k]) : null;
    if (found) {
      return { image: k, ...found };
    }
  }
  return null;
}

let shifting = { direction: [1, 0], length: 3 }; // of the image shown
let searched; // an example, once it was searched for
let shownUnit = 0; // the hidden unit that changes most by it
let shownChannel = 0; // the channel of max-pool 1 that shows most of it

function setUpShift() {
  shifting = { direction: [1, 0], length: 3 };
  if (followed.isChosen) {
    shifting = (followed.label >= 0 && findShiftOf(original, followed.label)) || shifting;
  } else {
    searched ??= searchShift();
    if (searched) {
      choose(searched.image);
      shifting = searched;
    }
  }
  shownUnit = findUnit();
  shownChannel = findChannel();
  state.shift = shifting.direction.map((v) => v * shifting.length * DATA.shiftStep);
}

/** Return the hidden unit of the MLP whose value changes most by the shift. */
function findUnit() {
  const weights = weightsOf("MLP", LAST);
  const away = shifting.direction.map((v) => v * shifting.length * DATA.shiftStep);
  const before = runMLP(original, weights).sums;
  const after = runMLP(shiftValues(original, away), weights).sums;
  return indexOfLargest(before.map((v, k) => Math.abs(v - after[k])));
}

/** Return the channel of max-pool 1 whose values differ most. */
function findChannel() {
  const layer = trainedLayers(original)[5];
  const spreads = [];
  for (let channel = 0; channel < Math.min(MOST, layer.channels); channel++) {
    const map = mapOf(layer, channel);
    const mean = map.reduce((sum, v) => sum + v, 0) / map.length;
    spreads.push(map.reduce((sum, v) => sum + Math.abs(v - mean), 0));
  }
  return indexOfLargest(spreads);
}

function prepareShifts() {
  element("far").oninput = ({ target }) => {
    const far = Number(target.value) * DATA.shiftStep;
    state.shift = shifting.direction.map((v) => v * far);
    update();
  };
}

function drawShifted() {
  const far = Math.max(...state.shift.map(Math.abs));
  const images = [render([0, 0]), pixels];
  images.forEach((values, k) => {
    paintUnit(element(`unit-${k}`), values);
    const { sums } = runMLP(values, weightsOf("MLP", LAST));
    element(`unit-text-${k}`).textContent =
      `unit ${shownUnit + 1}, sum: ${twoDigits(sums[shownUnit])}`;
    paintMap(element(`map-${k}`), trainedLayers(values)[5], shownChannel);
  });
  element("far").value = Math.round(far / DATA.shiftStep);
  element("far-text").textContent = countOf(far, "pixel");
  element("far").ariaValueText = countOf(far, "pixel");
  element("verdict").innerHTML = NAMES.map(judge).join(" &nbsp; ");
  const lost = brightnessLost();
  const gone = lost > 0.005 ? `${percent(lost, 0)} of the brightness has left the image. ` : "";
  const isExample = searched && state.image === searched.image;
  const example = isExample ? describeExample() : "";
  element("searched").textContent = gone + example;
  drawShiftCurves(far);
}

/**
 * Paint an image under the weights that a hidden unit has for its pixels, the mean of the colours.
 */
function paintUnit(canvas, image) {
  const { values } = weightsOf("MLP", LAST)["layer_stack.1.weight"];
  const mean = averageColors(values, shownUnit);
  paintOver(canvas, image, { width: W, height: H, values: mean }, 0.55);
}

function describeExample() {
  const far = searched.length * DATA.shiftStep;
  return `This image was searched for: shifted by ${countOf(far, "pixel")}, only the CNN still
    recognizes it.`;
}

/** Say what a network answers to the shifted image, and whether that is right. */
function judge(name) {
  const found = indexOfLargest(logits(name, pixels, LAST));
  if (truth < 0) {
    return `${name}: <b>${nameOf(found)}</b>`;
  }
  const isRight = found === truth;
  const mark = isRight ? "✓" : "✗";
  return `${name}: <span class="${isRight ? "good" : "bad"}">${nameOf(found)} ${mark}</span>`;
}

function drawShiftCurves(far) {
  const lines = NAMES.map((name) => {
    return { name, label: name, values: DATA.networks[name].shiftAccuracy };
  });
  element("shift-curves").innerHTML = drawCurves({
    title: "Accuracy",
    lines,
    ticks: lines[0].values.map((_, k) => k),
    now: far,
    width: 400,
    height: 280,
    range: "share",
    axis: "pixels",
  });
}

// ---- Mistakes -----------------------------------------------------------------------------------
const guesses = new Map(); // what was guessed, by image
const GUESSED = chooseGuessed();

/**
 * Return the images to guess: TinyVGG's mistakes, and as many that it answers right, mixed. The
 * first is a mistake that mirroring fixes, if there is one.
 */
function chooseGuessed() {
  const { predictions, fixedByMirroring } = DATA.networks.TinyVGG;
  const all = [...labels.keys()];
  const wrong = all.filter((k) => k >= DATA.typical && predictions[k] !== labels[k]);
  if (!wrong.length) {
    return [];
  }
  const right = all.filter((k) => predictions[k] === labels[k]);
  const first = fixedByMirroring.slice(0, 1);
  const others = shuffle(wrong.filter((k) => !first.includes(k)));
  const count = Math.min(others.length, right.length);
  const mixed = shuffle([...others.slice(0, count), ...shuffle(right).slice(0, count)]);
  return first.concat(mixed.length ? mixed : others);
}

/** Return indices in another order, which is the same each time. */
function shuffle(indices) {
  const keyOf = (k) => (k * 7919) % 1009;
  return [...indices].sort((a, b) => keyOf(a) - keyOf(b));
}

function prepareMistakes() {
  element("another").onclick = () => {
    const next = (GUESSED.indexOf(state.image) + 1) % GUESSED.length;
    choose(GUESSED[next]);
    articleOf(thisChapter()).querySelector("details").open = false;
    update();
    element("guesses").firstChild.focus();
  };
  element("mirror").onclick = () => {
    state.mirror = 1 - state.mirror;
    update();
  };
  element("guesses").onclick = ({ target }) => {
    const button = target.closest("[data-guess]");
    if (button && !guesses.has(state.image)) {
      guesses.set(state.image, Number(button.dataset.guess));
      update();
      element("another").focus();
    }
  };
}

function drawMistakes() {
  const scores = logits("TinyVGG", storedImage(state.image), LAST);
  const isGuessed = guesses.has(state.image);
  const guess = guesses.get(state.image);
  const buttons = chooseClasses(scores).map((k) => {
    const disabled = isGuessed ? "disabled" : "";
    const pressed = `aria-pressed="${guess === k}"`;
    return `<button data-guess="${k}" ${disabled} ${pressed}>${shortName(k)}</button>`;
  });
  element("guesses").innerHTML = buttons.join("");
  element("told").classList.toggle("waiting", !isGuessed);
  element("next-guess").classList.toggle("waiting", !isGuessed);
  element("guessed").innerHTML = isGuessed ? describeGuessed(guess, indexOfLargest(scores)) : "";
  const canFix = DATA.networks.TinyVGG.fixedByMirroring.includes(state.image);
  element("mirror").hidden = !canFix;
  element("mirror").textContent = state.mirror ? "mirror it back" : "mirror it";
  const answer = nameOf(indexOfLargest(logits("TinyVGG", pixels, LAST)));
  element("mirrored").innerHTML = state.mirror ? `Mirrored, TinyVGG answers <b>${answer}</b>.` : "";
}

/** Say what the label is, what was guessed and answered, and how often each was right so far. */
function describeGuessed(guess, answer) {
  const { predictions } = DATA.networks.TinyVGG;
  const mark = (k) => `<span class="${k === truth ? "good" : "bad"}">${nameOf(k)}</span>`;
  const guessed = [...guesses];
  const yours = guessed.filter(([k, label]) => labels[k] === label).length;
  const its = guessed.filter(([k]) => labels[k] === predictions[k]).length;
  return `It is labelled ${mark(truth)}. You: ${mark(guess)}; TinyVGG: ${mark(answer)}. So far you
    were right in ${yours} of ${guessed.length}, TinyVGG in ${its}.`;
}

// ---- A photograph -------------------------------------------------------------------------------
function drawPhotograph() {
  const isOwn = state.image === OWN && photograph !== null;
  element("original").hidden = !isOwn;
  element("made").hidden = !isOwn;
  element("seen").textContent = isOwn
    ? "what the networks see"
    : "an example, as the networks see it";
  if (isOwn) {
    const { width, height } = photograph;
    Object.assign(element("photo"), { width, height });
    element("photo").getContext("2d").drawImage(photograph, 0, 0);
  }
}
