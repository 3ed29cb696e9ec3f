// Painting: colours, canvases and small tables of numbers.
//
// White is zero, brown is above and purple below it, with one scale for each layer.

const MOST = 16; // as many channels of a layer are shown, and as many hidden units

// ---- Colours ------------------------------------------------------------------------------------
const rgbOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const NEGATIVE = rgbOf("#5e3c99");
const POSITIVE = rgbOf("#7f3b08");
const ZERO = [255, 255, 255];
const FRAME = "#cc79a7";

function mix(from, to, share) {
  return from.map((value, k) => Math.round(value + (to[k] - value) * share));
}

/** Return the colour of a value in [-1, 1], as [red, green, blue]. */
function colorOf(value) {
  const share = Math.min(1, Math.abs(value));
  // Small values would look white if their colour grew in proportion.
  return mix(ZERO, value < 0 ? NEGATIVE : POSITIVE, share ** 0.7);
}

/** Return what is read best on a colour: black or white, by its luminance (WCAG 2). */
function inkOn(rgb) {
  const [red, green, blue] = rgb.map((v) =>
    v <= 10 ? v / 3294 : ((v / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 ? "white" : "black";
}

/** Return a colour as a canvas holds it in memory: four bytes, opaque. */
function pack([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
const PACKED = Uint32Array.from({ length: 511 }, (_, k) => pack(colorOf((k - 255) / 255)));
const UNKNOWN = pack([150, 150, 150]); // what is not computed yet

/** Return the packed colour of a value, which is limited to [-1, 1]. */
function packedOf(value) {
  const limited = Math.max(-1, Math.min(1, value));
  return PACKED[Math.round(255 * limited) + 255];
}

/** Return the largest absolute value; never zero, since values are divided by it. */
function largestOf(values) {
  return values.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-9);
}

/** Return the value of a custom property of the style sheet. */
function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---- Canvases -----------------------------------------------------------------------------------
const scratch = document.createElement("canvas");

/**
 * Give a canvas a size, which empties it, and return its context, which enlarges pixels unblurred.
 */
function sizeCanvas(canvas, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  return context;
}

/** Paint a canvas of width x height pixels, each with the packed colour of its index. */
function paint(canvas, width, height, color) {
  const context = sizeCanvas(canvas, width, height);
  const image = context.createImageData(width, height);
  const packed = new Uint32Array(image.data.buffer);
  for (let k = 0; k < packed.length; k++) {
    packed[k] = color(k);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Paint an image, grey or coloured. */
function paintImage(canvas, image) {
  const area = H * W;
  const [red, green, blue] = C === 1 ? [0, 0, 0] : [0, area, 2 * area];
  return paint(canvas, W, H, (k) => {
    const rgb = [image[red + k], image[green + k], image[blue + k]];
    return pack(rgb.map((value) => Math.round(255 * value)));
  });
}

/** Paint values, by default in a scale of their own; what is NaN is not known yet. */
function paintValues(canvas, width, height, values, largest = largestOf(values)) {
  return paint(canvas, width, height, (k) =>
    Number.isNaN(values[k]) ? UNKNOWN : packedOf(values[k] / largest),
  );
}

/** Draw a small canvas, enlarged by a whole factor, on another one; return the context of that. */
function enlarge(canvas, small, frame = null, size = 420) {
  const zoom = Math.max(1, Math.round(size / small.width));
  const context = sizeCanvas(canvas, small.width * zoom, small.height * zoom);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (frame) {
    strokeFrame(context, frame, zoom);
  }
  return context;
}

/** Frame a place, [row, column, size]. */
function strokeFrame(context, [row, column, size], zoom, lineWidth = 5) {
  context.strokeStyle = FRAME;
  context.lineWidth = lineWidth;
  context.strokeRect(column * zoom, row * zoom, size * zoom, size * zoom);
}

/** Return the values of one channel of a layer. */
function mapOf({ height, width, values }, channel) {
  const area = height * width;
  return values.subarray(channel * area, (channel + 1) * area);
}

/** Paint a channel of a layer, enlarged, with a frame: [row, column, size]. */
function paintMap(canvas, layer, channel, frame, largest) {
  const map = mapOf(layer, channel);
  paintValues(scratch, layer.width, layer.height, map, largest ?? largestOf(map));
  enlarge(canvas, scratch, frame);
}

/** Paint values over an image, so that both are seen. */
function paintOver(canvas, image, { width, height, values }, opacity) {
  const context = enlarge(canvas, paintImage(scratch, image));
  context.globalAlpha = opacity;
  context.drawImage(paintValues(scratch, width, height, values), 0, 0, canvas.width, canvas.height);
}

function drawPicture() {
  const frame = thisChapter().frame?.();
  enlarge(element("picture"), paintImage(scratch, pixels), frame, 560);
}

/** Return what of the image a value of the first layers looks at: [row, column, size]. */
function frameOfPoint() {
  const [layer, , y, x] = state.point;
  if (!state.isOpen || state.label >= 0 || layer > 2) {
    return null;
  }
  return layer ? [y - 1, x - 1, 3] : [y, x, 1];
}

// ---- Tables of numbers --------------------------------------------------------------------------
/**
 * Return a table of numbers, row by row, coloured by the largest of its scale. Where a value is
 * null, outside of the map, the cell is empty.
 */
function grid(values, columns, largest, { taken = -1, isImage = false } = {}) {
  const cells = values.map((value, k) => {
    if (value === null) {
      return '<i class="outside"></i>';
    }
    const rgb = isImage ? Array(3).fill(Math.round(255 * value)) : colorOf(value / largest);
    const style = `background: rgb(${rgb}); color: ${inkOn(rgb)}`;
    return `<i class="${k === taken ? "taken" : ""}" style="${style}">${twoDigits(value)}</i>`;
  });
  return `<span class="grid" style="--columns: ${columns}">${cells.join("")}</span>`;
}

/** Return the size x size values of a channel from a place on, row by row; null outside of it. */
function windowOf({ values, height, width }, channel, top, left, size) {
  const seen = [];
  for (let y = top; y < top + size; y++) {
    for (let x = left; x < left + size; x++) {
      const isOnMap = y >= 0 && y < height && x >= 0 && x < width;
      seen.push(isOnMap ? values[(channel * height + y) * width + x] : null);
    }
  }
  return seen;
}
