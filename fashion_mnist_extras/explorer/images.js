// The image: which one, and what is done with it.

let original; // its values, as it was chosen
let truth; // its class; -1: unknown
let strokes; // what was drawn on it
let pixels; // what the networks see
let layers; // what TinyVGG makes of it

// One image goes through all chapters, until another is chosen.
let followed = null;
followExample();

function setImage(values, label, index) {
  original = values;
  truth = label;
  strokes = [];
  Object.assign(state, { image: index, shift: [0, 0], mirror: 0, turn: 0 });
  if (state.label >= 0) {
    Object.assign(state, { label: -1, isOpen: false });
  }
  element("status").textContent = "";
  for (const button of document.querySelectorAll(".thumbnails button")) {
    button.ariaPressed = Number(button.dataset.image) === index;
  }
}

/** Let all chapters follow the example, as if none had been chosen. */
function followExample() {
  const values = storedImage(EXAMPLE);
  followed = { values, label: labels[EXAMPLE], index: EXAMPLE, isChosen: false };
}

/** Show a stored image, here and now. */
const choose = (k) => setImage(storedImage(k), labels[k], k);

/** Show a stored image, from now on in all chapters. */
function follow(k) {
  choose(k);
  if (!thisChapter().isApart) {
    followed = { values: original, label: truth, index: k, isChosen: true };
  }
}

/** Show an image of one's own, from now on in all chapters. */
function followOwn(values) {
  setImage(values, -1, OWN);
  followed = { values, label: -1, index: OWN, isChosen: true };
}

function drawSquare() {
  const image = new Float32Array(C * H * W);
  const left = W >> 2;
  for (let row = 0; row < C * H; row++) {
    const y = row % H;
    if (y >= H >> 2 && y < H - (H >> 2)) {
      image.fill(1, row * W + left, (row + 1) * W - left);
    }
  }
  return image;
}

/**
 * Return where on the original a pixel of the shifted and turned image comes from: [row, column].
 */
function originOf(y, x, [dx, dy] = state.shift) {
  const angle = (state.turn * Math.PI) / 180;
  const cos = Math.cos(angle);
  const sin = Math.sin(angle);
  const right = x - (W - 1) / 2 - dx; // from the middle
  const down = y - (H - 1) / 2 - dy;
  const row = cos * down - sin * right;
  const column = cos * right + sin * down;
  const unmirrored = state.mirror ? -column : column;
  return [row + (H - 1) / 2, unmirrored + (W - 1) / 2];
}

/**
 * Return what the networks see: the original with what was drawn on it, shifted, mirrored, turned.
 */
function render(shift = state.shift) {
  const image = new Float32Array(C * H * W);
  const isPlain = !state.turn && !state.mirror;
  for (let y = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const origin = isPlain ? [y - shift[1], x - shift[0]] : originOf(y, x, shift);
      const stroke = strokeAt(origin);
      for (let c = 0; c < C; c++) {
        image[(c * H + y) * W + x] = stroke ? stroke.value : interpolate(c, origin);
      }
    }
  }
  return image;
}

/** Return the original's value between its pixels; 0 outside of it. */
function interpolate(c, [row, column]) {
  const top = Math.floor(row);
  const left = Math.floor(column);
  const down = row - top;
  const right = column - left;
  if (!down && !right) {
    return originalAt(c, top, left);
  }
  const upper = originalAt(c, top, left) * (1 - right) + originalAt(c, top, left + 1) * right;
  const lower =
    originalAt(c, top + 1, left) * (1 - right) + originalAt(c, top + 1, left + 1) * right;
  return upper * (1 - down) + lower * down;
}

const isInside = (y, x) => y >= 0 && x >= 0 && y < H && x < W;
const originalAt = (c, y, x) => (isInside(y, x) ? original[(c * H + y) * W + x] : 0);

/**
 * Return the last stroke at a place of the original: what is drawn lies on it, and goes with it.
 */
function strokeAt([row, column]) {
  const radius = Math.max(1.2, W / 22);
  return strokes.findLast(({ points }) => isNear(points, row, column, radius));
}

/** Whether a place is within radius of a line through points, each [row, column]. */
function isNear(points, row, column, radius) {
  return points.some(([y1, x1], k) => {
    const [y0, x0] = points[Math.max(0, k - 1)];
    const dy = y1 - y0;
    const dx = x1 - x0;
    const length = dy * dy + dx * dx;
    const along = length && ((row - y0) * dy + (column - x0) * dx) / length;
    const share = Math.max(0, Math.min(1, along));
    return Math.hypot(row - y0 - share * dy, column - x0 - share * dx) < radius;
  });
}

/** Return the share of the original's brightness that a shift has moved out of the image. */
function brightnessLost() {
  const sum = (values) => values.reduce((total, v) => total + v, 0);
  return 1 - sum(pixels) / Math.max(1e-9, sum(original));
}
