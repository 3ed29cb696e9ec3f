// Image files of one's own: read by the browser, prepared as --predict prepares them.

class UnreadableCanvas extends Error {}

let photograph = null; // the last image file, drawn as it is
let ownImage = null; // what was made of it
let filesOpened = 0;

const isGarments = () => DATA.dataset === "FashionMNIST" && C === 1 && H === 28;

/**
 * Return what is made of an image file: values, C * H * W numbers in [0, 1] as the networks take
 * them; isInk, whether it was ink on paper; and drawn, the file on a canvas. Return null if it is
 * no image. Throws UnreadableCanvas.
 */
async function prepareFile(file) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => null);
  if (!bitmap) {
    return null;
  }
  const [drawn, data] = drawBitmap(bitmap);
  bitmap.close();
  const planes = putOnPage(data);
  const prepared = isGarments() ? { values: prepareForGarments(planes) } : prepareOther(planes);
  const values = Float32Array.from(prepared.values, (v) => v / 255);
  return { drawn, values, isInk: prepared.isInk ?? false };
}

/**
 * Return a bitmap on a canvas, at most 1,600 pixels wide or high, and its {width, height, data}.
 */
function drawBitmap(bitmap) {
  // A phone's photograph has 24 million pixels, of which 280 x 280 are needed.
  const share = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(share * bitmap.width));
  const height = Math.max(1, Math.round(share * bitmap.height));
  const context = new OffscreenCanvas(width, height + 1).getContext("2d", {
    willReadFrequently: true,
  });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  // A known pixel: a browser that protects against fingerprinting gives others.
  context.fillStyle = "#123456";
  context.fillRect(0, height, 1, 1);
  const [red, green, blue] = context.getImageData(0, height, 1, 1).data;
  if (red !== 0x12 || green !== 0x34 || blue !== 0x56) {
    throw new UnreadableCanvas();
  }
  const drawn = document.createElement("canvas");
  sizeCanvas(drawn, width, height).drawImage(bitmap, 0, 0, width, height);
  return [drawn, context.getImageData(0, 0, width, height)];
}

/** Return the planes of an image, red, green and blue; the page is under what is transparent. */
function putOnPage(image) {
  const white = planesOn(image, 255);
  const isTransparent = image.data.some((v, k) => k % 4 === 3 && v < 255);
  return isTransparent && !isSeenOnWhite(image, white) ? planesOn(image, 0) : white;
}

function planesOn({ width, height, data }, page) {
  return [0, 1, 2].map((c) => {
    const values = new Uint8Array(width * height);
    for (let k = 0; k < values.length; k++) {
      const opacity = data[4 * k + 3];
      values[k] = toByte(page + ((data[4 * k + c] - page) * opacity) / 255);
    }
    return { width, height, values };
  });
}

/** Whether an image is to be seen on white. See put_on_page. */
function isSeenOnWhite({ width, height, data }, white) {
  if (DATA.page) {
    return DATA.page === "white";
  }
  if (!isGarments() && !DATA.inkSize) {
    return toGrey(white).values.reduce((least, v) => Math.min(least, v)) < 200;
  }
  const opaque = [0, 1, 2].map((c) => {
    const values = new Uint8Array(width * height);
    return { width, height, values: values.map((_, k) => data[4 * k + c]) };
  });
  const visible = toGrey(opaque).values.filter((_, k) => data[4 * k + 3] >= 128);
  visible.sort();
  return !visible.length || visible[(visible.length - 1) >> 1] < 200;
}

/** Return the values, in [0, 255], of a photograph of a garment, or of one of the dataset's own. */
function prepareForGarments(planes) {
  const [red, green, blue] = planes;
  const isGrey = red.values.every((v, k) => v === green.values[k] && v === blue.values[k]);
  const isOfItsSize = red.width === 28 && red.height === 28;
  if (isOfItsSize && isGrey && red.values[0] < 128) {
    return toGrey(planes).values;
  }
  return prepareGarment(planes);
}

/** Return {values, isInk} of an image for networks of one's own images, values in [0, 255]. */
function prepareOther(planes) {
  const inside = DATA.inkSize ? cutFrame(planes) : null;
  if (inside && hasLightBorder(inside)) {
    return { values: prepareInk(inside, H, DATA.inkSize), isInk: true };
  }
  const { width, height } = planes[0];
  const side = Math.min(width, height);
  const left = (width - side) / 2;
  const top = (height - side) / 2;
  const square = [left, top, left + side, top + side];
  const taken = C === 1 ? [toGrey(planes)] : planes;
  const resized = taken.map((plane) => resize(plane, W, H, lanczos, 3, square));
  return { values: resized.flatMap(({ values }) => [...values]), isInk: false };
}

function sayOfFile(text, isError = true) {
  element("status").textContent = text;
  element("status").className = isError ? "bad" : "";
}

/** Say what is wrong with a file; the answer to another image must not stand beside it. */
function refuseFile(text) {
  photograph = null;
  ownImage = null;
  if (followed.index === OWN) {
    followExample();
  }
  if (thisChapter().id === "photograph") {
    showFollowed(thisChapter());
  }
  update();
  sayOfFile(text);
}

const takesFiles = () => ["photograph", "everything"].includes(thisChapter().id);

async function openFile(file) {
  if (!takesFiles()) {
    if (!file) {
      return;
    }
    turnTo(findChapter("photograph"));
  }
  if (!file) {
    sayOfFile("Only a file can be dropped here: save the image first.");
    return;
  }
  sayOfFile(`preparing ${file.name} ...`, false);
  // Let the message appear before the work begins.
  await new Promise((resolve) => {
    setTimeout(resolve, 50);
  });
  filesOpened++;
  const opened = filesOpened;
  const [prepared, fault] = await tryFile(file);
  if (opened !== filesOpened || !takesFiles()) {
    return; // another file was chosen meanwhile, or another chapter
  }
  if (fault) {
    refuseFile(fault);
    return;
  }
  photograph = prepared.drawn;
  ownImage = prepared.values;
  followOwn(ownImage);
  update();
  sayOfFile(`${file.name}, ${describePreparation(prepared)}.`, false);
}

/** Return what is made of a file, and what is wrong with it. */
async function tryFile(file) {
  try {
    const prepared = await prepareFile(file);
    return [prepared, findFault(file, prepared)];
  } catch (error) {
    if (!(error instanceof UnreadableCanvas)) {
      throw error;
    }
    const fault =
      "This browser does not let pages read images (protection against fingerprinting): " +
      "allow it for this page, or use another one.";
    return [null, fault];
  }
}

function findFault(file, prepared) {
  if (!prepared) {
    return `${file.name} cannot be read as an image.`;
  }
  if (prepared.values.some((v) => v > 0)) {
    return "";
  }
  if (isFashion) {
    return `${file.name}: nothing stands out from its background.`;
  }
  if (prepared.isInk) {
    return `${file.name} shows no ink on a light page; if it is framed, crop it.`;
  }
  return "";
}

function describePreparation({ isInk }) {
  if (isFashion) {
    return "trimmed, made small, and light on black, as the dataset's images were made";
  }
  if (isInk) {
    return "trimmed, and turned light on dark, as the dataset's images are";
  }
  return "its middle, resized";
}
