// Drives everything Socket.IO promises through real clients, and writes what was seen as a transcript that has to be
// the same for one process and for any cluster: no ids, no timing, counts only.
//
// suite.js URL[,URL] [N=6] [WORKERS]   clients are spread over the URLs; N clients of each kind; WORKERS: how many must have served (default: as many as were seen)
// COOKIES=1                      clients keep cookies, as browsers do
// SKIP=name,name                 steps to leave out (adapter01 has no broadcast acknowledgements: SKIP=acks)
const { io } = require("socket.io-client");
const { createHash, randomBytes } = require("node:crypto");
const { until, ask, tally, run } = require("./lib");

const [list, n = "6", workersWanted] = process.argv.slice(2);
const urls = list.split(",");
let connects = 0;
const N = Number(n);
const skipped = (process.env.SKIP || "").split(",");
const md5 = (x) => createHash("md5").update(x).digest("hex");
const KINDS = {
  polling: { transports: ["polling"] },
  upgrade: { transports: ["polling", "websocket"] },
  websocket: { transports: ["websocket"] },
};

const transcript = [];
const failures = [];
function note(name, got, want) {
  transcript.push([name, got]);
  if (JSON.stringify(got) !== JSON.stringify(want)) failures.push([name, { got, want }]);
}

function connect(kind, path = "") {
  const socket = io(urls[connects++ % urls.length] + path, { ...KINDS[kind], forceNew: true, reconnection: false, withCredentials: process.env.COOKIES === "1" });
  Object.assign(socket, { kind, got: [], faults: [] });
  for (const event of ["all", "room"]) socket.on(event, (x) => socket.got.push([event, x]));
  socket.on("ask", (cb) => cb(kind));
  socket.on("connect_error", (e) => socket.faults.push(e.message));
  socket.on("disconnect", (why) => socket.faults.push(why));
  return socket;
}

const settled = (s) =>
  s.connected && s.io.engine.transport.name === (s.kind === "polling" ? "polling" : "websocket");

// Every message of `by`, then one to all from the same client: whoever has that one has got all before it.
let marks = 0;
async function deliver(clients, by, ...emits) {
  for (const s of clients) s.got = [];
  for (const emit of emits) by.emit(...emit);
  const mark = `mark ${marks++}`;
  by.emit("all", mark);
  const marked = (s) => s.got.some(([event, x]) => event === "all" && x === mark);
  await until(() => clients.every(marked));
  return clients.map((s) => s.got.filter(([, x]) => x !== mark));
}
// How many clients got exactly this and nothing else, and how many got nothing.
const counts = (deliveries, event, same) => ({
  right: deliveries.filter((d) => d.length === 1 && d[0][0] === event && same(d[0][1])).length,
  none: deliveries.filter((d) => d.length === 0).length,
});
const is = (x) => (y) => y === x;

const steps = {
  async connect({ all, served }) {
    for (const kind of Object.keys(KINDS)) all.push(...Array.from({ length: N }, () => connect(kind)));
    await until(() => all.every((s) => settled(s) || s.faults.length), 20_000);
    for (const kind of Object.keys(KINDS)) note(`${kind}: connected`, all.filter((s) => s.kind === kind && settled(s)).length, N);
    // The server's side of an upgrade ends a moment after the client's.
    const who = async (s) => {
      let last;
      await until(async () => ([last] = await ask(s, "who"))[0].transport === (s.kind === "polling" ? "polling" : "websocket"));
      return last;
    };
    served.push(...await Promise.all(all.filter((s) => s.connected).map(async (s) => Object.assign(s, { who: await who(s) }).who)));
    note("server's transports", tally(served.map((w) => w.transport)), { polling: N, websocket: 2 * N });
  },

  async echo({ all }) {
    for (const kind of Object.keys(KINDS)) {
      const s = all.find((c) => c.kind === kind);
      const binary = randomBytes(300_000);
      const [back, length, digest] = await ask(s, "echo", binary, null);
      note(`${kind}: 300 kB binary`, [length, digest === md5(binary), binary.equals(Buffer.from(back))], [binary.length, true, true]);
      const text = `żółć \u2028 𝄞 sid=${randomBytes(150_000).toString("base64")}`;
      const [said, size, sum] = await ask(s, "echo", text, null);
      note(`${kind}: 200 kB text`, [size, sum === md5(text), said === text], [Buffer.byteLength(text), true, true]);
    }
  },

  async broadcast({ all }) {
    for (const by of senders(all)) {
      note(`io.emit by ${by.kind}`, counts(await deliver(all, by, ["all", "hi"]), "all", is("hi")), { right: all.length, none: 0 });
      const binary = randomBytes(20_000);
      const same = (x) => Buffer.isBuffer(x) && x.equals(binary);
      note(`io.emit of binary by ${by.kind}`, counts(await deliver(all, by, ["all", binary]), "all", same), { right: all.length, none: 0 });
    }
    const many = Array.from({ length: 50 }, (_, i) => ["all", i]);
    const inOrder = (await deliver(all, all[0], ...many)).filter((d) => d.map(([, x]) => x).join() === many.map(([, x]) => x).join());
    note("50 in order", inOrder.length, all.length);
  },

  async rooms({ all }) {
    const even = all.filter((_, i) => i % 2 === 0);
    const third = all.filter((_, i) => i % 3 === 0);
    const both = all.filter((_, i) => i % 6 === 0);
    await Promise.all([...even.map((s) => ask(s, "join", "even")), ...third.map((s) => ask(s, "join", "third"))]);
    const room = async (name, by, members, ...emit) =>
      note(`${name} by ${by.kind}`, counts(await deliver(all, by, ["room", ...emit, name]), "room", is(name)),
        { right: members, none: all.length - members });
    for (const by of senders(all)) {
      await room("room", by, even.length, ["even"], []);
      await room("two rooms", by, even.length + third.length - both.length, ["even", "third"], []);
      await room("room but another", by, even.length - both.length, ["even"], ["third"]);
      await room("all but a room", by, all.length - third.length, [], ["third"]);
    }
    await Promise.all(even.map((s) => ask(s, "leave", "even")));
    await room("left room", all[0], 0, ["even"], []);
    all[1].emit("socketsJoin", "third", "moved");
    await room("socketsJoin", all[1], third.length, ["moved"], []);
    all[1].emit("socketsLeave", "third", "moved");
    await room("socketsLeave", all[1], 0, ["moved"], []);
  },

  async namespaces({ all }) {
    const second = Object.keys(KINDS).flatMap((kind) => [connect(kind, "/second"), connect(kind, "/second")]);
    await until(() => second.every((s) => settled(s) || s.faults.length));
    note("namespace: connected", second.filter(settled).length, second.length);
    for (const s of all) s.got = [];
    const inside = await deliver(second, second[0], ["all", "second"]);
    note("namespace: inside", counts(inside, "all", is("second")), { right: second.length, none: 0 });
    note("namespace: leaked", all.filter((s) => s.got.length).length, 0);
    const outside = await deliver(all, all[0], ["all", "first"]);
    note("namespace: outside", counts(outside, "all", is("first")), { right: all.length, none: 0 });
    const found = await fetched(second, second);
    note("namespace: fetchSockets", found, second.length);
    await Promise.all(second.filter((_, i) => i % 2).map((s) => ask(s, "join", "out")));
    second[0].emit("disconnectSockets", "out");
    const gone = () => second.filter((s) => s.disconnected).length;
    await until(() => gone() === second.length / 2);
    note("namespace: disconnectSockets", gone(), second.length / 2);
    note("namespace: fetchSockets after it", await fetched([second[0]], second.filter((s) => s.connected)), second.length / 2);
    for (const s of second) s.disconnect();
  },

  async fetch({ all }) {
    for (const by of senders(all)) note(`fetchSockets by ${by.kind}`, await fetched([by], all), all.length);
  },

  async serverSideEmit({ all, workers }) {
    for (const by of senders(all)) {
      const [error, answers] = await ask(by, "serverSideEmit", "x");
      const others = new Set((answers || []).map((a) => a.worker));
      note(`serverSideEmit by ${by.kind}`, [error, answers && answers.length + 1 === workers(), others.size + 1 === workers()], [null, true, true]);
    }
  },

  async acks({ all }) {
    for (const by of senders(all)) {
      const [error, answers] = await ask(by, "ask everybody", 5000);
      note(`io.timeout().emit by ${by.kind}`, [error, tally(answers || [])], [null, { polling: N, upgrade: N, websocket: N }]);
    }
  },

  async undisturbed({ all }) {
    note("still connected", all.filter(settled).length, all.length);
    note("faults", all.flatMap((s) => s.faults), []);
  },
};

// One client of each kind to speak for its kind.
const senders = (all) => Object.keys(KINDS).map((kind) => all.filter((s) => s.kind === kind).pop());

// How many sockets the server lists, once they are exactly those of `clients`.
async function fetched(by, clients) {
  const wanted = clients.map((s) => s.id).sort().join();
  let found = [];
  await until(async () => {
    const [, list] = await ask(by[0], "fetch");
    found = (list || []).map(([id]) => id).sort();
    return found.join() === wanted;
  });
  return found.join() === wanted ? found.length : `${found.length}, not the right ones`;
}

run(async () => {
  const started = Date.now();
  const world = { all: [], served: [] };
  const seen = () => new Set(world.served.map((w) => w.pid)).size;
  world.workers = () => Number(workersWanted || seen());
  for (const [name, step] of Object.entries(steps)) {
    if (skipped.includes(name)) continue;
    try {
      await step(world);
    } catch (e) {
      failures.push([name, e.message]);
      transcript.push([name, e.message]);
    }
  }
  const served = { workers: seen(), sessions: tally(world.served.map((w) => w.worker)), addresses: tally(world.served.map((w) => w.address)) };
  if (seen() !== world.workers()) failures.push(["workers that served", { got: seen(), want: world.workers() }]);
  return { ok: failures.length === 0, failures, ...served, ms: Date.now() - started, transcript };
});
