// What the clients share: waits with a deadline, ports, small statistics and the one line of results.
const DEADLINE_MS = 10_000;

// Resolves true as soon as `holds()` does, false at the deadline.
async function until(holds, ms = DEADLINE_MS) {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() >= end) return false;
    await new Promise((r) => setTimeout(r, 10));
  }
  return true;
}

// The promise, or an error that names what was waited for.
function within(promise, ms, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`timeout: ${what}`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// One acknowledged Socket.IO event: the arguments of its acknowledgement.
const ask = (socket, event, ...args) =>
  within(new Promise((r) => socket.emit(event, ...args, (...answer) => r(answer))), DEADLINE_MS, event);

// Runs `task(i)` for i in 0..n-1, at most `width` at a time.
async function pool(n, width, task) {
  let next = 0;
  const lane = async () => { while (next < n) await task(next++); };
  await Promise.all(Array.from({ length: Math.min(n, width) }, lane));
}

// How often each value occurs, in the values' own order.
function tally(values) {
  const t = {};
  for (const v of [...values].sort()) t[v] = (t[v] || 0) + 1;
  return t;
}

// A small seeded generator (mulberry32): numbers in [0, 1).
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Prints the results as the last line and ends the process: 0 only when `ok`.
function finish(results) {
  process.stdout.write(`${JSON.stringify(results)}\n`, () => process.exit(results.ok ? 0 : 1));
}

// Runs a client's main; an error nobody expected is a result as well.
const run = (main) => main().then(finish, (e) => finish({ ok: false, error: e.stack || String(e) }));

module.exports = { DEADLINE_MS, until, within, ask, pool, tally, random, finish, run };
