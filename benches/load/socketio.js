// Socket.IO load: socketio.js WORK PORTS SECONDS [WORKERS PER_WORKER WINDOW]
//
// connect   32 clients at a time connect by polling, upgrade, get an echo, and are gone
// polling   32 sessions send by POST and get the echo by GET
// echo      PER_WORKER WebSockets on each worker, each with one message on its way
// emit      the same sockets; io.emit() is called for one after the other, WINDOW of them on their way; one is done
//           when the last client has it
// paced     the same, WINDOW of them a second, however many are on their way
//
// Clients come to the PORTS (separated by commas) in turn.
// After a warm-up it prints "begin", then "end" and what it has measured, and ends when standard input does.
const { poll, pollThenUpgrade, websocket } = require("./client");

const [work, doors, ...numbers] = process.argv.slice(2);
const [seconds, workers, perWorker, window] = numbers.map(Number);
const ports = doors.split(",").map(Number);
const port = (n) => ports[n % ports.length];
const WARM_UP_S = 2; // for the JIT in the workers
const CONCURRENCY = 32;
const JOIN_MS = 10_000;
const LATE_MS = 1_000;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

let counting = false;
let stopped = false;
let units = 0;
const latencies = [];
const errors = {};
const failed = (e) => {
  if (counting) errors[e.code || e.message] = (errors[e.code || e.message] || 0) + 1;
};
const done = (since, n = 1) => {
  if (!counting) return;
  units += n;
  latencies.push((performance.now() - since) * 1000);
};

// `turn(i)` again and again, `n` of them at a time.
let turns = 0;
const loops = (n, turn) => {
  for (let i = 0; i < n; i++) {
    (async () => {
      while (!stopped) await turn(i, turns++).catch((e) => { failed(e); return pause(10); });
    })();
  }
};

// `perWorker` WebSockets on each of the workers. What comes to a worker beyond that stays open until all are there, as
// routers send the next one where the fewest are.
async function spread() {
  const byWorker = new Map();
  const surplus = [];
  const enough = () => byWorker.size === workers && [...byWorker.values()].every((lines) => lines.length === perWorker);
  const found = () => [...byWorker.values()].map((lines) => lines.length).join(" and ") || "none";
  let tries = 0;
  await Promise.all(Array.from({ length: 16 }, async () => {
    while (!enough()) {
      if (tries >= 100 + 20 * workers * perWorker) throw new Error(`of ${tries} clients ${found()} came to the ${workers} workers`);
      const n = tries++;
      const line = await websocket(port(n), n).catch(() => null);
      const pid = await line?.exchange('420["pid"]', "430").catch(() => null);
      if (!pid) continue;
      const lines = byWorker.get(pid) ?? [];
      byWorker.set(pid, lines);
      (lines.length < perWorker ? lines : surplus).push(line);
    }
  }));
  for (const line of surplus) line.close();
  return [...byWorker.values()].flat();
}

const number = (message) => Number(message.slice(9, -1));
// Emits by number, with when each began and how many clients don't have it yet.
const waiting = new Map();

// What emits once more, by the next client's worker; `then` is called when the last client has it.
async function emitter(then) {
  const clients = await spread();
  if (ports.length > 1) await joined(clients);
  let n = 0;
  for (const client of clients) {
    client.onend = failed;
    client.onmessage = (message) => {
      const id = number(message);
      const emitted = waiting.get(id);
      if (!emitted) return id < 0 || failed(new Error("came twice"));
      if (--emitted.left) return;
      waiting.delete(id);
      done(emitted.began);
      then();
    };
  }
  return () => {
    waiting.set(n, { left: clients.length, began: performance.now() });
    clients[n % clients.length].send(`42["all",${n}]`);
    n++;
  };
}

// Waits until each client gets what each other's worker emits: hosts have to find each other first.
async function joined(clients) {
  const heard = clients.map((client) => {
    const from = new Set();
    client.onmessage = (message) => from.add(number(message));
    return from;
  });
  for (const deadline = performance.now() + JOIN_MS; heard.some((from) => from.size < clients.length);) {
    if (performance.now() > deadline) throw new Error(`of ${clients.length} workers ${heard.map((from) => from.size).join()} are heard`);
    clients.forEach((client, i) => client.send(`42["all",${-1 - i}]`));
    await pause(100);
  }
}

const works = {
  async connect() {
    loops(CONCURRENCY, async (_, n) => {
      const began = performance.now();
      const socket = await pollThenUpgrade(port(n), n);
      done(began);
      socket.close();
    });
  },

  async polling() {
    const sessions = [];
    loops(CONCURRENCY, async (i, n) => {
      try {
        sessions[i] ??= await poll(port(n), n);
        const { line, path } = sessions[i];
        for (const [method, body, answer] of [["POST", '420["echo","x"]', "ok"], ["GET", undefined, '430["x"]']]) {
          const began = performance.now();
          const got = await line.ok(method, path, body);
          if (got !== answer) throw new Error(`${method} answered with ${got.slice(0, 20)}`);
          done(began);
        }
      } catch (e) {
        sessions[i]?.line.close();
        sessions[i] = undefined;
        throw e;
      }
    });
  },

  async echo() {
    const clients = await spread();
    loops(clients.length, async (i) => {
      const began = performance.now();
      await clients[i].exchange('420["echo","x"]', '430["x"]');
      done(began);
    });
  },

  async emit() {
    const emit = await emitter(() => stopped || emit());
    for (let i = 0; i < window; i++) emit();
  },

  async paced() {
    const emit = await emitter(() => {});
    const began = performance.now();
    let n = 0;
    const timer = setInterval(() => {
      if (stopped) return clearInterval(timer);
      for (; n < ((performance.now() - began) * window) / 1000; n++) emit();
    }, 1);
  },
};

async function main() {
  await works[work]();
  await pause(WARM_UP_S * 1000);
  counting = true;
  console.log("begin");
  const began = performance.now();
  await pause(seconds * 1000);
  counting = false;
  console.log("end");
  const took = (performance.now() - began) / 1000;
  stopped = true;
  const late = performance.now() + LATE_MS;
  while (waiting.size && performance.now() < late) await pause(5);
  if (waiting.size) errors["not everywhere"] = waiting.size;
  latencies.sort((a, b) => a - b);
  const at = (q) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * q))] ?? null;
  console.log(JSON.stringify({ units, rate: units / took, p50: at(0.5), p99: at(0.99), errors }));
  process.stdin.resume().on("end", () => process.exit());
}
main().catch((e) => {
  console.error(e.message);
  process.exit(1);
});
