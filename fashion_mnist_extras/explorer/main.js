// ---- The state of the page: all of it, but for what is drawn, stands in its address ---------------
const state = {
  chapter: 0,
  image: 0,
  step: LAST,
  shift: [0, 0],
  mirror: 0,
  turn: 0,
  point: [1, 0, H >> 1, W >> 1],
  label: -1,
  isOpen: false,
};

function address() {
  const parts = [`chapter=${state.chapter + 1}`];
  if (state.image >= 0) {
    parts.push(`image=${state.image}`);
  }
  if (state.image === SQUARE) {
    parts.push("image=square");
  }
  parts.push(`step=${state.step}`);
  if (state.shift.some(Boolean)) {
    parts.push(`shift=${state.shift}`);
  }
  if (state.mirror) {
    parts.push("mirror=1");
  }
  if (state.turn) {
    parts.push(`turn=${state.turn}`);
  }
  if (state.isOpen) {
    parts.push(state.label >= 0 ? `class=${state.label}` : `point=${state.point.join(".")}`);
  }
  return `#${parts.join("&")}`;
}
/** Change the browser's address, by replaceState or pushState; in JupyterLab a page has none of its own. */
function setAddress(change, hash) {
  try {
    history[change](null, "", hash);
  } catch (error) {
    if (error.name !== "SecurityError") {
      throw error;
    }
  }
}
/** Take over what an address says; what it does not say is as the chapter begins. Without a chapter it means the last. */
function readAddress(hash = location.hash) {
  const said = new URLSearchParams(hash.slice(1));
  const limit = (value, end) => Math.max(0, Math.min(end, Math.trunc(value) || 0));
  const numbers = (name, separator) =>
    (said.get(name) ?? "").split(separator).map((text) => Math.trunc(text) || 0);
  const last = CHAPTERS.length - 1;
  openChapter(said.has("chapter") ? limit(said.get("chapter") - 1, last) : said.size ? last : 0);
  if (said.get("image") === "square") {
    setImage(drawSquare(), -1, SQUARE);
  } else if (said.has("image")) {
    choose(limit(said.get("image"), labels.length - 1));
  }
  if (said.has("step")) {
    state.step = limit(said.get("step"), LAST);
  }
  if (said.has("shift")) {
    state.shift = numbers("shift", ",").concat(0).slice(0, 2);
  }
  if (said.has("mirror")) {
    state.mirror = limit(said.get("mirror"), 1);
  }
  if (said.has("turn")) {
    [state.turn] = numbers("turn");
  }
  update(); // of layers, so that a point can be checked
  if (said.has("class")) {
    point(limit(said.get("class"), classes.length - 1));
  } else if (said.has("point")) {
    const [l, channel, y, x] = numbers("point", ".");
    const at = limit(l, layers.length - 1);
    const layer = layers[at];
    point([
      at,
      limit(channel, layer.channels - 1),
      limit(y, layer.height - 1),
      limit(x, layer.width - 1),
    ]);
  }
}
let writing; // browsers allow only so many changes of the address a second
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => setAddress("replaceState", address()), 150);
}

// ---- The answers ----------------------------------------------------------------------------------

function drawAnswers() {
  const answers = NAMES.map((name) => [
    name,
    softmax(logits(name, pixels, state.step, name === "TinyVGG" && layers)),
  ]);
  const said = answers
    .map(([name, p]) => `${name}: ${classes[indexOfLargest(p)]} ${percent(Math.max(...p), 0)}`)
    .join(", ");
  const text = said + (truth < 0 ? "" : `; true class: ${classes[truth]}`);
  if (element("answer").textContent !== text) {
    element("answer").textContent = text;
  }
  // In a chapter there is room for ten classes: the most probable, and the true one.
  const { usesClasses } = CHAPTERS[state.chapter];
  const isLesson = CHAPTERS[state.chapter].id !== "everything";
  const order = [...classes.keys()].sort(
    (a, b) => (b === truth) - (a === truth) || answers.at(-1)[1][b] - answers.at(-1)[1][a],
  );
  [...element("classes").children].forEach((item, k) => {
    const button = item.firstChild;
    item.hidden = isLesson && classes.length > 12 && order.indexOf(k) >= 10;
    button.disabled = isLesson && !usesClasses;
    button.ariaPressed = state.label === k;
    button.firstChild.innerHTML =
      k === truth && CHAPTERS[state.chapter].id !== "guess"
        ? `<strong>✓ ${escapeHtml(classes[k])}</strong>`
        : escapeHtml(classes[k]);
    button.lastChild.innerHTML = answers
      .map(
        ([name, p]) => `<span class="bar"><b style="width: ${100 * p[k]}%;
      background: var(--${name})" role="img" aria-label="${name}"></b><span style="grid-column: 2${p[k] === Math.max(...p) ? "; font-weight: bold" : ""}">${percent(p[k])}</span></span>`,
      )
      .join("");
  });
}
function drawMoment() {
  const { epochs } = DATA.networks.TinyVGG;
  const epoch = epochs[state.step];
  const right = NAMES.map(
    (name) => `${name} ${percent(DATA.networks[name].accuracies[state.step])}`,
  );
  const when =
    state.step === 0
      ? "before the first step: random weights"
      : `after ${Number(epoch.toFixed(2))} epoch${epoch === 1 ? "" : "s"}`;
  const text =
    CHAPTERS[state.chapter].id === "everything"
      ? `${when}; of test images right: ${right.join(", ")}`
      : when; // a chapter draws them
  element("moment-text").textContent = element("step").ariaValueText = text;
  element("step").value = state.step;
}

/** Draw what depends on what is pointed at: in a chapter its stage, at the end of the page all. */
function show() {
  CHAPTERS[state.chapter].settle?.();
  drawPicture();
  CHAPTERS[state.chapter].draw?.();
}

/** Point at a value of a map, [layer, channel, row, column], or at a class. */
function point(target, isPlaying = false) {
  if (!isPlaying) {
    stopWindow();
  }
  if (Array.isArray(target)) {
    [state.point, state.label] = [target, -1];
  } else {
    state.label = target;
  }
  state.isOpen = true;
  show();
  if (!isPlaying) {
    writeAddress();
  }
}

/** Write the chapters; what is used in several of them stands in "everything" and moves to where it is needed. */
const homes = {};
function writeChapters() {
  const found = describeChapters();
  found.forEach((chapter, k) => {
    element("chapters").append(new Option(`${k + 1}. ${chapter.title}`, k));
    if (chapter.id === "everything") {
      return;
    }
    const article = document.createElement("article");
    const next = found[k + 1];
    Object.assign(article, { id: `chapter-${chapter.id.replace(/ /g, "-")}`, hidden: true });
    article.innerHTML = `<div class="text"><h2 tabindex="-1">${k + 1}. ${chapter.title}</h2>${chapter.opening ? `<p>${chapter.opening}</p>` : ""}<p>${chapter.text}</p>${chapter.controls ?? ""}</div>
      <div class="stage">${chapter.stage}${chapter.stage.includes("svg") ? "" : '<svg class="lines" aria-hidden="true"></svg>'}</div>
      <div class="ask"><details><summary>${chapter.question}</summary><p>${chapter.answer}</p></details><button class="next">Next: ${next.title} ›</button></div>`;
    article.querySelector(".next").onclick = () => turnTo(k + 1);
    element("lesson").append(article);
    chapter.ready?.();
  });
  for (const id of [
    "picture",
    "moment",
    "thumbnails",
    "answers",
    "player",
    "close-up",
    "softmax-box",
    "own",
  ]) {
    homes[id] = document.createComment(id);
    element(id).before(homes[id]);
  }
  return found;
}
/** Show a chapter as it begins. */
function openChapter(number) {
  const chapter = CHAPTERS[number];
  const isLast = number === CHAPTERS.length - 1;
  stopPlaying();
  stopWindow();
  for (const [id, home] of Object.entries(homes)) {
    home.after(element(id));
  }
  document.querySelectorAll("article").forEach((article, k) => {
    article.hidden = k !== number;
  });
  element("lesson").hidden = isLast;
  element("everything").hidden = !isLast;
  if (!isLast) {
    const article = document.querySelectorAll("article")[number];
    for (const slot of article.querySelectorAll("[data-use]")) {
      slot.append(element(slot.dataset.use));
    }
  }
  Object.assign(state, {
    chapter: number,
    step: chapter.step ?? LAST,
    point: [1, 0, H >> 1, W >> 1],
    label: -1,
    isOpen: false,
  });
  chooseTool(chapter.tool ?? "move");
  choose(chapter.image);
  if (ownImage && ["photograph", "everything"].includes(chapter.id)) {
    setImage(ownImage, -1, -1);
  }
  chapter.setUp?.();
  element("chapters").value = number;
  Object.assign(element("previous"), { disabled: number === 0 });
  Object.assign(element("next"), { disabled: isLast });
}
const views = {}; // the address of each chapter as it was left
/** Open a chapter as a visitor does: the page begins at its top, and a screen reader at its title. */
function turnTo(number) {
  if (number < 0 || number >= CHAPTERS.length) {
    return;
  }
  clearTimeout(writing);
  views[state.chapter] = address();
  setAddress("replaceState", address());
  const next = views[number] ?? `#chapter=${number + 1}`;
  setAddress("pushState", next); // so that the browser's "back" is the chapter before
  readAddress(next);
  scrollTo(0, 0);
  (number === CHAPTERS.length - 1
    ? element("image-title")
    : document.querySelectorAll("article h2")[number]
  ).focus({ preventScroll: true });
}
element("chapters").onchange = ({ target }) => turnTo(Number(target.value));
element("previous").onclick = () => turnTo(state.chapter - 1);
element("next").onclick = () => turnTo(state.chapter + 1);
document.onkeydown = (event) => {
  // presenters send PageUp and PageDown
  if (event.defaultPrevented || !isPlain(event) || event.shiftKey) {
    return;
  }
  const step = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  const isWanted =
    event.key.startsWith("Arrow") &&
    event.target.closest?.("input, select, canvas, .scroll, [data-cell]");
  const { scrollHeight, clientHeight } = document.documentElement;
  const room = { PageDown: scrollHeight - clientHeight - scrollY, PageUp: scrollY }[event.key] ?? 0;
  if (
    !step ||
    isWanted ||
    room > 40 ||
    event.target.matches?.("input, select") ||
    (state.chapter === CHAPTERS.length - 1 && (step > 0 || scrollY > 0))
  ) {
    return;
  }
  event.preventDefault();
  turnTo(state.chapter + step);
};
let touch = null; // where a finger went down, beside what it would move
document.addEventListener(
  "touchstart",
  ({ touches, target }) => {
    const isEnlarged = (visualViewport?.scale ?? 1) > 1.05; // then a finger moves what is seen
    touch =
      touches.length === 1 && !isEnlarged && !target.closest("canvas, input, select, .scroll")
        ? touches[0]
        : null;
  },
  { passive: true },
);
document.addEventListener("touchend", ({ changedTouches }) => {
  if (!touch) {
    return;
  }
  const [dx, dy] = [
    changedTouches[0].clientX - touch.clientX,
    changedTouches[0].clientY - touch.clientY,
  ];
  if (Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) {
    turnTo(state.chapter - Math.sign(dx));
  }
});

// ---- Is it the network that was trained? Someone may have edited its layers in the program --------
function isEdited(name) {
  try {
    return DATA.networks[name].logits.some((expected, k) => {
      const found = logits(name, storedImage(k), LAST);
      return expected.some((value, label) => !(Math.abs(found[label] - value) < 0.01));
    });
  } catch {
    return true; // weights of other names or shapes
  }
}
function warnOfEdited() {
  const edited = NAMES.filter(isEdited).join(" and ");
  element("edited").hidden = !edited;
  if (edited) {
    element("edited").textContent =
      `${edited} was changed in the program: this page computes the original layers, so it does not show what the network did.`;
  }
}

// ---- What a visitor does ------------------------------------------------------------------------
function update() {
  stopWindow();
  pixels = render();
  layers = runTinyVGG(asLayer(pixels), weightsOf("TinyVGG", state.step));
  drawMoment();
  drawAnswers();
  show();
  writeAddress();
  clearTimeout(running.below); // what stands further below may come a little later
  for (const name of ["shifts", "occlusion"]) {
    clearTimeout(running[name]);
  }
  if (CHAPTERS[state.chapter].id !== "everything") {
    return;
  }
  running.below = setTimeout(() => {
    drawUnits();
    drawSoftmax();
    startShiftMap();
    startOcclusion();
  }, 60);
}
const KEYS = {
  arrowleft: () => {
    state.shift = [state.shift[0] - 1, state.shift[1]];
  },
  arrowright: () => {
    state.shift = [state.shift[0] + 1, state.shift[1]];
  },
  arrowup: () => {
    state.shift = [state.shift[0], state.shift[1] - 1];
  },
  arrowdown: () => {
    state.shift = [state.shift[0], state.shift[1] + 1];
  },
  m: () =>
    Object.assign(state, {
      mirror: 1 - state.mirror,
      turn: -state.turn,
      shift: [-state.shift[0], state.shift[1]],
    }),
  l: () => {
    state.turn = (state.turn - 15) % 360;
  },
  r: () => {
    state.turn = (state.turn + 15) % 360;
  },
  0: () => {
    [strokes, state.shift, state.mirror, state.turn] = [[], [0, 0], 0, 0];
  },
};
const press = (key) => void (KEYS[key](), update());
const isPlain = (event) => !event.ctrlKey && !event.metaKey && !event.altKey;
element("picture").onkeydown = (event) => {
  // only where the focus is
  const key = event.key.toLowerCase();
  const move = { arrowleft: [0, -1], arrowright: [0, 1], arrowup: [-1, 0], arrowdown: [1, 0] }[key];
  if (tool === "pick") {
    if (!move || !isPlain(event)) {
      return;
    }
    event.preventDefault();
    return pick(state.point[2] + move[0], state.point[3] + move[1]);
  }
  if (!isPlain(event) || !Object.hasOwn(KEYS, key)) {
    return;
  }
  event.preventDefault();
  press(key);
};
document.querySelectorAll("[data-key]").forEach((button) => {
  button.onclick = () => press(button.dataset.key);
});
element("undo").onclick = () => {
  strokes.pop();
  update();
};
element("empty").onclick = () => {
  setImage(new Float32Array(C * H * W), -1, -1);
  chooseTool("draw");
  update();
};

let tool = "move";
let grabbed = null;
let shiftBefore = [0, 0]; // where the image was taken hold of, and how it was shifted then
function chooseTool(chosen) {
  tool = chosen;
  element("picture").className = { move: "", pick: "pick" }[tool] ?? "drawing";
  document.querySelectorAll("[data-tool]").forEach((button) => {
    button.ariaPressed = button.dataset.tool === tool;
  });
}
document.querySelectorAll("[data-tool]").forEach((button) => {
  button.onclick = () => chooseTool(button.dataset.tool);
});
element("picture").onpointerdown = element("picture").onpointermove = (event) => {
  const placeOf = ({ offsetX, offsetY }) =>
    [offsetX, offsetY].map((v) => (v / element("picture").clientWidth) * W);
  const [x, y] = placeOf(event);
  if (event.type === "pointerdown") {
    element("picture").setPointerCapture(event.pointerId);
    grabbed = [x - state.shift[0], y - state.shift[1]];
    shiftBefore = state.shift;
    if (tool === "draw" || tool === "wipe") {
      strokes.push({ value: tool === "draw" ? 1 : 0, points: [] });
    }
  } else if (!event.buttons || !grabbed) {
    return;
  }
  if (tool === "pick") {
    return pick(Math.floor(y), Math.floor(x));
  }
  if (tool === "move") {
    state.shift = [Math.round(x - grabbed[0]), Math.round(y - grabbed[1])];
  } else {
    for (const place of event.getCoalescedEvents?.().length
      ? event.getCoalescedEvents()
      : [event]) {
      const [column, row] = placeOf(place);
      strokes.at(-1).points.push(originOf(row - 0.5, column - 0.5));
    }
  }
  update();
};
element("picture").onpointerup = () => {
  grabbed = null;
};
element("picture").onpointercancel = () => {
  // it was a swipe, which scrolls the page
  grabbed = null;
  state.shift = shiftBefore;
  update();
};

let playing = null; // the timer of training
function stopPlaying() {
  clearInterval(playing);
  playing = null;
  Object.assign(element("play-training"), { ariaPressed: false, textContent: "play the training" });
}
element("step").max = LAST;
element("step").oninput = ({ target }) => {
  stopPlaying();
  state.step = Number(target.value);
  update();
};
element("play-training").onclick = () => {
  if (playing) {
    return stopPlaying();
  }
  if (state.step === LAST) {
    state.step = 0;
  }
  Object.assign(element("play-training"), { ariaPressed: true, textContent: "stop" });
  playing = setInterval(
    () => {
      if (state.step === LAST) {
        return stopPlaying();
      }
      state.step += 1;
      update();
    },
    isStill.matches ? 2000 : 700,
  );
  update();
};
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  openFile(event.dataTransfer.files[0]);
};
element("file").onchange = async ({ target }) => {
  await openFile(target.files[0]);
  target.value = "";
}; // so that the same file can be chosen again

// ---- The start ----------------------------------------------------------------------------------
element("legend").innerHTML = NAMES.map(
  (name) => `<span class="key" style="background: var(--${name})"></span> ${name} `,
).join("");
element("mlp").hidden = !NAMES.includes("MLP");
warnOfEdited();
showTypical();
drawMatrices();
const CHAPTERS = writeChapters();
window.onhashchange = () => readAddress();
readAddress();
const channelsText =
  layers[1].channels > MOST
    ? `The first sixteen of ${layers[1].channels} channels are shown. `
    : "";
element("help").textContent =
  `${channelsText}By keyboard: arrow keys choose a value, with shift a map.`;
window.onresize = matchMedia("(prefers-color-scheme: dark)").onchange = show;
window.explorer = {
  logits,
  prepareFile,
  state,
  address,
  covered: () => covered,
  played: () => played,
  rightAt: () => rightAt,
  openFile,
};
