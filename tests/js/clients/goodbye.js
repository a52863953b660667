// WebSockets that talk all the time until the server says goodbye: how each ended, and how many at most in one second.
//
// goodbye.js URL N [kept]     kept: each upgrade comes on a connection that has carried a request before
// BYTES (200): of a message, which the server has to send back; QUIET=1: nothing is said; INSECURE=1: any certificate
const http = require("node:http");
const https = require("node:https");
const { randomBytes } = require("node:crypto");
const { WebSocket } = require("ws");
const { run, tally } = require("./lib");

const [url, n, kept] = process.argv.slice(2);
const { BYTES = "200", QUIET, INSECURE } = process.env;
const secure = url.startsWith("https");
const tls = INSECURE ? { rejectUnauthorized: false } : {};

// An agent whose one connection has carried a request.
const used = () => new Promise((done, failed) => {
  const agent = new (secure ? https : http).Agent({ keepAlive: true, maxSockets: 1, ...tls });
  (secure ? https : http).get(`${url}/whoami`, { agent }, (res) => res.resume().on("end", () => done(agent))).on("error", failed);
});

run(async () => {
  const ends = [];
  const times = [];
  const faults = [];
  const open = async () => {
    const agent = kept ? await used() : undefined;
    const ws = new WebSocket(url.replace("http", "ws"), { agent, ...tls });
    const data = randomBytes(Number(BYTES));
    const ended = new Promise((done) => {
      ws.on("close", (code, reason) => { ends.push(`${code} ${reason}`.trim()); times.push(Date.now()); done(); });
    });
    ws.on("error", (e) => faults.push(e.message));
    ws.on("message", (back) => {
      if (!data.equals(back)) faults.push("not what was sent");
      setImmediate(() => { if (ws.readyState === WebSocket.OPEN) ws.send(data); });
    });
    await new Promise((r) => { ws.on("open", r); ws.on("close", r); });
    if (!QUIET) ws.send(data);
    return ended;
  };
  const all = [];
  for (let i = 0; i < Number(n); i++) {
    let opened;
    all.push(new Promise((done, failed) => { opened = open().then(done, failed); }));
    await Promise.race([opened, new Promise((r) => setTimeout(r, 20))]);
  }
  console.log("going");
  await Promise.all(all);
  const inOneSecond = Math.max(...times.map((t) => times.filter((u) => u >= t && u < t + 1000).length));
  return { ok: faults.length === 0, ends: tally(ends), faults: tally(faults), inOneSecond, over: Math.max(...times) - Math.min(...times) };
});
