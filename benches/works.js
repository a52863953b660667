// What is measured: an app that is started with so many workers, and the loads it then gets.
//
// A load takes { doors, routers, bus, workers, wanted } (ports; process ids; how many workers the others have) and the
// seconds, and gives one sample: numbers by name. `once`: it would not give the same a second time.
const path = require("node:path");
const { pause, until, start, run, cpu, cpuOfEnded, cpuOfMachine, resident, descriptors } = require("./processes");

const WARM_UP_S = 2; // for the JIT in the workers
const LOAD_MS = 120_000;
const load = (file) => path.join(__dirname, "load", file);

// The CPU used until the function that it gives is called, with the units that were done meanwhile.
function meter({ routers, bus, workers }, generator) {
  const look = () => ({ router: cpu(routers), bus: cpu(bus), workers: cpu(workers), load: generator(), ...cpuOfMachine() });
  const before = look();
  return () => {
    const after = look();
    const used = Object.fromEntries(Object.keys(after).map((key) => [key, after[key] - before[key]]));
    const share = (part) => (100 * part) / used.all;
    const { router, bus, workers, load } = used;
    const other = Math.max(0, used.all - used.idle - router - bus - workers - load);
    return { used, share: { router: share(router), bus: share(bus), workers: share(workers), load: share(load), other: share(other) } };
  };
}

const failures = (errors) => Object.entries(errors).filter(([, n]) => n > 0).map(([name, n]) => `${n} × ${name}`).join(", ");

// What a generator has printed last, and what the CPU was used for.
function sample(output, { used, share }) {
  const { units, rate, p50, p99, errors } = JSON.parse(output.trim().split("\n").pop());
  const why = failures(errors);
  if (!units) throw new Error(`nothing was answered${why && ` (${why})`}`);
  const of = { router: used.router / units, bus: used.bus / units, workers: used.workers / units };
  const total = of.router + of.bus + of.workers;
  return { rate, p50, p99, failures: Object.values(errors).reduce((a, b) => a + b, 0), why, share, ...of, total };
}

const wrk = (...headers) => async (at, seconds) => {
  const once = (s) => run("wrk", ["-t1", "-c32", `-d${s}s`, "-s", load("report.lua"), ...headers.flatMap((h) => ["-H", h]), `http://127.0.0.1:${at.doors[0]}/`]);
  await once(WARM_UP_S);
  const used = meter(at, cpuOfEnded);
  const output = await once(seconds);
  return sample(output, used());
};

// Waits for a line of a generator.
async function said(child, line) {
  const pattern = new RegExp(`^${line}$`, "m");
  await until(() => child.failed !== undefined || pattern.test(child.said), LOAD_MS, `the load has not said ${line}`);
  if (child.failed !== undefined) throw new Error(child.why());
}

const socketio = (work, perWorker = 0, window = 0) => async (at, seconds) => {
  const clients = (perWorker * at.wanted) / at.workers.length; // one worker alone gets as many as all of the others'
  const child = start(process.execPath, [load("socketio.js"), work, at.doors.join(), seconds, at.workers.length, clients, window], { stdin: "pipe" });
  await said(child, "begin");
  const used = meter(at, () => cpu([child.pid]));
  await said(child, "end");
  const all = used();
  await said(child, "\\{.*\\}");
  child.stdin.end();
  await child.ended;
  return sample(child.said, all);
};

// Idle WebSockets, more and more: what they cost while nothing happens, and what a plain request costs beside them.
const IDLE_S = 3;
const idle = async (at, seconds, { sockets }) => {
  const child = start(process.execPath, [load("idle.js"), at.doors[0]], { stdin: "pipe" });
  const got = {};
  await wrk()(at, seconds);
  let last;
  for (const n of sockets) {
    child.stdin.write(`${n}\n`);
    try {
      await said(child, n);
    } catch (e) {
      if (!last) throw e;
      got.why = `${n} idle: ${e.message}`;
      break;
    }
    const stop = meter(at, () => 0);
    await pause(IDLE_S * 1000);
    got[`resident${n}`] = resident(at.routers);
    got[`descriptors${n}`] = descriptors(at.routers);
    got.still = stop().used.router / IDLE_S / 1000;
    got[`router${n}`] = (await wrk()(at, seconds)).router;
    last = n;
  }
  const perSocket = (what) => (got[`${what}${last}`] - got[`${what}${sockets[0]}`]) / (last - sockets[0]);
  Object.assign(got, { perSocket: perSocket("resident"), descriptorsPerSocket: perSocket("descriptors") });
  child.stdin.end();
  await child.ended;
  if (!child.failed) got.why = [got.why, failures(JSON.parse(child.said.trim().split("\n").pop()))].filter(Boolean).join("; ");
  return got;
};

const rest = async ({ routers, cold }) => ({ cold, resident: resident(routers) });

const PACE = 1000; // emits a second
const SOCKETIO = ["direct", "cohortd", "nginx", "sticky2", "siopm2"];
module.exports = [
  {
    name: "http", app: "http", workers: 2, contestants: ["direct", "port", "cohortd", "handoff", "shared", "nginx", "haproxy", "cluster", "pm2"],
    loads: { "keep-alive": wrk(), "new connections": wrk("Connection: close") },
  },
  {
    name: "socketio", app: "sio", workers: 2, contestants: ["direct", "cohortd", "cohortdw2", ...SOCKETIO.slice(2), "siopm2w2"],
    loads: { connect: socketio("connect"), polling: socketio("polling"), echo: socketio("echo", 32) },
  },
  { name: "emit2", app: "sio", workers: 2, contestants: SOCKETIO, loads: { relay: socketio("emit", 1, 64), fanout: socketio("emit", 100, 8) } },
  { name: "emit4", app: "sio", workers: 4, contestants: SOCKETIO, loads: { relay: socketio("emit", 1, 64), fanout: socketio("emit", 50, 8) } },
  { name: "emit8", app: "sio", workers: 8, contestants: SOCKETIO, loads: { relay: socketio("emit", 1, 64) } },
  {
    name: "hosts", app: "sio", workers: 4, contestants: ["hostsredis", "hostsjson", "hostsnats", "redis", "ioredis", "sharded", "streams"],
    loads: { relay: socketio("emit", 1, 64), paced: socketio("paced", 1, PACE) },
  },
  { name: "idle", app: "sio", workers: 2, once: true, contestants: SOCKETIO.slice(1), loads: { idle } },
  { name: "start", app: "http", workers: 4, once: true, contestants: ["direct", "cohortd", "nginx", "haproxy", "cluster", "pm2"], loads: { rest } },
];
