const { readFileSync } = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const SOURCES = path.join(__dirname, "../../fashion_mnist_extras/explorer");

/** Return what a source of the page calls by these names: it is no module, and exports nothing. */
function loadSource(file, names) {
  const filename = path.join(SOURCES, file);
  const source = readFileSync(filename, "utf8");
  const body = `"use strict"; ${source}\nreturn { ${names.join(", ")} };`; // lines keep their numbers
  return vm.runInThisContext(`(() => { ${body} })()`, { filename });
}

/** Return what the Python test wrote for this one. */
const loadCases = () => JSON.parse(readFileSync(process.env.PAGE_CASES, "utf8"));

module.exports = { loadSource, loadCases };
