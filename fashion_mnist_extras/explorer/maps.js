// The maps of TinyVGG: one column for each layer, at most sixteen channels.

// Where an arrow key leads: [rows, columns].
const ARROWS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

/**
 * Return the side of a map, the step from one to the next, and where the first one begins, in CSS
 * pixels.
 */
function layout() {
  const available = element("maps").clientWidth;
  const gap = available < 500 ? 3 : 7;
  const columns = layers.length - 1;
  const side = Math.max(8, Math.min(70, Math.floor((available - gap * (columns - 1)) / columns)));
  return { side, step: side + gap, top: 30, rows: Math.min(MOST, layers[1].channels) };
}

function drawMaps() {
  const places = layout();
  const canvas = element("maps");
  const density = window.devicePixelRatio;
  const height = places.top + places.rows * places.step;
  canvas.style.height = `${height}px`;
  const context = sizeCanvas(canvas, canvas.clientWidth * density, height * density);
  context.scale(density, density);
  context.textAlign = "center";
  context.fillStyle = css("--text");
  context.strokeStyle = css("--line");
  layers.slice(1).forEach((layer, column) => {
    drawHeading(context, layer, column * places.step, places);
    drawColumn(context, layer, column * places.step, places);
  });
  if (state.isOpen && state.label < 0 && state.point[0] > 0) {
    drawFrames(context, places);
  }
}

/** Write a layer's name and size over its maps. */
function drawHeading(context, layer, x, { side }) {
  const isSmall = side < 45;
  let { name } = layer;
  if (isSmall) {
    name = name.replace("max-", "").replace("ReLU ", "ReLU");
  }
  context.font = `${isSmall ? 9 : Math.min(13, side / 5.8)}px system-ui, sans-serif`;
  context.fillText(name, x + side / 2, 10);
  context.font = `${isSmall ? 8 : 11}px system-ui, sans-serif`;
  context.fillText(`${layer.height} × ${layer.width}`, x + side / 2, 23);
}

function drawColumn(context, layer, x, { side, step, top, rows }) {
  const largest = largestOf(layer.values);
  for (let channel = 0; channel < rows; channel++) {
    const y = top + channel * step;
    const isFilled = played && layer === layers[state.point[0]] && channel === state.point[1];
    const values = isFilled ? played : mapOf(layer, channel);
    paintValues(scratch, layer.width, layer.height, values, largest);
    context.drawImage(scratch, x, y, side, side);
    context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
  }
}

/** Frame the value pointed at, and where it comes from. */
function drawFrames(context, { side, step, top, rows }) {
  const [l, channel, y, x] = state.point;
  const { kind } = layers[l];
  const frameIn = (index, row, [first, left, size]) => {
    const height = side / layers[index].height;
    const width = side / layers[index].width;
    const corner = [(index - 1) * step + left * width, top + row * step + first * height];
    context.strokeRect(...corner, size * width, size * height);
  };
  context.strokeStyle = FRAME;
  context.lineWidth = 2.5;
  const sources = { conv: [y - 1, x - 1, 3], pool: [2 * y, 2 * x, 2], relu: [y, x, 1] };
  for (let c = 0; c < rows && l > 1; c++) {
    // A convolution sees all channels, other layers only their own.
    if (kind === "conv" || c === channel) {
      frameIn(l - 1, c, sources[kind]);
    }
  }
  if (channel < rows) {
    frameIn(l, channel, [y, x, 1]);
  }
}

/** Return the [layer, channel, row, column] under the pointer, or null beside the maps. */
function targetOf({ offsetX, offsetY }) {
  const { side, step, top, rows } = layout();
  const column = Math.floor(offsetX / step);
  const channel = Math.floor((offsetY - top) / step);
  const x = (offsetX % step) / side;
  const y = ((offsetY - top) % step) / side;
  const l = column + 1;
  if (l >= layers.length || channel < 0 || channel >= rows || x >= 1 || y >= 1) {
    return null;
  }
  return [l, channel, Math.floor(y * layers[l].height), Math.floor(x * layers[l].width)];
}

/** Return where the map pointed at stands in the window: {top, bottom}. */
function placeOfMap() {
  const { side, step, top } = layout();
  const first = element("maps").getBoundingClientRect().top + top + state.point[1] * step;
  return { top: first, bottom: first + side };
}

element("maps").onclick = (event) => {
  const target = targetOf(event);
  if (target) {
    point(target);
    dockPanel(placeOfMap());
  }
};

/**
 * Return what an arrow key leads to: the next value, or with shift the same place of the next map.
 */
function nextPoint([down, right], isShifted) {
  const [l, channel, y, x] = state.point;
  const { height, width } = layers[l];
  if (!isShifted) {
    return [l, channel, clampIndex(y + down, height), clampIndex(x + right, width)];
  }
  const next = 1 + clampIndex(l - 1 + right, layers.length - 1); // not the image
  const layer = layers[next];
  const row = clampIndex((y * layer.height) / height, layer.height);
  const column = clampIndex((x * layer.width) / width, layer.width);
  return [next, clampIndex(channel + down, layout().rows), row, column];
}

element("maps").onkeydown = (event) => {
  const arrow = ARROWS[event.key];
  if (!arrow || !isPlain(event)) {
    return;
  }
  event.preventDefault();
  point(nextPoint(arrow, event.shiftKey));
  dockPanel(placeOfMap());
};
