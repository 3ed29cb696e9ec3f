// Sentences and numbers, made of what a run gave: pure functions.

const escapeHtml = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** Return a value with two digits, and a true minus sign. */
function twoDigits(value) {
  const rounded = Math.round(100 * value) / 100 || 0; // never -0
  return rounded.toFixed(2).replace("-", "−");
}

/**
 * Return the sum of values, each rounded to two digits first, as `number` prints them: so that
 * whoever adds up the printed numbers finds the printed sum.
 */
function addRounded(values) {
  let hundredths = 0;
  for (const value of values) {
    hundredths += Math.round(100 * value);
  }
  return hundredths / 100;
}

/** Return a number above zero with three digits: as 0.0123, 12,300 or 1.23 × 10⁻⁵. */
function threeDigits(value) {
  if (value === Infinity) {
    return "∞";
  }
  const [mantissa, exponent] = value.toExponential(2).split("e");
  if (exponent < -3 || exponent > 5) {
    return `${mantissa} × 10${raised(exponent)}`;
  }
  if (exponent > 2) {
    return Number(value.toPrecision(3)).toLocaleString("en");
  }
  return value.toPrecision(3);
}

/** Return a whole number, "-12" or "+3", as an exponent. */
function raised(text) {
  const sign = text.startsWith("-") ? "⁻" : "";
  return sign + text.slice(1).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
}

/**
 * Return "name 0.42 + bias 0.11 = 0.53" in HTML, as it adds up when each number is rounded first.
 * If the exact result is another number when it is printed, "(unrounded 0.54)" follows.
 */
function addUp(name, values, bias, exact) {
  const sum = addRounded(values);
  const result = twoDigits(addRounded([sum, bias]));
  let text = `${name} ${twoDigits(sum)} + bias ${twoDigits(bias)} = <strong>${result}</strong>`;
  if (result !== twoDigits(exact)) {
    text += ` <span class="unrounded">(unrounded ${twoDigits(exact)})</span>`;
  }
  return text;
}

/** Write a share as a percentage; the space before the sign does not break. */
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;

const countEpochs = (epoch) => `${Number(epoch.toFixed(2))} epoch${epoch === 1 ? "" : "s"}`;

const countOf = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

/** Say when a network learned, from its accuracies at these epochs; chance is that of guessing. */
function describeLearning(name, accuracies, epochs, chance) {
  const last = accuracies.length - 1;
  const end = accuracies[last];
  const best = Math.max(...accuracies);
  if (best < chance + 0.1 * (1 - chance)) {
    return `Nothing was learned: ${name} ends at ${percent(end)}, and always answering the most
      frequent class would be right in ${percent(chance)}.`;
  }
  if (end < best - 0.03) {
    const when = countEpochs(epochs[accuracies.indexOf(best)]);
    return `${name} is best after ${when}, with ${percent(best)} right, and falls to
      ${percent(end)} after that.`;
  }
  const goal = accuracies[0] + 0.9 * (end - accuracies[0]);
  const at = Math.max(
    1,
    accuracies.findIndex((accuracy) => accuracy >= goal),
  );
  const isLate = epochs[at] > epochs[last] / 2;
  if (isLate) {
    return `Late: after ${countEpochs(epochs[at - 1])} ${name} classifies
      ${percent(accuracies[at - 1])} correctly, after ${countEpochs(epochs[at])}
      ${percent(accuracies[at])}, at the end ${percent(end)}.`;
  }
  const points = (100 * Math.abs(end - accuracies[at])).toFixed(1);
  const change = end >= accuracies[at] ? "adds" : "takes away";
  return `Early: ${name} goes from ${percent(accuracies[0])} to ${percent(accuracies[at])} in the
    first ${countEpochs(epochs[at])}; the rest of the ${countEpochs(epochs[last])} ${change}
    ${points} percentage points.`;
}

/** Say between which shares an untrained network's answers to several images lie. */
function describeGuess(name, shares) {
  const all = shares.flat();
  const least = Math.min(...all);
  const most = Math.max(...all);
  const range = `all shares of ${name} lie between
    ${percent(Math.floor(100 * least) / 100, 0)} and ${percent(Math.ceil(100 * most) / 100, 0)}`;
  const images = `whichever of the ${shares.length} images is shown`;
  if (most - least < 0.1) {
    return `Hardly. Which class comes first may change, but ${range}, ${images}.`;
  }
  return `A little: ${range}, ${images}.`;
}

/** Say what a max-pool loses; share of its values stay when the image is shifted by a pixel. */
function describeStaying(thing, share) {
  return `How far below zero a number was, the three smaller ones of each square, and where the
    largest stood. Shift the image by a pixel: about half of the time the largest stays in its
    square, though a larger neighbour may move in. Of all values of max-pool 1 on this ${thing},
    ${percent(share, 0)} stay exactly as they were: the network depends less on the exact place,
    but it still does.`;
}
