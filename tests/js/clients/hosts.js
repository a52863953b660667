// Clients of several hosts that talk all the time while somebody else makes faults, and an exact account of what arrived.
//
// hosts.js URL,URL... [PER_HOST=4]
// Every 20 ms one client says something to all. Commands on standard input, each answered by a line of JSON:
//   begin    a fault begins
//   end      it has ended: answers {"ms"} when every host lists exactly the connected clients' sockets, with how long it
//            took until all were connected
//   calm     answers after another two seconds
//   flood N  answers when one client of each host has said N MiB to a room in which there is nobody
//   heard X  answers how often each client has heard X
//   account  stops talking: what was said outside of faults and did not arrive exactly once, and what arrived twice at all
const readline = require("node:readline");
const { io } = require("socket.io-client");
const { until, ask } = require("./lib");

const urls = process.argv[2].split(",");
const PER_HOST = Number(process.argv[3] || 4);
const EVERY_MS = 20;
const SETTLE_MS = 20_000;
const ARRIVE_MS = 3000;
// What is said so shortly before a fault may still be on its way when that begins.
const ON_ITS_WAY_MS = 1000;

const clients = urls.flatMap((url, host) => Array.from({ length: PER_HOST }, (_, i) => {
  const transports = i % 2 ? ["polling"] : ["websocket"];
  const socket = io(url, { transports, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200, timeout: 2000 });
  const client = { host, socket, got: new Map(), since: Infinity, ends: new Map() };
  socket.on("connect", () => { client.since = Date.now(); });
  socket.on("disconnect", () => { client.ends.set(client.since, Date.now()); client.since = Infinity; });
  socket.on("all", (n) => client.got.set(n, (client.got.get(n) || 0) + 1));
  return client;
}));

const said = []; // by number: when, by whom, and who was to hear it
const faults = []; // [begin, end]
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function talk() {
  const speakers = clients.filter((c) => c.socket.connected);
  if (!speakers.length) return;
  const by = speakers[said.length % speakers.length];
  said.push({ at: Date.now(), host: by.host, by, since: by.since, hearers: speakers.map((c) => [c, c.since]) });
  by.socket.emit("all", said.length - 1);
}

const sorted = (ids) => [...ids].sort().join();

// Whether one client of each host is told of exactly those sockets that are connected.
async function agree() {
  if (clients.some((c) => !c.socket.connected)) return false;
  const own = sorted(clients.map((c) => c.socket.id));
  const askers = urls.map((_, host) => clients.find((c) => c.host === host));
  const answers = await Promise.all(askers.map((c) => ask(c.socket, "fetch").catch(() => [])));
  return answers.every(([error, found]) => !error && found && sorted(found.map(([id]) => id)) === own);
}

// A new question every 20 ms, whatever has become of those before: one may wait for somebody who is gone.
async function settle() {
  const began = Date.now();
  let done = false;
  const timer = setInterval(() => agree().then((so) => { done ||= so; }), 20);
  await until(() => done, SETTLE_MS);
  clearInterval(timer);
  const connected = Math.max(began, ...clients.map((c) => c.since)) - began;
  return { settled: done, ms: Date.now() - began, connected };
}

// Faster than the bus is meant to take it, but each word only when the host's workers can have taken the one before.
async function flood(mebibytes) {
  const block = "x".repeat(512 << 10);
  await Promise.all(urls.map(async (_, host) => {
    const there = clients.filter((c) => c.host === host).map((c) => c.socket);
    for (let i = 0; i < mebibytes * 2; i++) {
      there[0].emit("room", "nobody", [], block);
      await Promise.all(there.map((socket) => ask(socket, "who")));
    }
  }));
}

// Whether the connection that was made then has lasted for long enough after that.
const stayed = (client, since, at) => (client.ends.get(since) ?? Infinity) > at + ARRIVE_MS;

function account() {
  const inFault = (at) => faults.some(([begin, end]) => at > begin - ON_ITS_WAY_MS && at < end);
  const lost = [], lostHere = [];
  let twice = 0, judged = 0, inFaults = 0, heardInFaults = 0;
  for (const client of clients) for (const times of client.got.values()) if (times > 1) twice++;
  said.forEach(({ at, host, by, since: bySince, hearers }, n) => {
    if (!stayed(by, bySince, at)) return; // it may never have got out
    for (const [client, since] of hearers) {
      if (!stayed(client, since, at)) continue;
      const heard = client.got.has(n);
      if (inFault(at)) { inFaults++; heardInFaults += heard; }
      else { judged++; if (!heard) lost.push([n, at, host, client.host]); }
      // Whatever happens to the bus: those on the same host hear each other.
      if (!heard && client.host === host) lostHere.push([n, at, host]);
    }
  });
  return { said: said.length, judged, inFaults, heardInFaults, twice, lost: lost.length, lostHere: lostHere.length, examples: lost.slice(0, 5), examplesHere: lostHere.slice(0, 5), faults };
}

async function main() {
  const first = await settle();
  say({ ready: true, ...first });
  let timer = setInterval(talk, EVERY_MS);
  for await (const command of readline.createInterface({ input: process.stdin })) {
    if (command === "begin") {
      faults.push([Date.now(), Infinity]);
      say({});
    } else if (command === "end") {
      const done = await settle();
      faults[faults.length - 1][1] = Date.now();
      say(done);
    } else if (command === "calm") {
      const first = said.length;
      await until(() => said.length >= first + 2000 / EVERY_MS);
      say({});
    } else if (command.startsWith("flood ")) {
      await flood(Number(command.slice(6)));
      say({});
    } else if (command.startsWith("heard ")) {
      say({ times: clients.map((c) => c.got.get(command.slice(6)) || 0) });
    } else if (command === "account") {
      clearInterval(timer);
      await new Promise((r) => setTimeout(r, ARRIVE_MS));
      say(account());
    }
  }
  process.exit(0);
}
main();
