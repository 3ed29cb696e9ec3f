// What the page says of a run: tests/test_page_scripts.py has written runs, and what is to be said.
const assert = require("node:assert/strict");
const test = require("node:test");
const { loadCases, loadSource } = require("./load.js");

const sentences = loadSource("sentences.js", [
  "addUp",
  "describeGuess",
  "describeLearning",
  "twoDigits",
  "percent",
]);

for (const { name, call, expected, never } of loadCases()) {
  test(name, () => {
    const said = sentences[call[0]](...call.slice(1)).replace(/\s+/g, " ");
    assert.match(said, new RegExp(expected));
    for (const text of never) {
      assert.ok(!said.includes(text), `${text} in ${said}`);
    }
  });
}
