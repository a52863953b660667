// Node's own cluster primary: primary.js WORKERS SCRIPT, its workers' environment its own.
//
// ADAPTER=cluster relays that adapter's packets; STICKY names the package that routes, on PORT.
const http = require("node:http");
const cluster = require("node:cluster");
const peers = require("../peers");

const { PORT, ADAPTER, STICKY } = process.env;
const [workers, exec] = process.argv.slice(2);
cluster.setupPrimary({ exec, ...(ADAPTER === "cluster" && { serialization: "advanced" }) });
if (ADAPTER === "cluster") peers("@socket.io/cluster-adapter").setupPrimary();
if (STICKY) {
  const server = http.createServer();
  peers(STICKY).setupMaster(server, { loadBalancingMethod: "least-connection" });
  server.listen(PORT, "127.0.0.1");
}
for (let i = 0; i < Number(workers); i++) cluster.fork();
