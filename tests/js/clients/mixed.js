// A mixed load that runs until SIGTERM and then says how every request of it ended: plain requests on kept-alive and on
// new connections, slow ones, 1 MB uploads, and Socket.IO clients by polling and by WebSocket that emit all the time.
//
// mixed.js URL      "going" is printed when every kind has been answered
const { createHash, randomBytes } = require("node:crypto");
const { io } = require("socket.io-client");
const { run, tally } = require("./lib");

const [url] = process.argv.slice(2);
const http = require(url.startsWith("https:") ? "node:https" : "node:http");
const upload = randomBytes(1 << 20);
const md5 = createHash("md5").update(upload).digest("hex");
const HUNG_MS = 20_000;

run(async () => {
  let stopped = false;
  process.on("SIGTERM", () => { stopped = true; });
  const failures = [];
  const answered = {};
  const kept = new http.Agent({ keepAlive: true, maxSockets: 4 });

  const ask = (kind, path, agent, body, right) => new Promise((done) => {
    const failed = (e) => { failures.push(`${kind}: ${e.code || e.message}`); done(); };
    const request = http.request(url + path, { agent, method: body ? "POST" : "GET", timeout: HUNG_MS }, (res) => {
      let text = "";
      res.setEncoding("utf8").on("data", (d) => { text += d; }).on("error", failed).on("end", () => {
        if (res.statusCode !== 200 || !right(text)) failures.push(`${kind}: ${res.statusCode} ${text.slice(0, 60)}`);
        answered[kind] = (answered[kind] || 0) + 1;
        done();
      });
    });
    request.on("timeout", () => request.destroy(new Error("hung"))).on("error", failed).end(body);
  });
  const lane = async (...how) => {
    while (!stopped) {
      await ask(...how);
      await new Promise((r) => setTimeout(r, 8));
    }
  };

  // How each connection of a session ended, as its client was told.
  const ends = [];
  const session = async (kind, transports) => {
    const socket = io(url, { transports, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
    socket.on("disconnect", (why, details) => {
      const code = details?.context?.code; // of a WebSocket
      if (!stopped) ends.push([kind + ":", why, code].filter(Boolean).join(" "));
    });
    socket.on("connect_error", (e) => { if (!stopped) failures.push(`${kind}: ${e.message}`); });
    while (!stopped) {
      if (socket.connected) {
        const right = await new Promise((r) => socket.timeout(HUNG_MS).emit("who", (e, who) => r(!e && who)));
        if (right) answered[kind] = (answered[kind] || 0) + 1;
        else if (socket.connected) failures.push(`${kind}: no answer`);
      }
      await new Promise((r) => setTimeout(r, 25));
    }
    socket.close();
  };

  const work = [
    ...[1, 2, 3].map(() => lane("kept", "/whoami", kept, null, (t) => t.includes("pid"))),
    ...[1, 2, 3].map(() => lane("new", "/whoami", false, null, (t) => t.includes("pid"))),
    ...[1, 2].map(() => lane("slow", "/slow?ms=2000", false, null, () => true)),
    ...[1, 2].map(() => lane("upload", "/echo", kept, upload, (t) => t.includes(md5))),
    ...[1, 2, 3, 4].map(() => session("polling", ["polling"])),
    ...[1, 2, 3, 4].map(() => session("websocket", ["websocket"])),
    ...[1, 2].map(() => session("upgraded", ["polling", "websocket"])),
  ];
  while (Object.keys(answered).length < 7 && !stopped) await new Promise((r) => setTimeout(r, 20));
  console.log("going");
  await Promise.all(work);
  return { ok: failures.length === 0, answered, failures: tally(failures), ends: tally(ends), requests: Object.values(answered).reduce((a, b) => a + b, 0) };
});
