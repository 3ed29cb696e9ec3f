import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    // The scripts of the page as they stand in it, one after the other.
    files: ["joined.js"],
    languageOptions: { sourceType: "script", globals: globals.browser },
    // One meaning for each name, one decision in each expression.
    rules: { "no-shadow": "error", "no-nested-ternary": "error" },
  },
  {
    files: ["*.js"],
    ignores: ["joined.js"],
    languageOptions: { sourceType: "commonjs", globals: globals.node },
  },
];
