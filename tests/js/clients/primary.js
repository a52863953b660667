// Node's own cluster primary, the measure of ours: primary.js FRAMING WORKERS SCRIPT [ARGUMENT…]
//
// Its workers write to its stdout. It starts none again and stays until it is killed.
const cluster = require("node:cluster");

const [serialization, workers, exec, ...args] = process.argv.slice(2);
cluster.setupPrimary({ serialization, exec, args });
for (let i = 0; i < Number(workers); i++) cluster.fork();
setInterval(() => {}, 60_000);
