// Image files of one's own: read by the browser, prepared as --predict prepares them.

class UnreadableCanvas extends Error {}

let photograph = null; // the last image file, drawn as it is
let ownImage = null; // what was made of it
let isInk = false; // whether it was ink on paper, for networks of light on dark
let filesOpened = 0;

const isGarments = () => DATA.dataset === "FashionMNIST" && C === 1 && H === 28;

/**
 * Return an image file as the networks take it, C * H * W numbers in [0, 1]; null if it is none.
 * Throws UnreadableCanvas.
 */
async function prepareFile(file) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => null);
  if (!bitmap) {
    return null;
  }
  const drawn = drawBitmap(bitmap);
  bitmap.close();
  const planes = putOnPage(drawn);
  const values = isGarments() ? prepareForGarments(planes) : prepareOther(planes);
  return Float32Array.from(values, (v) => v / 255);
}

/** Return {width, height, data} of a bitmap, at most 1,600 pixels wide or high. */
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
  photograph = document.createElement("canvas");
  Object.assign(photograph, { width, height });
  photograph.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Return the planes of an image, red, green and blue; the page is under what is transparent. */
function putOnPage(drawn) {
  const white = planesOn(drawn, 255);
  const isTransparent = drawn.data.some((v, k) => k % 4 === 3 && v < 255);
  return isTransparent && !isSeenOnWhite(drawn, white) ? planesOn(drawn, 0) : white;
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

/** Return the values, in [0, 255], of an image for networks of one's own images. */
function prepareOther(planes) {
  const framed = DATA.inkSize ? cutFrame(planes) : null;
  isInk = framed !== null && hasLightBorder(framed);
  if (isInk) {
    return prepareInk(framed, H, DATA.inkSize);
  }
  const { width, height } = planes[0];
  const side = Math.min(width, height);
  const left = (width - side) / 2;
  const top = (height - side) / 2;
  const square = [left, top, left + side, top + side];
  const taken = C === 1 ? [toGrey(planes)] : planes;
  const resized = taken.map((plane) => resize(plane, W, H, lanczos, 3, square));
  return resized.flatMap(({ values }) => [...values]);
}

function sayOfFile(text, isError = true) {
  element("status").textContent = text;
  element("status").className = isError ? "bad" : "";
}

/** Say what is wrong with a file; the answer to another image must not stand beside it. */
function refuseFile(text) {
  photograph = null;
  ownImage = null;
  if (thisChapter().id === "photograph") {
    const { index } = followed;
    choose(index >= 0 ? index : EXAMPLE);
    followed = { values: original, label: truth, index: state.image, isChosen: index >= 0 };
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
  // So that this is read before the work begins.
  await new Promise((resolve) => {
    setTimeout(resolve, 50);
  });
  filesOpened++;
  const number = filesOpened;
  let image;
  try {
    image = await prepareFile(file);
  } catch (error) {
    if (!(error instanceof UnreadableCanvas)) {
      throw error;
    }
    refuseFile(
      "This browser does not let pages read images (protection against fingerprinting): " +
        "allow it for this page, or use another one.",
    );
    return;
  }
  if (number !== filesOpened || !takesFiles()) {
    return; // another file was chosen meanwhile, or another chapter
  }
  const fault = findFault(file, image);
  if (fault) {
    refuseFile(fault);
    return;
  }
  ownImage = image;
  followOwn(image);
  update();
  sayOfFile(`${file.name}, ${describePreparation()}.`, false);
}

function findFault(file, image) {
  if (!image) {
    return `${file.name} cannot be read as an image.`;
  }
  if (image.some((v) => v > 0)) {
    return "";
  }
  if (DATA.dataset === "FashionMNIST") {
    return `${file.name}: nothing stands out from its background.`;
  }
  return isInk ? `${file.name} shows no ink on a light page; if it is framed, crop it.` : "";
}

function describePreparation() {
  if (DATA.dataset === "FashionMNIST") {
    return "trimmed, made small, and light on black, as the dataset's images were made";
  }
  return isInk
    ? "trimmed, and turned light on dark, as the dataset's images are"
    : "its middle, resized";
}
