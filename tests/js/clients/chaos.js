// Clients of every kind that never stop, through everything: requests on kept and on new connections, slow ones, streams,
// uploads, and Socket.IO clients by every transport that come back whenever their connection ends.
//
// chaos.js URL [KIND=N…]   so many of a kind instead of what KINDS says; pause=MS: between what a session asks
// "going" is printed when every kind has been answered. On standard input:
// pause             what is under way ends, every session is there and hears every other; then "paused" is printed
// resume            and on it goes
// idle              "idle" is printed as soon as one of the pausing sessions has nothing under way
// kill PID          SIGKILL for a process through which all of this goes; "killed FROM TO" is printed when it has gone
// end               the last line: every fault and every end of a session, with its times in ms
//
// What was under way by way of cohortd when that was killed is `struck`. It is known exactly which that is: nothing else
// happens here between the signal and the end of the process.
const http = require("node:http");
const { createHash, randomBytes } = require("node:crypto");
const { readdirSync, readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { io } = require("socket.io-client");
const { ask, run, tally, until } = require("./lib");

// pausing: sessions by polling that have nothing under way for most of the time. emit: one says something to all.
const KINDS = { kept: 2, new: 2, slow: 2, upload: 2, stream: 1, polling: 3, websocket: 3, upgraded: 2, pausing: 0, emit: 0 };
const [url, ...words] = process.argv.slice(2);
const many = { ...KINDS, pause: 25, ...Object.fromEntries(words.map((w) => w.split("=")).map(([kind, n]) => [kind, Number(n)])) };
const kinds = Object.keys(KINDS).filter((kind) => many[kind] > 0);
const upload = randomBytes(1 << 18);
const md5 = createHash("md5").update(upload).digest("hex");
const PAUSE_MS = 25;
const PAUSING_MS = 300;
const EMIT_MS = 1000;
const HUNG_MS = 60_000; // a worker that hangs while it is drained has many graces to run out
const LATE_MS = 2000; // in which a session whose poll was struck has ended
const HEARD_MS = 20;
const SPEAKERS = 8;
const CHUNKS = 20;
const whole = Array.from({ length: CHUNKS }, (_, i) => `${i}\n`).join("");
const pause = (ms = PAUSE_MS) => new Promise((r) => setTimeout(r, ms));
const turn = () => new Promise((r) => setImmediate(r));

// A process is over when none of its threads has its descriptors any more.
function lives(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(") ") + 2)) || readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

// The process that has the same descriptors, if there is one.
const isKeeper = (keeper, parent) => {
  try {
    return readFileSync(`/proc/${keeper}/stat`, "latin1").startsWith(`${keeper} (cohortd-keeper) S ${parent} `);
  } catch {
    return false;
  }
};
const keeperOf = (pid) => readdirSync("/proc").find((entry) => /^\d+$/.test(entry) && isKeeper(entry, pid));

// It closes what it does not keep, and has another name then. That it has ended is seen just so.
function closes(keeper) {
  try {
    return readFileSync(`/proc/${keeper}/comm`, "latin1") === "cohortd-keeper\n";
  } catch {
    return false;
  }
}

run(async () => {
  let [paused, stopped, busy, fence] = [false, false, 0, null];
  const faults = [];
  const ends = [];
  const kills = [];
  const answered = {};
  const slowest = {};
  const count = (kind, from) => {
    answered[kind] = (answered[kind] || 0) + 1;
    slowest[kind] = Math.max(slowest[kind] || 0, Date.now() - from);
  };
  const fault = (kind, from, what, struck = false) => faults.push({ kind, from, at: Date.now(), what, struck });

  // What cohortd has in its hands: it ends well, or by a fault.
  const underWay = new Set();
  const begin = (kind) => {
    const work = { kind, from: Date.now(), struck: false };
    underWay.add(work);
    return work;
  };
  const over = (work, what) => {
    underWay.delete(work);
    if (what) fault(work.kind, work.from, what, work.struck);
    else count(work.kind, work.from);
  };

  // One request: its answer, or by which error it has none.
  const exchange = (path, agent, body) => new Promise((done) => {
    const req = http.request(url + path, { agent, method: body ? "POST" : "GET" }, (res) => {
      let text = "";
      res.setEncoding("utf8").on("data", (d) => { text += d; });
      res.on("error", (e) => done({ what: `cut ${e.code}` }));
      res.on("end", () => { if (res.complete) done({ status: res.statusCode, text }); });
    });
    req.setTimeout(HUNG_MS, () => req.destroy(new Error("hung")));
    req.on("error", (e) => done({ what: e.code || e.message })).end(body);
  });
  const wrong = (status, text) => `${status} ${text.slice(0, 60).trim()}`;

  // A fault is a status, an error's code, or a body that is not whole.
  const request = async (kind, path, agent, body, right) => {
    if (agent) await fence;
    const work = begin(kind);
    const { what, status, text } = await exchange(path, agent, body);
    if (what || status !== 200) over(work, what || wrong(status, text));
    else over(work, right(text) ? "" : `not whole: ${text.slice(0, 60)}`);
  };
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
  const polls = (socket) => socket.connected && socket.io.engine.transport.name === "polling";
  const session = async (kind, transports) => {
    const socket = io(url, { transports, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200 });
    sockets.push(socket);
    let [attempt, since, worker] = [begin(kind), 0, null];
    socket.heard = new Map();
    socket.struck = 0;
    socket.io.on("reconnect_attempt", () => { underWay.delete(attempt); attempt = begin(kind); });
    socket.on("connect_error", (e) => {
      underWay.delete(attempt);
      const [code] = String(e.description?.message || e.context?.responseText || "").match(/\bE[A-Z]{4,}/) || [];
      if (!stopped) fault(kind, attempt.from, [e.message, code].filter(Boolean).join(" "), attempt.struck);
    });
    socket.on("connect", () => { underWay.delete(attempt); [since, worker] = [Date.now(), null]; });
    socket.on("disconnect", (why, details) => {
      underWay.delete(attempt);
      const { context, message, description } = details || {}; // a WebSocket's code, or a request's fate
      const more = context?.code || (message && `(${message} ${Number(description) || ""})`);
      const at = Date.now();
      const struck = since ? at - socket.struck < LATE_MS : attempt.struck;
      if (!stopped) ends.push({ kind, why: [why, more].filter(Boolean).join(" "), worker, from: since || attempt.from, at, struck });
      [since, worker] = [0, null]; // the next one may end before it is a session
    });
    socket.on("all", (x) => socket.heard.set(x, (socket.heard.get(x) || 0) + 1));
    while (!stopped) {
      if (socket.connected && !paused) {
        busy++;
        const { id } = socket;
        const asked = Date.now();
        const who = await new Promise((r) => socket.timeout(HUNG_MS).emit("who", (e, who) => r(!e && who)));
        if (who && socket.id === id) {
          if (worker !== null && worker !== who.worker) fault(kind, asked, `worker ${who.worker} for that of ${worker}`);
          worker = who.worker;
        }
        if (who) count(kind, asked);
        else if (socket.id === id) fault(kind, asked, "no answer");
        busy--;
      }
      await pause(many.pause);
    }
    socket.close();
  };

  // A session of Engine.IO's own: each message and its answer, and then nothing for a while. When that is all that happens
  // it lives for ever.
  const pausers = [];
  const pausing = async () => {
    const agent = new http.Agent({ keepAlive: true });
    let [n, life] = [0, null];
    const call = async (body) => {
      if (life.over) return [];
      await fence;
      const { from, worker } = life;
      life.work = begin("pausing");
      const { what, status, text } = await exchange(`/socket.io/?EIO=4&transport=polling${life.sid && `&sid=${life.sid}`}`, agent, body);
      underWay.delete(life.work);
      const end = (why) => ends.push({ kind: "pausing", why, worker, from, at: Date.now(), struck: false });
      const packets = status === 200 ? text.split("\x1e") : [];
      if (packets.includes("1") || packets.includes("41")) end("transport close");
      else if (status === 400 && life.sid) end("unknown");
      else if (what || status !== 200) fault("pausing", life.work.from, what || wrong(status, text), life.work.struck);
      else return (life.work = null), packets;
      life.work = null;
      life.over = true;
      return [];
    };
    const enter = async () => {
      life = { sid: "", from: Date.now(), worker: null, work: null, over: false };
      const [hello] = await call();
      if (hello) life.sid = JSON.parse(hello.slice(1)).sid;
      await call("40");
    };
    const talk = async () => {
      const [asked, ack] = [Date.now(), `43${n}`];
      await call(`42${n}["who"]`);
      for (let said; !life.over && !said;) {
        const packets = await call();
        said = packets.find((packet) => packet.startsWith(`${ack}[`));
        if (packets.includes("2")) await call("3");
        if (!said) continue;
        const [{ worker }] = JSON.parse(said.slice(ack.length));
        if (life.worker !== null && life.worker !== worker) fault("pausing", asked, `worker ${worker} for that of ${life.worker}`);
        life.worker = worker;
        count("pausing", asked);
      }
      n++;
    };
    pausers.push(() => life && !life.over && life.worker !== null && !life.work);
    while (!stopped) {
      if (!paused) {
        busy++;
        if (!life || life.over) await enter();
        await talk();
        busy--;
      } else if (life && !life.over) { // nobody would answer the server's pings
        await call("1");
        life.over = true;
      }
      await pause(PAUSING_MS);
    }
  };

  // One session says something: all that are there the whole time hear it, and hear it once.
  const emit = async () => {
    for (let n = 0; !stopped; n++) {
      await fence; // who was struck does not know it yet, and would say it to nobody
      const there = sockets.filter((s) => s.connected).map((s) => ({ s, id: s.id }));
      if (there.length && !paused) {
        busy++;
        const [work, nonce] = [begin("emit"), `emit ${n}`];
        there[n % there.length].s.emit("all", nonce);
        const heard = () => there.filter(({ s, id }) => s.id === id).map(({ s }) => s.heard.get(nonce) || 0);
        await until(() => heard().every((times) => times > 0));
        const missed = heard().filter((times) => times === 0).length;
        over(work, missed && `${missed} have missed it`);
        busy--;
      }
      await pause(EMIT_MS);
    }
  };
  const doubles = () => {
    const all = sockets.flatMap((s) => [...s.heard].filter(([, times]) => times > 1));
    if (all.length) fault("emit", Date.now(), `heard more than once: ${all.slice(0, 9).join("; ")}`);
    for (const s of sockets) s.heard.clear();
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
    const step = Math.ceil(sockets.length / SPEAKERS);
    for (const socket of sockets.filter((_, i) => i % step === 0)) {
      const nonce = `${Math.random()}`;
      socket.emit("all", nonce);
      const heard = () => sockets.map((s) => s.heard.get(nonce) || 0);
      await until(() => heard().every((n) => n > 0));
      if (heard().some((n) => n !== 1)) fault("calm", from, `io.emit was heard ${heard()} times`);
    }
  };

  const named = (t) => t.includes("pid");
  const each = (kind, task) => Array.from({ length: many[kind] }, task);
  const work = [
    ...each("kept", () => lane("kept", "/whoami", kept, null, named)),
    ...each("new", () => lane("new", "/whoami", false, null, named)),
    ...each("slow", () => lane("slow", "/slow?ms=700", false, null, (t) => t.length > 0)),
    ...each("upload", () => lane("upload", "/echo", kept, upload, (t) => t.includes(md5))),
    ...each("stream", () => lane("stream", `/stream?n=${CHUNKS}&ms=20`, false, null, (t) => t === whole)),
    ...each("polling", () => session("polling", ["polling"])),
    ...each("websocket", () => session("websocket", ["websocket"])),
    ...each("upgraded", () => session("upgraded", ["polling", "websocket"])),
    ...each("pausing", pausing),
    ...each("emit", emit),
  ];
  const commands = {
    pause: async () => {
      paused = true;
      await until(() => busy === 0, 2 * HUNG_MS);
      const from = Date.now();
      if (sockets.length) await together().catch((e) => fault("calm", from, e.message));
      doubles();
      console.log("paused");
    },
    resume: () => { paused = false; },
    idle: async () => {
      await until(() => !many.pausing || pausers.some((holds) => holds()), HUNG_MS);
      console.log("idle");
    },
    kill: (pid) => {
      const keeper = keeperOf(pid);
      const from = Date.now();
      const connected = sockets.filter(polls);
      for (const work of underWay) work.struck = true;
      for (const socket of connected) socket.struck = from;
      kills.push({
        from, underWay: tally([...underWay].map((work) => work.kind)), polling: connected.length,
        pausing: pausers.filter((holds) => holds()).length, // with nothing under way
      });
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {} // it has ended by itself
      while (lives(pid) || closes(keeper));
      // Until its ends of the kept connections have been read, which is after the next time that anything is.
      fence = pause(HEARD_MS).then(turn).then(turn);
      console.log(`killed ${from} ${Date.now()}`);
    },
    end: () => { stopped = true; },
  };
  createInterface({ input: process.stdin })
    .on("line", (line) => { const [command, ...of] = line.split(" "); commands[command](...of); })
    .on("close", commands.end);
  await until(() => Object.keys(answered).length >= kinds.length || stopped, HUNG_MS);
  console.log("going");
  await Promise.all(work);
  const faultings = tally(faults.map(({ kind, what }) => `${kind}: ${what}`));
  const endings = tally(ends.map(({ kind, why }) => `${kind}: ${why}`));
  return { ok: true, answered, slowest, kills, faults, ends, faultings, endings };
});
