// The last chapter: all tools at hand. Here are the classes to ask about, the images to choose, and
// what stands below the maps: occlusion, shifts, the MLP's units, softmax, confusion matrices.

/** Write what does not change. */
function prepareEverything() {
  const keys = NAMES.map((name) => {
    return `<span class="key" style="background: var(--${name})"></span> ${name} `;
  });
  element("legend").innerHTML = keys.join("");
  element("mlp").hidden = !NAMES.includes("MLP");
  const [count] = DATA.networks.TinyVGG.shapes["conv_block_1.0.bias"];
  const channels = count > MOST ? `The first sixteen of ${count} channels are shown. ` : "";
  element("help").textContent =
    `${channels}By keyboard: arrow keys choose a value, with shift a map.`;
  showTypical();
  drawMatrices();
}

function showEverything() {
  drawMaps();
  drawPanel();
  classes.forEach((_, k) => {
    classButton(k).ariaPressed = state.label === k;
  });
}

// ---- The classes: each can be asked why ---------------------------------------------------------
const classButton = (k) => element("classes").children[k].firstChild;

classes.forEach((name, k) => {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.innerHTML = "<span></span><span></span>"; // the name and the bars, see drawAnswers
  button.firstChild.title = name;
  button.onclick = () => askClass(k, button);
  item.append(button);
  element("classes").append(item);
});

/** Explain a class's score, beside the element that was clicked. */
function askClass(k, clicked) {
  const place = clicked.getBoundingClientRect();
  point(k);
  dockPanel(place);
  if (thisChapter().id === "everything") {
    drawSoftmax();
    startOcclusion();
  }
}

// ---- Work in slices: what takes long lets the page go on ----------------------------------------
const running = {};

/** Run a generator, some milliseconds at a time; a later task of the same name replaces it. */
function inSlices(name, steps, draw) {
  clearTimeout(running[name]);
  const work = () => {
    const end = performance.now() + 15;
    let isDone = false;
    while (!isDone && performance.now() < end) {
      isDone = steps.next().done;
    }
    draw(isDone);
    running[name] = isDone ? 0 : setTimeout(work, 0);
  };
  running[name] = setTimeout(work, 200);
}

// ---- Why this answer: a dark patch slides over the image (occlusion) ----------------------------
const PATCH = Math.max(2, Math.round(W / 5.6));
const STRIDE = Math.max(1, Math.round(W / 14));
const PLACES = Math.ceil(W / STRIDE);
// For each place of the patch, by how much the probability falls when it is covered.
let covered = [];

/** Return the image with a patch over a place. */
function coverPlace(place) {
  const firstOf = (k) => k * STRIDE + Math.floor(STRIDE / 2) - Math.floor(PATCH / 2);
  const top = firstOf(Math.floor(place / PLACES));
  const left = firstOf(place % PLACES);
  return pixels.map((value, k) => {
    const y = Math.floor(k / W) % H;
    const x = k % W;
    const isCovered = y >= top && y < top + PATCH && x >= left && x < left + PATCH;
    return isCovered ? 0 : value;
  });
}

function* coverPlaces(label) {
  const whole = softmax(logits("TinyVGG", pixels, state.moment, layers))[label];
  for (let place = 0; place < PLACES * PLACES; place++) {
    covered.push(whole - softmax(logits("TinyVGG", coverPlace(place)))[label]);
    yield;
  }
}

function startOcclusion() {
  const answer = indexOfLargest(logits("TinyVGG", pixels, state.moment, layers));
  const label = state.label >= 0 ? state.label : answer;
  covered = [];
  inSlices("occlusion", coverPlaces(label), (isDone) => drawOcclusion(label, isDone));
}

function drawOcclusion(label, isDone) {
  paint(element("occlusion"), PLACES, PLACES, (k) =>
    k < covered.length ? packedOf(covered[k]) : UNKNOWN,
  );
  paintImage(element("patched"), isDone ? pixels : coverPlace(covered.length));
  let text = `A dark patch of ${PATCH} × ${PATCH} pixels slides over the image. Brown: where it
    lies there, TinyVGG’s probability of ${classes[label]} falls; purple: it rises.`;
  if (isDone) {
    const most = Math.max(...covered);
    const place = covered.indexOf(most);
    text += ` Most in row ${Math.floor(place / PLACES) + 1}, column ${(place % PLACES) + 1}
      of ${PLACES} × ${PLACES}: by ${Math.round(100 * most)} percentage points.`;
  }
  element("occlusion-text").textContent = text;
}
element("cover").onclick = startOcclusion;

// ---- Shift map: at which of 15 x 15 shifts is each network still right? -------------------------
const REACH = 7;
const SHIFTS = [];
for (let down = -REACH; down <= REACH; down++) {
  for (let right = -REACH; right <= REACH; right++) {
    SHIFTS.push([right * DATA.shiftStep, down * DATA.shiftStep]);
  }
}
const SHIFTS_A_ROW = 2 * REACH + 1;
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
  element("shift-maps").replaceChildren();
  rightAt = {};
  if (truth < 0) {
    element("shift-text").textContent =
      "The class of this image is not known, so no answer is right or wrong.";
    return;
  }
  for (const name of NAMES) {
    rightAt[name] = [];
  }
  const known = findKnownShifts();
  Object.assign(rightAt, known);
  describeShifts(known);
  const figures = Object.keys(rightAt).map(addShiftFigure);
  inSlices("shifts", tryShifts(), () => figures.forEach(drawShifts));
}

/** Return whether networks that the page does not compute are right, for some unchanged images. */
function findKnownShifts() {
  const known = {};
  const isUnchanged = !strokes.length && !state.mirror && !state.turn && state.moment === LAST;
  for (const [name, shifted] of Object.entries(DATA.others)) {
    if (isUnchanged && state.image >= 0 && state.image < shifted[0].length) {
      known[name] = shifted.map((answers) => answers[state.image] === truth);
    }
  }
  return known;
}

function describeShifts(known) {
  const far = REACH * DATA.shiftStep;
  let text = `Each square is a shift, up to ${far} pixels each way; the middle is none; the frame is
    where it stands now. Green: the network is still right. Click a square to go there.`;
  const others = Object.keys(DATA.others);
  if (others.some((name) => !known[name])) {
    text += ` For ${others.join(" and ")} only the first images, unchanged, are known.`;
  }
  element("shift-text").textContent = text;
}

/** Add a figure for a network, on which a click goes to a shift. */
function addShiftFigure(name) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.role = "img";
  canvas.ariaLabel = name; // until it is computed
  canvas.onclick = ({ offsetX, offsetY }) => {
    const indexOf = (offset, size) => clampIndex((SHIFTS_A_ROW * offset) / size, SHIFTS_A_ROW);
    const row = indexOf(offsetY, canvas.clientHeight);
    const column = indexOf(offsetX, canvas.clientWidth);
    state.shift = SHIFTS[SHIFTS_A_ROW * row + column];
    update();
  };
  figure.append(canvas, document.createElement("figcaption"));
  figure.dataset.name = name;
  element("shift-maps").append(figure);
  return figure;
}

const STILL_RIGHT = pack(rgbOf("#009e73"));
const NOW_WRONG = pack([225, 225, 225]);

function drawShifts(figure) {
  const { name } = figure.dataset;
  const found = rightAt[name];
  const [canvas, caption] = figure.children;
  paint(scratch, SHIFTS_A_ROW, SHIFTS_A_ROW, (k) => {
    if (k >= found.length) {
      return UNKNOWN;
    }
    return found[k] ? STILL_RIGHT : NOW_WRONG;
  });
  const context = enlarge(canvas, scratch, null, 300);
  const [right, down] = state.shift;
  const here = SHIFTS.findIndex((shift) => shift[0] === right && shift[1] === down);
  if (here >= 0) {
    const side = canvas.width / SHIFTS_A_ROW;
    context.lineWidth = 4;
    context.strokeRect(
      (here % SHIFTS_A_ROW) * side,
      Math.floor(here / SHIFTS_A_ROW) * side,
      side,
      side,
    );
  }
  const isWhole = found.length === SHIFTS.length;
  const tried = isWhole ? SHIFTS.length : `the first ${found.length}`;
  const text = `${name}: right at ${found.filter(Boolean).length} of ${tried} shifts`;
  caption.textContent = text;
  canvas.ariaLabel = text;
}

// ---- Inside the MLP -----------------------------------------------------------------------------
function drawUnits() {
  if (!NAMES.includes("MLP")) {
    return;
  }
  const weights = weightsOf("MLP", state.moment);
  const { shape, values } = weights["layer_stack.1.weight"];
  const { hidden } = runMLP(pixels, weights);
  const count = Math.min(MOST, shape[0]);
  const largest = largestOf(values);
  addUnitFigures(count);
  for (let unit = 0; unit < count; unit++) {
    const [canvas, caption] = element("units").children[unit].children;
    paintValues(canvas, W, H, averageColors(values, unit), largest);
    canvas.ariaLabel = `Weights of hidden unit ${unit + 1} of the MLP`;
    caption.textContent = `unit ${unit + 1}: ${twoDigits(hidden[unit])}`;
  }
  element("mlp-text").textContent = describeUnits(shape[0]);
}

function addUnitFigures(count) {
  while (element("units").children.length < count) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.role = "img";
    figure.append(canvas, document.createElement("figcaption"));
    element("units").append(figure);
  }
}

/** Return the weights of a hidden unit for each pixel: of several channels their mean. */
function averageColors(values, unit) {
  const area = H * W;
  const mean = new Float32Array(area);
  for (let c = 0; c < C; c++) {
    for (let k = 0; k < area; k++) {
      mean[k] += values[(unit * C + c) * area + k] / C;
    }
  }
  return mean;
}

function describeUnits(count) {
  const shown = count > MOST ? ` (${MOST} shown)` : "";
  const colors = C > 1 ? " and colour (here their mean)" : "";
  return `Each of its ${count} hidden units${shown} has one weight for every pixel${colors}: brown
    pixels make it larger, purple ones smaller. Below each: its value for this image, after the
    ReLU. Its last layer has a ReLU too, so that all classes with a logit below zero get the same
    share.`;
}

// ---- From logits to shares: softmax -------------------------------------------------------------
function drawSoftmax() {
  const scores = logits("TinyVGG", pixels, state.moment, layers);
  const shares = softmax(scores);
  const isLesson = thisChapter().id !== "everything";
  const shown = isLesson ? chooseClasses(shares) : [...classes.keys()];
  const rows = shown.map((k) => writeShare(k, scores[k], shares[k]));
  const sum = scores.reduce((total, score) => total + Math.exp(score), 0);
  const name = shown.length < classes.length ? `all ${classes.length}` : "sum";
  element("softmax").innerHTML = `<thead>
      <tr><td></td><th scope="col">logit z</th>
        <th scope="col">e<sup>z</sup></th><th scope="col">share</th></tr>
    </thead>
    <tbody>${rows.join("")}</tbody>
    <tfoot>
      <tr><th scope="row">${name}</th><td></td>
        <td>${threeDigits(sum)}</td><td>${percent(1)}</td></tr>
    </tfoot>`;
}

function writeShare(k, score, share) {
  const bar = `<b style="width: ${100 * share}%; background: var(--TinyVGG)"></b>`;
  return `<tr class="${k === state.label ? "chosen" : ""}" data-class="${k}">
    <th scope="row"><button class="name">${shortName(k)}</button></th>
    <td>${twoDigits(score)}</td><td>${threeDigits(Math.exp(score))}</td>
    <td><span class="bar">${bar}<span>${percent(share)}</span></span></td></tr>`;
}

element("softmax").onclick = ({ target }) => {
  const row = target.closest("[data-class]");
  if (!row) {
    return;
  }
  askClass(Number(row.dataset.class), row);
  // The table was drawn anew, and the focus stays where it was.
  const button = element("softmax").querySelector(`[data-class="${state.label}"] button`);
  button.focus({ preventScroll: true });
};

// ---- Images to choose from ----------------------------------------------------------------------
/** Show images as buttons in an element, and a text in that of the same name with "-text". */
function showImages(name, indices, text) {
  element(name).replaceChildren(...indices.map(imageButton));
  element(`${name}-text`).textContent = text;
}

function imageButton(k) {
  const button = document.createElement("button");
  button.ariaLabel = `image ${k + 1}: ${classes[labels[k]]}`;
  button.ariaPressed = k === state.image;
  button.dataset.image = k;
  button.append(paintImage(document.createElement("canvas"), storedImage(k)));
  button.onclick = () => {
    follow(k);
    update();
  };
  return button;
}

function showTypical() {
  const right = NAMES.map((name) => `${name} ${percent(accuracyOf(name), 2)}`).join(", ");
  showImages(
    "thumbnails",
    [...Array(DATA.typical).keys()],
    `One image of each class, if possible one that all networks get right. Of all test images
    right: ${right}. ${labels.length - DATA.typical} mistakes are in the matrices below.`,
  );
}

// ---- Confusion matrices: a cell shows its mistakes ----------------------------------------------
const MOST_CLASSES = 25; // of a matrix

function drawMatrices() {
  let text = `Rows are the true class, columns the answer of the trained network, for every test
    image. Choose a number off the diagonal: its mistakes, at most six, come up below.`;
  if (classes.length > MOST_CLASSES) {
    text += ` The first ${MOST_CLASSES} classes are shown.`;
  }
  element("confusion-text").textContent = text;
  element("matrices").append(...NAMES.map(matrixFigure));
}

function matrixFigure(name) {
  const figure = document.createElement("figure");
  const key = `<span class="key" style="background: var(--${name})"></span>`;
  figure.innerHTML = `<figcaption><h3>${key} ${name}</h3></figcaption>
    <div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix of ${name}">
      <table class="matrix">${writeMatrix(name)}</table>
    </div>`;
  // One of the cells is reached by the tab key, the others from there by arrow keys.
  const first = figure.querySelector("button");
  if (first) {
    first.tabIndex = 0;
  }
  figure.onclick = ({ target }) => {
    // A browser that translates the page puts elements of its own into a cell.
    const cell = target.closest("[data-cell]");
    if (cell) {
      chooseCell(name, cell);
    }
  };
  figure.onkeydown = (event) => moveInMatrix(figure, event);
  return figure;
}

function writeMatrix(name) {
  const shown = [...classes.keys()].slice(0, MOST_CLASSES);
  const heads = shown.map((k) => `<th scope="col">${shortName(k)}</th>`).join("");
  const rows = shown.map((row) => {
    const cells = shown.map((column) => `<td>${writeCell(name, row, column)}</td>`).join("");
    return `<tr><th scope="row">${shortName(row)}</th>${cells}</tr>`;
  });
  return `<thead><tr><td></td>${heads}</tr></thead><tbody>${rows.join("")}</tbody>`;
}

/** Return a cell in HTML: a button where images of it can be shown. */
function writeCell(name, row, column) {
  const counts = DATA.networks[name].confusion[row];
  const count = counts[column];
  const ofClass = counts.reduce((sum, each) => sum + each, 0);
  const share = count / Math.max(1, ofClass);
  // Mistakes are few: their colour is stronger.
  const rgb = colorOf(row === column ? share : -Math.min(1, 3 * share));
  const style = `background: rgb(${rgb}); color: ${inkOn(rgb)}; forced-color-adjust: none`;
  if (!imagesInCell(name, row, column).length) {
    return `<span style="${style}">${count || "&nbsp;"}</span>`;
  }
  const [trueName, answer] = [row, column].map((k) => escapeHtml(classes[k]));
  return `<button style="${style}" data-cell="${row} ${column}" tabindex="-1"
    aria-label="${name}: ${count} of class ${trueName} answered ${answer}">${count}</button>`;
}

/** Return the images of a true class that a network answers as another. */
function imagesInCell(name, row, column) {
  const { predictions } = DATA.networks[name];
  return [...labels.keys()].filter((k) => labels[k] === row && predictions[k] === column);
}

/** Choose the first mistake of a cell, and ask for the wrong answer. */
function chooseCell(name, cell) {
  const [row, column] = cell.dataset.cell.split(" ").map(Number);
  const found = imagesInCell(name, row, column).slice(0, 6);
  for (const button of document.querySelectorAll("[data-cell]")) {
    button.ariaPressed = button === cell;
  }
  const { isOpen } = state; // a panel that is closed would open over the images
  follow(found[0]);
  state.label = column;
  state.isOpen = isOpen;
  const count = DATA.networks[name].confusion[row][column];
  const text = `${classes[row]}, ${name} answers ${classes[column]}: ${found.length} of ${count}.`;
  showImages("mistakes", found, `${text} The first is the image now.`);
  update();
}

/** Move by an arrow key to the next cell that is a button. */
function moveInMatrix(figure, event) {
  const arrow = ARROWS[event.key];
  if (!arrow || !event.target.dataset.cell) {
    return;
  }
  event.preventDefault();
  let [row, column] = event.target.dataset.cell.split(" ").map(Number);
  let next = null;
  while (!next && row >= 0 && column >= 0 && row < classes.length && column < classes.length) {
    row += arrow[0];
    column += arrow[1];
    next = figure.querySelector(`[data-cell="${row} ${column}"]`);
  }
  if (next) {
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
