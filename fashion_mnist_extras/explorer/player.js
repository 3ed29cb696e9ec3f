// Sliding the window over a map: place by place the map fills.

let played = null; // the map's values so far, row by row; NaN where the window has not been
let walking = null; // the timer that moves the window on
let cameFrom = null; // what was pointed at before the window began to slide
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Stop, and discard the map that was being filled. */
function stopWindow() {
  pauseWindow();
  played = null;
  element("player-text").textContent = "";
}

function pauseWindow() {
  clearInterval(walking);
  walking = null;
  element("play-window").textContent = "slide the window";
}

/**
 * Return, for each place of a layer, 1 where something of the image is there or beside it:
 * elsewhere nothing happens.
 */
function markImage({ height, width }) {
  const there = new Uint8Array(height * width);
  pixels.forEach((value, k) => {
    if (!value) {
      return;
    }
    const y = Math.floor(((Math.floor(k / W) % H) * height) / H);
    const x = Math.floor(((k % W) * width) / W);
    const left = Math.max(0, x - 1);
    const right = Math.min(width, x + 2);
    for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row++) {
      there.fill(1, row * width + left, row * width + right);
    }
  });
  return there;
}

/** Begin with an empty map, but for the places where nothing of the image is. */
function beginSliding() {
  const [l, channel] = state.point;
  const there = markImage(layers[l]);
  cameFrom = state.point;
  played = mapOf(layers[l], channel).map((value, k) => (there[k] ? NaN : value));
}

/** Compute the next value from the products of its window; return its index, -1 at the end. */
function nextValue() {
  if (!played) {
    beginSliding();
  }
  const next = played.findIndex(Number.isNaN);
  if (next < 0) {
    return -1;
  }
  const [l, channel] = state.point;
  const { width, kind } = layers[l];
  const [conv, input] = convolutionAt(l);
  const parts = productsAt(conv, input, channel, Math.floor(next / width), next % width);
  const sum = parts.reduce((total, part) => total + part.sum, conv.bias.values[channel]);
  played[next] = kind === "relu" ? Math.max(0, sum) : sum;
  return next;
}

/**
 * Compute the next values, as many as let the window slide over the whole map in some five seconds.
 */
function nextValues() {
  const places = markImage(layers[state.point[0]]).reduce((sum, isThere) => sum + isThere, 0);
  let last = -1;
  for (let k = 0; k < Math.max(1, Math.ceil(places / 120)); k++) {
    const next = nextValue();
    if (next < 0) {
      break;
    }
    last = next;
  }
  return last;
}

/** Show the window at a place, or, at the end (-1), what was pointed at before. */
function showValue(index) {
  if (index < 0) {
    pauseWindow();
    element("player-text").textContent = "";
    point(cameFrom, true);
    return;
  }
  const [l, channel] = state.point;
  const { width } = layers[l];
  const y = Math.floor(index / width);
  const x = index % width;
  point([l, channel, y, x], true);
  element("player-text").textContent = `row ${y + 1}, column ${x + 1}`;
}

/** Start again if the map is full. */
function forgetFullMap() {
  if (played && !played.some(Number.isNaN)) {
    played = null;
  }
}

element("step-window").onclick = () => {
  pauseWindow();
  forgetFullMap();
  showValue(nextValue());
};

element("play-window").onclick = () => {
  if (walking) {
    pauseWindow();
    return;
  }
  forgetFullMap();
  element("play-window").textContent = "stop";
  if (reducedMotion.matches) {
    // Whoever wants no motion sees single places, each for half a second.
    walking = setInterval(() => showValue(nextValue()), 500);
  } else {
    walking = setInterval(() => showValue(nextValues()), 40);
  }
};
