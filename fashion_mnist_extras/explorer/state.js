// The state of the page: it stands in its address, but for drawings, guesses and one's own images.

// What stands for an image that is not one of the stored ones.
const OWN = -1; // from a file, or drawn
const SQUARE = -2;

const state = {
  chapter: 0,
  image: 0,
  moment: LAST, // of training
  shift: [0, 0],
  mirror: 0,
  turn: 0, // in degrees
  point: [1, 0, H >> 1, W >> 1], // layer, channel, row, column
  label: -1, // the class that is asked about
  isOpen: false, // whether a point or a class is explained
  kernel: null, // nine weights set by hand
};

const thisChapter = () => CHAPTERS[state.chapter];
const findChapter = (id) => CHAPTERS.findIndex((chapter) => chapter.id === id);

function address() {
  const parts = [`chapter=${thisChapter().id}`];
  if (state.image >= 0) {
    parts.push(`image=${state.image}`);
  } else if (state.image === SQUARE) {
    parts.push("image=square");
  }
  parts.push(`step=${state.moment}`);
  if (state.shift.some(Boolean)) {
    parts.push(`shift=${state.shift}`);
  }
  if (state.mirror) {
    parts.push("mirror=1");
  }
  if (state.turn) {
    parts.push(`turn=${state.turn}`);
  }
  if (state.kernel) {
    parts.push(`weights=${state.kernel}`);
  }
  if (state.isOpen) {
    parts.push(state.label >= 0 ? `class=${state.label}` : `point=${state.point.join(".")}`);
  }
  return `#${parts.join("&")}`;
}

/**
 * Change the browser's address by replaceState or pushState. In a sandbox, as that of JupyterLab,
 * a page has no address of its own.
 */
function setAddress(change, hash) {
  try {
    history[change]({ isChosen: followed.isChosen }, "", hash);
  } catch (error) {
    if (error.name !== "SecurityError") {
      throw error;
    }
  }
}

let writing = 0; // a timer: browsers allow only so many changes of the address per second
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => setAddress("replaceState", address()), 150);
}

/** Return a value as an index below count: the nearest one, 0 for what is no number. */
const clampIndex = (value, count) => Math.max(0, Math.min(count - 1, Math.floor(value) || 0));

/** Whether a number can be set as a weight: larger ones could not be printed. */
const isWeight = (value) => Math.abs(value) < 100;

function numbersIn(said, name, separator) {
  const texts = (said.get(name) ?? "").split(separator);
  return texts.map((text) => Math.max(-999, Math.min(999, Math.trunc(text) || 0)));
}

/**
 * Take over what an address says; what it does not say is as the chapter begins. A link chooses the
 * image that is followed; an address that the page itself has written does not.
 */
function readAddress(hash, isLink = false) {
  const said = new URLSearchParams(hash.slice(1));
  openChapter(findAddressed(said));
  readImage(said, isLink);
  if (said.has("step")) {
    state.moment = clampIndex(said.get("step"), LAST + 1);
  }
  if (said.has("weights") && thisChapter().id === "convolution") {
    const weights = said.get("weights").split(",").map(Number);
    state.kernel = weights.length === 9 && weights.every(isWeight) ? weights : null;
  }
  compute(); // layers, so that a point can be checked
  readPoint(said);
  update();
}

// The chapters as they were once numbered, in the addresses that teachers have noted.
const NUMBERED = [
  "image",
  "untrained",
  "learning",
  "convolution",
  "pooling",
  "softmax",
  "shifts",
  "mistakes",
  "photograph",
  "everything",
];

/** Return the chapter that an address names: the last for none, the first for an unknown one. */
function findAddressed(said) {
  const name = said.get("chapter");
  if (name === null) {
    const isKnown = ["image", "step", "shift", "mirror", "turn", "class", "point"].some((key) =>
      said.has(key),
    );
    return isKnown ? CHAPTERS.length - 1 : 0;
  }
  const numbered = NUMBERED.filter((id) => findChapter(id) >= 0);
  return Math.max(0, findChapter(numbered[name - 1] ?? name));
}

function readImage(said, isLink) {
  const index = clampIndex(said.get("image"), labels.length);
  if (said.get("image") === "square" && thisChapter().id === "convolution") {
    setImage(drawSquare(), -1, SQUARE);
  } else if (said.has("image") && isLink) {
    follow(index);
  } else if (said.has("image") && thisChapter().isApart) {
    choose(index);
  }
  if (said.has("shift")) {
    state.shift = numbersIn(said, "shift", ",").concat(0).slice(0, 2);
  }
  if (said.has("mirror")) {
    state.mirror = clampIndex(said.get("mirror"), 2);
  }
  if (said.has("turn")) {
    [state.turn] = numbersIn(said, "turn");
  }
}

function readPoint(said) {
  if (said.has("class")) {
    state.label = clampIndex(said.get("class"), classes.length);
    state.isOpen = true;
  } else if (said.has("point")) {
    const [l, channel, y, x] = numbersIn(said, "point", ".");
    const at = clampIndex(l, layers.length);
    const { channels, height, width } = layers[at];
    state.label = -1;
    state.isOpen = true;
    state.point = [at, clampIndex(channel, channels), clampIndex(y, height), clampIndex(x, width)];
  }
}
