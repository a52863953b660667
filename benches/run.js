// Measures cohortd beside its peers: each round starts every contestant once, in an order that turns, and puts the same
// loads on it. Prints what it finds, and writes it to docs/benchmarks.md.
//
// BENCH_ROUNDS (5), BENCH_SECONDS (5) of each load, BENCH_SOCKETS (10000) at most that idle, and BENCH_ONLY: names of
// works and contestants, separated by commas. Of docs/benchmarks.md only the tables of these works are renewed then, and
// none if contestants are named. With BENCH_PROFILE=1 it finds out instead where the routers' CPU goes, and writes
// docs/profile.md.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const contestants = require("./contestants");
const gauge = require("./gauge");
const works = require("./works");
const profile = require("./profile");
const page = require("./page");
const report = require("./report");
const { Line, websocket } = require("./load/client");
const { until, pause, assertRunning, endAll } = require("./processes");

const { BENCH_ROUNDS = 5, BENCH_SECONDS = 5, BENCH_SOCKETS = 10_000, BENCH_ONLY = "", BENCH_PROFILE } = process.env;
const START_MS = 30_000;
const SETTLE_MS = 500;
const SLOW = 1.15; // of what the machine can do, taken away by others
const TRIES = 3;
const CALM_MS = 30_000;
const settings = {
  rounds: Number(BENCH_ROUNDS),
  seconds: Number(BENCH_SECONDS),
  sockets: [10, 100, 1000, Number(BENCH_SOCKETS)].filter((n, i, all) => all.indexOf(n) === i && n <= Number(BENCH_SOCKETS)),
};

// Which works and contestants are wanted: all, but for those kinds of which BENCH_ONLY names some.
const only = BENCH_ONLY.split(",").filter(Boolean);
const selects = (names) => {
  const named = names.filter((name) => only.includes(name));
  return (name) => !named.length || named.includes(name);
};
const wantsWork = selects(works.map((w) => w.name));
const wants = selects(Object.keys(contestants));
const unknown = only.find((name) => !contestants[name] && !works.some((w) => w.name === name));
if (unknown) throw new Error(`BENCH_ONLY: there is no ${unknown}; there are ${[...works.map((w) => w.name), ...Object.keys(contestants)].join(", ")}`);

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "bench-"));
fs.chmodSync(folder, 0o755); // nginx's worker has a user of its own
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));

let port = 20_000; // below the ports that the kernel chooses from; never the same twice in a row
let probes = 0;

// A client that has been answered, and by which process. One with a session, for routers that count sessions.
async function probe(app, port) {
  if (app === "sio") {
    const line = await websocket(port, probes++);
    return { line, pid: Number(await line.exchange('420["pid"]', "430[").then((text) => text.slice(0, -1))) };
  }
  const line = new Line(port, probes++);
  return { line, pid: Number(await line.ok("GET", "/pid")) };
}

// The contestant, when each of its workers has answered; `cold`: ms until the first answer.
async function begin(contestant, work, dir) {
  port = port >= 30_000 ? 20_000 : port + 10;
  const count = contestant.workers ?? work.workers;
  const began = performance.now();
  const started = await contestant.start({ port, app: work.app, workers: count, dir });
  const { routers, bus, doors } = Array.isArray(started) ? { routers: started, bus: [], doors: [port] } : started;
  const lines = [];
  const seen = new Set();
  let cold;
  const all = async () => {
    assertRunning();
    const answer = await probe(work.app, doors[probes % doors.length]).catch(() => null);
    if (!answer) return false;
    cold ??= performance.now() - began;
    lines.push(answer.line);
    seen.add(answer.pid);
    return seen.size === count;
  };
  await until(all, START_MS, () => `${seen.size} of ${count} workers answered`);
  for (const line of lines) line.close();
  await pause(SETTLE_MS);
  return { doors, routers, bus, workers: [...seen], wanted: work.workers, cold };
}

const results = {}; // [work name][load name][contestant's name] = { samples, failures }
let round = 0;
let stopping = false;
function note(work, loadName, name, sample, failure) {
  const of = (((results[work.name] ??= {})[loadName] ??= {})[name] ??= { samples: [], failures: [] });
  if (sample) of.samples.push({ round, ...sample });
  const why = failure?.replaceAll(/\/\S*\//g, ""); // no machine's paths in the documentation
  if (failure) of.failures.push(why);
  const line = failure ? `NOT RUN: ${why}` : report.brief(sample);
  console.log(`${work.name.padEnd(9)} ${loadName.padEnd(16)} ${name.padEnd(9)} ${line}`);
}

// A load on a machine that is as fast as it can be, or nearly. It waits for that, and is put on again where it was not so
// to the end; what is known of a contestant once only is taken as it comes.
const disturbed = { limit: SLOW, loads: 0, again: 0, kept: 0 };
async function undisturbed(load) {
  disturbed.loads++;
  for (let tries = 1; ; tries++) {
    await until(async () => await gauge.slowness() < SLOW, CALM_MS).catch(() => {});
    const sample = await load();
    if (await gauge.slowness() < SLOW) return sample;
    if (tries === TRIES) return disturbed.kept++, sample;
    disturbed.again++;
  }
}

async function measure(work, name) {
  const dir = path.join(folder, `${work.name}-${name}-${round}`);
  fs.mkdirSync(dir);
  const left = new Set(Object.keys(work.loads));
  try {
    const running = await begin(contestants[name], work, dir);
    for (const loadName of Object.keys(work.loads)) {
      left.delete(loadName);
      const load = () => Promise.all([
        work.loads[loadName](running, settings.seconds, settings),
        BENCH_PROFILE && profile.watch(running.routers, dir, settings.seconds),
      ]);
      await (work.once ? load() : undisturbed(load))
        .then(([sample, parts]) => note(work, loadName, name, { ...sample, parts }), (e) => note(work, loadName, name, null, e.message));
    }
  } catch (e) {
    for (const loadName of left) note(work, loadName, name, null, e.message);
  } finally {
    await endAll();
  }
}

async function main() {
  const began = Date.now();
  await gauge.begin();
  for (; round < settings.rounds; round++) {
    console.log(`round ${round + 1} of ${settings.rounds}`);
    for (const work of works.filter((w) => wantsWork(w.name))) {
      const names = work.contestants.filter(wants);
      for (let i = 0; i < names.length; i++) {
        await measure(work, names[(i + round) % names.length]);
        if (stopping) return;
      }
    }
  }
  if (BENCH_PROFILE) return fs.writeFileSync(path.join(__dirname, "../docs/profile.md"), report.profile(results, contestants, settings));
  const parts = report.parts(results, contestants, { ...settings, disturbed }, (Date.now() - began) / 60_000, only.length > 0);
  console.log(`\n${parts.goals.join("\n")}\n\n${parts.tables.join("\n")}`);
  if (only.some((name) => contestants[name])) return console.log("docs/benchmarks.md stays as it is: BENCH_ONLY names contestants");
  const docs = path.join(__dirname, "../docs");
  const file = path.join(docs, "benchmarks.md");
  fs.writeFileSync(file, only.length ? report.renew(fs.readFileSync(file, "utf8"), parts, settings) : page.write(parts));
  if (results.idle) fs.writeFileSync(path.join(docs, "benchmarks.svg"), parts.plot);
}

async function stop(code, why) {
  stopping = true;
  console.error(why);
  await endAll(true);
  process.exit(code);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => stop(130, `${signal}: ending what runs`));
process.on("uncaughtException", (e) => stop(1, e));
main();
