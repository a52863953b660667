// How fast the machine is just now: a fixed piece of work on every processor at once. What the neighbours of a virtual
// machine take from it is in no counter of its own.
const os = require("node:os");
const { createHash } = require("node:crypto");
const { Worker, isMainThread, parentPort } = require("node:worker_threads");

const KIB = 256; // what fits no processor's nearest caches
const TIMES = 60;
const WARM = 20;
const LOOKS = 3;

if (isMainThread) {
  let workers = [];
  let best = Infinity;

  const once = async () => {
    const times = workers.map((worker) => new Promise((done) => { worker.once("message", done); worker.postMessage(null); }));
    const slowest = Math.max(...await Promise.all(times));
    best = Math.min(best, slowest);
    return slowest;
  };
  exports.begin = async () => {
    workers = os.cpus().map(() => new Worker(__filename));
    for (const worker of workers) worker.unref();
    for (let i = 0; i < WARM; i++) await once();
  };
  // How many times as long it takes as at its best. What happens once in a while is none of the neighbours' doing.
  exports.slowness = async () => {
    let least = Infinity;
    for (let i = 0; i < LOOKS; i++) least = Math.min(least, await once());
    return least / best;
  };
} else {
  const block = Buffer.alloc(KIB << 10, 7);
  parentPort.on("message", () => {
    const began = performance.now();
    for (let i = 0; i < TIMES; i++) createHash("sha256").update(block).digest();
    parentPort.postMessage(performance.now() - began);
  });
}
