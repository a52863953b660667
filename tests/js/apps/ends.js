// What an app can see of its clients, in every place that sees a request. Listens on PORT (0: any) and HOST, and on
// SOCKET; SETUID: gives root up then. SINGLE=1: one process alone.
//
// /ip              what Express makes of it; its `trust proxy` is TRUST
// /late?ms=        answers, and looks at its socket again after that; /looks: what such looks have seen
// /reset           no answer: the connection is reset
// /family          the environment of this process and of those that it starts
// /…               what each place has seen, in order. The same for upgrades, on the connection
const { execFile, fork } = require("node:child_process");
const channel = require("node:diagnostics_channel");
const http = require("node:http");
const { isMainThread, parentPort, Worker } = require("node:worker_threads");

const { env } = process;
const looks = new WeakMap(); // request → what was seen of it
const late = [];
const opened = []; // where each connection came from before its first request

function ends(socket) {
  const { remoteAddress, remotePort, remoteFamily, localAddress, localPort, localFamily } = socket;
  return { remoteAddress, remotePort, remoteFamily, localAddress, localPort, localFamily, address: socket.address() };
}

function look(where, req, socket = req.socket) {
  const same = req.connection === socket && req.client === socket && req.socket === socket;
  if (!looks.has(req)) looks.set(req, []);
  looks.get(req).push({ where, same, ...ends(socket) });
}

const seen = (req) => ({
  looks: looks.get(req), method: req.method, url: req.url, rawHeaders: req.rawHeaders, headers: req.headers,
  distinct: req.headersDistinct, rawTrailers: req.rawTrailers, trailers: req.trailers, trailersDistinct: req.trailersDistinct,
});

function json(res, value) {
  const text = JSON.stringify(value);
  res.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(text) }).end(text);
}

function family() {
  return {
    options: env.NODE_OPTIONS,
    ours: Object.keys(env).filter((name) => /^COHORTD_(?!APP$|LOG$)/.test(name)),
    loaded: Object.keys(require.cache).filter((file) => /hook-/.test(file)),
    changed: http.IncomingMessage.prototype._addHeaderLines.name !== "_addHeaderLines",
  };
}

async function families() {
  const message = (from) => new Promise((resolve, reject) => {
    const said = [];
    from.on("message", (word) => said.push(word));
    from.on("error", reject);
    from.on("exit", () => resolve(said));
  });
  const child = () => new Promise((resolve, reject) =>
    execFile(process.execPath, [__filename, "family"], (error, out) => (error ? reject(error) : resolve([JSON.parse(out)]))));
  const thread = (options) => message(new Worker(__filename, { argv: ["family"], ...options }));
  return {
    own: [family()], child: await child(), fork: await message(fork(__filename, ["family"])),
    thread: await thread({}), free: await thread({ env: { ...env }, execArgv: [] }),
  };
}

function serve(where) {
  const server = http.createServer({
    IncomingMessage: class extends http.IncomingMessage {},
    shouldUpgradeCallback: (req) => { look("shouldUpgrade", req); return true; }, // Node 24
    maxHeadersCount: 0,
  });
  if (env.MAX_HEADERS) server.maxHeadersCount = Number(env.MAX_HEADERS);
  server.on("connection", (socket) => opened.push(socket.remoteAddress));
  server.on("checkContinue", (req, res) => { look("checkContinue", req); res.writeContinue(); answer(req, res); });
  server.on("checkExpectation", (req, res) => { look("checkExpectation", req); answer(req, res); });
  server.on("request", (req, res) => { look("request", req); answer(req, res); });
  server.on("upgrade", (req, socket) => {
    look("upgrade", req, socket);
    socket.on("error", () => {});
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.end(JSON.stringify(seen(req)));
  });
  server.listen(where, () => console.log(JSON.stringify({ event: "listening", pid: process.pid, address: server.address() })));
}

let app;
function answer(req, res) {
  const [path, query] = req.url.split("?", 2);
  const { socket } = req;
  if (path === "/ip") return (app ??= express())(req, res);
  if (path === "/reset") return socket.resetAndDestroy();
  if (path === "/looks") return json(res, { late, opened });
  if (path === "/family") return families().then((all) => json(res, all), (error) => json(res, { error: error.stack }));
  if (path === "/late") {
    setTimeout(() => late.push([req.socket, socket].map((s) => s.remoteAddress)), Number(new URLSearchParams(query).get("ms")));
  }
  req.resume().on("end", () => json(res, seen(req)));
}

function main() {
  // What puts itself around http is there before any request, as tools that trace requests are.
  channel.channel("http.server.request.start").subscribe(({ request, socket }) => look("channel", request, socket));
  const { emit } = http.Server.prototype;
  http.Server.prototype.emit = function (event, ...args) {
    if (["request", "upgrade", "checkContinue", "checkExpectation"].includes(event)) look(`emit ${event}`, args[0]);
    return emit.call(this, event, ...args);
  };
  if (env.PORT || !env.SOCKET) serve({ port: Number(env.PORT || 0), host: env.HOST });
  if (env.SOCKET) serve({ path: env.SOCKET });
  if (env.SETUID) process.setuid(Number(env.SETUID));
}

function express() {
  const app = require("express")();
  if (env.TRUST) app.set("trust proxy", /^\d+$/.test(env.TRUST) ? Number(env.TRUST) : env.TRUST);
  app.get("/ip", (req, res) => {
    const { ip, ips, protocol, hostname, headers } = req;
    res.json({ ip, ips, protocol, hostname, remote: req.connection.remoteAddress, headers });
  });
  return app;
}

if (process.argv[2] !== "family") main();
else if (!isMainThread) parentPort.postMessage(family());
else if (process.send) process.send(family(), () => process.disconnect());
else console.log(JSON.stringify(family()));
