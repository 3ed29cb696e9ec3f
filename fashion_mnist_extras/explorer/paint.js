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
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** Return a line for each of lines, {name, values in [0, 1]}, over ticks: texts as many as there are values. */
function drawCurves(title, lines, ticks, now, [width, height], axis = "") {
  const [left, right, top, bottom] = [52, width - 12, 26, height - (axis ? 44 : 26)];
  const x = (k) => left + ((right - left) * k) / Math.max(1, ticks.length - 1);
  const y = (value) => bottom - (bottom - top) * value;
  const grid = [0, 0.5, 1].map(
    (v) =>
      `<line x1="${left}" x2="${right}" y1="${y(v)}" y2="${y(v)}"/><text x="${left - 8}" y="${y(v) + 5}" text-anchor="end">${100 * v} %</text>`,
  );
  const every = Math.ceil(ticks.length / 10); // of more there is no room for each
  const labels = ticks.map((text, k) =>
    (ticks.length - 1 - k) % every
      ? ""
      : `<text x="${x(k)}" y="${bottom + 20}" text-anchor="middle">${text}</text>`,
  );
  const paths = lines.map(
    ({ name, values }) =>
      `<polyline stroke="var(--${name})" points="${values.map((v, k) => `${x(k)},${y(v)}`).join(" ")}"/>`,
  );
  const shareOf = (values) => (now < values.length ? percent(values[now]) : "");
  const said = lines.map(({ name, values }) => `${name} ${shareOf(values)}`).join(", ");
  const keys = lines.map(
    ({ name, values }, k) =>
      `<text x="${left + k * 190}" y="16"><tspan fill="var(--${name})">■</tspan> ${name} ${shareOf(values)}</text>`,
  );
  return `<svg class="curve" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}: ${said}">${grid.join("")}${labels.join("")}
    ${now < ticks.length ? `<line class="now" x1="${x(now)}" x2="${x(now)}" y1="${top}" y2="${bottom}"/>` : ""}${paths.join("")}${keys.join("")}<text x="${(left + right) / 2}" y="${height - 4}" text-anchor="middle">${axis}</text></svg>`;
}

// ---- The panel: why a value is what it is ----------------------------------------------------------
const number = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2).replace("-", "−");
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
/** Draw lines over a stage, from places of canvases, [row, column, size] in pixels of theirs, to the next element. */
function connect(stage, joins) {
  const outer = stage.getBoundingClientRect();
  const lines = joins.map(([canvas, [row, column, size], width, target]) => {
    const from = canvas.getBoundingClientRect();
    const to = target.getBoundingClientRect();
    const unit = from.width / width;
    const x = from.left - outer.left + (column + size) * unit;
    const y = from.top - outer.top + row * unit;
    const end = to.left - outer.left;
    return `<line x1="${x}" y1="${y}" x2="${end}" y2="${to.top - outer.top}"/><line x1="${x}" y1="${y + size * unit}" x2="${end}" y2="${to.bottom - outer.top}"/>`;
  });
  stage.querySelector("svg.lines").innerHTML = lines.join("");
}
