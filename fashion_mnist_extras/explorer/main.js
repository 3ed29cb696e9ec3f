// The page: it opens chapters, listens to what a visitor does, and draws.

// ---- Drawing ------------------------------------------------------------------------------------
/** Compute what the networks see, and what TinyVGG makes of it. */
function compute() {
  pixels = render();
  let weights = weightsOf("TinyVGG", state.moment);
  if (state.kernel) {
    weights = setKernel(weights, state.point[1], state.kernel);
  }
  layers = runTinyVGG(asLayer(pixels), weights);
}

/** Compute and draw all that depends on the image, the moment of training and the weights. */
function update() {
  stopWindow();
  compute();
  drawMoment();
  drawAnswers();
  show();
  writeAddress();
  for (const name of ["shifts", "occlusion", "below"]) {
    clearTimeout(running[name]);
  }
  if (thisChapter().id === "everything") {
    running.below = setTimeout(drawBelow, 60); // what stands further down may come a little later
  }
}

function drawBelow() {
  drawUnits();
  drawSoftmax();
  startShiftMap();
  startOcclusion();
}

/** Draw what depends on what is pointed at. */
function show() {
  const chapter = thisChapter();
  chapter.settle?.();
  drawPicture();
  if (chapter.id === "everything") {
    chapter.draw();
    return;
  }
  drawWay();
  chapter.draw?.(); // when all has its place, since lines lead from picture to picture
  if (articleOf(chapter).querySelector("details").open) {
    writeAnswer(chapter);
  }
}

/** Write the answer to a chapter's question, which may depend on the image. */
function writeAnswer(chapter) {
  const { answer } = chapter;
  const text = typeof answer === "function" ? answer() : answer;
  articleOf(chapter).querySelector("details p").innerHTML = text;
}

/** Point at a value of a map, [layer, channel, row, column], or at a class. */
function point(target, isSliding = false) {
  if (!isSliding) {
    stopWindow();
  }
  if (Array.isArray(target)) {
    state.point = target;
    state.label = -1;
  } else {
    state.label = target;
  }
  state.isOpen = true;
  show();
  if (!isSliding) {
    writeAddress();
  }
}

// ---- Chapters -----------------------------------------------------------------------------------
// What is used in several chapters has its home in the last one, and moves to where it is needed.
const SHARED = [
  "picture",
  "moment",
  "thumbnails",
  "answers",
  "player",
  "close-up",
  "softmax-box",
  "own",
  "way",
];
const homes = new Map();

const articleOf = ({ id }) => element(`chapter-${id}`);

function writeChapters() {
  CHAPTERS.forEach((chapter, k) => {
    element("chapters").append(new Option(`${k + 1}. ${chapter.title}`, k));
    if (chapter.id !== "everything") {
      element("lesson").append(writeChapter(chapter, k));
      chapter.ready?.();
    }
  });
  for (const id of SHARED) {
    const home = document.createComment(id);
    homes.set(id, home);
    element(id).before(home);
  }
}

function writeChapter(chapter, k) {
  const article = document.createElement("article");
  article.id = `chapter-${chapter.id}`;
  article.hidden = true;
  const paragraphs = chapter.text.map((text) => `<p>${text}</p>`);
  const keys = chapter.keys ? `<p class="soft on-screen keys-of-keyboard">${chapter.keys}</p>` : "";
  article.innerHTML = `
    <div class="text"><h2 tabindex="-1">${k + 1}. ${chapter.title}</h2>
      ${paragraphs.join("")}${chapter.controls ?? ""}</div>
    <div class="stage"><div data-use="way"></div>${chapter.stage}
      <svg class="lines" aria-hidden="true"></svg></div>
    <div class="ask"><details><summary>${chapter.question}</summary><p></p></details>
      <button class="next">Next: ${CHAPTERS[k + 1].title}&nbsp;›</button>${keys}
      <p class="teacher">For the teacher: ${chapter.minutes} minutes. Ask: ${chapter.ask}</p>
    </div>`;
  article.querySelector(".next").onclick = () => turnTo(k + 1);
  article.querySelector("details").ontoggle = () => writeAnswer(chapter);
  return article;
}

/** Open a chapter as it begins. */
function openChapter(index) {
  const chapter = CHAPTERS[index];
  const isLast = index === CHAPTERS.length - 1;
  stopPlaying();
  stopWindow();
  for (const [id, home] of homes) {
    home.after(element(id));
  }
  for (const article of document.querySelectorAll("#lesson > article")) {
    article.hidden = article.id !== `chapter-${chapter.id}`;
  }
  element("lesson").hidden = isLast;
  element("everything").hidden = !isLast;
  if (!isLast) {
    for (const slot of articleOf(chapter).querySelectorAll("[data-use]")) {
      slot.append(element(slot.dataset.use));
    }
  }
  const begin = { moment: chapter.moment ?? LAST, point: [1, 0, H >> 1, W >> 1], label: -1 };
  Object.assign(state, begin, { chapter: index, isOpen: false, kernel: null });
  chooseTool(chapter.tool ?? "move");
  showFollowed(chapter);
  chapter.setUp?.();
  element("chapters").value = index;
  element("previous").disabled = index === 0;
  element("next").disabled = isLast;
  document.title = `${chapter.title} · How a neural network learns to see`;
}

/** Show the image that all chapters follow; in the chapter on photographs, the visitor's own. */
function showFollowed({ id }) {
  if (ownImage && id === "photograph") {
    setImage(ownImage, -1, OWN);
    return;
  }
  setImage(followed.values, followed.label, followed.index);
}

const views = new Map(); // the address of each chapter as it was left

/**
 * Open a chapter as a visitor does: the page begins at its top, and a screen reader at its title.
 */
function turnTo(index) {
  if (index < 0 || index >= CHAPTERS.length) {
    return;
  }
  clearTimeout(writing);
  views.set(state.chapter, address());
  setAddress("replaceState", address());
  const next = recallView(index);
  setAddress("pushState", next); // so that the browser's "back" is the chapter before
  readAddress(next);
  scrollTo(0, 0);
  const isLast = thisChapter().id === "everything";
  const title = isLast ? element("image-title") : articleOf(thisChapter()).querySelector("h2");
  title.focus({ preventScroll: true });
}

/** Return a chapter's address as it was left, but with the image that is followed now. */
function recallView(index) {
  const { id, isApart } = CHAPTERS[index];
  const view = new URLSearchParams(views.get(index)?.slice(1) ?? `chapter=${id}`);
  if (!isApart && view.get("image") !== "square") {
    const shown = Number(view.get("image") ?? OWN);
    const isExample = id === "shifts" && !followed.isChosen;
    if (shown !== followed.index && !isExample) {
      ["shift", "mirror", "turn"].forEach((name) => view.delete(name));
    }
    view.delete("image");
  }
  return `#${decodeURIComponent(view)}`;
}

element("chapters").onchange = ({ target }) => turnTo(Number(target.value));
element("previous").onclick = () => turnTo(state.chapter - 1);
element("next").onclick = () => turnTo(state.chapter + 1);

const isPlain = (event) => !event.ctrlKey && !event.metaKey && !event.altKey;
const TURNING = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 };
const TAKES_ARROWS = "input, select, canvas, .scroll, [data-cell]";

/** Whether a key turns the chapter: PageUp and PageDown, as presenters send them, from anywhere. */
function isTurning(event) {
  if (event.defaultPrevented || !isPlain(event) || event.shiftKey || !(event.key in TURNING)) {
    return false;
  }
  if (event.key.startsWith("Arrow") && event.target.closest?.(TAKES_ARROWS)) {
    return false;
  }
  // In the last chapter one scrolls down, and back to its top.
  const isLast = thisChapter().id === "everything";
  return !isLast || (TURNING[event.key] < 0 && scrollY === 0);
}

document.onkeydown = (event) => {
  if (isTurning(event)) {
    event.preventDefault();
    turnTo(state.chapter + TURNING[event.key]);
  }
};

let touch = null; // where a finger went down, beside what it would move
const MOVED_BY_FINGERS = "canvas, input, select, .scroll";
document.addEventListener("touchstart", startTouch, { passive: true });
document.addEventListener("touchend", endTouch);

function startTouch({ touches, target }) {
  const isEnlarged = (visualViewport?.scale ?? 1) > 1.05; // then a finger moves what is seen
  const isSwipe = touches.length === 1 && !isEnlarged && !target.closest(MOVED_BY_FINGERS);
  touch = isSwipe ? touches[0] : null;
}

function endTouch({ changedTouches }) {
  if (!touch) {
    return;
  }
  const right = changedTouches[0].clientX - touch.clientX;
  const down = changedTouches[0].clientY - touch.clientY;
  if (Math.abs(right) > 60 && Math.abs(right) > 2 * Math.abs(down)) {
    turnTo(state.chapter - Math.sign(right));
  }
}

// ---- What a visitor does with the image ---------------------------------------------------------
const CHANGES = {
  arrowleft: () => shiftBy(-1, 0),
  arrowright: () => shiftBy(1, 0),
  arrowup: () => shiftBy(0, -1),
  arrowdown: () => shiftBy(0, 1),
  m: mirrorImage,
  l: () => turnBy(-15),
  r: () => turnBy(15),
  0: putBack,
};

function shiftBy(right, down) {
  state.shift = [state.shift[0] + right, state.shift[1] + down];
}

function mirrorImage() {
  state.mirror = 1 - state.mirror;
  state.turn = -state.turn;
  state.shift = [-state.shift[0], state.shift[1]];
}

function turnBy(degrees) {
  state.turn = (state.turn + degrees) % 360;
}

function putBack() {
  strokes = [];
  Object.assign(state, { shift: [0, 0], mirror: 0, turn: 0 });
}

function changeImage(key) {
  CHANGES[key]();
  update();
}

element("picture").onkeydown = (event) => {
  if (!isPlain(event)) {
    return;
  }
  const key = event.key.toLowerCase();
  const arrow = ARROWS[event.key];
  if (tool === "pick" && arrow) {
    event.preventDefault();
    pick(state.point[2] + arrow[0], state.point[3] + arrow[1]);
  } else if (tool !== "pick" && Object.hasOwn(CHANGES, key)) {
    event.preventDefault();
    changeImage(key);
  }
};

for (const button of document.querySelectorAll("[data-key]")) {
  button.onclick = () => changeImage(button.dataset.key);
}
element("undo").onclick = () => {
  strokes.pop();
  update();
};
element("empty").onclick = () => {
  setImage(new Float32Array(C * H * W), -1, OWN);
  chooseTool("draw");
  update();
};

let tool = "move"; // what a pointer does on the image: "move", "draw", "wipe" or "pick"
function chooseTool(chosen) {
  tool = chosen;
  const isDrawing = tool === "draw" || tool === "wipe";
  element("picture").classList.toggle("pick", tool === "pick");
  element("picture").classList.toggle("drawing", isDrawing);
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.ariaPressed = button.dataset.tool === tool;
  }
}
for (const button of document.querySelectorAll("[data-tool]")) {
  button.onclick = () => chooseTool(button.dataset.tool);
}

let grabbed = null; // where the image was taken hold of
let shiftBefore = [0, 0]; // how it was shifted then

/** Return where a pointer is on the image, [x, y] in its pixels. */
function placeOnPicture({ offsetX, offsetY }) {
  const pixel = element("picture").clientWidth / W;
  return [offsetX / pixel, offsetY / pixel];
}

element("picture").onpointerdown = (event) => {
  const [x, y] = placeOnPicture(event);
  element("picture").setPointerCapture(event.pointerId);
  grabbed = [x - state.shift[0], y - state.shift[1]];
  shiftBefore = state.shift;
  if (tool === "draw" || tool === "wipe") {
    strokes.push({ value: tool === "draw" ? 1 : 0, points: [] });
  }
  useTool(event);
};

element("picture").onpointermove = (event) => {
  if (event.buttons && grabbed) {
    useTool(event);
  }
};

function useTool(event) {
  const [x, y] = placeOnPicture(event);
  if (tool === "pick") {
    pick(Math.floor(y), Math.floor(x));
    return;
  }
  if (tool === "move") {
    state.shift = [Math.round(x - grabbed[0]), Math.round(y - grabbed[1])];
  } else {
    const places = event.getCoalescedEvents?.() ?? [];
    for (const place of places.length ? places : [event]) {
      const [column, row] = placeOnPicture(place);
      strokes.at(-1).points.push(originOf(row - 0.5, column - 0.5));
    }
  }
  update();
}

element("picture").onpointerup = () => {
  grabbed = null;
};
// It was a swipe, which scrolls the page.
element("picture").onpointercancel = () => {
  grabbed = null;
  state.shift = shiftBefore;
  update();
};

// ---- Other inputs -------------------------------------------------------------------------------
element("step").max = LAST;
element("step").oninput = ({ target }) => {
  stopPlaying();
  state.moment = Number(target.value);
  update();
};
element("play-training").onclick = () => (playing ? stopPlaying() : startPlaying());

document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  openFile(event.dataTransfer.files[0]);
};
element("file").onchange = async ({ target }) => {
  await openFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
};

// ---- The start ----------------------------------------------------------------------------------
/**
 * Whether a network differs from the trained one: its layers may have been edited in the program.
 */
function isEdited(name) {
  try {
    return DATA.networks[name].logits.some((expected, k) => {
      const found = logits(name, storedImage(k), LAST);
      return expected.some((value, label) => {
        const difference = Math.abs(found[label] - value);
        return !(difference < 0.01 + 0.001 * Math.abs(value)); // true for NaN
      });
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
      `${edited} was changed in the program: this page computes the original layers, so it does ` +
      "not show what the network did.";
  }
}

const CHAPTERS = describeChapters();
writeWay();
writeChapters();
warnOfEdited();
prepareEverything();
window.onhashchange = () => readAddress(location.hash, history.state === null);
readAddress(location.hash, history.state?.isChosen ?? true); // reloaded, or opened by a link
window.onresize = show;
matchMedia("(prefers-color-scheme: dark)").onchange = show;
window.explorer = {
  logits,
  prepareFile,
  openFile,
  state,
  address,
  covered: () => covered,
  played: () => played,
  rightAt: () => rightAt,
};
