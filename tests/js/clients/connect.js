// Connects real clients of every kind to any Socket.IO server, and sees them all connected and none dropped.
//
// connect.js URL [N=20]
const { io } = require("socket.io-client");
const { until, tally, run } = require("./lib");

const [url, n = "20"] = process.argv.slice(2);
const KINDS = [["polling"], ["polling", "websocket"], ["websocket"]];

run(async () => {
  const clients = Array.from({ length: Number(n) }, (_, i) => {
    const socket = io(url, { transports: KINDS[i % KINDS.length], forceNew: true, reconnection: false });
    socket.wanted = KINDS[i % KINDS.length].at(-1);
    socket.faults = [];
    socket.on("connect_error", (e) => socket.faults.push(e.message));
    socket.on("disconnect", (why) => socket.faults.push(why));
    return socket;
  });
  const settled = (s) => s.connected && s.io.engine.transport.name === s.wanted;
  const ok = await until(() => clients.every(settled));
  const faults = clients.flatMap((s) => s.faults);
  for (const s of clients) s.close();
  return { ok: ok && !faults.length, clients: clients.length, faults: tally(faults) };
});
