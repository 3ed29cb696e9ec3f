// Sentences and numbers, made of what a run gave: pure functions.

/** Round to two digits, as numbers are printed; never to a negative zero. */
const roundOff = (value) => Math.round(100 * value) / 100 || 0;

/** Write a number with two digits and a true minus. */
const number = (value) => roundOff(value).toFixed(2).replace("-", "−");

/**
 * Say what printed parts and a bias add up to: of numbers that are rounded, so that who adds them
 * up finds the same. Where this is not the value itself, that is said.
 */
function addUp(title, parts, bias, value) {
  const sum = roundOff(parts.reduce((total, part) => total + roundOff(part), 0));
  const result = roundOff(sum + roundOff(bias));
  const exact = roundOff(value) === result ? "" : ` (unrounded ${number(value)})`;
  return `${title} ${number(sum)}, plus bias ${number(bias)}:
    <strong>${number(result)}</strong>${exact}`;
}

/** Write a share as a percentage; the space before the sign does not break. */
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;

const countEpochs = (epoch) => `${Number(epoch.toFixed(2))} epoch${epoch === 1 ? "" : "s"}`;

const countPixels = (count) => `${count} pixel${count === 1 ? "" : "s"}`;

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
    return `Late: after ${countEpochs(epochs[at - 1])} ${name} is right in
      ${percent(accuracies[at - 1])}, after ${countEpochs(epochs[at])} in
      ${percent(accuracies[at])}, at the end in ${percent(end)}.`;
  }
  const points = (100 * Math.abs(end - accuracies[at])).toFixed(1);
  const change = end >= accuracies[at] ? "adds" : "takes away";
  return `Early: ${name} goes from ${percent(accuracies[0])} to ${percent(accuracies[at])} in the
    first ${countEpochs(epochs[at])}; the rest of the ${countEpochs(epochs[last])} ${change}
    ${points} points.`;
}

/** Say between which shares an untrained network's answers to several images lie. */
function describeGuess(name, shares) {
  const all = shares.flat();
  const least = Math.min(...all);
  const most = Math.max(...all);
  const range = `all shares of ${name} lie between ${percent(least, 0)} and ${percent(most, 0)}`;
  const images = `whichever of the ${shares.length} images is shown`;
  if (most - least < 0.1) {
    return `Hardly. Which class comes first may change, but ${range}, ${images}.`;
  }
  return `A little: ${range}, ${images}.`;
}

/** Say how many of the values of a max-pool stay when the image is shifted by one pixel. */
function describeStaying(share) {
  return `How far below zero a number was, the three smaller ones of each square, and where the
    largest stood. If the image shifts by a pixel, the largest stays in its square about half of the
    time; even then a larger neighbour may move in. Of the values here that belong to the shape
    shown, ${percent(share, 0)} stay as they were.`;
}
