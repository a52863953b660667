// The Socket.IO app of the benchmarks, with hello pages beside it.
//
// ADAPTER names its adapter. STICKY names the package whose setupWorker() takes the connections; without it the app
// listens on PORT itself, and with EXCLUSIVE=1 on PORT plus its number: a port that no primary shares out.
const http = require("node:http");
const cluster = require("node:cluster");
const peers = require("../peers");

const { PORT, ADAPTER, STICKY, EXCLUSIVE } = process.env;

async function main() {
  const server = http.createServer((req, res) => res.end(req.url === "/pid" ? String(process.pid) : "hello world\n"));
  const io = new (peers("socket.io").Server)(server);
  if (ADAPTER) io.adapter(await require("./adapters")[ADAPTER]());

  io.on("connection", (socket) => {
    socket.on("pid", (reply) => reply(process.pid));
    socket.on("echo", (x, reply) => reply(x));
    socket.on("all", (x) => io.emit("all", x));
  });

  if (STICKY) peers(STICKY).setupWorker(io);
  else if (EXCLUSIVE === "1") server.listen({ port: Number(PORT) + cluster.worker.id, host: "127.0.0.1", exclusive: true });
  else server.listen(PORT, "127.0.0.1");
}
main();
