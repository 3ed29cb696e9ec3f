let original;
let truth;
let strokes; // the image chosen, its class (-1: unknown), and what was drawn on it
let pixels;
let layers; // what the networks see, and what TinyVGG makes of it

// ---- The image: chosen, shifted, turned, drawn on -------------------------------------------------
function setImage(image, label, index) {
  [original, truth, strokes, state.image] = [image, label, [], index];
  Object.assign(state, { shift: [0, 0], mirror: 0, turn: 0 });
  if (state.label >= 0) {
    Object.assign(state, { label: -1, isOpen: false });
  }
  element("status").textContent = "";
  for (const button of document.querySelectorAll(".thumbnails button")) {
    button.ariaPressed = Number(button.dataset.image) === index;
  }
}
const choose = (k) => setImage(storedImage(k), labels[k], k);

/** Return, for a pixel of the shifted and turned image, where on the original it comes from: [row, column]. */
function originOf(y, x, [dx, dy] = state.shift) {
  const angle = (state.turn * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const u = x - (W - 1) / 2 - dx;
  const v = y - (H - 1) / 2 - dy; // from the middle
  return [
    cos * v - sin * u + (H - 1) / 2,
    (state.mirror ? -1 : 1) * (cos * u + sin * v) + (W - 1) / 2,
  ];
}
/** Return what the networks see: the original under what was drawn on it, shifted, mirrored and turned. */
function render(shift = state.shift) {
  const image = new Float32Array(C * H * W);
  const radius = Math.max(1.2, W / 22);
  const [dx, dy] = shift;
  const at = (c, y, x) => (y < 0 || x < 0 || y >= H || x >= W ? 0 : original[(c * H + y) * W + x]);
  for (let y = 0; y < H; y++) {
    for (let x = 0; x < W; x++) {
      const plain = !state.turn && !state.mirror;
      const [row, column] = plain ? [y - dy, x - dx] : originOf(y, x, shift);
      const ink = strokes.findLast(({ points }) => isNear(points, row, column, radius)); // drawn things lie on the original, and go with it
      const [top, left] = [Math.floor(row), Math.floor(column)];
      const [down, right] = [row - top, column - left];
      for (let c = 0; c < C; c++) {
        const upper = at(c, top, left) * (1 - right) + (right && at(c, top, left + 1) * right);
        const lower = down && at(c, top + 1, left) * (1 - right) + at(c, top + 1, left + 1) * right;
        image[(c * H + y) * W + x] = ink ? ink.value : upper * (1 - down) + lower * down;
      }
    }
  }
  return image;
}
/** Whether a place is within radius of a line through points, each [row, column]. */
function isNear(points, row, column, radius) {
  return points.some(([y1, x1], k) => {
    const [y0, x0] = points[Math.max(0, k - 1)];
    const [dy, dx] = [y1 - y0, x1 - x0];
    const length = dy * dy + dx * dx;
    const share =
      length && Math.max(0, Math.min(1, ((row - y0) * dy + (column - x0) * dx) / length));
    return Math.hypot(row - y0 - share * dy, column - x0 - share * dx) < radius;
  });
}

class UnreadableCanvas extends Error {}
let filesOpened = 0;
let photograph = null;
let ownImage = null; // the last image file, drawn as it is, and what was made of it
let isInk = false; // whether it was ink on paper, for networks of light on dark
/** Return an image file as the networks take it, C * H * W numbers in [0, 1]; null if it is none. Throws UnreadableCanvas. */
async function prepareFile(file) {
  const bitmap = await createImageBitmap(file, {
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  }).catch(() => null);
  if (!bitmap) {
    return null;
  }
  // A photograph of a phone has 24 million pixels, of which 280 x 280 are needed: the browser makes it smaller first.
  const share = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((v) =>
    Math.max(1, Math.round(share * v)),
  );
  const context = new OffscreenCanvas(width, height + 1).getContext("2d", {
    willReadFrequently: true,
  });
  Object.assign(context, { imageSmoothingQuality: "high", fillStyle: "#123456" });
  context.drawImage(bitmap, 0, 0, width, height);
  context.fillRect(0, height, 1, 1); // a known pixel: a browser that protects against fingerprinting gives others
  const [red, green, blue] = context.getImageData(0, height, 1, 1).data;
  if (red !== 0x12 || green !== 0x34 || blue !== 0x56) {
    throw new UnreadableCanvas();
  }
  const { data } = context.getImageData(0, 0, width, height);
  photograph = Object.assign(document.createElement("canvas"), { width, height });
  photograph.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const onPage = (page) =>
    [0, 1, 2].map((c) => ({
      width,
      height,
      values: Uint8Array.from({ length: width * height }, (_, k) =>
        toByte(page + ((data[4 * k + c] - page) * data[4 * k + 3]) / 255),
      ),
    }));
  const isFashion = DATA.dataset === "FashionMNIST" && C === 1 && H === 28;
  let planes = onPage(255); // under what is transparent
  const isTransparent = data.some((v, k) => k % 4 === 3 && v < 255);
  const isSeen = () => {
    // on white; see put_on_page
    if (DATA.page) {
      return DATA.page === "white";
    }
    if (!isFashion && !DATA.inkSize) {
      return toGrey(planes).values.reduce((a, b) => Math.min(a, b)) < 200;
    }
    const opaque = [0, 1, 2].map((c) => ({
      width,
      height,
      values: Uint8Array.from({ length: width * height }, (_, k) => data[4 * k + c]),
    }));
    const visible = [...toGrey(opaque).values.filter((_, k) => data[4 * k + 3] >= 128)].sort(
      (a, b) => a - b,
    );
    return !visible.length || visible[(visible.length - 1) >> 1] < 200;
  };
  if (isTransparent && !isSeen()) {
    planes = onPage(0);
  }
  if (isFashion) {
    const isGrey = planes[0].values.every(
      (v, k) => v === planes[1].values[k] && v === planes[2].values[k],
    );
    const isOwn = width === 28 && height === 28 && isGrey && planes[0].values[0] < 128; // one of the dataset's own
    return Float32Array.from(
      isOwn ? toGrey(planes).values : prepareGarment(planes),
      (v) => v / 255,
    );
  }
  const framed = DATA.inkSize ? cutFrame(planes) : null;
  isInk = framed !== null && hasLightBorder(framed);
  if (isInk) {
    return Float32Array.from(prepareInk(framed, H, DATA.inkSize), (v) => v / 255);
  }
  const side = Math.min(width, height);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  const squares = (C === 1 ? [toGrey(planes)] : planes).map((plane) =>
    resize(plane, W, H, lanczos, 3, [left, top, left + side, top + side]),
  );
  return Float32Array.from(
    squares.flatMap(({ values }) => [...values]),
    (v) => v / 255,
  );
}
async function openFile(file) {
  const takesFiles = () => ["photograph", "everything"].includes(CHAPTERS[state.chapter].id);
  if (!file && !takesFiles()) {
    return;
  }
  if (!takesFiles()) {
    turnTo(CHAPTERS.findIndex(({ id }) => id === "photograph"));
  }
  const say = (text, isError = true) =>
    Object.assign(element("status"), { textContent: text, className: isError ? "bad" : "" });
  const refuse = (text) => {
    // the answer to another image must not stand beside it
    [photograph, ownImage] = [null, null];
    if (CHAPTERS[state.chapter].id === "photograph") {
      choose(CHAPTERS[state.chapter].image);
    }
    update();
    say(text);
  };
  if (!file) {
    return say("Only a file can be dropped here: save the image first.");
  }
  say(`preparing ${file.name} ...`, false);
  await new Promise((resolve) => {
    setTimeout(resolve, 50);
  }); // so that this is read before the work begins
  const isGarment = DATA.dataset === "FashionMNIST";
  const number = ++filesOpened;
  let image;
  try {
    image = await prepareFile(file);
  } catch (error) {
    if (!(error instanceof UnreadableCanvas)) {
      throw error;
    }
    return refuse(
      "This browser does not let pages read images (protection against fingerprinting): allow it for this page, or use another one.",
    );
  }
  if (number !== filesOpened || !takesFiles()) {
    return;
  } // another file was chosen meanwhile, or another chapter
  if (!image) {
    return refuse(`${file.name} cannot be read as an image.`);
  }
  if (isGarment && image.every((v) => v === 0)) {
    return refuse(`${file.name}: nothing stands out from its background.`);
  }
  if (isInk && image.every((v) => v === 0)) {
    return refuse(`${file.name} shows no ink on a light page; if it is framed, crop it.`);
  }
  ownImage = image;
  CHAPTERS.forEach(({ id }, k) => {
    if (["photograph", "everything"].includes(id)) {
      delete views[k];
    }
  }); // there it is shown now
  setImage(image, -1, -1);
  update();
  const inked = isInk
    ? "trimmed, and turned light on dark, as the dataset's images are"
    : "its middle, resized";
  say(
    `${file.name}, ${isGarment ? "trimmed, made small, and light on black, as the dataset's images were made" : inked}.`,
    false,
  );
}
