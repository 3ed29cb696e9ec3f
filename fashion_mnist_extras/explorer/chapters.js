// ---- The chapters: each is one screen, a picture that reads from left to right -------------------
/** Return the place of the largest of score(channel, row, column, value) over a layer's channels: [layer, channel, row, column]. */
function bestPoint(layers, l, score) {
  const { channels, height, width, values } = layers[l];
  const area = height * width;
  let best = [-Infinity, [l, 0, 0, 0]];
  for (let k = 0; k < Math.min(MOST, channels) * area; k++) {
    const place = [Math.floor(k / area), Math.floor((k % area) / width), k % width];
    const value = score(...place, values[k]);
    if (value > best[0]) {
      best = [value, [l, ...place]];
    }
  }
  return best[1];
}
/** Return an image and a direction in which the MLP is wrong and TinyVGG right after a few pixels, if one is found. */
function findShift() {
  const known = [...Array(DATA.typical).keys()]
    .filter((k) => NAMES.every((name) => DATA.networks[name].predictions[k] === labels[k]))
    .slice(0, 10);
  for (const length of [2, 3, 4]) {
    for (const direction of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ]) {
      for (const k of known) {
        choose(k);
        const image = render(direction.map((v) => v * length * DATA.shiftStep));
        const isRight = (name) => indexOfLargest(logits(name, image, LAST)) === labels[k];
        if (!isRight("MLP") && isRight("TinyVGG")) {
          return { image: k, direction, length };
        }
      }
    }
  }
  return { image: 0, direction: [1, 0], length: 3 };
}
/** Return the place of conv 1 at which an edge of an image answers most: in a channel whose weights have both signs. */
function findEdge(all) {
  const { values } = weightsOf("TinyVGG", LAST)["conv_block_1.0.weight"];
  const contrast = Array.from({ length: all[1].channels }, (_, c) => {
    const kernel = [...values.subarray(c * C * 9, c * C * 9 + 9)];
    return (
      1 - Math.abs(kernel.reduce((a, b) => a + b)) / kernel.reduce((a, b) => a + Math.abs(b), 1e-9)
    );
  });
  return bestPoint(all, 1, (c, row, column, v) =>
    Math.min(row, column, H - 1 - row, W - 1 - column) < 2 ? 0 : v * contrast[c] ** 3,
  );
}
/** Return the place of max-pool 1 whose four values differ most, some of them below zero. */
function findPool(all) {
  return bestPoint(all, 5, (c, row, column) => {
    const four = windowOf(all[3], c, 2 * row, 2 * column, 2);
    const most = Math.max(...four);
    const least = Math.min(...four);
    return Math.min(most, -least, 0.5 * (most - least));
  });
}
const SQUARE = -2; // the drawn square's number among the images
function drawSquare() {
  const image = new Float32Array(C * H * W);
  for (let c = 0; c < C; c++) {
    for (let y = H >> 2; y < H - (H >> 2); y++) {
      image.fill(1, (c * H + y) * W + (W >> 2), (c * H + y) * W + W - (W >> 2));
    }
  }
  return image;
}

/** Point at a pixel of the image: in a chapter that asks for it. */
function pick(row, column) {
  const limit = (v, end) => Math.max(0, Math.min(end - 1, v));
  point([
    CHAPTERS[state.chapter].id === "image" ? 0 : 1,
    state.point[1],
    limit(row, H),
    limit(column, W),
  ]);
}

const guesses = new Map(); // what was guessed, by image
function describeChapters() {
  const { epochs, accuracies, confusion, predictions } = DATA.networks.TinyVGG;
  const hasMLP = NAMES.includes("MLP");
  const isFashion = DATA.dataset === "FashionMNIST";
  const thing = isFashion ? "garment" : "object";
  const image = DATA.typical - 1;
  const total = confusion.flat().reduce((a, b) => a + b);
  const wrong = total - confusion.reduce((sum, row, k) => sum + row[k], 0);
  const mistakes = [...labels.keys()].filter(
    (k) => k >= DATA.typical && predictions[k] !== labels[k],
  );
  const all = runTinyVGG(asLayer(storedImage(image)), weightsOf("TinyVGG", LAST));
  const { height, width } = all.at(-1);
  const whose = isFashion
    ? `ten classes of clothing apart, on small grey photographs (the dataset FashionMNIST)`
    : `${classes.length} classes of images apart (${escapeHtml(DATA.dataset)})`;
  const first = [...Array(DATA.typical).keys()].map((k) =>
    indexOfLargest(logits("TinyVGG", storedImage(k), 0)),
  );
  const common = [...first].sort(
    (a, b) => first.filter((v) => v === b).length - first.filter((v) => v === a).length,
  )[0];
  const often = first.filter((v) => v === common).length;
  const early = Math.max(
    1,
    accuracies.findIndex((v) => v >= 0.9 * accuracies[LAST]),
  );
  const times = (epoch) => `${Number(epoch.toFixed(2))} epoch${epoch === 1 ? "" : "s"}`;
  const edge = findEdge(all);
  const pool = findPool(all);
  const shift = hasMLP ? findShift() : null;
  const picture = '<div class="column"><div data-use="picture"></div></div>';
  return [
    {
      id: "image",
      title: "An image is numbers",
      image,
      opening: `${hasMLP ? "An MLP (multilayer perceptron), the plainest kind of neural network, and TinyVGG, a convolutional one (CNN), have" : "TinyVGG, a convolutional neural network (CNN), has"} learned
        from examples to tell ${whose}. This page shows ${hasMLP ? "them" : "it"} from the inside.`,
      text: `To a network an image is ${H} × ${W} numbers${C > 1 ? " for each of red, green and blue" : ""}, from 0 for black to 1 for white. Nothing in them says what they show. Click on the image: beside it are the numbers of that place.`,
      question: "Which numbers is the background made of?",
      answer: `${isFashion ? "Of 0, or nearly: it is black." : "Dark places are made of numbers near 0, bright ones of numbers near 1."} The network is given no more than that.`,
      stage: `<div class="row">${picture}<div class="column" id="numbers"></div></div>`,
      setUp: () => Object.assign(state, { point: [0, 0, H >> 1, W >> 1], isOpen: true }),
      tool: "pick",
      settle: () =>
        Object.assign(state, {
          label: -1,
          point: state.point[0] ? [0, 0, H >> 1, W >> 1] : state.point,
        }),
      frame: () => [state.point[2] - SEEN, state.point[3] - SEEN, 2 * SEEN + 1],
      draw() {
        const [, , y, x] = state.point;
        const size = 2 * SEEN + 1;
        element("numbers").innerHTML = Array.from(
          { length: C },
          (_, c) =>
            `${C > 1 ? `<span>${["red", "green", "blue"][c]}</span>` : ""}${grid(
              windowOf(layers[0], c, y - SEEN, x - SEEN, size),
              size,
              1,
              { taken: SEEN * size + SEEN, isImage: true },
            )}`,
        ).join("");
        connect(stageOf("image"), [
          [element("picture"), this.frame(), W, element("numbers").querySelector(".grid")],
        ]);
      },
    },
    {
      id: "guess at first",
      title: "A network begins with a guess",
      image,
      step: 0,
      text: `A network calculates in steps, its <i>layers</i>, with numbers of its own, its <i>weights</i>. Before it learns they are random and, in the last layer, small. So all classes get nearly the same share. Choose other images below this one. (✓ is the true class; the largest share is bold.)`,
      question: "Does the guess depend on the image?",
      answer: `${often > DATA.typical / 2 ? "Hardly." : "In name: the shares stay nearly the same."} Of the ${DATA.typical} images here TinyVGG takes ${often} for ${escapeHtml(classes[common])}. The weights of its last layer are so small that what it sees moves its answer very little.`,
      stage: `<div class="row"><div class="column"><div data-use="picture"></div><div data-use="thumbnails"></div></div><span class="arrow">→</span><div data-use="answers"></div></div>`,
    },
    {
      id: "learning",
      title: "It learns by being corrected",
      image,
      step: 0,
      text: `In each step a network answers for some training images. For every weight calculus tells in which direction the answers become less wrong, and there it is moved a little. One pass over all training images is an <i>epoch</i>. Play the training, or drag the slider. The curve${hasMLP ? "s show" : " shows"} how many of the test images, which it never trains on, are answered right.`,
      question: "When is most of it learned?",
      answer: `${early < LAST / 2 ? "Early. " : ""}TinyVGG goes from ${percent(accuracies[0])} to ${percent(accuracies[early])} in the first ${times(epochs[early])}; the rest of the ${times(epochs[LAST])} adds ${(100 * (accuracies[LAST] - accuracies[early])).toFixed(1)} points.`,
      stage: `<div class="row"><div class="column"><div data-use="picture"></div><div id="curves"></div><div data-use="moment"></div></div><span class="arrow">→</span><div data-use="answers"></div></div>`,
      draw() {
        const lines = NAMES.map((name) => ({ name, values: DATA.networks[name].accuracies }));
        element("curves").innerHTML = drawCurves({
          title: "Test images answered right",
          lines,
          ticks: epochs.map((epoch) => Number(epoch.toFixed(2))),
          now: state.step,
          axis: "epochs, the first one stretched",
        });
      },
    },
    {
      id: "convolution",
      title: "A convolution looks for a pattern",
      image,
      text: `A window of 3 × 3 weights slides over the image. At each place the pixels under it are multiplied by the weights, and the products added up, with one more number, the <i>bias</i>. The sums make a map, called a <i>channel</i>: brown is above zero, purple below. Click on the image to move the window.`,
      controls: `<div class="buttons"><button id="square">a drawn square</button> <button id="channel">another channel</button></div><div data-use="player"></div>`,
      question: "Where on the square does its answer change?",
      answer:
        "At edges. Within the square the nine pixels are equal wherever the window stands, and so are the sums; around the square too, where they may be others. Which edges make the sum large, and which small, depends on the weights: other channels answer to others.",
      stage: `<div class="row">${picture}<div class="column" id="sums"></div><div class="column"><div data-use="close-up"></div></div></div><svg class="lines" aria-hidden="true"></svg>`,
      setUp: () => Object.assign(state, { point: edge, isOpen: true }),
      tool: "pick",
      frame: frameOfPoint,
      settle() {
        // of other layers it would be sums over ten channels
        Object.assign(state, {
          label: -1,
          isOpen: true,
          point: state.point[0] === 1 ? state.point : edge,
        });
      },
      ready() {
        element("square").onclick = () => {
          const { point } = state;
          const isSquare = state.image < 0;
          if (isSquare) {
            choose(image);
          } else {
            setImage(drawSquare(), -1, SQUARE);
          }
          Object.assign(state, { point, isOpen: true });
          update();
        };
        element("channel").onclick = () =>
          point([
            state.point[0],
            (state.point[1] + 1) % Math.min(MOST, layers[1].channels),
            ...state.point.slice(2),
          ]);
      },
      draw() {
        const [l, channel, y, x] = state.point;
        const [conv, input] = convolutionAt(l);
        const parts = productsAt(conv, input, channel, y, x);
        const bias = conv.bias.values[channel];
        const scales = scalesOf(conv, input, channel);
        const rows = parts
          .slice(0, 3)
          .map(
            ({ seen, kernel, products }, c) =>
              `<div class="sum">${C > 1 ? `<b>${"RGB"[c] ?? ""}</b>` : ""}${grid(seen, 3, scales.seen, { isImage: l < 3 })}<span>×</span>${grid(
                kernel,
                3,
                scales.weights,
              )}<span>=</span>${grid(products, 3, scales.products)}</div>`,
          );
        const sums = parts.map(({ roundedSum }) => roundedSum);
        const exact = valueAt(conv, channel, y, x);
        element("sums").className = `column ${C > 1 ? "across" : ""}`;
        element("sums").innerHTML = `${rows.join("")}<p>${addUp("sum", sums, bias, exact)}</p>`;
        element("square").textContent = state.image < 0 ? `the ${thing}` : "a drawn square";
        element("channel").textContent =
          `channel ${channel + 1} of ${Math.min(MOST, layers[l].channels)}: the next`;
        element("player").hidden = false;
        drawCloseUp();
        connect(stageOf("convolution"), [
          [element("picture"), frameOfPoint(), W, element("sums").querySelector(".grid")],
        ]);
      },
    },
    {
      id: "pool",
      title: "ReLU and max-pool throw away",
      image,
      text: `The second convolution adds up such sums over all channels of the first. Then a <i>ReLU</i> makes zero of every number below zero. A <i>max-pool</i> keeps the largest of each 2 × 2 square, so its map is half as wide and half as high: less to calculate with, and less that depends on the exact place. Click on a map to look at other places.`,
      question: "What is lost?",
      answer:
        "How far below zero a number was, the three smaller ones of a square, and where the largest stood. If the pattern shifts by a pixel, the largest often stays within its square, and then nothing changes.",
      stage: `<div class="row">${["conv 2, one channel", "ReLU 2", "max-pool 1"].map((name, k) => `${k ? '<span class="arrow">→</span>' : ""}<figure class="column"><figcaption>${name}</figcaption><canvas class="square" id="before-${k}" role="img" aria-label="${name}"></canvas><div id="four-${k}"></div></figure>`).join("")}</div>`,
      setUp: () => Object.assign(state, { point: pool, isOpen: true }),
      settle: () =>
        Object.assign(state, { label: -1, point: state.point[0] === 5 ? state.point : pool }),
      ready() {
        const move = (y, x) => {
          const { width, height } = layers[5];
          const limit = (v, size) => Math.max(0, Math.min(size - 1, Math.floor(v)));
          point([5, state.point[1], limit(y, height), limit(x, width)]);
        };
        for (const k of [0, 1, 2]) {
          const canvas = Object.assign(element(`before-${k}`), {
            tabIndex: 0,
            role: "application",
          });
          canvas.onclick = ({ offsetX, offsetY }) =>
            move(
              (offsetY / canvas.clientHeight) * layers[5].height,
              (offsetX / canvas.clientWidth) * layers[5].width,
            );
          canvas.onkeydown = (event) => {
            const step = {
              ArrowLeft: [0, -1],
              ArrowRight: [0, 1],
              ArrowUp: [-1, 0],
              ArrowDown: [1, 0],
            }[event.key];
            if (!step || !isPlain(event)) {
              return;
            }
            event.preventDefault();
            move(state.point[2] + step[0], state.point[3] + step[1]);
          };
        }
      },
      draw() {
        const [, channel, y, x] = state.point;
        const area = H * W;
        const largest = largestOf(layers[3].values.subarray(channel * area, (channel + 1) * area));
        for (const [k, l] of [3, 4, 5].entries()) {
          const [frame, size] = k < 2 ? [[2 * y, 2 * x, 2], 2] : [[y, x, 1], 1];
          const four = windowOf(layers[l], channel, frame[0], frame[1], size);
          paintMap(element(`before-${k}`), layers[l], channel, frame, largest);
          element(`four-${k}`).innerHTML = grid(four, size, largest, {
            taken: k === 1 ? indexOfLargest(four) : -1,
          });
        }
      },
    },
    {
      id: "softmax",
      title: "From values to shares",
      image,
      text: `After two more convolutions and a max-pool each map has ${height} × ${width} places. For each class the last layer multiplies all these values by weights and adds up: the class's score, its <i>logit</i> z. <i>Softmax</i> makes shares of the scores: e<sup>z</sup> (e is 2.718…) divided by the sum of all. Choose a class: brown places raise its score, purple ones lower it. Each has seen 16 × 16 pixels.`,
      question: "What if a logit grows by 1?",
      answer:
        "Its e to the power of z becomes 2.718 times as large. Its share grows by less, since the sum grows too, and all other shares shrink.",
      stage: `<div class="row"><div class="column"><canvas class="square" id="parts-map" role="img" aria-label="What each place adds to the chosen class"></canvas><p id="parts-text"></p></div><span class="arrow">→</span><div data-use="softmax-box"></div></div>`,
      setUp: () => Object.assign(state, { label: labels[image], isOpen: true }),
      draw() {
        if (state.label < 0) {
          state.label = indexOfLargest(logits("TinyVGG", pixels, state.step, layers));
        }
        paintParts(element("parts-map"), state.label);
        element("parts-text").textContent = `for and against ${classes[state.label]}`;
        drawSoftmax();
      },
    },
    hasMLP && {
      id: "shift",
      title: "Why the CNN, and not the MLP",
      image: shift.image,
      text: `The MLP multiplies every pixel by a weight of that pixel's own and adds up: a <i>hidden unit</i>. It has ${DATA.networks.MLP.shapes["layer_stack.1.weight"][0]} of them; here the weights of one lie over the image. Shift the ${thing}, and other weights meet it: the sum is another. TinyVGG moves the same windows over the whole image, so its maps shift along; after a max-pool exactly by an even number of pixels.`,
      controls: `<div class="buttons"><label for="far">shift</label> <input id="far" type="range" min="0" max="6" step="1" style="flex: 1"> <output id="far-text" for="far"></output></div><p id="verdict" aria-live="polite"></p>`,
      question: "Why does TinyVGG fail too, further out?",
      answer: `Its last layer is like the MLP: it has a weight for each of the ${height} × ${width} places of the last maps, and a pattern that has moved to another place meets other weights.`,
      stage: `<div class="row"><div class="pairs"><span></span><span>in its place</span><span>shifted</span>
        <span>MLP: a hidden unit</span><figure><canvas class="square" id="unit-0" role="img" aria-label="The unit's weights over the image"></canvas><figcaption id="unit-text-0"></figcaption></figure>
        <figure><canvas class="square" id="unit-1" role="img" aria-label="The unit's weights over the shifted image"></canvas><figcaption id="unit-text-1"></figcaption></figure>
        <span>TinyVGG: a channel</span><canvas class="square" id="map-0" role="img" aria-label="A map of max-pool 1"></canvas><canvas class="square" id="map-1" role="img" aria-label="The same map of the shifted image"></canvas></div>
        <div class="column" id="average"></div></div>`,
      setUp: () =>
        Object.assign(state, {
          shift: shift.direction.map((v) => v * shift.length * DATA.shiftStep),
        }),
      ready() {
        element("far").oninput = ({ target }) => {
          state.shift = shift.direction.map((v) => v * Number(target.value) * DATA.shiftStep);
          update();
        };
      },
      draw() {
        const far = Math.max(...state.shift.map(Math.abs));
        const weights = weightsOf("MLP", LAST);
        const unit = (this.unit ??= findUnit(shift));
        const channel = edge[1];
        const still = render([0, 0]);
        const images = [still, pixels];
        const { values } = weights["layer_stack.1.weight"];
        const area = H * W;
        const mean = Float32Array.from(
          { length: area },
          (_, i) =>
            Array.from({ length: C }, (_, c) => values[(unit * C + c) * area + i]).reduce(
              (a, b) => a + b,
            ) / C,
        );
        for (const k of [0, 1]) {
          const canvas = element(`unit-${k}`);
          const zoom = Math.max(1, Math.round(280 / W));
          const context = Object.assign(canvas, { width: W * zoom, height: H * zoom }).getContext(
            "2d",
          );
          context.imageSmoothingEnabled = false;
          context.drawImage(paintImage(scratch, images[k]), 0, 0, canvas.width, canvas.height);
          context.globalAlpha = 0.55;
          context.drawImage(paintValues(scratch, W, H, mean), 0, 0, canvas.width, canvas.height);
          element(`unit-text-${k}`).textContent =
            `unit ${unit + 1}: ${number(runMLP(images[k], weights).hidden[unit])}`;
        }
        const maps = images.map((each) => runTinyVGG(asLayer(each), weightsOf("TinyVGG", LAST))[5]);
        maps.forEach((layer, k) => paintMap(element(`map-${k}`), layer, channel));
        element("far").value = Math.round(far / DATA.shiftStep);
        element("far-text").textContent = element("far").ariaValueText =
          `${far} pixel${far === 1 ? "" : "s"}`;
        element("verdict").innerHTML = NAMES.map((name) => {
          const found = indexOfLargest(logits(name, pixels, LAST));
          const isRight = found === truth;
          return `${name}: <span class="${isRight ? "good" : "bad"}">${escapeHtml(classes[found])} ${isRight ? "✓" : "✗"}</span>`;
        }).join(" &nbsp; ");
        const lines = NAMES.map((name) => ({ name, values: DATA.networks[name].shiftAccuracy }));
        element("average").innerHTML =
          `<p>Right of ${DATA.networks.MLP.shiftedImages.toLocaleString("en")} test images, by the pixels of their shift</p>${drawCurves(
            {
              title: "Test images answered right",
              lines,
              ticks: lines[0].values.map((_, k) => k),
              now: far,
              width: 400,
              height: 300,
            },
          )}`;
      },
    },
    mistakes.length && {
      id: "guess",
      title: "Guess first: its mistakes",
      image: mistakes[0],
      text: `TinyVGG answers ${wrong.toLocaleString("en")} of ${total.toLocaleString("en")} test images wrongly. This is one of them. What do you see?`,
      controls: `<div class="guess" id="guesses"></div><p id="guessed" aria-live="polite"></p>`,
      question: "Why are these hard?",
      answer: `At ${H} × ${W} pixels two classes can look alike, and some labels, which people gave, are open to dispute. And a network knows only what it was trained on: it takes all else for one of its classes.`,
      stage: `<div class="row">${picture}<div class="column" id="told"><div data-use="answers"></div><button id="another">another image</button></div></div>`,
      ready() {
        element("another").onclick = () => {
          choose(mistakes[(mistakes.indexOf(state.image) + 1) % mistakes.length]);
          update();
          element("guesses").firstChild.focus();
        };
        element("guesses").onclick = ({ target }) => {
          const button = target.closest("[data-guess]");
          if (!button || guesses.has(state.image)) {
            return;
          }
          guesses.set(state.image, Number(button.dataset.guess));
          update();
          element("another").focus();
        };
        this.choices = (scores) => {
          // of many classes the ten that are most probable, with the true one
          const order = [...classes.keys()].sort(
            (a, b) => (b === truth) - (a === truth) || scores[b] - scores[a],
          );
          return order.slice(0, classes.length > 12 ? 10 : classes.length).sort((a, b) => a - b);
        };
      },
      draw() {
        if (truth < 0) {
          return (choose(mistakes[0]), update());
        } // there is nothing to guess
        const scores = logits("TinyVGG", pixels, state.step, layers);
        const found = indexOfLargest(scores);
        const isOpen = guesses.has(state.image);
        const guess = guesses.get(state.image);
        const right = [...guesses].filter(([k, label]) => labels[k] === label).length;
        element("guesses").innerHTML = this.choices(scores)
          .map(
            (k) =>
              `<button data-guess="${k}" ${isOpen ? "disabled" : ""} aria-pressed="${guess === k}">${escapeHtml(classes[k])}</button>`,
          )
          .join("");
        element("told").classList.toggle("waiting", !isOpen);
        element("guessed").innerHTML = isOpen
          ? `It is labelled <span class="good">${escapeHtml(classes[truth])}</span>. You: <span class="${guess === truth ? "good" : "bad"}">${escapeHtml(classes[guess])}</span>;
          TinyVGG: <span class="${found === truth ? "good" : "bad"}">${escapeHtml(classes[found])}</span>. So far you were right ${right} of ${guesses.size} times.`
          : "";
      },
    },
    {
      id: "photograph",
      title: "A photograph of your own",
      image,
      text: isFashion
        ? "Choose a photograph of one garment, upright and evenly lit, on a plain background of another colour, or drop it on this page. It is cut out, made 28 × 28 pixels small and light on black, as all that the networks know. It stays on your computer."
        : `Choose an image file. Its middle is made ${H} × ${W} pixels, as the networks know them. It does not leave your computer.`,
      controls: '<div data-use="own"></div>',
      question: "What if the answer is wrong?",
      answer: isFashion
        ? "Look at what the networks see: uneven light, a shadow or a pattern behind the garment become part of it. They know one kind of picture only, shoes that point to the left, and always choose one of their classes, whatever is shown."
        : "The networks have seen one kind of picture only. And they always choose one of their classes, whatever the image shows.",
      stage: `<div class="row"><figure class="column" id="original"><canvas class="square" id="photo" role="img" aria-label="The photograph"></canvas><figcaption>the photograph</figcaption></figure><span class="arrow" id="made">→</span>
        <figure class="column"><div data-use="picture"></div><figcaption id="seen"></figcaption></figure><span class="arrow">→</span><div data-use="answers"></div></div>`,
      draw() {
        element("original").hidden = element("made").hidden = state.image >= 0 || !photograph;
        element("seen").textContent =
          state.image >= 0 ? "an example, as the networks see it" : "what the networks see";
        if (!photograph) {
          return;
        }
        const { width, height } = photograph;
        const context = Object.assign(element("photo"), { width, height }).getContext("2d");
        context.drawImage(photograph, 0, 0);
      },
    },
    {
      id: "everything",
      title: "Everything: all tools",
      image: 0,
      tool: "move",
      frame: frameOfPoint,
      draw: showEverything,
    },
  ].filter(Boolean);
}
const SEEN = C > 1 ? 2 : 3; // how far around a pixel its neighbours are shown as numbers
/** Return the hidden unit of the MLP whose value changes most by a shift. */
function findUnit({ image, direction, length }) {
  const weights = weightsOf("MLP", LAST);
  const [dx, dy] = direction.map((v) => v * length * DATA.shiftStep);
  const still = storedImage(image);
  const moved = Float32Array.from(still, (_, i) => {
    const [y, x] = [(Math.floor(i / W) % H) - dy, (i % W) - dx];
    return y < 0 || x < 0 || y >= H || x >= W ? 0 : still[i - dy * W - dx];
  });
  const [before, after] = [still, moved].map((each) => runMLP(each, weights).hidden);
  return indexOfLargest(before.map((v, k) => Math.abs(v - after[k])));
}
const stageOf = (id) => element(`chapter-${id.replace(/ /g, "-")}`).querySelector(".stage");
