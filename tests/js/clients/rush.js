// Engine.IO sessions in raw HTTP whose next requests leave the moment the session id is read, on connections that are
// open already but were never used: a router that learns ids from the worker's report loses that race.
//
// rush.js URL [SESSIONS=1000] [CONCURRENCY=32]
const http = require("node:http");
const net = require("node:net");
const { within, pool, run } = require("./lib");

const [base, sessions = "1000", concurrency = "32"] = process.argv.slice(2);
const { hostname, port } = new URL(base);
const host = hostname.replace(/^\[|\]$/g, "");
const SLOW_MS = 10_000;

const open = () => new Promise((resolve, reject) => {
  const socket = net.connect({ host, port: Number(port || 80), noDelay: true }, () => resolve(socket));
  socket.once("error", reject);
});

// One request on `socket`: { status, body }.
function request(socket, method, query, body) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = () => socket;
  const answer = new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { "content-type": "text/plain;charset=UTF-8", "content-length": Buffer.byteLength(body) };
    const req = http.request({ agent, host, port, method, headers, path: `/socket.io/?EIO=4&transport=polling${query}` }, (res) => {
      const parts = [];
      res.on("data", (d) => parts.push(d));
      res.on("end", () => resolve({ status: res.statusCode, body: Buffer.concat(parts).toString() }));
      res.on("error", reject);
    });
    req.on("error", reject);
    req.end(body);
  });
  return within(answer, SLOW_MS, `${method} ${query && "with sid"}`).finally(() => { agent.destroy(); socket.destroy(); });
}

run(async () => {
  const started = Date.now();
  const bad = {};
  let requests = 0;
  const count = (what, why) => { bad[`${what}: ${why}`] = (bad[`${what}: ${why}`] || 0) + 1; };
  // The answer, or null when it was not 200 with a body that holds.
  const check = async (what, answer, right) => {
    requests++;
    try {
      const { status, body } = await answer;
      if (status === 200 && right(body)) return body;
      count(what, status === 200 ? `200 with ${body.slice(0, 60)}` : `${status} ${body.slice(0, 60)}`);
    } catch (e) {
      count(what, e.code || e.message);
    }
    return null;
  };

  await pool(Number(sessions), Number(concurrency), async () => {
    let lines;
    try {
      lines = await Promise.all([open(), open(), open()]);
    } catch (e) {
      return count("connect", e.code);
    }
    const [first, second, third] = lines;
    const hello = await check("handshake", request(first, "GET", ""), (b) => b.startsWith('0{"sid":'));
    if (!hello) return [second, third].forEach((s) => s.destroy());
    const sid = `&sid=${encodeURIComponent(JSON.parse(hello.slice(1)).sid)}`;
    const [posted, polled] = await Promise.all([
      check("POST at once", request(second, "POST", sid, "40"), (b) => b === "ok"),
      check("poll at once", request(third, "GET", sid), (b) => b.startsWith('40{"sid":')),
    ]);
    if (!posted && !polled) return;
    try {
      await check("close", request(await open(), "POST", sid, "1"), (b) => b === "ok");
    } catch (e) {
      count("connect", e.code);
    }
  });

  const failed = Object.values(bad).reduce((a, b) => a + b, 0);
  return { ok: failed === 0, sessions: Number(sessions), requests, failed, bad, ms: Date.now() - started };
});
