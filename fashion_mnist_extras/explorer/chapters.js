// The chapters: what each says, asks and shows. How their pictures are drawn stands in stages.js.

const hasMLP = NAMES.includes("MLP");
const thing = isFashion ? "garment" : "object";

/** Write a size; it is not broken at the end of a line. */
const by = (height, width) => `${height}\u00a0×\u00a0${width}`;

const PICTURE = '<div class="column"><div data-use="picture"></div></div>';
const ARROW = '<span class="arrow">→</span>';

/**
 * Return the chapters in their order. Of each: id, title, text, question and answer (a text, or a
 * function of the state); stage, the HTML of its picture; here, the places of the network that it
 * is about; and for the teacher, minutes, what to ask and what to expect. May have: controls, keys,
 * moment (of training), tool (what a pointer does on the image), isApart (it has images of its
 * own), explainsTies (of the MLP's shares), setUp and settle (of the state), ready (once, when its
 * HTML stands), frame (on the image), draw.
 */
function describeChapters() {
  const chapters = [imageChapter(), convolutionChapter(), poolingChapter(), softmaxChapter()];
  chapters.push(untrainedChapter(), learningChapter());
  if (hasMLP) {
    chapters.push(shiftChapter());
  }
  if (GUESSED.length) {
    chapters.push(mistakeChapter());
  }
  chapters.push(photographChapter(), lastChapter());
  return chapters;
}

function imageChapter() {
  const shown = isFashion ? "a shoe or a shirt" : `one of ${classes.length} classes of images`;
  const dataset = isFashion ? "FashionMNIST" : escapeHtml(DATA.dataset);
  const colors = C > 1 ? ", three for each: how much red, green and blue there is" : "";
  return {
    id: "image",
    title: "An image is numbers",
    text: [
      `How do you see whether this is ${shown}? Nobody can write down the rules. A <i>neural
        network</i> finds its own, from examples: here the dataset ${dataset}. This lesson follows
        one image through such a network, TinyVGG. The strip of small pictures is its way to the
        answer; you will meet its words one by one, and a frame is where you are.`,
      `To the network an image is ${by(H, W)} <i>pixels</i>, and each pixel is a number from 0 for
        black to 1 for white${colors}. Click on the image to see its numbers.`,
    ],
    controls: `<div class="on-screen"><p>Choose the image to follow:</p>
      <div data-use="thumbnails"></div></div>`,
    question: "Which numbers is the background made of?",
    answer: isFashion
      ? "Of 0, or nearly: it is black. The network is given no more than such numbers."
      : `Dark places are made of numbers near 0, bright ones of numbers near 1. The network is
        given no more than that.`,
    keys: "PageDown, PageUp, ← and → turn the chapters.",
    stage: `<div class="row">${PICTURE}<div class="column" id="numbers"></div></div>`,
    here: ["image"],
    minutes: 4,
    ask: "What would change in these numbers if the lamp were brighter, or the picture moved?",
    reply: "Brighter: all but the zeros grow. Moved: the same numbers stand elsewhere.",
    tool: "pick",
    setUp() {
      Object.assign(state, { point: [0, 0, H >> 1, W >> 1], isOpen: true });
    },
    frame: () => [state.point[2] - SEEN, state.point[3] - SEEN, 2 * SEEN + 1],
    draw: drawNumbers,
  };
}

function convolutionChapter() {
  return {
    id: "convolution",
    title: "A convolution looks for a pattern",
    text: [
      `A window of ${by(3, 3)} <i>weights</i> slides over the image. At each place every pixel
        under it is multiplied by its weight; the products and one more number, the <i>bias</i>,
        are added up. The sums make a map, called a <i>channel</i>: brown is above zero, purple
        below. Outside the image it sees 0 (<i>padding</i>). Click on the image to move the window,
        or change a weight.`,
    ],
    controls: `<div data-use="player"></div>
      <div class="buttons">
        <button data-kernel="edges">find edges</button> <button data-kernel="blur">blur</button>
        <button data-kernel="trained">use trained weights</button>
      </div>
      <div class="buttons">
        <button id="channel">show the next channel</button> <button id="square"></button>
      </div>`,
    question: "Draw a square: where does its map change?",
    answer: `At the edges. Within the square the nine pixels are equal wherever the window stands,
      and so are the sums. Around it all pixels are 0: the empty background gives the bias alone.
      Which edges make the sum large, and which small, depends on the weights: other channels find
      others.`,
    stage: `<div class="row">${PICTURE}
      <div class="column" id="sums"></div>
      <figure class="column"><div data-use="close-up"></div>
        <figcaption id="channel-text"></figcaption></figure></div>`,
    here: ["conv 1"],
    minutes: 8,
    ask: "Which nine weights find horizontal edges only? Set them.",
    reply: "For example −1 −1 −1, 0 0 0, 1 1 1, row by row.",
    tool: "pick",
    setUp() {
      Object.assign(state, { point: findEdge(), isOpen: true });
    },
    ready: prepareConvolution,
    settle: () => keepPointIn(1, findEdge),
    frame: frameOfPoint,
    draw: drawConvolution,
  };
}

function poolingChapter() {
  const [count] = DATA.networks.TinyVGG.shapes["conv_block_1.0.bias"];
  const channels = countOf(count, "channel");
  const steps = ["conv 2, one channel", "ReLU 2", "max-pool 1"].map((name, k) => {
    return `<figure class="column"><figcaption>${name}</figcaption>
      <canvas class="square" id="before-${k}" tabindex="0" role="application"
        aria-label="${name}"></canvas><div id="four-${k}"></div></figure>`;
  });
  return {
    id: "pooling",
    title: "ReLU and max-pool throw away",
    text: [
      `After each convolution a <i>ReLU</i> turns every number below zero into 0: ReLU 1 does so
        with the map that you have seen. Convolution 2 slides windows over all ${channels} of that
        at once, and adds up what they give; ReLU 2 follows. Then a <i>max-pool</i> keeps the
        largest number of each ${by(2, 2)} square: the map is half as wide and half as high, so
        there is less to calculate with, and less that depends on the exact place. Click on a map
        to look at other squares.`,
    ],
    question: "What is lost?",
    answer: () => describeStaying(thing, shareStaying()),
    stage: `<div class="row">${steps.join(ARROW)}</div>`,
    here: ["conv 2", "ReLU 2", "max-pool 1"],
    minutes: 5,
    ask: "What would a mean of the four keep that the largest does not?",
    reply: "How much there is in the square altogether: weak neighbours count too.",
    setUp() {
      Object.assign(state, { point: findPool(), isOpen: true });
    },
    ready: preparePooling,
    settle: () => keepPointIn(5, findPool),
    draw: drawPooling,
  };
}

function softmaxChapter() {
  const seen = by(Math.min(16, H), Math.min(16, W));
  return {
    id: "softmax",
    title: "From numbers to an answer",
    text: [
      `After two more convolutions and a max-pool, ${by(H >> 2, W >> 2)} places are left in each
        map. Each of them depends on ${seen} pixels. For every class the last layer multiplies all
        these numbers by weights and adds up: the class's score, its <i>logit</i> z. <i>Softmax</i>
        turns scores into <i>shares</i>, e<sup>z</sup> (e is 2.718…) divided by the sum of all of
        them: how sure the network is of each class; together they are 100&nbsp;%. Choose a class:
        brown places raise its score, purple ones lower it.`,
    ],
    question: "What if one logit grows by 1?",
    answer: `Its e<sup>z</sup> becomes 2.718 times as large. Its share grows by less, since the sum
      grows too, and all other shares shrink.`,
    stage: `<div class="row"><div class="column">
        <canvas class="square" id="parts-map" role="img"
          aria-label="What each place adds to the chosen class"></canvas>
        <p id="parts-text"></p></div>
      ${ARROW}<div data-use="softmax-box"></div></div>`,
    here: ["logits", "shares"],
    minutes: 6,
    ask: "Which part of the image speaks for the second most probable class, and why?",
    reply: "Choose that class: its brown places. Often a shape that both classes have.",
    setUp() {
      const scores = logits("TinyVGG", render(), LAST);
      Object.assign(state, { label: indexOfLargest(scores), isOpen: true });
    },
    draw: drawParts,
  };
}

function untrainedChapter() {
  const beside = hasMLP
    ? ` Beside it now is an <i>MLP</i> (multilayer perceptron), the plainest kind of network (more
      of it in chapter 7).`
    : "";
  return {
    id: "untrained",
    title: "A network begins with a guess",
    text: [
      `All weights so far were those of a trained network. This is what it answers before it has
        learned: its weights are random and, in the last layer, small.${beside} Choose another
        image below it. (✓ is the true class; the largest share is bold.)`,
    ],
    question: "Does the guess depend on the image?",
    answer: describeFirstGuess,
    stage: `<div class="row"><div class="column"><div data-use="picture"></div>
        <div data-use="thumbnails" class="on-screen"></div></div>
      ${ARROW}<div data-use="answers"></div></div>`,
    here: "all",
    explainsTies: true,
    minutes: 3,
    ask: "How often would you be right if you guessed blindly?",
    reply: `One time in ${classes.length}.`,
    moment: 0,
  };
}

function learningChapter() {
  const { accuracies, epochs } = DATA.networks.TinyVGG;
  return {
    id: "learning",
    title: "It learns by being corrected",
    text: [
      `How wrong the answers are is one number, the <i>loss</i>: near 0 where the true class has
        nearly the whole share. In each <i>step</i> the network answers for some training images.
        For each weight, calculus tells from the loss’s <i>gradient</i> which direction makes the
        answers less wrong; the weight moves a little that way, and the <i>learning rate</i> sets
        how far. One pass over all training images is an <i>epoch</i>.`,
      `Play the training, or drag. <i>Accuracy</i> is the share of right answers. Solid: test
        images, which the network never trains on. Dashed: training images, measured while it was
        still learning, so a little behind.`,
    ],
    question: "When is most of it learned?",
    answer: describeLearning("TinyVGG", accuracies, epochs, shareOfLargestClass()),
    stage: `<div class="row"><div class="column" id="training">
        <div class="row"><div data-use="picture"></div><div data-use="moment"></div></div>
        <div id="accuracy-curves"></div><div id="loss-curves"></div></div>
      ${ARROW}<div data-use="answers"></div></div>`,
    here: "all",
    explainsTies: true,
    minutes: 7,
    ask: "What would it mean if the dashed line went on rising, and the solid one fell?",
    reply: "The network learns its training images by heart: overfitting.",
    moment: 0,
    draw: drawTraining,
  };
}

function shiftChapter() {
  const units = DATA.networks.MLP.shapes["layer_stack.1.weight"][0];
  const [own, other] = ["MLP", "TinyVGG"].map((name) => countWeights(name).toLocaleString("en"));
  const { shiftedImages } = DATA.networks.MLP;
  const rows = [
    ["MLP: a hidden unit", "unit", "The unit's weights over the image", true],
    ["TinyVGG: max-pool 1, one channel", "map", "A map of max-pool 1", false],
  ].map(([title, id, label, hasText]) => {
    const figures = [0, 1].map((k) => {
      const text = hasText ? `<figcaption id="${id}-text-${k}"></figcaption>` : "";
      return `<figure><canvas class="square" id="${id}-${k}" role="img"
      aria-label="${label}"></canvas>
        ${text}</figure>`;
    });
    return `<b>${title}</b>${figures.join("")}`;
  });
  return {
    id: "shifts",
    title: "Why the CNN, and not the MLP",
    text: [
      `TinyVGG is a <i>convolutional neural network</i>, a CNN. The MLP has no windows: it
        multiplies each pixel by a weight of its own and adds up, in each of its <i>hidden
        units</i> (there are ${units}); the weights of one lie over the image. Shift the ${thing},
        and its pixels meet other weights: the sum changes. TinyVGG's windows go everywhere, so its
        maps shift along. With the biases, the MLP has ${own} weights, TinyVGG ${other}.`,
    ],
    controls: `<div class="buttons"><label for="far">shift</label>
        <input id="far" type="range" min="0" max="6" step="1">
        <output id="far-text" for="far"></output></div>
      <p id="verdict" aria-live="polite"></p>`,
    question: "Why does TinyVGG fail too, further out?",
    answer: `Its last layer is like the MLP: it has a weight for each of the ${by(H >> 2, W >> 2)}
      places of the last maps, and a pattern that has moved to another place meets other weights.
      And part of the ${thing} may have left the image.`,
    stage: `<div class="row"><div class="pairs"><span></span><span>in its place</span>
        <span>shifted</span>${rows.join("")}</div>
      <div class="column" id="average">
        <p>Of ${shiftedImages.toLocaleString("en")} test images, shifted by so many pixels (the
        mean of four directions)</p><div id="shift-curves"></div>
        <p class="soft" id="searched"></p></div></div>`,
    here: ["max-pool 1"],
    minutes: 6,
    ask: "In which pictures of the world is the thing that matters always in the middle?",
    reply: "In passport photographs or scanned forms; hardly in others.",
    setUp: setUpShift,
    ready: prepareShifts,
    draw: drawShifted,
  };
}

function mistakeChapter() {
  const { confusion } = DATA.networks.TinyVGG;
  const total = confusion.flat().reduce((sum, count) => sum + count);
  const right = confusion.reduce((sum, row, k) => sum + row[k], 0);
  const alsoRight = right ? ", and among them some that it answers right" : "";
  const alike = `At ${by(H, W)} pixels two classes can look alike`;
  return {
    id: "mistakes",
    title: "Guess first: what is this?",
    isApart: true,
    text: [
      `TinyVGG answers ${(total - right).toLocaleString("en")} of ${total.toLocaleString("en")}
        test images wrongly. Here are some of these${alsoRight}. What do you see?`,
    ],
    controls: `<div class="guess" id="guesses"></div><p id="guessed" aria-live="polite"></p>
      <div id="next-guess" class="waiting"><div class="buttons">
        <button id="mirror">mirror it</button> <button id="another">show another
        image</button></div>
        <p id="mirrored" aria-live="polite"></p></div>`,
    question: "Why does it make mistakes?",
    answer: isFashion
      ? `A network knows only what it has seen. Nearly all sneakers of the training images point
        left, so one that points right is new to it: if mirroring helps, a button lets you try it.
        ${alike}, too. And some labels, which people gave, are open to dispute.`
      : `${alike}, and some labels, which people gave, may be wrong. A network knows only what it
        has seen: what is shown another way than in the training images is new to it.`,
    stage: `<div class="row">${PICTURE}
      <div class="column" id="told"><div data-use="answers"></div></div></div>`,
    here: ["shares"],
    minutes: 8,
    ask: "Who was right more often, the class or the network? Which images would you add?",
    reply: `Images of what it has not seen${
      isFashion ? ": for example shoes that point right" : ""
    }.`,
    setUp() {
      choose(GUESSED[0]);
    },
    ready: prepareMistakes,
    draw: drawMistakes,
  };
}

function photographChapter() {
  return {
    id: "photograph",
    title: "A photograph of your own",
    text: [
      isFashion
        ? `Choose a photograph of one garment, upright, on a plain background of another colour, or
          drop it on this page. It is cut out, reduced to ${by(28, 28)} pixels and made light on
          black, like every image the networks have seen. It stays on your computer.`
        : `Choose an image file. It is reduced to ${by(H, W)} pixels, like every image the networks
          have seen. It stays on your computer.`,
      "From then on it goes through all chapters.",
    ],
    controls: '<div data-use="own"></div>',
    question: "What if the answer is wrong?",
    answer: isFashion
      ? `Look at what the networks see: a shadow or a pattern behind the garment becomes part of
        it. They know one kind of picture only, where shoes, for example, point left. And they
        always choose one of their classes, whatever is shown.`
      : `The networks have seen one kind of picture only. And they always choose one of their
        classes, whatever is shown.`,
    stage: `<div class="row"><figure class="column" id="original">
        <canvas class="square" id="photo" role="img" aria-label="The photograph"></canvas>
        <figcaption>the photograph</figcaption></figure>
      <span class="arrow" id="made">→</span>
      <figure class="column"><div data-use="picture"></div><figcaption
      id="seen"></figcaption></figure>
      ${ARROW}<div data-use="answers"></div></div>`,
    here: ["image", "shares"],
    minutes: 6,
    ask: "What do the networks answer to a thing that is in none of their classes?",
    reply: "One of their classes all the same, sometimes with a large share.",
    draw: drawPhotograph,
  };
}

function lastChapter() {
  return {
    id: "everything",
    title: "Everything: all tools",
    tool: "move",
    here: "all",
    frame: frameOfPoint,
    draw: showEverything,
  };
}
