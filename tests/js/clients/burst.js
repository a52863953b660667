// Many connections at once, each with a word of its own that its answer has to hold: burst.js KIND PORT N [PID]
//
// KIND http: one request a connection; ws: one WebSocket, and one message on it. The process PID is stopped before and
// goes on after a second, and has to have answered some.
const net = require("node:net");
const WebSocket = require("ws");
const { run, tally, within } = require("./lib");

const [kind, port, n, pid] = process.argv.slice(2);
const LIMIT = 25_000;

const ways = {
  http: (word) => new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), "127.0.0.1", () => socket.write(`GET /${word} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`));
    let text = "";
    socket.on("data", (data) => { text += data; });
    socket.on("error", reject);
    socket.on("end", () => resolve(text));
  }),
  ws: (word) => new Promise((resolve, reject) => {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/${word}`);
    ws.on("open", () => ws.send(word));
    ws.on("message", (data) => { resolve(String(data)); ws.close(); });
    ws.on("error", reject);
  }),
};
const right = {
  http: (word) => new RegExp(`^HTTP/1.1 200 [^]*\\r\\n/${word} (\\d+)\\n`),
  ws: (word) => new RegExp(`^/${word} (\\d+) ${word}$`),
};

run(async () => {
  const started = Date.now();
  const faults = [];
  const pids = [];
  if (pid) {
    process.kill(Number(pid), "SIGSTOP");
    setTimeout(() => process.kill(Number(pid), "SIGCONT"), 1000);
  }
  await Promise.all(Array.from({ length: Number(n) }, async (_, i) => {
    const word = `word-${i}-${Math.random().toString(36).slice(2)}`;
    try {
      const answer = await within(ways[kind](word), LIMIT, "an answer");
      const match = right[kind](word).exec(answer);
      if (match) pids.push(match[1]);
      else faults.push(`not mine: ${answer.slice(0, 80)}`);
    } catch (e) {
      faults.push(e.code || e.message);
    }
  }));
  const workers = tally(pids);
  const ok = pids.length === Number(n) && (!pid || workers[pid] > 0);
  return { ok, answered: pids.length, workers, faults: tally(faults), ms: Date.now() - started };
});
