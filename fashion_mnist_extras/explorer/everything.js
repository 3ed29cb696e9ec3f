function drawPicture() {
  const canvas = element("picture");
  const zoom = Math.max(1, Math.round(560 / W));
  const context = Object.assign(canvas, { width: W * zoom, height: H * zoom }).getContext("2d");
  Object.assign(context, { imageSmoothingEnabled: false, strokeStyle: FRAME, lineWidth: 4 });
  context.drawImage(paintImage(scratch, pixels), 0, 0, W * zoom, H * zoom);
  const frame = thisChapter().frame?.(); // [row, column, size]
  if (frame) {
    context.strokeRect(frame[1] * zoom, frame[0] * zoom, frame[2] * zoom, frame[2] * zoom);
  }
}
/** Return what of the image a point of the first layers looks at: [row, column, size]. */
function frameOfPoint() {
  const [layer, , y, x] = state.point;
  if (!state.isOpen || state.label >= 0 || layer > 2) {
    return null;
  }
  return layer ? [y - 1, x - 1, 3] : [y, x, 1];
}

// ---- The maps of TinyVGG: one column for each layer, at most sixteen channels --------------------

function layout() {
  const available = element("maps").clientWidth;
  const gap = available < 500 ? 3 : 7;
  const columns = layers.length - 1;
  const side = Math.max(8, Math.min(70, Math.floor((available - gap * (columns - 1)) / columns)));
  return { side, step: side + gap, top: 30, rows: Math.min(MOST, layers[1].channels) };
}
function drawMaps() {
  const { side, step, top, rows } = layout();
  const canvas = element("maps");
  const density = window.devicePixelRatio;
  const height = top + rows * step;
  const small = side < 45;
  canvas.style.height = `${height}px`;
  Object.assign(canvas, { width: canvas.clientWidth * density, height: height * density });
  const context = canvas.getContext("2d");
  context.scale(density, density);
  Object.assign(context, {
    imageSmoothingEnabled: false,
    textAlign: "center",
    fillStyle: css("--text"),
    lineWidth: 1,
    strokeStyle: css("--line"),
  });
  layers.slice(1).forEach((layer, column) => {
    const x = column * step;
    const area = layer.height * layer.width;
    const largest = largestOf(layer.values);
    context.font = `${small ? 9 : Math.min(13, side / 5.2)}px system-ui, sans-serif`;
    context.fillText(
      small ? layer.name.replace("max-", "").replace("ReLU ", "ReLU") : layer.name,
      x + side / 2,
      10,
    );
    context.font = `${small ? 8 : 11}px system-ui, sans-serif`;
    context.fillText(`${layer.height} × ${layer.width}`, x + side / 2, 23);
    for (let c = 0; c < rows; c++) {
      paintValues(
        scratch,
        layer.width,
        layer.height,
        layer.values.subarray(c * area, (c + 1) * area),
        largest,
      );
      context.drawImage(scratch, x, top + c * step, side, side);
      context.strokeRect(x + 0.5, top + c * step + 0.5, side - 1, side - 1);
    }
  });
  if (!state.isOpen || state.label >= 0 || !state.point[0]) {
    return;
  }
  const [l, channel, y, x] = state.point;
  const { kind } = layers[l]; // frame it and where it comes from
  const frame = (index, row, first, left, size) => {
    const [h, w] = [side / layers[index].height, side / layers[index].width];
    Object.assign(context, { strokeStyle: FRAME, lineWidth: 2.5 });
    context.strokeRect(
      (index - 1) * step + left * w,
      top + row * step + first * h,
      size * w,
      size * h,
    );
  };
  const [first, left, size] = { conv: [y - 1, x - 1, 3], pool: [2 * y, 2 * x, 2], relu: [y, x, 1] }[
    kind
  ];
  for (let c = 0; c < rows && l > 1; c++) {
    if (kind === "conv" || c === channel) {
      frame(l - 1, c, first, left, size);
    }
  }
  if (channel < rows) {
    frame(l, channel, y, x, 1);
  }
}

// ---- The panel: why a value is what it is ----------------------------------------------------------

/** Return the convolution that a point belongs to, and the layer before it; undefined for image and max-pool. */
function convolutionAt(l) {
  if (layers[l].kind === "conv") {
    return [layers[l], layers[l - 1]];
  }
  if (layers[l].kind === "relu") {
    return [layers[l - 1], layers[l - 2]];
  }
}
/** Return what a convolution's window at a place sees, its weights and their products, for each input channel. */
function productsAt(conv, input, channel, y, x) {
  return Array.from({ length: input.channels }, (_, c) => {
    const first = (channel * input.channels + c) * 9;
    const kernel = Array.from(conv.weight.values.subarray(first, first + 9));
    const seen = windowOf(input, c, y - 1, x - 1, 3);
    const products = seen.map((v, k) => v * kernel[k]);
    return { seen, kernel, products, sum: products.reduce((a, b) => a + b) };
  });
}
function explainPoint([l, channel, y, x]) {
  const layer = layers[l];
  const where = `row ${y + 1}, column ${x + 1}`;
  const value = layer.values[(channel * layer.height + y) * layer.width + x];
  if (layer.kind === "input") {
    const around = windowOf(layer, channel, y - 2, x - 2, 5);
    return [
      `The image, ${C > 1 ? `${["red", "green", "blue"][channel]}, ` : ""}${where}`,
      `<strong>${number(value)}</strong>: 0 is black, 1 is white.`,
      `${grid(around, 5, 1, { taken: 12, isImage: true })}<p class="soft">The pixel and those around it.</p>`,
    ];
  }
  const title = `${layer.name}, channel ${channel + 1}, ${where}`;
  if (layer.kind === "pool") {
    const four = windowOf(layers[l - 1], channel, 2 * y, 2 * x, 2);
    return [
      `${title}: the largest of four`,
      `It passes on <strong>${number(value)}</strong> and forgets where it was.`,
      grid(four, 2, largestOf(layers[l - 1].values), { taken: indexOfLargest(four) }),
    ];
  }
  const [conv, input] = convolutionAt(l);
  const all = productsAt(conv, input, channel, y, x);
  const bias = conv.bias.values[channel];
  const before = all.reduce((sum, part) => sum + part.sum, bias);
  const scales = [
    largestOf(input.values),
    largestOf(conv.weight.values),
    Math.max(0.05, largestOf(all.flatMap(({ products }) => products))),
  ];
  const isImage = input.kind === "input";
  const several = input.channels > 1;
  const rows = all
    .slice(0, MOST)
    .map(
      ({ seen, kernel, products, sum }, c) =>
        `<div>${several ? `${isImage ? "RGB"[c] : c + 1}: ` : ""}${grid(seen, 3, scales[0], { isImage })} × ${grid(kernel, 3, scales[1])} = ${grid(products, 3, scales[2])}${
          several ? ` → ${number(sum)}` : ""
        }</div>`,
    );
  const source = isImage ? "the image" : `each channel of ${input.name}`;
  const more = input.channels > MOST ? `, ${MOST} of its ${input.channels} channels shown` : "";
  return [
    title,
    `${addUp(
      "sum of products",
      all.flatMap((p) => p.products),
      bias,
      before,
    )}; the ReLU makes it <strong>${number(Math.max(0, before))}</strong>`,
    `<p class="soft">What the window of 3 × 3 sees in ${source}${more}, × weights = products${several ? " → their sum" : ""}</p>
    <div class="products">${rows.join("")}</div>`,
  ];
}
/** Return what each place of the last max-pool adds to a class's logit, all channels together, and its bias. */
function partsOf(k) {
  const { height, width, values } = layers.at(-1);
  const area = height * width;
  const parts = Array(area).fill(0);
  const weights = weightsOf("TinyVGG", state.step);
  const weight = weights["classifier.1.weight"].values;
  values.forEach((v, i) => {
    parts[i % area] += v * weight[k * values.length + i];
  });
  return { parts, height, width, bias: weights["classifier.1.bias"].values[k] };
}
function explainClass(k) {
  const { parts, height, width, bias } = partsOf(k);
  return [
    `Why ${escapeHtml(classes[k])}? TinyVGG's score (logit)`,
    addUp(
      "sum over the places",
      parts,
      bias,
      parts.reduce((a, b) => a + b, bias),
    ),
    `<p class="soft">What each of max-pool 2's ${height} × ${width} places adds (brown) or takes away (purple), all channels together.</p>
    ${grid(parts, width, largestOf(parts))}`,
  ];
}
/** Paint the image under what each of its places adds to a class's logit. */
function paintParts(canvas, k) {
  const { parts, height, width } = partsOf(k);
  const largest = largestOf(parts);
  const zoom = Math.max(1, Math.round(420 / W));
  const context = Object.assign(canvas, { width: W * zoom, height: H * zoom }).getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(paintImage(scratch, pixels), 0, 0, W * zoom, H * zoom);
  context.globalAlpha = 0.6;
  context.drawImage(paintValues(scratch, width, height, parts, largest), 0, 0, W * zoom, H * zoom);
}
/** Paint the map pointed at, enlarged, in a scale of its own. */
function drawCloseUp() {
  const [l, channel, y, x] = state.point;
  const layer = layers[l];
  const area = layer.height * layer.width;
  const canvas = element("close-up");
  const zoom = Math.max(1, Math.round(420 / layer.width));
  const map = layer.values.subarray(channel * area, (channel + 1) * area);
  const largest = largestOf(map);
  const values = played ?? map;
  if (l === 0) {
    paintImage(scratch, pixels);
  } else {
    paint(scratch, layer.width, layer.height, (k) =>
      Number.isNaN(values[k]) ? pack([150, 150, 150]) : packedOf(values[k] / largest),
    );
  }
  const context = Object.assign(canvas, {
    width: layer.width * zoom,
    height: layer.height * zoom,
  }).getContext("2d");
  Object.assign(context, { imageSmoothingEnabled: false, strokeStyle: FRAME, lineWidth: 5 });
  context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
  context.strokeRect(x * zoom, y * zoom, zoom, zoom);
}
function drawPanel() {
  element("why").hidden = !state.isOpen;
  if (!state.isOpen) {
    return;
  }
  const [title, result, body] =
    state.label >= 0 ? explainClass(state.label) : explainPoint(state.point);
  element("why-title").innerHTML = title;
  element("why-result").innerHTML = result;
  element("why-body").innerHTML = body;
  element("player").hidden = state.label >= 0 || !convolutionAt(state.point[0]);
  if (state.label < 0) {
    drawCloseUp();
  } else {
    paintParts(element("close-up"), state.label);
  }
}

function showEverything() {
  drawMaps();
  drawPanel();
  [...element("classes").children].forEach(({ firstChild }, k) => {
    firstChild.ariaPressed = state.label === k;
  });
}

// ---- Play the convolution: the window walks, and the map fills -------------------------------------
let played = null;
let walking;
let cameFrom; // the values so far, row by row, NaN where the window has not been; its timer; what was pointed at
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
function stopWindow() {
  clearInterval(walking);
  [played, walking] = [null, null];
  element("play-window").textContent = "play the window";
  element("player-text").textContent = "";
}
/** Return, for each place of a layer, whether something of the image is there or beside it: elsewhere nothing happens. */
function hasImage({ height, width }) {
  const there = new Uint8Array(height * width);
  for (let k = 0; k < pixels.length; k++) {
    if (pixels[k]) {
      const [y, x] = [
        Math.floor((Math.floor(k / W) % H) * (height / H)),
        Math.floor((k % W) * (width / W)),
      ];
      for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++) {
        there.fill(1, row * width + Math.max(0, x - 1), row * width + Math.min(width, x + 2));
      }
    }
  }
  return there;
}
/** Compute the next value of the map pointed at, from the products of its window; return its index, -1 at the end. */
function nextValue() {
  const [l, channel] = state.point;
  const layer = layers[l];
  const [conv, input] = convolutionAt(l);
  const first = channel * layer.height * layer.width;
  if (!played) {
    const there = hasImage(layer);
    [cameFrom, played] = [
      state.point,
      Float32Array.from(there, (isThere, k) => (isThere ? NaN : layer.values[first + k])),
    ];
  }
  const next = played.findIndex(Number.isNaN);
  if (next < 0) {
    return -1;
  }
  const parts = productsAt(
    conv,
    input,
    channel,
    Math.floor(next / layer.width),
    next % layer.width,
  );
  const sum = parts.reduce((total, part) => total + part.sum, conv.bias.values[channel]);
  played[next] = layer.kind === "relu" ? Math.max(0, sum) : sum;
  return next;
}
/** Compute the next values, as many as let the window walk over the whole map in some five seconds. */
function nextValues() {
  const most = Math.max(
    1,
    Math.ceil(hasImage(layers[state.point[0]]).reduce((a, b) => a + b) / 120),
  );
  let last = -1;
  for (let k = 0; k < most; k++) {
    const next = nextValue();
    if (next < 0) {
      break;
    }
    last = next;
  }
  return last;
}
function showValue(index) {
  const [l, channel] = state.point;
  const { width } = layers[l];
  if (index < 0) {
    walking = clearInterval(walking);
    Object.assign(element("play-window"), { textContent: "play the window" });
    element("player-text").textContent = "";
    return point(cameFrom, true);
  }
  point([l, channel, Math.floor(index / width), index % width], true);
  element("player-text").textContent =
    `row ${Math.floor(index / width) + 1}, column ${(index % width) + 1}`;
}
element("step-window").onclick = () => {
  walking = clearInterval(walking);
  element("play-window").textContent = "play the window";
  if (played?.every((v) => !Number.isNaN(v))) {
    played = null;
  } // from the beginning
  showValue(nextValue());
};
element("play-window").onclick = ({ target }) => {
  const wasPlaying = Boolean(walking);
  walking = clearInterval(walking);
  target.textContent = "play the window";
  if (wasPlaying) {
    return;
  }
  if (played?.every((v) => !Number.isNaN(v))) {
    played = null;
  } // from the beginning
  if (!isStill.matches) {
    target.textContent = "stop";
    return void (walking = setInterval(() => showValue(nextValues()), 40));
  }
  let last = 0; // no motion: the whole map at once
  for (let next = nextValue(); next >= 0; next = nextValue()) {
    last = next;
  }
  showValue(last);
  showValue(-1);
};

// ---- Work in slices: what takes long lets the page go on ------------------------------------------
const running = {};
/** Run the steps of a generator, some milliseconds at a time; a later work of the same name replaces it. */
function inSlices(name, steps, show) {
  clearTimeout(running[name]);
  const work = () => {
    const end = performance.now() + 15;
    let isDone = false;
    while (!isDone && performance.now() < end) {
      isDone = steps.next().done;
    }
    show(isDone);
    running[name] = isDone ? 0 : setTimeout(work, 0);
  };
  running[name] = setTimeout(work, 200);
}

// ---- Why this answer: a dark patch slides over the image (occlusion) ------------------------------
const PATCH = Math.max(2, Math.round(W / 5.6));
const STRIDE = Math.max(1, Math.round(W / 14));
const PLACES = Math.ceil(W / STRIDE);
let covered = []; // for each place of the patch, by how much the probability falls when it is covered
/** Return the image with a patch over a place. */
function coverPlace(k) {
  const middle = [Math.floor(k / PLACES), k % PLACES].map(
    (v) => v * STRIDE + Math.floor(STRIDE / 2),
  );
  const [top, left] = middle.map((v) => v - Math.floor(PATCH / 2));
  return pixels.map((v, i) => {
    const [y, x] = [Math.floor(i / W) % H, i % W];
    return y >= top && y < top + PATCH && x >= left && x < left + PATCH ? 0 : v;
  });
}
function* coverPlaces(label) {
  const whole = softmax(logits("TinyVGG", pixels, state.step, layers))[label];
  for (let k = 0; k < PLACES * PLACES; k++) {
    covered.push(whole - softmax(logits("TinyVGG", coverPlace(k)))[label]);
    yield;
  }
}
function startOcclusion() {
  const label =
    state.label >= 0 ? state.label : indexOfLargest(logits("TinyVGG", pixels, state.step, layers));
  covered = [];
  inSlices("occlusion", coverPlaces(label), (isDone) => {
    paint(element("occlusion"), PLACES, PLACES, (k) =>
      k < covered.length ? packedOf(covered[k]) : pack([150, 150, 150]),
    );
    paintImage(element("patched"), isDone ? pixels : coverPlace(covered.length));
    const most = Math.max(...covered);
    const place = covered.indexOf(most);
    const text = `A dark patch of ${PATCH} × ${PATCH} pixels slides over the image. Brown: where it lies there, TinyVGG's probability of
      ${classes[label]} falls; purple: it rises.`;
    element("occlusion-text").textContent = isDone
      ? `${text} Most in row ${Math.floor(place / PLACES) + 1}, column ${(place % PLACES) + 1} of
      ${PLACES} × ${PLACES}: by ${number(100 * most)} points.`
      : text;
  });
}
element("cover").onclick = startOcclusion;

// ---- Shift map: at which of 15 x 15 shifts is each network still right? ---------------------------
const REACH = 7;
const SHIFTS = Array.from({ length: 225 }, (_, k) =>
  [(k % 15) - REACH, Math.floor(k / 15) - REACH].map((v) => v * DATA.shiftStep),
);
let rightAt = {}; // by network: true or false for each of SHIFTS
function* tryShifts() {
  for (const shift of SHIFTS) {
    const image = render(shift);
    for (const name of NAMES) {
      rightAt[name].push(indexOfLargest(logits(name, image)) === truth);
    }
    yield;
  }
}
function startShiftMap() {
  rightAt = Object.fromEntries(NAMES.map((name) => [name, []]));
  const isUnchanged = !strokes.length && !state.mirror && !state.turn && state.step === LAST;
  for (const [name, shifted] of Object.entries(DATA.others)) {
    if (isUnchanged && state.image >= 0 && state.image < shifted[0].length) {
      rightAt[name] = shifted.map((answers) => answers[state.image] === truth);
    }
  }
  element("shift-maps").replaceChildren();
  const far = REACH * DATA.shiftStep;
  const others = Object.keys(DATA.others).join(" and ");
  element("shift-text").textContent =
    truth < 0
      ? "The class of this image is not known, so no answer is right or wrong."
      : `Each square is a shift, up to ${far} pixels each way; the middle is none; the frame is where it stands now. Green: the network is still right. Click a square to go there.${
          others && !rightAt[Object.keys(DATA.others)[0]]
            ? ` For ${others} only the first images, unchanged, are known.`
            : ""
        }`;
  if (truth < 0) {
    return void clearTimeout(running.shifts);
  }
  const figures = Object.keys(rightAt).map((name) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { role: "img", ariaLabel: name }); // until it is computed
    canvas.onclick = ({ offsetX, offsetY }) => {
      const [column, row] = [offsetX / canvas.clientWidth, offsetY / canvas.clientHeight].map((v) =>
        Math.max(0, Math.min(14, Math.floor(15 * v))),
      );
      state.shift = SHIFTS[15 * row + column];
      update();
    };
    figure.append(canvas, document.createElement("figcaption"));
    return [name, figure];
  });
  element("shift-maps").append(...figures.map(([, figure]) => figure));
  const [green, grey, dark] = [rgbOf("#009e73"), [225, 225, 225], [150, 150, 150]].map(pack);
  const here = SHIFTS.findIndex((shift) => shift.every((v, k) => v === state.shift[k]));
  const show = (isDone) =>
    figures.forEach(([name, figure]) => {
      paint(scratch, 15, 15, (k) =>
        k >= rightAt[name].length ? dark : rightAt[name][k] ? green : grey,
      );
      const context = Object.assign(figure.firstChild, { width: 300, height: 300 }).getContext(
        "2d",
      );
      Object.assign(context, { imageSmoothingEnabled: false, lineWidth: 4, strokeStyle: "black" });
      context.drawImage(scratch, 0, 0, 300, 300);
      if (here >= 0) {
        context.strokeRect((here % 15) * 20, Math.floor(here / 15) * 20, 20, 20);
      }
      const count = rightAt[name].filter(Boolean).length;
      figure.lastChild.textContent =
        figure.firstChild.ariaLabel = `${name}: right at ${count} of ${isDone || rightAt[name].length === 225 ? "225" : `the first ${rightAt[name].length}`} shifts`;
    });
  inSlices("shifts", tryShifts(), show);
}

// ---- Inside the MLP, and softmax ------------------------------------------------------------------
function drawUnits() {
  if (!NAMES.includes("MLP")) {
    return;
  }
  const weights = weightsOf("MLP", state.step);
  const { shape, values } = weights["layer_stack.1.weight"];
  const { hidden } = runMLP(pixels, weights);
  const count = Math.min(MOST, shape[0]);
  const area = H * W;
  const largest = largestOf(values);
  const figures = element("units").children;
  while (figures.length < count) {
    element("units").insertAdjacentHTML(
      "beforeend",
      '<figure><canvas role="img"></canvas><figcaption></figcaption></figure>',
    );
  }
  for (let k = 0; k < count; k++) {
    const picture = Float32Array.from({ length: area }, (_, i) => {
      // of several channels: their mean
      let sum = 0;
      for (let c = 0; c < C; c++) {
        sum += values[(k * C + c) * area + i];
      }
      return sum / C;
    });
    paintValues(figures[k].firstChild, W, H, picture, largest);
    figures[k].lastChild.textContent = `unit ${k + 1}: ${number(hidden[k])}`;
    figures[k].firstChild.ariaLabel = `Weights of hidden unit ${k + 1} of the MLP`;
  }
  element("mlp-text").textContent =
    `Each of its ${shape[0]} hidden units${count < shape[0] ? ` (${count} shown)` : ""} has one weight for every pixel${
      C > 1 ? " and colour (here their mean)" : ""
    }: brown pixels make it larger, purple ones smaller. Below each: its value for this image, after the ReLU. Its last layer has a ReLU too, so that all classes with a logit below zero get the same share.`;
}
function drawSoftmax() {
  const scores = logits("TinyVGG", pixels, state.step, layers);
  const shares = softmax(scores);
  const most = classes.length > 12 && thisChapter().id !== "everything" ? 10 : classes.length;
  const shown = [...classes.keys()]
    .sort((a, b) => shares[b] - shares[a])
    .slice(0, most)
    .sort((a, b) => a - b);
  const rows = shown.map(
    (
      k,
    ) => `<tr class="${k === state.label ? "chosen" : ""}" data-class="${k}"><th scope="row"><button class="name">${escapeHtml(classes[k])}</button></th>
    <td>${number(scores[k])}</td><td>${Math.exp(scores[k]).toPrecision(3)}</td><td><span class="bar"><b style="width: ${100 * shares[k]}%; background: var(--TinyVGG)"></b><span>${percent(shares[k])}</span></span></td></tr>`,
  );
  const sum = scores.reduce((total, score) => total + Math.exp(score), 0).toPrecision(3);
  element("softmax").innerHTML =
    `<thead><tr><td></td><th scope="col">logit z</th><th scope="col">e<sup>z</sup></th><th scope="col">share</th></tr></thead>
    <tbody>${rows.join("")}</tbody><tfoot><tr><th scope="row">${most < classes.length ? `all ${classes.length}` : "sum"}</th><td></td><td>${sum}</td><td>100.0 %</td></tr></tfoot>`;
}
element("softmax").onclick = ({ target }) => {
  const row = target.closest("[data-class]");
  if (!row) {
    return;
  }
  point(Number(row.dataset.class));
  drawSoftmax();
  element("softmax").querySelector(`[data-class="${state.label}"] button`).focus();
};

// ---- Confusion matrices: a cell shows its mistakes --------------------------------------------------
function showImages(name, indices, text) {
  element(name).replaceChildren(
    ...indices.map((k) => {
      const button = document.createElement("button");
      Object.assign(button, {
        ariaLabel: `image ${k + 1}: ${classes[labels[k]]}`,
        ariaPressed: k === state.image,
      });
      button.dataset.image = k;
      button.append(paintImage(document.createElement("canvas"), storedImage(k)));
      button.onclick = () => {
        choose(k);
        update();
      };
      return button;
    }),
  );
  element(`${name}-text`).textContent = text;
}
function showTypical() {
  const count = DATA.typical;
  const right = NAMES.map((name) => `${name} ${percent(accuracyOf(name), 2)}`).join(", ");
  showImages(
    "thumbnails",
    [...Array(count).keys()],
    `One of each class, where there is one an image that the networks get right. Of all test images right: ${right}.
    ${labels.length - count} mistakes are in the matrices below.`,
  );
}
function drawMatrices() {
  const max = 25;
  const shownClasses = classes.slice(0, max);
  element("confusion-text").textContent =
    `Rows are the true class, columns the answer of the trained network, for every test image. Choose a number
    off the diagonal: its mistakes, at most six, come up below.${classes.length > max ? ` The first ${max} classes are shown.` : ""}`;
  for (const name of NAMES) {
    const { confusion, predictions } = DATA.networks[name];
    const figure = document.createElement("figure");
    const cell = (row, column) => {
      const count = confusion[row][column];
      const share =
        count /
        Math.max(
          1,
          confusion[row].reduce((a, b) => a + b),
        );
      const rgb = colorOf(row === column ? share : -Math.min(1, 3 * share));
      const style = `background: rgb(${rgb}); color: ${inkOn(rgb)}; forced-color-adjust: none`;
      const isKnown = labels.some((label, k) => label === row && predictions[k] === column);
      const says = `${name}: ${count} of class ${escapeHtml(classes[row])} answered ${escapeHtml(classes[column])}`;
      return `<td>${
        isKnown
          ? `<button style="${style}" data-cell="${row} ${column}" tabindex="-1" aria-label="${says}">${count}</button>`
          : `<span style="${style}">${count || "&nbsp;"}</span>`
      }</td>`;
    };
    figure.innerHTML = `<figcaption><h3><span class="key" style="background: var(--${name})"></span> ${name}</h3></figcaption><div class="scroll"
      tabindex="0" role="region" aria-label="Confusion matrix of ${name}"><table class="matrix"><thead><tr><td></td>${shownClasses
        .map((c) => `<th scope="col">${escapeHtml(c)}</th>`)
        .join("")}</tr></thead><tbody>${shownClasses
        .map(
          (c, row) =>
            `<tr><th scope="row">${escapeHtml(c)}</th>${shownClasses.map((_, column) => cell(row, column)).join("")}</tr>`,
        )
        .join("")}</tbody></table></div>`;
    const buttons = [...figure.querySelectorAll("button")];
    if (buttons.length) {
      buttons[0].tabIndex = 0;
    }
    figure.onclick = ({ target }) => {
      const chosen = target.closest("[data-cell]"); // a browser that translates the page puts elements of its own into it
      if (!chosen) {
        return;
      }
      const [row, column] = chosen.dataset.cell.split(" ").map(Number);
      const found = [...labels.keys()]
        .filter((k) => labels[k] === row && predictions[k] === column)
        .slice(0, 6);
      document.querySelectorAll("[data-cell]").forEach((button) => {
        button.ariaPressed = button === chosen;
      });
      choose(found[0]);
      [state.label, state.isOpen] = [column, true]; // why this answer?
      showImages(
        "mistakes",
        found,
        `${classes[row]}, ${name} answers ${classes[column]}: ${found.length} of ${confusion[row][column]}. The first is the image now.`,
      );
      update();
    };
    figure.onkeydown = (event) => {
      // arrow keys go from number to number
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
        event.key
      ];
      if (!step || !event.target.dataset.cell) {
        return;
      }
      event.preventDefault();
      let [row, column] = event.target.dataset.cell.split(" ").map(Number);
      let next = null;
      while (!next && row >= 0 && column >= 0 && row < classes.length && column < classes.length) {
        [row, column] = [row + step[0], column + step[1]];
        next = figure.querySelector(`[data-cell="${row} ${column}"]`);
      }
      if (!next) {
        return;
      }
      [event.target.tabIndex, next.tabIndex] = [-1, 0];
      next.focus();
    };
    element("matrices").append(figure);
  }
}
