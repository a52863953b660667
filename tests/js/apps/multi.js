// Every way an app can listen under a cluster primary: multi.js CASE[,CASE…]
//
// What happens is written to stdout, one JSON object a line: {"case":…,"name":…,"event":"listening","address":…}.
// Ports are BASE_PORT (18000) plus the number beside the case. Cases that end themselves do so after their first request.
// With MAIN=1 it also listens on PORT of 127.0.0.1.
const cluster = require("node:cluster");
const dgram = require("node:dgram");
const fs = require("node:fs");
const http = require("node:http");
const http2 = require("node:http2");
const https = require("node:https");
const net = require("node:net");
const path = require("node:path");

const { env } = process;
const what = process.argv[2];
const port = (offset) => Number(env.BASE_PORT || 18000) + offset;
const file = (name) => (env.SOCKET_DIR ? path.join(env.SOCKET_DIR, name) : name);
const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ case: what, event, pid: process.pid, ...more })}\n`);

const hello = (name, then) => http.createServer((req, res) => {
  res.end(`${name} ${process.pid} ${req.socket.remoteAddress} ${req.socket.localPort}\n`, then);
});

// Listens and says what came of it.
function listen(name, server, ...where) {
  server.on("error", (e) => say("error", { name, code: e.code, syscall: e.syscall, message: e.message }));
  server.on("close", () => say("closed", { name }));
  return server.listen(...where, () => say("listening", { name, address: server.address() }));
}

function datagrams(name, type, where) {
  const socket = dgram.createSocket(type);
  socket.on("error", (e) => say("error", { name, code: e.code, message: e.message }));
  socket.on("message", (data, from) => {
    say("datagram", { name, data: data.toString(), from: from.address });
    socket.send(`${name} ${process.pid}`, from.port, from.address);
  });
  socket.bind(where, () => say("listening", { name, address: socket.address() }));
}

const cases = {
  // 1: a port that the test itself holds.
  busy: () => listen("busy", hello("busy"), port(1)),
  // Any free port: each of these is one of its own, but the same for all workers.
  zero() {
    listen("zero", hello("zero"), 0);
    listen("zero again", hello("zero again"), 0);
    listen("zero on a host", hello("zero on a host"), 0, "127.0.0.1");
  },
  path: () => listen("path", hello("path"), file("path.sock")),
  pathmode: () => listen("pathmode", hello("pathmode"), { path: file("pathmode.sock"), readableAll: true, writableAll: true }),
  // 3, 4, 5
  many() {
    listen("any", hello("any"), port(3));
    listen("host", hello("host"), port(4), "127.0.0.1");
    listen("name and backlog", hello("name and backlog"), port(5), "localhost", 77);
  },
  // 6
  v6: () => listen("v6", hello("v6"), port(6), "::1"),
  // 7: port 7 on IPv4 stays free.
  v6only: () => listen("v6only", hello("v6only"), { port: port(7), host: "::", ipv6Only: true, backlog: 33 }),
  // 8: the second is refused with EADDRINUSE.
  twice() {
    listen("twice", hello("twice"), port(8));
    listen("twice again", hello("twice again"), port(8));
  },
  // 9
  relisten() {
    const first = listen("relisten", hello("relisten"), port(9));
    first.once("listening", () => first.close(() => listen("relisten again", hello("relisten again"), port(9))));
  },
  // 10 on 127.0.0.1 and on ::1
  udp() {
    datagrams("udp4", "udp4", { port: port(10), address: "127.0.0.1" });
    datagrams("udp6", "udp6", { port: port(10), address: "::1" });
    datagrams("udp4 of its own", "udp4", { port: 0, exclusive: true });
  },
  // 19: both are bound.
  udpreuse() {
    datagrams("udp reused", { type: "udp4", reuseAddr: true }, { port: port(19), address: "127.0.0.1" });
    datagrams("udp reused again", { type: "udp4", reuseAddr: true }, { port: port(19), address: "127.0.0.1" });
  },
  // Inherited listeners: TESTFD (several with commas between), or systemd's first.
  fd() {
    for (const fd of (env.TESTFD || "3").split(",")) listen(`fd ${fd}`, hello("fd"), { fd: Number(fd) });
  },
  // 11: one connection a worker; others must go to another worker, or wait.
  max() {
    const server = net.createServer((socket) => socket.on("error", () => {}).write(`max ${process.pid}\n`));
    server.maxConnections = 1;
    listen("max", server, port(11));
  },
  // 12: asks nobody and binds alone: the first worker has it, the others get EADDRINUSE.
  exclusive: () => listen("exclusive", hello("exclusive"), { port: port(12), exclusive: true }),
  // 13: TLS_KEY and TLS_CERT name PEM files; without them it listens and no handshake succeeds.
  tls() {
    const options = env.TLS_KEY ? { key: fs.readFileSync(env.TLS_KEY), cert: fs.readFileSync(env.TLS_CERT) } : {};
    const server = https.createServer(options, (req, res) =>
      res.end(`tls ${process.pid} ${req.socket.remoteAddress} resumed=${req.socket.isSessionReused()}\n`));
    server.on("tlsClientError", (e) => say("tlsClientError", { code: e.code }));
    listen("tls", server, port(13));
  },
  // A port that only root, or whoever was given it, may have.
  eacces: () => listen("eacces", hello("eacces"), 1),
  // 14, 15: leaves after its first request.
  disc: () => listen("disc", hello("disc", () => cluster.worker.disconnect()), port(14)),
  kill: () => listen("kill", hello("kill", () => cluster.worker.kill()), port(15)),
  // 16: a handle from the worker to its primary, and a message behind it.
  sendhandle() {
    const server = listen("sendhandle", net.createServer(), { port: port(16), host: "127.0.0.1", exclusive: true });
    server.once("listening", () => {
      process.send({ take: "server" }, server, (e) => say("sent", { error: e && e.message }));
      process.send({ after: "server" }, (e) => say("sent after", { error: e && e.message }));
    });
  },
  // 17: HTTP/2 in clear text, by prior knowledge.
  http2() {
    const server = http2.createServer();
    server.on("stream", (stream) => {
      stream.respond({ ":status": 200 });
      stream.end(`http2 ${process.pid}\n`);
    });
    listen("http2", server, port(17));
  },
  // 18: asks nobody from Node 22 on, and all workers have it.
  reuseport: () => listen("reuseport", hello("reuseport"), { port: port(18), reusePort: true }),
  // The same server once more, 50 times, each as soon as the last is closed; 20 and a path.
  again() {
    const again = (name, where, left) => {
      const server = http.createServer();
      server.on("error", (e) => say("error", { name, code: e.code, left }));
      server.listen(where, () => server.close(() => (left ? again(name, where, left - 1) : say("done", { name }))));
    };
    again("port again", port(20), 50);
    again("path again", file("again.sock"), 50);
  },
  // Stays up and never listens.
  none: () => setInterval(() => {}, 60_000),
};

say("start", {
  worker: cluster.isWorker, id: cluster.worker && cluster.worker.id, connected: process.connected === true,
  node: process.version, env: Object.keys(env).filter((k) => /^(NODE_|LISTEN_)/.test(k)).sort(),
});
process.on("message", (message, handle) => say("message", { message, handle: handle && handle.constructor.name }));
process.on("disconnect", () => say("disconnect"));
process.on("exit", (code) => say("exit", { code, exitedAfterDisconnect: cluster.worker && cluster.worker.exitedAfterDisconnect }));
if (env.MAIN) listen("main", hello("main"), Number(env.PORT), "127.0.0.1");
for (const name of String(what).split(",")) {
  if (!Object.hasOwn(cases, name)) {
    process.stderr.write(`no such case: ${name}; there are ${Object.keys(cases).join(" ")}\n`);
    process.exit(2);
  }
  cases[name]();
}
