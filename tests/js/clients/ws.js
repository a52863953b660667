// Websocket-only clients that send binary messages and want each back byte for byte.
//
// ws.js URL [N=50] [BYTES=100000]     ROUNDS (5): messages a client
const { io } = require("socket.io-client");
const { createHash, randomBytes } = require("node:crypto");
const { until, ask, tally, run } = require("./lib");

const [url, n = "50", bytes = "100000"] = process.argv.slice(2);
const ROUNDS = Number(process.env.ROUNDS || 5);
const md5 = (x) => createHash("md5").update(x).digest("hex");

run(async () => {
  const started = Date.now();
  const faults = [];
  const clients = Array.from({ length: Number(n) }, () => {
    const socket = io(url, { transports: ["websocket"], forceNew: true, reconnection: false });
    socket.on("connect_error", (e) => faults.push(e.message));
    socket.on("disconnect", (why) => faults.push(why));
    return socket;
  });
  await until(() => clients.every((s) => s.connected) || faults.length, 20_000);
  const connected = clients.filter((s) => s.connected);
  let echoed = 0;
  let corrupted = 0;
  const workers = [];
  await Promise.all(connected.map(async (s) => {
    try {
      const [{ worker }] = await ask(s, "who");
      workers.push(worker);
      for (let i = 0; i < ROUNDS; i++) {
        const data = randomBytes(Number(bytes));
        const [back, length, digest] = await ask(s, "echo", data, null);
        if (length === data.length && digest === md5(data) && data.equals(Buffer.from(back))) echoed++;
        else corrupted++;
      }
    } catch (e) {
      faults.push(e.message);
    }
  }));
  const ok = echoed === Number(n) * ROUNDS && faults.length === 0;
  return { ok, clients: connected.length, echoed, corrupted, sessions: tally(workers), faults: tally(faults), ms: Date.now() - started };
});
