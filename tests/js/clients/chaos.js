// Clients of every kind that never stop, through everything: requests on kept and on new connections, slow ones, streams,
// uploads, and Socket.IO clients by every transport that come back whenever their connection ends.
//
// chaos.js URL      "going" is printed when every kind has been answered. On standard input:
// pause             what is under way ends, every session is there and hears every other; then "paused" is printed
// resume            and on it goes
// end               the last line: every fault and every end of a session, with its times in ms
const http = require("node:http");
const { createHash, randomBytes } = require("node:crypto");
const { createInterface } = require("node:readline");
const { io } = require("socket.io-client");
const { ask, run, tally, until } = require("./lib");

const [url] = process.argv.slice(2);
const upload = randomBytes(1 << 18);
const md5 = createHash("md5").update(upload).digest("hex");
const PAUSE_MS = 25;
const HUNG_MS = 60_000; // a worker that hangs while it is drained has many graces to run out
const CHUNKS = 20;
const whole = Array.from({ length: CHUNKS }, (_, i) => `${i}\n`).join("");
const pause = () => new Promise((r) => setTimeout(r, PAUSE_MS));

run(async () => {
  let [paused, stopped, busy] = [false, false, 0];
  const faults = [];
  const ends = [];
  const answered = {};
  const slowest = {};
  const count = (kind, from) => {
    answered[kind] = (answered[kind] || 0) + 1;
    slowest[kind] = Math.max(slowest[kind] || 0, Date.now() - from);
  };
  const fault = (kind, from, what) => faults.push({ kind, from, at: Date.now(), what });

  // One request: a fault is a status, an error's code, or a body that is not whole.
  const request = (kind, path, agent, body, right) => new Promise((done) => {
    const from = Date.now();
    let over = false;
    const end = (what) => {
      if (over) return;
      over = true;
      if (what) fault(kind, from, what);
      else count(kind, from);
      done();
    };
    const req = http.request(url + path, { agent, method: body ? "POST" : "GET" }, (res) => {
      let text = "";
      res.setEncoding("utf8").on("data", (d) => { text += d; });
      res.on("error", (e) => end(`cut ${e.code}`)).on("end", () => {
        if (!res.complete) return;
        if (res.statusCode !== 200) end(`${res.statusCode} ${text.slice(0, 60).trim()}`);
        else end(right(text) ? "" : `not whole: ${text.slice(0, 60)}`);
      });
    });
    req.setTimeout(HUNG_MS, () => req.destroy(new Error("hung")));
    req.on("error", (e) => end(e.code || e.message)).end(body);
  });
  const kept = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const lane = async (...how) => {
    while (!stopped) {
      if (!paused) {
        busy++;
        await request(...how);
        busy--;
      }
      await pause();
    }
  };

  const sockets = [];
  const session = async (kind, transports) => {
    const socket = io(url, { transports, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200 });
    sockets.push(socket);
    let [from, since, worker] = [Date.now(), 0, null];
    socket.heard = [];
    socket.io.on("reconnect_attempt", () => { from = Date.now(); });
    socket.on("connect_error", (e) => { if (!stopped) fault(kind, from, e.message); });
    socket.on("connect", () => { [since, worker] = [Date.now(), null]; });
    socket.on("disconnect", (why, details) => {
      const { context, message, description } = details || {}; // a WebSocket's code, or a request's fate
      const more = context?.code || (message && `(${message} ${Number(description) || ""})`);
      if (!stopped) ends.push({ kind, why: [why, more].filter(Boolean).join(" "), worker, from: since || from, at: Date.now() });
      [since, worker] = [0, null]; // the next one may end before it is a session
    });
    socket.on("all", (x) => socket.heard.push(x));
    while (!stopped) {
      if (socket.connected && !paused) {
        busy++;
        const { id } = socket;
        const asked = Date.now();
        const who = await new Promise((r) => socket.timeout(HUNG_MS).emit("who", (e, who) => r(!e && who)));
        if (who && socket.id === id) worker = who.worker;
        if (who) count(kind, asked);
        else if (socket.id === id) fault(kind, asked, "no answer");
        busy--;
      }
      await pause();
    }
    socket.close();
  };

  // Every session is there, every worker knows of it, and each hears what one says exactly once.
  const together = async () => {
    const from = Date.now();
    if (!(await until(() => sockets.every((s) => s.connected), HUNG_MS))) return fault("calm", from, "not all are back");
    const ids = sockets.map((s) => s.id);
    let said = [];
    const known = async () => {
      said = await ask(sockets[0], "fetch");
      return said[1] && ids.every((id) => said[1].some(([other]) => other === id));
    };
    if (!(await until(known))) return fault("calm", from, `fetchSockets: ${JSON.stringify(said)} for ${ids}`);
    for (const socket of sockets) {
      const nonce = Math.random();
      socket.emit("all", nonce);
      const heard = () => sockets.map((s) => s.heard.filter((x) => x === nonce).length);
      await until(() => heard().every((n) => n > 0));
      if (heard().some((n) => n !== 1)) fault("calm", from, `io.emit was heard ${heard()} times`);
    }
    return sockets.forEach((s) => { s.heard = []; });
  };

  const work = [
    ...[1, 2].map(() => lane("kept", "/whoami", kept, null, (t) => t.includes("pid"))),
    ...[1, 2].map(() => lane("new", "/whoami", false, null, (t) => t.includes("pid"))),
    ...[1, 2].map(() => lane("slow", "/slow?ms=700", false, null, (t) => t.length > 0)),
    ...[1, 2].map(() => lane("upload", "/echo", kept, upload, (t) => t.includes(md5))),
    lane("stream", `/stream?n=${CHUNKS}&ms=20`, false, null, (t) => t === whole),
    ...[1, 2, 3].map(() => session("polling", ["polling"])),
    ...[1, 2, 3].map(() => session("websocket", ["websocket"])),
    ...[1, 2].map(() => session("upgraded", ["polling", "websocket"])),
  ];
  const commands = {
    pause: async () => {
      paused = true;
      await until(() => busy === 0, 2 * HUNG_MS);
      const from = Date.now();
      await together().catch((e) => fault("calm", from, e.message));
      console.log("paused");
    },
    resume: () => { paused = false; },
    end: () => { stopped = true; },
  };
  createInterface({ input: process.stdin }).on("line", (line) => commands[line]()).on("close", commands.end);
  await until(() => Object.keys(answered).length >= 8 || stopped, HUNG_MS);
  console.log("going");
  await Promise.all(work);
  const faultings = tally(faults.map(({ kind, what }) => `${kind}: ${what}`));
  const endings = tally(ends.map(({ kind, why }) => `${kind}: ${why}`));
  return { ok: true, answered, slowest, faults, ends, faultings, endings };
});
