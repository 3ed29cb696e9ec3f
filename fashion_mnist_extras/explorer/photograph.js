// Photographs, prepared step by step as --predict prepares them, with Pillow's arithmetic: see
// image_files.py. Pure functions of planes, {width, height, values}, with values in [0, 255], row
// by row. A photograph has three of them: red, green and blue.

// ---- Planes -------------------------------------------------------------------------------------
const toByte = (value) => Math.max(0, Math.min(255, Math.floor(value + 0.5)));

/** Return a plane's value at a row and a column; beyond an edge, that of the nearest pixel. */
function pixelAt({ width, height, values }, row, column) {
  const nearestRow = Math.max(0, Math.min(height - 1, row));
  const nearestColumn = Math.max(0, Math.min(width - 1, column));
  return values[nearestRow * width + nearestColumn];
}

/** Return a plane of what a function makes of each row, column and value. */
function mapPlane(plane, f) {
  const { width } = plane;
  const values = plane.values.map((value, k) => f(Math.floor(k / width), k % width, value));
  return { ...plane, values };
}

function transpose({ width, height, values }) {
  const transposed = (_, k) => values[(k % height) * width + Math.floor(k / height)];
  return { width: height, height: width, values: values.map(transposed) };
}

/** Return the part of a plane that begins at left, top, of this size. */
function cropPlane(plane, left, top, width, height) {
  const values = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const first = (top + row) * plane.width + left;
    values.set(plane.values.subarray(first, first + width), row * width);
  }
  return { width, height, values };
}

/** Return the indices of the pixels so far from the edges, the corners twice. See ring_of. */
function ringOf({ width, height }, inset) {
  const indices = [];
  for (let x = inset; x < width - inset; x++) {
    indices.push(inset * width + x, (height - 1 - inset) * width + x);
  }
  for (let y = inset; y < height - inset; y++) {
    indices.push(y * width + inset, y * width + width - 1 - inset);
  }
  return indices;
}

/** Return the middle one of some numbers; of two in the middle, the lower one. */
function lowerMedian(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[(sorted.length - 1) >> 1];
}

/** Return the luminance of a photograph: one plane, as Pillow's mode L. */
function toGrey([red, green, blue]) {
  return mapPlane(red, (row, column, value) => {
    const k = row * red.width + column;
    return (value * 19595 + green.values[k] * 38470 + blue.values[k] * 7471 + 32768) >> 16;
  });
}

// ---- Resizing, as Pillow resizes ----------------------------------------------------------------
// A kernel weighs the pixels within its support: 2 on each side for cubic, 3 for lanczos.
function cubic(x) {
  const t = Math.abs(x);
  if (t < 1) {
    return (1.5 * t - 2.5) * t * t + 1;
  }
  if (t < 2) {
    return ((-0.5 * t + 2.5) * t - 4) * t + 2;
  }
  return 0;
}

const sinc = (x) => (x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1);

const lanczos = (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);

/** Return the part of a plane within box, [left, top, right, bottom], in another size. */
function resize(
  plane,
  width,
  height,
  kernel = cubic,
  support = 2,
  [left, top, right, bottom] = [0, 0, plane.width, plane.height],
) {
  const resizeColumns = (part) =>
    transpose(resizeRows(transpose(part), height, kernel, support, top, bottom));
  // Each pass rounds, so their order matters. Pillow 13 takes that with less work: of most images
  // rows first. (Before it was rows first of all: tall ones may differ by a few of 255.)
  const shorter = plane.height - height;
  const narrower = Math.max(0, plane.width - width);
  if (shorter > 2 * narrower) {
    return resizeRows(resizeColumns(plane), width, kernel, support, left, right);
  }
  return resizeColumns(resizeRows(plane, width, kernel, support, left, right));
}

/** Resize each row of a plane from begin to end to this many pixels. */
function resizeRows(plane, size, kernel, support, begin, end) {
  const { width, height, values } = plane;
  if (size === width && begin === 0 && end === width) {
    return plane;
  }
  const scale = (end - begin) / size;
  const stretch = Math.max(1, scale); // so that no pixel is left out
  const reach = support * stretch;
  const resized = new Uint8Array(size * height);
  for (let x = 0; x < size; x++) {
    const center = begin + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const after = Math.min(width, Math.trunc(center + reach + 0.5));
    const weights = [];
    for (let k = first; k < after; k++) {
      weights.push(kernel((k - center + 0.5) / stretch));
    }
    const sum = weights.reduce((total, weight) => total + weight);
    for (let y = 0; y < height; y++) {
      const start = y * width + first;
      const value = weights.reduce((total, weight, k) => total + weight * values[start + k], 0);
      resized[y * size + x] = toByte(value / sum);
    }
  }
  return { width: size, height, values: resized };
}

/** Return a plane in its proportions, its longer side of this many pixels. */
function resizeLongerSide(plane, side) {
  const scale = side / Math.max(plane.width, plane.height);
  const width = Math.max(1, roundHalfToEven(scale * plane.width));
  const height = Math.max(1, roundHalfToEven(scale * plane.height));
  return resize(plane, width, height);
}

/** Round as Python does. */
function roundHalfToEven(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** Return [width, height] of what fits into side x side pixels, as Pillow's thumbnail rounds it. */
function thumbnailSize(width, height, side) {
  if (width <= side && height <= side) {
    return [width, height];
  }
  const ratio = width / height;
  if (ratio <= 1) {
    const errorOfWidth = (length) => Math.abs(ratio - length / side);
    return [roundLength(side * ratio, errorOfWidth), side];
  }
  const errorOfHeight = (length) => (length ? Math.abs(ratio - side / length) : 0);
  return [side, roundLength(side / ratio, errorOfHeight)];
}

/** Return the whole number below or above a length that has the smaller error, at least 1. */
function roundLength(length, errorOf) {
  const lower = Math.floor(length);
  const upper = Math.ceil(length);
  return Math.max(1, errorOf(upper) < errorOf(lower) ? upper : lower);
}

// ---- Filters ------------------------------------------------------------------------------------
/** Return a plane without noise: the median of each pixel and its eight neighbours. */
function medianFilter(plane) {
  return mapPlane(plane, (row, column) => {
    const neighbours = [];
    for (const y of [row - 1, row, row + 1]) {
      for (const x of [column - 1, column, column + 1]) {
        neighbours.push(pixelAt(plane, y, x));
      }
    }
    return lowerMedian(neighbours);
  });
}

/** Return a plane blurred as by Pillow with radius 1: three passes along rows, then columns. */
function blurPlane(plane) {
  const three = (rows) => blurRows(blurRows(blurRows(rows)));
  const blurred = three(plane);
  return transpose(three(transpose(blurred)));
}

/** Return each pixel's mean with its neighbours to the left and right, which count a sixth each. */
function blurRows(plane) {
  return mapPlane(plane, (row, column, value) => {
    const neighbours = pixelAt(plane, row, column - 1) + pixelAt(plane, row, column + 1);
    return Math.ceil((4 * value + neighbours - 3) / 6); // a half is rounded down
  });
}

/** Return a plane whose pixels differ more from a blurred one: Pillow's UnsharpMask of 80 %. */
function sharpen(plane) {
  const blurred = blurPlane(plane);
  return mapPlane(plane, (row, column, value) => {
    const difference = value - pixelAt(blurred, row, column);
    return Math.max(0, Math.min(255, value + Math.trunc((difference * 80) / 100)));
  });
}

// ---- Background ---------------------------------------------------------------------------------
/**
 * Return the background of a photograph: the values of each of its planes. See estimate_background.
 * From corner to corner it may vary a little; where much of the edges is not explained by that, and
 * is by a curved surface, it is the surface.
 */
function estimateBackground(planes) {
  const edges = findEdges(planes[0]);
  const even = planes.map(evenBackground);
  const explained = shareExplained(planes, even, edges);
  if (explained >= 0.7) {
    return even;
  }
  const curved = planes.map((plane) => fitSurface(plane, edges));
  return shareExplained(planes, curved, edges) > explained + 0.3 ? curved : even;
}

/** Return the indices of the pixels in the outer sixteenth of a plane. */
function findEdges({ width, height }) {
  const rows = Math.ceil(height / 16);
  const columns = Math.ceil(width / 16);
  const edges = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (y < rows || y >= height - rows || x < columns || x >= width - columns) {
        edges.push(y * width + x);
      }
    }
  }
  return edges;
}

/** Return how far each pixel is from the background, the mean over the colours. */
function differenceFrom(planes, background) {
  return Float32Array.from(planes[0].values, (_, k) => {
    let sum = 0;
    planes.forEach(({ values }, color) => {
      sum += Math.abs(values[k] - background[color][k]);
    });
    return sum / 3;
  });
}

/** Return the share of the pixels at the edges that hardly differ from the background. */
function shareExplained(planes, background, edges) {
  const difference = differenceFrom(planes, background);
  return edges.filter((k) => difference[k] < 9).length / edges.length;
}

/** Return the means of a plane's four corners, a 32nd of its sides: top left, top right, ... */
function cornersOf(plane) {
  const { width, height } = plane;
  const [left, top] = [Math.ceil(width / 32), Math.ceil(height / 32)];
  const [right, bottom] = [Math.floor((31 * width) / 32), Math.floor((31 * height) / 32)];
  return [
    meanOf(plane, 0, 0, left, top),
    meanOf(plane, right, 0, width, top),
    meanOf(plane, 0, bottom, left, height),
    meanOf(plane, right, bottom, width, height),
  ];
}

function meanOf({ width, values }, left, top, right, bottom) {
  let sum = 0;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      sum += values[y * width + x];
    }
  }
  return sum / ((bottom - top) * (right - left));
}

/** Return values between those of the corners, which are near their median. */
function evenBackground(plane) {
  const { width, height, values } = plane;
  const corners = cornersOf(plane);
  const color = lowerMedian(corners);
  // From corner to corner light may vary by 12 of 255; what differs more is a garment there.
  const [a, b, c, d] = corners.map((v) => color + Math.max(-12, Math.min(12, v - color)));
  return Float32Array.from(values, (_, k) => {
    const down = height > 1 ? Math.floor(k / width) / (height - 1) : 0;
    const right = width > 1 ? (k % width) / (width - 1) : 0;
    const top = a * (1 - right) + b * right;
    const bottom = c * (1 - right) + d * right;
    return top * (1 - down) + bottom * down;
  });
}

/**
 * Return the values of a quadratic surface, fitted to the edges of a plane. See fit_surface.
 * It begins at a colour; again and again it is fitted to what is near it, first as a plane.
 */
function fitSurface(plane, edges) {
  const { values } = plane;
  const points = edges.map((k) => ({ terms: surfaceTerms(plane, k), value: values[k] }));
  let weights = [lowerMedian(cornersOf(plane)), 0, 0];
  for (const count of [3, 3, 3, 3, 3, 3, 6, 6, 6, 6, 6, 6]) {
    const near = points.filter(
      ({ terms, value }) => Math.abs(value - surfaceAt(terms, weights)) <= 12,
    );
    weights = fitLeastSquares(near, count);
  }
  return Float32Array.from(values, (_, k) => surfaceAt(surfaceTerms(plane, k), weights));
}

/** Return what is weighted at a pixel: 1, x, y and their products, x and y in [-1, 1]. */
function surfaceTerms({ width, height }, k) {
  const x = coordinate(k % width, width);
  const y = coordinate(Math.floor(k / width), height);
  return [1, x, y, x * x, x * y, y * y];
}

const coordinate = (k, size) => (size > 1 ? (2 * k) / (size - 1) - 1 : -1);

const surfaceAt = (terms, weights) => weights.reduce((sum, w, k) => sum + w * terms[k], 0);

/** Return the weights of the first terms that are the least squares for some points' values. */
function fitLeastSquares(points, count) {
  const products = Array.from({ length: count }, () => Array(count).fill(0));
  const sums = Array(count).fill(0);
  for (let i = 0; i < count; i++) {
    products[i][i] = 1e-3; // lets the weights be found of few points
  }
  for (const { terms, value } of points) {
    for (let i = 0; i < count; i++) {
      sums[i] += terms[i] * value;
      for (let j = 0; j < count; j++) {
        products[i][j] += terms[i] * terms[j];
      }
    }
  }
  return solve(products, sums);
}

/** Return the solution x of matrix x = values, by Gaussian elimination. */
function solve(matrix, values) {
  const rows = matrix.map((row, k) => [...row, values[k]]);
  for (let k = 0; k < rows.length; k++) {
    for (let other = 0; other < rows.length; other++) {
      if (other !== k) {
        const factor = rows[other][k] / rows[k][k];
        rows[other] = rows[other].map((value, column) => value - factor * rows[k][column]);
      }
    }
  }
  return rows.map((row, k) => row.at(-1) / row[k]);
}

// ---- What a photograph shows --------------------------------------------------------------------
/** Return a photograph without a frame of one or two colours, one within the other: cut_frame. */
function cutFrame(photograph) {
  let planes = photograph;
  for (let times = 0; times < 2; times++) {
    const { width, height } = planes[0];
    const [inset, share] = measureFrame(planes);
    if (share > 0.5) {
      return planes;
    }
    planes = planes.map((plane) =>
      cropPlane(plane, inset, inset, width - 2 * inset, height - 2 * inset),
    );
  }
  return planes;
}

/** Return how many rings from the edge on are of one colour, and its share in the next one. */
function measureFrame(planes) {
  const { width, height } = planes[0];
  const outer = ringOf(planes[0], 0);
  const colors = planes.map(({ values }) => lowerMedian(outer.map((k) => values[k])));
  const isOfColor = (k) => planes.every(({ values }, c) => Math.abs(values[k] - colors[c]) <= 12);
  let inset = 0;
  let share = 1;
  while (12 * inset < Math.min(width, height) - 2) {
    const ring = ringOf(planes[0], inset);
    share = ring.filter(isOfColor).length / ring.length;
    if (share < 1) {
      break;
    }
    inset++;
  }
  return [inset, share];
}

/**
 * Return what a photograph shows, light on black and trimmed, or null if that is nothing: isolate.
 * The more a pixel differs from the background, the lighter it becomes.
 */
function isolate(photograph) {
  const [width, height] = thumbnailSize(photograph[0].width, photograph[0].height, 280);
  const small = photograph.map((plane) => medianFilter(resize(plane, width, height)));
  const difference = differenceFrom(small, estimateBackground(small));
  const greatest = difference.reduce((a, b) => Math.max(a, b));
  const threshold = Math.max(9, 0.1 * greatest); // below: shadows and noise
  const shown = difference.filter((value) => value > threshold);
  if (!shown.length) {
    return null;
  }
  const brightest = quantile(shown.sort(), 0.95);
  const light = Uint8Array.from(difference, (value) => {
    const share = (value - threshold) / (brightest - threshold);
    return Math.floor(255 * Math.max(0, Math.min(1, share)));
  });
  return trimBlack({ width, height, values: light });
}

/** Return the value at this share of sorted ones, between two neighbours if need be. */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const lower = sorted[Math.floor(place)];
  const upper = sorted[Math.ceil(place)];
  return lower + (upper - lower) * (place % 1);
}

/** Return the smallest part of a plane that has all that is not black. */
function trimBlack(plane) {
  let [left, top, right, bottom] = [plane.width, plane.height, 0, 0];
  plane.values.forEach((value, k) => {
    if (value === 0) {
      return;
    }
    const x = k % plane.width;
    const y = Math.floor(k / plane.width);
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x + 1);
    bottom = Math.max(bottom, y + 1);
  });
  return cropPlane(plane, left, top, right - left, bottom - top);
}

/** Return the values of side x side black pixels with a plane on them. */
function pasteOnBlack({ width, values }, side, left, top) {
  const pasted = new Uint8Array(side * side);
  values.forEach((value, k) => {
    const row = top + Math.floor(k / width);
    pasted[row * side + left + (k % width)] = value;
  });
  return pasted;
}

// ---- Garments -----------------------------------------------------------------------------------
/** Convert a photograph to FashionMNIST's format: 28 x 28 values, all black if nothing is seen. */
function prepareGarment(photograph) {
  const garment = isolate(cutFrame(photograph));
  if (!garment) {
    return new Uint8Array(28 * 28);
  }
  const sharp = sharpen(resizeLongerSide(garment, 28));
  const left = roundHalfToEven((28 - sharp.width) / 2);
  const top = roundHalfToEven((28 - sharp.height) / 2);
  return pasteOnBlack(sharp, 28, left, top);
}

// ---- Ink ----------------------------------------------------------------------------------------
/** Whether a photograph's border is light on average. */
function hasLightBorder(planes) {
  const ring = ringOf(planes[0], 0);
  let sum = 0;
  for (const { values } of planes) {
    ring.forEach((k) => {
      sum += values[k];
    });
  }
  return sum / (planes.length * ring.length) >= 128;
}

/**
 * Return ink on paper light on dark, in the middle: side x side values. See prepare_ink.
 * It takes up this share of the side. All is black if there is no ink, or a picture on the page.
 */
function prepareInk(photograph, side, share) {
  const ink = isolate(photograph);
  if (!ink || isPanel(ink)) {
    return new Uint8Array(side * side);
  }
  const resized = resizeLongerSide(ink, roundHalfToEven(share * side));
  const left = Math.floor((side - resized.width) / 2);
  const top = Math.floor((side - resized.height) / 2);
  return pasteOnBlack(resized, side, left, top);
}

/** Whether what stands on a page, light on black, is seen all along its edges, and no line. */
function isPanel(shown) {
  const { width, height, values } = shown;
  const ring = ringOf(shown, 0);
  const seen = ring.filter((k) => values[k] >= 64).length / ring.length;
  return seen > 0.95 && Math.min(width, height) > 0.6 * Math.max(width, height);
}
