// Explanations: why a value of a map, or a class's score, is what it is.
//
// Printed numbers add up: what is added is rounded first, as it is printed. Where the sum then
// differs from what the network computes, that is said too.

/**
 * Return the convolution that a layer belongs to, and the layer before it; undefined for image and
 * max-pool.
 */
function convolutionAt(l) {
  if (layers[l].kind === "conv") {
    return [layers[l], layers[l - 1]];
  }
  if (layers[l].kind === "relu") {
    return [layers[l - 1], layers[l - 2]];
  }
}

/**
 * Return, for each input channel, what a convolution's window at a place sees, its weights and
 * their products, and the sum of these: exact, and as the printed products add up.
 */
function productsAt(conv, input, channel, y, x) {
  const parts = [];
  for (let c = 0; c < input.channels; c++) {
    const first = (channel * input.channels + c) * 9;
    const kernel = Array.from(conv.weight.values.subarray(first, first + 9));
    const seen = windowOf(input, c, y - 1, x - 1, 3);
    const products = seen.map((value, k) => (value ?? 0) * kernel[k]);
    const sum = products.reduce((total, product) => total + product, 0);
    parts.push({ seen, kernel, products, sum, roundedSum: addRounded(products) });
  }
  return parts;
}

/**
 * Return the scales of colours for a channel of a convolution. They are the same wherever its
 * window stands: that of the products is the largest weight times the largest input.
 */
function scalesOf(conv, input, channel) {
  const size = 9 * input.channels;
  const own = conv.weight.values.subarray(channel * size, (channel + 1) * size);
  const seen = largestOf(input.values);
  return { seen, weights: largestOf(conv.weight.values), products: seen * largestOf(own) };
}

const colorName = (channel) => ["red", "green", "blue"][channel];

/** Return the explanation of a value, [layer, channel, row, column]: {title, result, body}. */
function explainPoint(place) {
  const [l, channel, y, x] = place;
  const where = `row ${y + 1}, column ${x + 1}`;
  if (l === 0) {
    return explainPixel(place, where);
  }
  const title = `${layers[l].name}, channel ${channel + 1}, ${where}`;
  if (layers[l].kind === "pool") {
    return explainPool(place, title);
  }
  return explainConvolution(place, title);
}

function valueAt({ height, width, values }, channel, y, x) {
  return values[(channel * height + y) * width + x];
}

function explainPixel([, channel, y, x], where) {
  const [image] = layers;
  const color = C > 1 ? `${colorName(channel)}, ` : "";
  const around = windowOf(image, channel, y - 2, x - 2, 5);
  const numbers = grid(around, 5, 1, { taken: 12, isImage: true });
  return {
    title: `The image, ${color}${where}`,
    result: `<strong>${twoDigits(valueAt(image, channel, y, x))}</strong>: 0 is black, 1 is white.`,
    body: `${numbers}<p class="soft">The pixel and those around it.</p>`,
  };
}

function explainPool([l, channel, y, x], title) {
  const square = windowOf(layers[l - 1], channel, 2 * y, 2 * x, 2);
  const value = twoDigits(valueAt(layers[l], channel, y, x));
  return {
    title: `${title}: the largest of a 2 × 2 square`,
    result: `It passes on <strong>${value}</strong> and forgets where it was.`,
    body: grid(square, 2, largestOf(layers[l - 1].values), { taken: indexOfLargest(square) }),
  };
}

function explainConvolution([l, channel, y, x], title) {
  const [conv, input] = convolutionAt(l);
  const parts = productsAt(conv, input, channel, y, x);
  const bias = conv.bias.values[channel];
  const exact = valueAt(conv, channel, y, x);
  // Of channels that are not shown no one can add up the printed numbers.
  const isAllShown = input.channels <= MOST;
  const sums = isAllShown ? parts.map(({ roundedSum }) => roundedSum) : [exact - bias];
  const scales = scalesOf(conv, input, channel);
  const rows = parts.slice(0, MOST).map((part, c) => writeProducts(part, c, input, scales));
  const afterReLU = twoDigits(Math.max(0, exact));
  return {
    title,
    result: `${addUp("sum of products", sums, bias, exact)};
      the ReLU makes it <strong>${afterReLU}</strong>`,
    body: `<p class="soft">${describeProducts(parts, input)}</p>
      <div class="products">${rows.join("")}</div>`,
  };
}

/**
 * Return one row of an explanation in HTML: window × weights = products, and their sum if there
 * are more rows.
 */
function writeProducts({ seen, kernel, products, roundedSum }, c, input, scales) {
  const isImage = input.kind === "input";
  const several = input.channels > 1;
  let row = "";
  if (several) {
    row += isImage ? `${"RGB"[c] ?? c + 1}: ` : `${c + 1}: `;
  }
  row += `${grid(seen, 3, scales.seen, { isImage })} × ${grid(kernel, 3, scales.weights)}`;
  row += ` = ${grid(products, 3, scales.products)}`;
  if (several) {
    row += ` → ${twoDigits(roundedSum)}`;
  }
  return `<div>${row}</div>`;
}

function describeProducts(parts, input) {
  let text = "What the window of 3 × 3 sees in ";
  text += input.kind === "input" ? "the image" : `each channel of ${input.name}`;
  if (input.channels > MOST) {
    text += `, ${MOST} of its ${input.channels} channels shown`;
  }
  text += ", × weights = products";
  if (input.channels > 1) {
    text += " → their sum";
  }
  if (parts[0].seen.includes(null)) {
    text += ". What is outside (hatched) counts as 0";
  }
  return `${text}.`;
}

/**
 * Return what each place of the last max-pool adds to a class's logit, all channels together, and
 * its bias.
 */
function partsOf(k) {
  const { height, width, values } = layers.at(-1);
  const area = height * width;
  const parts = Array(area).fill(0);
  const weights = weightsOf("TinyVGG", state.moment);
  const weight = weights["classifier.1.weight"].values;
  values.forEach((value, i) => {
    parts[i % area] += value * weight[k * values.length + i];
  });
  return { parts, height, width, bias: weights["classifier.1.bias"].values[k] };
}

function explainClass(k) {
  const { parts, height, width, bias } = partsOf(k);
  const exact = parts.reduce((sum, part) => sum + part, bias);
  const numbers = grid(parts, width, largestOf(parts));
  return {
    title: `Why ${shortName(k)}? TinyVGG’s score (logit)`,
    result: addUp("sum over the places", parts, bias, exact),
    body: `<p class="soft">What each of max-pool 2’s ${height} × ${width} places adds (brown) or
      takes
      away (purple), all channels together.</p>${numbers}`,
  };
}

/** Paint the image under what each of its places adds to a class's logit. */
function paintParts(canvas, k) {
  const { parts, height, width } = partsOf(k);
  paintOver(canvas, pixels, { width, height, values: parts }, 0.6);
}

/**
 * Paint the map pointed at, enlarged, in a scale of its own; while the window slides, what it has
 * computed.
 */
function drawCloseUp() {
  const [l, channel, y, x] = state.point;
  const layer = layers[l];
  if (l === 0) {
    paintImage(scratch, pixels);
  } else {
    const map = mapOf(layer, channel);
    paintValues(scratch, layer.width, layer.height, played ?? map, largestOf(map));
  }
  enlarge(element("close-up"), scratch, [y, x, 1]);
}

// ---- The panel, docked to an edge of the window -------------------------------------------------
function drawPanel() {
  element("why").hidden = !state.isOpen;
  if (!state.isOpen) {
    return;
  }
  const isOfClass = state.label >= 0;
  const { title, result, body } = isOfClass ? explainClass(state.label) : explainPoint(state.point);
  element("why-title").innerHTML = title;
  element("why-result").innerHTML = result;
  element("why-body").innerHTML = body;
  element("player").hidden = isOfClass || !convolutionAt(state.point[0]);
  if (isOfClass) {
    paintParts(element("close-up"), state.label);
  } else {
    drawCloseUp();
  }
}

/**
 * Dock the panel to the bottom of the window; or to its top, if at the bottom it would cover what
 * it explains, which stands between top and bottom in the window.
 */
function dockPanel({ top, bottom }) {
  const { height } = element("why").getBoundingClientRect();
  const isCovered = bottom > innerHeight - height;
  element("why").classList.toggle("above", isCovered && top > height);
}

function closePanel() {
  state.isOpen = false;
  stopWindow();
  show();
  writeAddress();
  // So that the keyboard goes on where the question was asked.
  const asked = state.label >= 0 ? classButton(state.label) : element("maps");
  asked.focus({ preventScroll: true });
}
element("close").onclick = closePanel;
element("why").onkeydown = (event) => {
  if (event.key === "Escape") {
    closePanel();
  }
};

/** Point at the value under the pointer, which may be dragged over the enlarged map. */
function pointInCloseUp(event) {
  if (state.label >= 0 || (event.type === "pointermove" && !event.buttons)) {
    return;
  }
  const [l, channel] = state.point;
  const { width, height } = layers[l];
  const { clientWidth, clientHeight } = element("close-up");
  const indexOf = (offset, size, count) => clampIndex((offset / size) * count, count);
  const x = indexOf(event.offsetX, clientWidth, width);
  const y = indexOf(event.offsetY, clientHeight, height);
  point([l, channel, y, x]);
}
element("close-up").onpointerdown = pointInCloseUp;
element("close-up").onpointermove = pointInCloseUp;
