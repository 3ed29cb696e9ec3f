/** Return the [layer, channel, row, column] under the pointer on the maps, or null beside them. */
function targetOf({ offsetX, offsetY }) {
  const { side, step, top, rows } = layout();
  const [l, channel] = [offsetX + step, offsetY - top].map((v) => Math.floor(v / step));
  const [x, y] = [(offsetX % step) / side, ((offsetY - top) % step) / side];
  if (l >= layers.length || channel < 0 || channel >= rows || x >= 1 || y >= 1) {
    return null;
  }
  return [l, channel, Math.floor(y * layers[l].height), Math.floor(x * layers[l].width)];
}
element("maps").onclick = (event) => {
  const target = targetOf(event);
  if (!target) {
    return;
  }
  point(target);
  element("why").scrollIntoView({ block: "nearest" });
};
element("maps").onkeydown = (event) => {
  // the next value, or with shift the next map at the same place
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
    event.key
  ];
  if (!step || !isPlain(event)) {
    return;
  }
  event.preventDefault();
  const limit = (v, end) => Math.max(0, Math.min(end - 1, Math.floor(v)));
  const [l, channel, y, x] = state.point;
  const { height, width } = layers[l];
  if (!event.shiftKey) {
    return point([l, channel, limit(y + step[0], height), limit(x + step[1], width)]);
  }
  const next = 1 + limit(l - 1 + step[1], layers.length - 1);
  const layer = layers[next];
  point([
    next,
    limit(channel + step[0], layout().rows),
    limit((y * layer.height) / height, layer.height),
    limit((x * layer.width) / width, layer.width),
  ]);
};
element("close-up").onpointerdown = element("close-up").onpointermove = (event) => {
  if (state.label >= 0 || (event.type === "pointermove" && !event.buttons)) {
    return;
  }
  const [l, channel] = state.point;
  const layer = layers[l];
  const size = element("close-up").clientWidth;
  const [x, y] = [event.offsetX, event.offsetY].map((v, k) =>
    Math.max(0, Math.min(layer.width - 1, Math.floor((v / size) * layer.width))),
  );
  point([l, channel, Math.min(y, layer.height - 1), x]);
};
element("close").onclick = () => {
  state.isOpen = false;
  show();
  writeAddress();
};
classes.forEach((_, k) => {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.innerHTML = "<span></span><span></span>";
  button.onclick = () => {
    point(k);
    drawSoftmax();
    startOcclusion();
    element("why").scrollIntoView({ block: "nearest" });
  };
  item.append(button);
  element("classes").append(item);
});

function prepareEverything() {
  element("legend").innerHTML = NAMES.map(
    (name) => `<span class="key" style="background: var(--${name})"></span> ${name} `,
  ).join("");
  element("mlp").hidden = !NAMES.includes("MLP");
  showTypical();
  drawMatrices();
  const [count] = DATA.networks.TinyVGG.shapes["conv_block_1.0.bias"];
  const channelsText = count > MOST ? `The first sixteen of ${count} channels are shown. ` : "";
  element("help").textContent =
    `${channelsText}By keyboard: arrow keys choose a value, with shift a map.`;
}
function meanOfColors(values, unit) {
  const area = H * W;
  const mean = new Float32Array(area);
  for (let k = 0; k < area; k++) {
    for (let c = 0; c < C; c++) {
      mean[k] += values[(unit * C + c) * area + k] / C;
    }
  }
  return mean;
}
