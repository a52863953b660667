// An app with metrics of its own: but for the default ones they are the same in every run, and follow from the worker's
// number. Any request is answered with that. Listens on PORT.
const cluster = require("node:cluster");
const http = require("node:http");
const client = require("prom-client");

const { id } = cluster.worker;
new client.AggregatorRegistry(); // from now on it answers its primary
client.collectDefaultMetrics();
const other = new client.Registry();
client.AggregatorRegistry.setRegistries([client.register, other]);
client.register.setDefaultLabels({ app: "prom" });

const help = 'With "quotes", a \\ and\na second line.';
const jobs = new client.Counter({ name: "jobs_total", help, labelNames: ["queue", "code"] });
jobs.inc({ queue: "a", code: 200 }, id);
jobs.inc({ code: 500, queue: 'b"\\\n' }, id / 4);
jobs.inc({ queue: `only ${id}` });
new client.Counter({ name: "visits", help: "Without a suffix." }).inc(id);
for (const aggregator of ["sum", "first", "min", "max", "average", "omit"]) {
  const gauge = new client.Gauge({ name: `depth_${aggregator}`, help, aggregator });
  gauge.set(aggregator === "first" ? -7 : id * 2.5);
}
const seconds = new client.Histogram({ name: "job_seconds", help, labelNames: ["queue"], buckets: [0.5, 1, 2.5, 1e7] });
for (const took of [0.25, 1, 2 * id, 1e9]) seconds.observe({ queue: "a" }, took);
seconds.zero({ queue: "none" });
const bytes = new client.Summary({ name: "job_bytes", help, percentiles: [0.5, 1] });
for (let i = 0; i < 5; i++) bytes.observe(id * 100);
new client.Gauge({ name: "other", help: "Of another registry.", registers: [other] }).set(id);
new client.Gauge({ name: "cohortd_generation", help: "Not its to say.", aggregator: "max" }).set(99);

http.createServer((req, res) => res.end(`${id}\n`)).listen(Number(process.env.PORT || 0));
