// The whole network in one picture: the way of the image through TinyVGG, and where we are.

const PLACES_ON_WAY = [
  "image",
  "conv 1",
  "ReLU 1",
  "conv 2",
  "ReLU 2",
  "max-pool 1",
  "conv 3",
  "ReLU 3",
  "conv 4",
  "ReLU 4",
  "max-pool 2",
  "logits",
  "shares",
];

function writeWay() {
  const list = element("way").firstElementChild;
  for (const name of PLACES_ON_WAY) {
    const item = document.createElement("li");
    const label = document.createElement("span");
    item.title = name;
    label.textContent = name.replace("max-", "").replace(/ \d/, "");
    item.append(document.createElement("canvas"), label);
    list.append(item);
  }
}

/** Paint each layer's map of the channel pointed at, and mark those that the chapter is about. */
function drawWay() {
  const { here } = thisChapter();
  const scores = classify(layers.at(-1).values, weightsOf("TinyVGG", state.moment));
  element("way-text").textContent = here === "all" ? "the whole network" : here.join(", ");
  [...element("way").firstElementChild.children].forEach((item, k) => {
    const isHere = here === "all" || here.includes(PLACES_ON_WAY[k]);
    item.ariaCurrent = isHere ? "step" : null;
    const canvas = item.firstChild;
    if (k === 0) {
      paintImage(canvas, pixels);
    } else if (k < layers.length) {
      paintChannel(canvas, layers[k]);
    } else {
      paintValues(canvas, 1, scores.length, k === layers.length ? scores : softmax(scores));
    }
  });
}

function paintChannel(canvas, layer) {
  const channel = Math.min(state.point[1], layer.channels - 1);
  paintValues(canvas, layer.width, layer.height, mapOf(layer, channel));
}
