// Evaluates an ecosystem file and says what it is worth, behind a mark: it may print as well.
// FILE and MARK stand before this.
const { pathToFileURL } = require("node:url");

(async () => {
  const loaded = await import(pathToFileURL(FILE));
  const inner = loaded.default ?? loaded;
  const value = inner.__esModule && inner.default ? inner.default : inner;
  // What JSON would leave out is to be reported.
  const known = (_, value) =>
    value === undefined || typeof value === "function" || typeof value === "symbol" ? null : value;
  const text = JSON.stringify(await value, known);
  process.stdout.write(`\n${MARK}${text}\n`, () => process.exit(0));
})().catch((error) => {
  process.stderr.write(`${MARK}${error?.code ?? ""}\n${error?.stack ?? error}\n`, () => process.exit(1));
});
