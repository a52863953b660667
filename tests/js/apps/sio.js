// The Socket.IO server under test: a sticky worker that never listens (default), a plain app under a cluster primary
// (PLAIN=1) or one process alone (SINGLE=1). The last two listen on PORT (0: any) and HOST.
//
// STICKY, ADAPTER  which packages: sticky1 | sticky2, adapter01 | adapter02 | adapter03 (PLAIN=1 also takes ADAPTER=none)
const http = require("node:http");
const cluster = require("node:cluster");
const { createHash } = require("node:crypto");
const { Server } = require("socket.io");
const routes = require("./routes");

const { env } = process;
const single = env.SINGLE === "1";
const plain = env.PLAIN === "1";
const worker = cluster.worker ? cluster.worker.id : 0;
const say = (event, more) => console.log(JSON.stringify({ event, worker, pid: process.pid, ...more }));

const server = http.createServer(routes(worker));
const io = new Server(server, { maxHttpBufferSize: 20e6 });
const adapter = env.ADAPTER || "adapter03";
if (!single && adapter !== "none") io.adapter(require(adapter).createAdapter());

const digest = (x) => createHash("md5").update(x).digest("hex");
const size = (x) => (Buffer.isBuffer(x) ? x.length : Buffer.byteLength(x));

function serve(nsp) {
  nsp.on("connection", (socket) => {
    socket.data.worker = worker;
    const { tag } = socket.handshake.auth;
    socket.on("who", (cb) =>
      cb({
        worker, pid: process.pid, transport: socket.conn.transport.name, address: socket.handshake.address,
        remote: socket.request.connection.remoteAddress, // of a request that may long have been answered
      }));
    socket.on("echo", (x, nonce, cb) => cb(x, size(x), digest(x), nonce, tag));
    socket.on("all", (x) => nsp.emit("all", x));
    socket.on("join", (room, cb) => { socket.join(room); cb(); });
    socket.on("leave", (room, cb) => { socket.leave(room); cb(); });
    socket.on("room", (to, except, x) => nsp.to(to).except(except).emit("room", x));
    socket.on("socketsJoin", (from, room) => nsp.in(from).socketsJoin(room));
    socket.on("socketsLeave", (from, room) => nsp.in(from).socketsLeave(room));
    socket.on("disconnectSockets", (room) => nsp.in(room).disconnectSockets());
    socket.on("fetch", (cb) => {
      const start = Date.now();
      const answer = (error, found) => cb(error && error.message, found, Date.now() - start);
      nsp.fetchSockets().then((found) => answer(null, found.map((s) => [s.id, s.data.worker])), answer);
    });
    socket.on("serverSideEmit", (x, cb) => {
      if (single) return cb(null, []); // the in-memory adapter has nobody to ask and never answers
      nsp.serverSideEmit("ask", x, (error, answers) => cb(error && error.message, answers));
    });
    socket.on("ask everybody", (ms, cb) =>
      nsp.timeout(ms).emit("ask", (error, answers) => cb(error && error.message, answers)));
    socket.on("exit", () => process.exit(1));
  });
  nsp.on("ask", (x, cb) => cb({ worker, x }));
}
serve(io);
serve(io.of("/second"));

if (single || plain) {
  server.on("error", (e) => { say("error", { code: e.code, message: e.message }); process.exit(1); });
  server.listen({ port: Number(env.PORT || 0), host: env.HOST }, () => say("listening", { address: server.address() }));
} else {
  require(env.STICKY || "sticky2").setupWorker(io);
  say("ready");
}
