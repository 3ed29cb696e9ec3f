// Photographs, prepared step by step as --predict prepares them, with Pillow's arithmetic: pure
// functions of planes, {width, height, values}, values in [0, 255].

const cubic = (x, t = Math.abs(x)) =>
  t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
const sinc = (x) => (x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1);
const lanczos = (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
const toByte = (value) => Math.max(0, Math.min(255, Math.floor(value + 0.5)));
/** Resize the lines of a plane {width, height, values}: those from begin to end become size pixels long. */
function resizeLines({ width, height, values }, size, filter, support, begin = 0, end = width) {
  if (size === width && begin === 0 && end === width) {
    return { width, height, values };
  }
  const scale = (end - begin) / size;
  const stretch = Math.max(1, scale);
  const result = new Uint8Array(size * height);
  for (let x = 0; x < size; x++) {
    const center = begin + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const after = Math.min(width, Math.trunc(center + support * stretch + 0.5));
    const weights = Array.from({ length: after - first }, (_, k) =>
      filter((first + k - center + 0.5) / stretch),
    );
    const sum = weights.reduce((a, b) => a + b);
    for (let y = 0; y < height; y++) {
      let value = 0;
      for (let k = 0; k < weights.length; k++) {
        value += weights[k] * values[y * width + first + k];
      }
      result[y * size + x] = toByte(value / sum);
    }
  }
  return { width: size, height, values: result };
}
function transpose({ width, height, values }) {
  return {
    width: height,
    height: width,
    values: values.map((_, k) => values[(k % height) * width + Math.floor(k / height)]),
  };
}
function resize(
  plane,
  width,
  height,
  filter = cubic,
  support = 2,
  [left, top, right, bottom] = [0, 0, plane.width, plane.height],
) {
  const low = transpose(resizeLines(transpose(plane), height, filter, support, top, bottom)); // columns first, as Pillow does
  return resizeLines(low, width, filter, support, left, right);
}
/** Return the value of a pixel, of the nearest one beyond the edge. */
const pixelAt = ({ width, height, values }, y, x) =>
  values[Math.max(0, Math.min(height - 1, y)) * width + Math.max(0, Math.min(width - 1, x))];
const mapPlane = (plane, f) => ({
  ...plane,
  values: plane.values.map((v, k) => f(Math.floor(k / plane.width), k % plane.width, v)),
});
const median = (plane) =>
  mapPlane(plane, (y, x) => {
    const nine = Array.from({ length: 9 }, (_, k) =>
      pixelAt(plane, y + Math.floor(k / 3) - 1, x + (k % 3) - 1),
    );
    return nine.sort((a, b) => a - b)[4];
  });
/** Pillow's blur of radius 1: three times along the rows, then the columns, with a sixth of each neighbour. */
function smooth(plane) {
  let blurred = plane;
  for (let k = 0; k < 6; k++) {
    const before = blurred;
    blurred = mapPlane(before, (y, x, v) =>
      Math.ceil((4 * v + pixelAt(before, y, x - 1) + pixelAt(before, y, x + 1) - 3) / 6),
    ); // a half is rounded down
    if (k % 3 === 2) {
      blurred = transpose(blurred);
    }
  }
  return blurred; // transposed twice: as it was
}
const sharpen = (plane, blurred = smooth(plane)) =>
  mapPlane(plane, (y, x, v) =>
    Math.max(0, Math.min(255, v + Math.trunc(((v - pixelAt(blurred, y, x)) * 80) / 100))),
  );

/** Return [width, height] of what fits into side x side pixels, as Pillow's thumbnail rounds it. */
function thumbnailSize(width, height, side) {
  if (width <= side && height <= side) {
    return [width, height];
  }
  const ratio = width / height;
  const nearest = (value, error) =>
    Math.max(1, [Math.floor(value), Math.ceil(value)].sort((a, b) => error(a) - error(b))[0]);
  return ratio <= 1
    ? [nearest(side * ratio, (n) => Math.abs(ratio - n / side)), side]
    : [side, nearest(side / ratio, (n) => (n ? Math.abs(ratio - side / n) : 0))];
}
/** Return the weights w of least squares, products w = values, by Gaussian elimination. */
function solve(products, values) {
  const rows = products.map((row, k) => [...row, values[k]]);
  for (let k = 0; k < rows.length; k++) {
    for (let other = 0; other < rows.length; other++) {
      const factor = other === k ? 0 : rows[other][k] / rows[k][k];
      rows[other] = rows[other].map((v, column) => v - factor * rows[k][column]);
    }
  }
  return rows.map((row, k) => row[rows.length] / row[k]);
}
/** Fit a quadratic surface to the edges of a plane, beginning at a colour. See fit_surface. */
function fitSurface({ width, height, values }, color, edge) {
  const place = (k, size) => (size > 1 ? (2 * k) / (size - 1) - 1 : -1);
  const termsOf = (k) => {
    const [x, y] = [place(k % width, width), place(Math.floor(k / width), height)];
    return [1, x, y, x * x, x * y, y * y];
  };
  const terms = edge.map(termsOf);
  let weights = [color, 0, 0];
  for (let step = 0; step < 12; step++) {
    const count = step < 6 ? 3 : 6;
    const products = Array.from({ length: count }, (_, i) =>
      Array.from({ length: count }, (_, j) => (i === j ? 1e-3 : 0)),
    );
    const sums = Array(count).fill(0);
    terms.forEach((each, k) => {
      const value = values[edge[k]];
      if (Math.abs(value - weights.reduce((sum, w, i) => sum + w * each[i], 0)) > 12) {
        return;
      }
      for (let i = 0; i < count; i++) {
        sums[i] += each[i] * value;
        for (let j = 0; j < count; j++) {
          products[i][j] += each[i] * each[j];
        }
      }
    });
    weights = solve(products, sums);
  }
  return Float32Array.from(values, (_, k) =>
    termsOf(k).reduce((sum, term, i) => sum + weights[i] * term, 0),
  );
}
/** Return how far each pixel is from the background, the mean over the colours. See estimate_background. */
function differenceFromBackground(small) {
  const { width, height } = small[0];
  const [top, left] = [Math.ceil(height / 16), Math.ceil(width / 16)];
  const edge = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (y < top || x < left || y >= height - top || x >= width - left) {
        edge.push(y * width + x);
      }
    }
  }
  const colors = [];
  const even = small.map(({ values }) => {
    const corners = [0, 1].flatMap((bottom) =>
      [0, 1].map((right) => {
        const rows = [
          bottom ? Math.floor((31 * height) / 32) : 0,
          bottom ? height : Math.ceil(height / 32),
        ];
        const columns = [
          right ? Math.floor((31 * width) / 32) : 0,
          right ? width : Math.ceil(width / 32),
        ];
        let sum = 0;
        for (let y = rows[0]; y < rows[1]; y++) {
          for (let x = columns[0]; x < columns[1]; x++) {
            sum += values[y * width + x];
          }
        }
        return sum / ((rows[1] - rows[0]) * (columns[1] - columns[0]));
      }),
    );
    const color = [...corners].sort((a, b) => a - b)[1]; // the lower of the two in the middle
    colors.push(color);
    const [a, b, c, d] = corners.map(
      (corner) => color + Math.max(-12, Math.min(12, corner - color)),
    );
    return Float32Array.from(values, (_, k) => {
      const down = height > 1 ? Math.floor(k / width) / (height - 1) : 0;
      const right = width > 1 ? (k % width) / (width - 1) : 0;
      return (a * (1 - right) + b * right) * (1 - down) + (c * (1 - right) + d * right) * down;
    });
  });
  const differenceFrom = (background) =>
    Float32Array.from(
      { length: width * height },
      (_, k) =>
        small.reduce((sum, { values }, c) => sum + Math.abs(values[k] - background[c][k]), 0) / 3,
    );
  const shareExplained = (difference) => edge.filter((k) => difference[k] < 9).length / edge.length;
  const fromEven = differenceFrom(even);
  const explained = shareExplained(fromEven);
  if (explained >= 0.7) {
    return fromEven;
  }
  const fromCurved = differenceFrom(small.map((plane, c) => fitSurface(plane, colors[c], edge)));
  return shareExplained(fromCurved) > explained + 0.3 ? fromCurved : fromEven;
}
/** Return the planes of an image without a frame of one or two colours. See cut_frame. */
function cutFrame(planes) {
  for (let times = 0; times < 2; times++) {
    const { width, height } = planes[0];
    const ring = (inset) => {
      const places = [];
      for (let x = inset; x < width - inset; x++) {
        places.push(inset * width + x, (height - 1 - inset) * width + x);
      }
      for (let y = inset; y < height - inset; y++) {
        places.push(y * width + inset, y * width + width - 1 - inset);
      }
      return places;
    };
    const outer = ring(0);
    const colors = planes.map(
      ({ values }) => outer.map((k) => values[k]).sort((a, b) => a - b)[(outer.length - 1) >> 1],
    );
    const isOfColor = (k) => planes.every(({ values }, c) => Math.abs(values[k] - colors[c]) <= 12);
    let inset = 0;
    let share = 1;
    while (12 * inset < Math.min(width, height) - 2) {
      const places = ring(inset);
      share = places.filter(isOfColor).length / places.length;
      if (share < 1) {
        break;
      }
      inset++;
    }
    if (share > 0.5) {
      return planes;
    }
    const [wide, tall] = [width - 2 * inset, height - 2 * inset];
    planes = planes.map(({ values }) => ({
      width: wide,
      height: tall,
      values: Uint8Array.from(
        { length: wide * tall },
        (_, k) => values[(inset + Math.floor(k / wide)) * width + inset + (k % wide)],
      ),
    }));
  }
  return planes;
}
/** Return what the planes of a photograph show, light on black and trimmed, or null for nothing. See isolate. */
function isolate(planes) {
  const [width, height] = thumbnailSize(planes[0].width, planes[0].height, 280);
  const small = planes.map((plane) => median(resize(plane, width, height)));
  const difference = differenceFromBackground(small);
  const threshold = Math.max(9, 0.1 * difference.reduce((a, b) => Math.max(a, b)));
  const shown = difference.filter((v) => v > threshold).sort();
  if (!shown.length) {
    return null;
  }
  const place = 0.95 * (shown.length - 1);
  const [low, share] = [Math.floor(place), place % 1];
  const brightest = shown[low] + (shown[Math.min(low + 1, shown.length - 1)] - shown[low]) * share;
  const light = Uint8Array.from(difference, (v) =>
    Math.floor(255 * Math.max(0, Math.min(1, (v - threshold) / (brightest - threshold)))),
  );
  const columns = [];
  const rows = [];
  light.forEach((v, k) => v && (columns.push(k % width), rows.push(Math.floor(k / width))));
  const least = (all) => all.reduce((a, b) => Math.min(a, b));
  const most = (all) => all.reduce((a, b) => Math.max(a, b));
  const [left, top] = [least(columns), least(rows)];
  const [wide, tall] = [most(columns) - left + 1, most(rows) - top + 1];
  return {
    width: wide,
    height: tall,
    values: Uint8Array.from(
      { length: wide * tall },
      (_, k) => light[(top + Math.floor(k / wide)) * width + left + (k % wide)],
    ),
  };
}
const toEven = (v) => (v % 1 === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)); // as Python rounds
/** Return the plane in its proportions, its longer side of this many pixels. See resize_longer_side. */
function resizeLongerSide(plane, side) {
  const scale = side / Math.max(plane.width, plane.height);
  return resize(
    plane,
    Math.max(1, toEven(scale * plane.width)),
    Math.max(1, toEven(scale * plane.height)),
  );
}
/** Return the values of side x side black pixels with the plane on them. */
function pasteOnBlack(plane, side, left, top) {
  const result = new Uint8Array(side * side);
  plane.values.forEach((v, k) => {
    result[(top + Math.floor(k / plane.width)) * side + left + (k % plane.width)] = v;
  });
  return result;
}
/** Convert the planes of a photograph, red, green and blue, to FashionMNIST's format. See prepare_garment. */
function prepareGarment(photograph) {
  const garment = isolate(cutFrame(photograph));
  if (!garment) {
    return new Uint8Array(28 * 28);
  }
  const sharp = sharpen(resizeLongerSide(garment, 28));
  return pasteOnBlack(sharp, 28, toEven((28 - sharp.width) / 2), toEven((28 - sharp.height) / 2));
}
/** Whether the border of the planes is light on average. See has_light_border. */
function hasLightBorder(planes) {
  const { width, height } = planes[0];
  const ring = [];
  for (let x = 0; x < width; x++) {
    ring.push(x, (height - 1) * width + x);
  }
  for (let y = 0; y < height; y++) {
    ring.push(y * width, y * width + width - 1);
  }
  const sum = planes.reduce(
    (total, { values }) => total + ring.reduce((all, k) => all + values[k], 0),
    0,
  );
  return sum / (3 * ring.length) >= 128;
}
/** Whether what stands on a page, light on black, is seen all along its edges, and no line. See is_panel. */
function isPanel({ width, height, values }) {
  const edges = [];
  for (let x = 0; x < width; x++) {
    edges.push(values[x], values[(height - 1) * width + x]);
  }
  for (let y = 0; y < height; y++) {
    edges.push(values[y * width], values[y * width + width - 1]);
  }
  const seen = edges.filter((v) => v >= 64).length / edges.length;
  return seen > 0.95 && Math.min(width, height) > 0.6 * Math.max(width, height);
}
/** Return ink on paper light on dark, in the middle, as large as that of the training images. See prepare_ink. */
function prepareInk(planes, side, share) {
  const ink = isolate(planes);
  if (!ink || isPanel(ink)) {
    return new Uint8Array(side * side);
  }
  const resized = resizeLongerSide(ink, toEven(share * side));
  const left = Math.floor((side - resized.width) / 2);
  return pasteOnBlack(resized, side, left, Math.floor((side - resized.height) / 2));
}
const toGrey = ([red, green, blue]) =>
  mapPlane(red, (y, x, v) => {
    const k = y * red.width + x;
    return (v * 19595 + green.values[k] * 38470 + blue.values[k] * 7471 + 32768) >> 16;
  });
