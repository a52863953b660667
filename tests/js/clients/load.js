// Goes on asking, each request on a connection of its own, until SIGTERM; then says how every one of them ended.
//
// load.js URL [LANES=8]      LANES requests at a time; "going" is printed after the first 50 answers
const { run, tally } = require("./lib");

const [url, lanes = "8"] = process.argv.slice(2);
const http = require(url.startsWith("https:") ? "node:https" : "node:http");
const PAUSE_MS = 2; // a refused connection would be tried again at once

run(async () => {
  let stopped = false;
  process.on("SIGTERM", () => { stopped = true; });
  const failures = [];
  let [answered, slowest] = [0, 0];

  // "200", another status, or the error's code.
  const ask = () => new Promise((done) => {
    const failed = (e) => done(e.code || e.message);
    http.get(url, { agent: false }, (res) => {
      res.on("error", failed).on("end", () => done(String(res.statusCode))).resume();
    }).on("error", failed);
  });
  const lane = async () => {
    while (!stopped) {
      const began = Date.now();
      const how = await ask();
      slowest = Math.max(slowest, Date.now() - began);
      if (how !== "200") failures.push(how);
      else if (++answered === 50) console.log("going");
      await new Promise((r) => setTimeout(r, PAUSE_MS));
    }
  };
  await Promise.all(Array.from({ length: Number(lanes) }, lane));
  return { ok: failures.length === 0, answered, failures: tally(failures), slowest };
});
