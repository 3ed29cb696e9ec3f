// Learning curves, and curves over shifts, drawn as SVG.

/**
 * Return curves in HTML: a legend, and a figure below it.
 *
 * Each of lines is {name, label, values, isDashed, hasKey}. Its colour is that of the network of
 * this name; values are as many as ticks, the texts below the figure, and null where they are not
 * known; without a key it is not in the legend, which gives the values at the tick of index now.
 * range is "share" for values in [0, 1], or "loss" for values from 0 on.
 */
function drawCurves(options) {
  const { title, lines, ticks, now, width = 470, height = 190, axis = "" } = options;
  const { range = "share" } = options;
  const box = { left: 52, right: width - 12, top: 8, bottom: height - (axis ? 44 : 26) };
  const limit = range === "loss" ? roundUp(Math.max(...lines.flatMap(knownOf))) : 1;
  const xOf = (k) => box.left + ((box.right - box.left) * k) / Math.max(1, ticks.length - 1);
  const yOf = (value) => box.bottom - ((box.bottom - box.top) * value) / limit;
  const said = lines.map((line) => describeLine(line, now, range));
  let parts = drawScale(box, yOf, limit, range) + drawTicks(box, xOf, ticks);
  if (now < ticks.length) {
    const x = xOf(now);
    parts += `<line class="now" x1="${x}" x2="${x}" y1="${box.top}" y2="${box.bottom}"/>`;
  }
  parts += lines.map((line) => drawLine(line, xOf, yOf)).join("");
  const middle = (box.left + box.right) / 2;
  parts += `<text x="${middle}" y="${height - 4}" text-anchor="middle">${axis}</text>`;
  const keys = lines.map((line, k) => (line.hasKey === false ? "" : drawKey(line, said[k])));
  return `<p class="keys" aria-hidden="true"><b>${title}</b>${keys.join("")}</p>
    <svg class="curve" viewBox="0 0 ${width} ${height}" role="img"
      aria-label="${title}: ${said.join(", ")}">${parts}</svg>`;
}

const isKnown = (value) => value !== null && Number.isFinite(value);
const knownOf = ({ values }) => values.filter(isKnown);

/** Return a round number, at least as large as a value, for the end of a scale. */
function roundUp(value) {
  if (!(value > 0)) {
    return 1;
  }
  const unit = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((each) => each * unit >= value);
  return (factor ?? 10) * unit;
}

/** Return the text of a line: its label, and its value at a moment where that is known. */
function describeLine({ name, label = name, values }, now, range) {
  const value = values[now] ?? null;
  if (!isKnown(value)) {
    return label;
  }
  return `${label} ${range === "loss" ? twoDigits(value) : percent(value)}`;
}

/** Return the three lines of the scale at the left, and their values. */
function drawScale({ left, right }, yOf, limit, range) {
  const parts = [0, limit / 2, limit].map((value) => {
    const y = yOf(value);
    const text = range === "loss" ? Number(value.toPrecision(3)) : `${100 * value} %`;
    return `<line x1="${left}" x2="${right}" y1="${y}" y2="${y}"/>
      <text x="${left - 8}" y="${y + 5}" text-anchor="end">${text}</text>`;
  });
  return parts.join("");
}

function drawTicks({ bottom }, xOf, ticks) {
  const every = Math.ceil(ticks.length / 10); // of more there is no room for each
  let parts = "";
  ticks.forEach((text, k) => {
    if ((ticks.length - 1 - k) % every === 0) {
      parts += `<text x="${xOf(k)}" y="${bottom + 20}" text-anchor="middle">${text}</text>`;
    }
  });
  return parts;
}

/** Return a line through the values that are known; a single one is a dot. */
function drawLine({ name, values, isDashed }, xOf, yOf) {
  const points = [];
  values.forEach((value, k) => {
    if (isKnown(value)) {
      points.push(`${xOf(k)},${yOf(value)}`);
    }
  });
  if (points.length === 1) {
    const [x, y] = points[0].split(",");
    return `<circle fill="var(--${name})" cx="${x}" cy="${y}" r="3"/>`;
  }
  const dashes = isDashed ? ' stroke-dasharray="6 4"' : "";
  return `<polyline stroke="var(--${name})"${dashes} points="${points.join(" ")}"/>`;
}

function drawKey({ name, isDashed }, text) {
  const style = `border-top: 3px ${isDashed ? "dashed" : "solid"} var(--${name})`;
  return `<span><i style="${style}"></i> ${escapeHtml(text)}</span>`;
}
