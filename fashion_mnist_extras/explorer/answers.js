// The answers of the networks, and the moment of training that they are of.

const MOST_ANSWERS = 10; // in a chapter, where there is no room for more

/** Return the shares that each network gives, by name, for what it sees at this moment. */
function computeShares() {
  const shares = {};
  for (const name of NAMES) {
    const known = name === "TinyVGG" ? layers : null;
    shares[name] = softmax(logits(name, pixels, state.moment, known));
  }
  return shares;
}

/** Return the classes that there is room for: the true one, and the most probable. */
function chooseClasses(scores) {
  const order = [...classes.keys()];
  if (classes.length <= 12) {
    return order;
  }
  order.sort((a, b) => (b === truth) - (a === truth) || scores[b] - scores[a]);
  return order.slice(0, MOST_ANSWERS).sort((a, b) => a - b);
}

function drawAnswers() {
  const shares = computeShares();
  sayAnswer(shares);
  const isLesson = thisChapter().id !== "everything";
  const shown = new Set(isLesson ? chooseClasses(shares.TinyVGG) : classes.keys());
  [...element("classes").children].forEach((item, k) => {
    const button = item.firstChild;
    item.hidden = !shown.has(k);
    button.disabled = isLesson;
    button.ariaPressed = state.label === k;
    const isHidden = thisChapter().id === "mistakes" && !guesses.has(state.image);
    const isTrue = k === truth && !isHidden;
    button.firstChild.innerHTML = isTrue ? `<strong>✓ ${nameOf(k)}</strong>` : nameOf(k);
    button.lastChild.innerHTML = NAMES.map((name) => drawBar(name, shares[name], k)).join("");
  });
  element("ties").textContent = thisChapter().explainsTies ? describeTies(shares) : "";
}

/** Say the answers in a sentence, for those who do not see the bars. */
function sayAnswer(shares) {
  const said = NAMES.map((name) => {
    const most = Math.max(...shares[name]);
    return `${name}: ${classes[indexOfLargest(shares[name])]} ${percent(most, 0)}`;
  });
  if (truth >= 0) {
    said.push(`true class: ${classes[truth]}`);
  }
  const text = said.join("; ");
  if (element("answer").textContent !== text) {
    element("answer").textContent = text;
  }
}

function drawBar(name, shares, k) {
  const weight = shares[k] === Math.max(...shares) ? "bold" : "normal";
  const bar = `<b style="width: ${100 * shares[k]}%; background: var(--${name})"
    role="img" aria-label="${name}"></b>`;
  return `<span class="bar"><span>${bar}</span>
    <span style="font-weight: ${weight}">${percent(shares[k])}</span></span>`;
}

/** Explain why the MLP gives several classes exactly the same share, if it does. */
function describeTies(shares) {
  if (!NAMES.includes("MLP")) {
    return "";
  }
  const least = Math.min(...shares.MLP);
  const count = shares.MLP.filter((share) => share === least).length;
  if (count < 2) {
    return "";
  }
  return `MLP: ${count} equal shares are logits of 0, by its last ReLU.`;
}

function drawMoment() {
  const epoch = DATA.networks.TinyVGG.epochs[state.moment];
  const isUntrained = state.moment === 0;
  let text = isUntrained ? "before the first step: random weights" : `after ${countEpochs(epoch)}`;
  if (thisChapter().id === "everything") {
    const right = NAMES.map((name) => {
      return `${name} ${percent(DATA.networks[name].accuracies[state.moment])}`;
    });
    text += `; of test images right: ${right.join(", ")}`;
  }
  element("moment-text").textContent = text;
  element("step").ariaValueText = text;
  element("step").value = state.moment;
}

// ---- Training, played ---------------------------------------------------------------------------
let playing = 0; // a timer

function stopPlaying() {
  clearInterval(playing);
  playing = 0;
  element("play-training").ariaPressed = false;
  element("play-training").textContent = "play the training";
}

function startPlaying() {
  if (state.moment === LAST) {
    state.moment = 0;
  }
  element("play-training").ariaPressed = true;
  element("play-training").textContent = "stop";
  playing = setInterval(playMoment, reducedMotion.matches ? 2000 : 700);
  update();
}

function playMoment() {
  if (state.moment === LAST) {
    stopPlaying();
    return;
  }
  state.moment++;
  update();
}
