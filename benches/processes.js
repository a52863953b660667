// The processes that the benchmarks start, what /proc says of them, and their end.
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const STOP_MS = 5_000;
const US_PER_TICK = 10_000; // USER_HZ is 100 on every Linux
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Polls until `condition` gives something; after `ms` it fails, saying `what` (or what that gives).
async function until(condition, ms, what) {
  for (const deadline = Date.now() + ms; ;) {
    const got = await condition();
    if (got) return got;
    if (Date.now() > deadline) throw new Error(`${typeof what === "function" ? what() : what} after ${ms / 1000} s`);
    await pause(5);
  }
}

const alive = (pid) => {
  try { return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, "utf8")); } catch { return false; }
};

// Ends the processes, and those in `pids` with force if they do not follow.
async function end(pids, signal = "SIGTERM") {
  const send = (what) => pids.filter(alive).forEach((pid) => { try { process.kill(pid, what); } catch { /* it has just ended */ } });
  send(signal);
  const gone = () => until(() => !pids.some(alive), STOP_MS, `${pids} did not end`);
  await gone().catch(() => { send("SIGKILL"); return gone(); });
}

// What runs now. `endAll(true)`: and nothing is started after it.
const started = new Set();
let closed = false;
async function endAll(forGood = false) {
  closed ||= forGood;
  await end([...started].map((child) => child.pid).filter(Boolean));
  started.clear();
}

// Starts a process that `endAll` will end; its output is kept to say why it has failed. All are of one session: else the
// kernel would share the processors out by sessions (its autogroups), and a router would have to do with its workers' share.
function start(command, args, { env = {}, cwd, stdin = "ignore" } = {}) {
  if (closed) throw new Error("everything ends");
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: [stdin, "pipe", "pipe"] });
  child.said = "";
  const keep = (data) => { child.said = (child.said + data).slice(-2000); };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  child.ended = new Promise((done) => {
    child.on("error", (e) => { child.said = e.message; child.failed = true; done(); });
    child.on("close", (code, signal) => { child.failed = code !== 0 || signal !== null; done(); });
  });
  child.why = () => `${path.basename(command)}: ${child.said.trim().split("\n").pop() || "it ended"}`;
  started.add(child);
  return child;
}

// Runs a process to its end: its standard output, or an error that says what it said.
async function run(command, args, options) {
  const child = start(command, args, options);
  let output = "";
  child.stdout.on("data", (data) => { output += data; });
  await child.ended;
  started.delete(child);
  if (child.failed) throw new Error(child.why());
  return output;
}

// Fails if a process that should still run does not.
function assertRunning() {
  for (const child of started) if (child.failed !== undefined) throw new Error(child.why());
}

const children = (pid) => fs.readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
const stat = (pid) => fs.readFileSync(`/proc/${pid}/stat`, "latin1").replace(/.*\) /s, "").split(" ").map(Number);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

// CPU that processes have used, in µs: utime and stime.
const cpu = (pids) => sum(pids.map((pid) => sum(stat(pid).slice(11, 13)))) * US_PER_TICK;
// The same of this process's children that have ended.
const cpuOfEnded = () => sum(stat("self").slice(13, 15)) * US_PER_TICK;
// The machine's, in µs: all there was, and what nobody used.
function cpuOfMachine() {
  const ticks = fs.readFileSync("/proc/stat", "latin1").split("\n")[0].trim().split(/ +/).slice(1, 9).map(Number);
  return { all: sum(ticks) * US_PER_TICK, idle: (ticks[3] + ticks[4]) * US_PER_TICK };
}
const resident = (pids) => sum(pids.map((pid) => Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, "latin1"))[1]) * 1024));
const descriptors = (pids) => sum(pids.map((pid) => fs.readdirSync(`/proc/${pid}/fd`).length));

module.exports = { pause, until, start, run, assertRunning, endAll, children, cpu, cpuOfEnded, cpuOfMachine, resident, descriptors };
