// A plain HTTP app, with a WebSocket echo on the same server, that remembers every request that reached it. Its other
// routes do what a proxy could spoil. SINGLE=1: one process alone. Listens on PORT (0: any) and HOST, or on SOCKET.
const http = require("node:http");
const { WebSocketServer } = require("ws");
const cluster = require("node:cluster");
const shared = require("./routes")(cluster.worker ? cluster.worker.id : 0);

const seen = []; // { method, url, length, end }, in the order of their heads
const waiting = new Map(); // path → what the next GET /next lets go on
const state = { open: 0, aborted: 0, received: 0, connections: 0 };
const json = (res, value) => res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));

const routes = {
  "/forget": (req, res) => { seen.length = 0; json(res, {}); },
  "/raw": (req, res) => {
    const { method, url, httpVersion, rawHeaders, socket } = req;
    json(res, { method, url, httpVersion, rawHeaders, remoteAddress: socket.remoteAddress, pid: process.pid });
  },
  "/status": (req, res, query) => res.writeHead(Number(query.get("code"))).end(query.get("body") || undefined),
  "/fields": (req, res) => {
    res.sendDate = false;
    res.writeHead(200, ["Set-Cookie", "a=1; Path=/", "X-CamelCase", "One", "set-cookie", "b=2", "x-lower", "two",
      "X-UPPER", "\xe4", "Set-Cookie", "c=3", "X-Empty", "", "Vary", "a", "Vary", "b", "Content-Length", "0"]);
    res.end();
  },
  "/many": (req, res, query) => {
    for (let i = 0; i < Number(query.get("n")); i++) res.setHeader(`x-${i}`, "v");
    json(res, { received: req.rawHeaders.length / 2 });
  },
  "/early": (req, res) => res.writeHead(413, { "content-length": "5" }).end("large"), // the body is never asked for
  "/hang": () => {},
  "/interim": (req, res) => {
    res.writeProcessing();
    res.writeEarlyHints({ link: "</a.css>; rel=preload" });
    req.resume().on("end", () => setTimeout(() => {
      res.writeProcessing();
      res.end("final");
    }, 20));
  },
  "/trailers": (req, res) => {
    req.resume().on("end", () => {
      res.writeHead(200, { trailer: "X-Sum" });
      res.write(JSON.stringify(req.rawTrailers));
      res.addTrailers({ "X-Sum": "42" });
      res.end();
    });
  },
  // n bytes, as fast as they are taken; ?length=1 says how many.
  "/bytes": (req, res, query) => {
    let left = Number(query.get("n"));
    res.writeHead(200, query.get("length") ? { "content-length": String(left) } : {});
    const block = Buffer.alloc(65_536, "0123456789abcdef");
    const write = () => {
      while (left > 0) {
        const part = left < block.length ? block.subarray(0, left) : block;
        left -= part.length;
        if (!res.write(part)) return res.once("drain", write);
      }
      res.end();
    };
    write();
  },
  // Each GET /next?of=/parts lets one part of the response go; GET /next?of=/sink the reading of a request begin.
  "/parts": (req, res) => {
    res.writeHead(200);
    let i = 0;
    const next = () => { res.write(`part ${i++};`); waiting.set("/parts", next); };
    next();
  },
  "/sink": (req, res) => {
    let length = 0;
    req.on("end", () => json(res, { length }));
    waiting.set("/sink", () => req.on("data", (chunk) => { length += chunk.length; }));
  },
  "/next": (req, res, query) => {
    const go = waiting.get(query.get("of"));
    waiting.delete(query.get("of"));
    if (go) go();
    json(res, { went: Boolean(go) });
  },
};

const server = http.createServer((req, res) => {
  const [path, query] = req.url.split("?", 2);
  if (path === "/state") return json(res, { ...state, seen }); // itself not counted
  state.open++;
  let open = true; // Node never closes the response to what follows a `Connection: close`, but its socket
  const over = () => {
    if (open) { state.open--; if (!res.writableFinished) state.aborted++; }
    open = false;
    req.socket.off("close", over);
  };
  res.on("close", over);
  req.socket.on("close", over);
  const route = routes[path];
  if (route) return route(req, res, new URLSearchParams(query || ""));
  if (["/whoami", "/echo", "/slow", "/stream", "/crash"].includes(path)) return shared(req, res);
  const entry = { method: req.method, url: req.url, length: 0, end: false };
  seen.push(entry);
  req.on("data", (chunk) => { entry.length += chunk.length; state.received += chunk.length; });
  req.on("end", () => { entry.end = true; res.end(`${entry.length}`); });
});

server.on("connection", () => state.connections++);
if (process.env.HALF_OPEN) server.httpAllowHalfOpen = true; // a client that has nothing more to say may still listen

// What is no WebSocket in the end: either side has its last word first, and the other one goes on.
const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const halves = {
  "/listens": (socket, head) => {
    let { length } = head;
    socket.write(switched);
    socket.on("data", (chunk) => { length += chunk.length; });
    socket.on("end", () => setTimeout(() => socket.end(`heard ${length}`), 50));
  },
  "/speaks": (socket, head) => {
    state.received = head.length;
    socket.on("data", (chunk) => { state.received += chunk.length; });
    socket.end(`${switched}bye`);
  },
};

const sockets = new WebSocketServer({ noServer: true });
server.on("upgrade", (req, socket, head) => {
  seen.push({ method: req.method, url: req.url, length: 0, end: true, upgrade: true });
  socket.on("error", () => {});
  if (halves[req.url]) return halves[req.url](socket, head);
  sockets.handleUpgrade(req, socket, head, (ws) => {
    ws.on("error", () => {});
    ws.on("message", (data, isBinary) => (req.url === "/pid" ? ws.send(`${process.pid}`) : ws.send(data, { binary: isBinary })));
  });
});

const { PORT, HOST, SOCKET } = process.env;
server.listen(SOCKET ? { path: SOCKET } : { port: Number(PORT || 0), host: HOST }, () =>
  console.log(JSON.stringify({ event: "listening", pid: process.pid, address: server.address() })));
