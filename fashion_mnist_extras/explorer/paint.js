const element = (id) => document.getElementById(id);

// ---- Painting: white is zero, brown above, purple below, one scale for each layer -----------------
const rgbOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const [NEGATIVE, POSITIVE, ZERO, FRAME] = [
  rgbOf("#5e3c99"),
  rgbOf("#7f3b08"),
  [255, 255, 255],
  "#cc79a7",
];
const mix = (from, to, share) =>
  from.map((value, k) => Math.round(value + (to[k] - value) * share));
const colorOf = (value) =>
  mix(ZERO, value < 0 ? NEGATIVE : POSITIVE, Math.min(1, Math.abs(value)) ** 0.7); // value in [-1, 1]
/** Return what is read best on a colour: black or white, by its luminance (WCAG 2). */
function inkOn(rgb) {
  const [red, green, blue] = rgb.map((v) =>
    v <= 10 ? v / 3294 : ((v / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 ? "white" : "black";
}
const pack = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const PACKED = Uint32Array.from({ length: 511 }, (_, k) => pack(colorOf((k - 255) / 255)));
const packedOf = (value) => PACKED[Math.round(255 * Math.max(-1, Math.min(1, value))) + 255 || 255];
const largestOf = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-9);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Paint a canvas of width x height pixels, each with the packed colour of its index. */
function paint(canvas, width, height, color) {
  const context = Object.assign(canvas, { width, height }).getContext("2d");
  const image = context.createImageData(width, height);
  const packed = new Uint32Array(image.data.buffer);
  for (let k = 0; k < packed.length; k++) {
    packed[k] = color(k);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
const scratch = document.createElement("canvas");
const paintImage = (canvas, image) =>
  paint(canvas, W, H, (k) =>
    pack([0, 1, 2].map((c) => Math.round(255 * image[(C === 1 ? 0 : c) * H * W + k]))),
  );
const paintValues = (canvas, width, height, values, largest = largestOf(values)) =>
  paint(canvas, width, height, (k) => packedOf(values[k] / largest));

const MOST = 16;

const escapeHtml = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function drawCurves({ title, lines, ticks, now, width, height, axis = "", range = "share" }) {
  const known = lines.flatMap(({ values }) => values).filter((v) => v !== null);
  const top1 = range === "share" ? 1 : Math.max(...known);
  const [left, right, top, bottom] = [52, width - 12, 26, height - (axis ? 44 : 26)];
  const x = (k) => left + ((right - left) * k) / Math.max(1, ticks.length - 1);
  const y = (v) => bottom - ((bottom - top) * v) / top1;
  const paths = lines.map(({ name, values, isDashed }) => {
    const points = values.map((v, k) => (v === null ? "" : `${x(k)},${y(v)}`)).filter(Boolean);
    return `<polyline class="${isDashed ? "dashed" : ""}" stroke="var(--${name})" points="${points.join(" ")}"/>`;
  });
  return `<svg class="curve" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}">${paths.join("")}<text x="60" y="15">${title}</text></svg>`;
}
// ---- The panel: why a value is what it is ----------------------------------------------------------
function grid(values, columns, largest, { taken = -1, isImage = false } = {}) {
  const cells = values.map((v, k) => {
    const rgb = isImage ? Array(3).fill(Math.round(255 * v)) : colorOf(v / largest);
    return `<i style="background: rgb(${rgb}); color: ${inkOn(rgb)}" class="${k === taken ? "taken" : ""}">${number(v)}</i>`;
  });
  return `<span class="grid" style="--columns: ${columns}">${cells.join("")}</span>`;
}

function windowOf({ values, height, width }, channel, top, left, size) {
  return Array.from({ length: size * size }, (_, k) => {
    const [y, x] = [top + Math.floor(k / size), left + (k % size)];
    return y >= 0 && y < height && x >= 0 && x < width
      ? values[(channel * height + y) * width + x]
      : 0;
  });
}

/** Paint the values of a map, enlarged, with a frame: [row, column, size]. */
function paintMap(canvas, { width, height, values }, channel, frame, largest) {
  const area = width * height;
  const map = values.subarray(channel * area, (channel + 1) * area);
  const zoom = Math.max(1, Math.round(420 / width));
  paintValues(scratch, width, height, map, largest ?? largestOf(map));
  const context = Object.assign(canvas, { width: width * zoom, height: height * zoom }).getContext(
    "2d",
  );
  Object.assign(context, { imageSmoothingEnabled: false, strokeStyle: FRAME, lineWidth: 5 });
  context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
  if (frame) {
    context.strokeRect(frame[1] * zoom, frame[0] * zoom, frame[2] * zoom, frame[2] * zoom);
  }
}
