// What prom-client's own primary makes of the metrics of apps/prom.js, under Node's own cluster.
//
// prom.js [WORKERS=3]      {text}: the aggregated metrics
const cluster = require("node:cluster");
const path = require("node:path");
const { AggregatorRegistry } = require("prom-client");
const { until, run } = require("./lib");

run(async () => {
  const registry = new AggregatorRegistry();
  cluster.setupPrimary({ exec: path.join(__dirname, "../apps/prom.js") });
  const workers = Array.from({ length: Number(process.argv[2] || 3) }, () => cluster.fork());
  let listening = 0;
  cluster.on("listening", () => listening++);
  await until(() => listening === workers.length, 20_000);
  const text = await registry.clusterMetrics();
  for (const worker of workers) worker.kill("SIGKILL");
  return { ok: true, text };
});
