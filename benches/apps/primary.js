// Node's own cluster primary: primary.js WORKERS SCRIPT, its workers' environment its own.
//
// ADAPTER=1 relays the cluster adapter's packets; STICKY names the package that routes, on PORT.
const http = require("node:http");
const cluster = require("node:cluster");
const peers = require("../peers");

const { PORT, ADAPTER, STICKY } = process.env;
const [workers, exec] = process.argv.slice(2);
cluster.setupPrimary({ exec, ...(ADAPTER === "1" && { serialization: "advanced" }) });
if (ADAPTER === "1") peers("@socket.io/cluster-adapter").setupPrimary();
if (STICKY) {
  const server = http.createServer();
  peers(STICKY).setupMaster(server, { loadBalancingMethod: "least-connection" });
  server.listen(PORT, "127.0.0.1");
}
for (let i = 0; i < Number(workers); i++) cluster.fork();
