// One worker of the chat: an ordinary Socket.IO cluster worker. It never listens
// (its cluster primary hands it connections) and knows nothing of who started it.
"use strict";
const cluster = require("node:cluster");
const { readFileSync } = require("node:fs");
const { createServer } = require("node:http");
const { join } = require("node:path");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/cluster-adapter");
const { setupWorker } = require("@socket.io/sticky");

const me = {
  slot: process.env.NODE_APP_INSTANCE ?? null, // 0..n-1, kept by the successor
  worker: cluster.worker.id, // never used twice
  pid: process.pid,
};

const page = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/chat.css": ["chat.css", "text/css; charset=utf-8"],
  "/chat.js": ["chat.js", "text/javascript; charset=utf-8"],
};
for (const file of Object.values(page)) file.push(readFileSync(join(__dirname, "public", file[0])));

const httpServer = createServer((req, res) => {
  const file = page[req.url.split("?")[0]];
  if (!file) return res.writeHead(404, { "Content-Type": "text/plain" }).end("Not found\n");
  const [, type, body] = file;
  res.writeHead(200, {
    "Content-Type": type,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:",
    "X-Content-Type-Options": "nosniff",
  });
  res.end(body);
});

const io = new Server(httpServer);
io.adapter(createAdapter());
setupWorker(io);

// What was said lately. Every worker holds all of it, so that a tab that comes back
// after its worker's death can read on anywhere; a new worker asks the others for it.
const KEEP = 100;
let history = [];
function remember(messages) {
  const known = new Set(history.map((m) => m.id));
  const news = messages.filter((m) => !known.has(m.id));
  if (!news.length) return [];
  history = [...history, ...news].sort((a, b) => a.at - b.at).slice(-KEEP);
  return news;
}
io.on("message", (m) => remember([m]));
io.on("history?", () => history.length && io.serverSideEmit("history", history));
io.on("history", (theirs) => {
  const news = remember(theirs);
  if (news.length) io.local.emit("history", news);
});
io.serverSideEmit("history?");

// Who is here, over all workers. Each worker counts anew for its own tabs whenever any
// worker says that someone came or went.
let counting = false;
let changed = false;
async function count() {
  changed = true;
  if (counting) return;
  counting = true;
  while (changed) {
    changed = false;
    try {
      const people = (await io.fetchSockets()).map((s) => s.data).filter((d) => d.name);
      io.local.emit("people", people);
    } catch {
      changed = true; // a worker died and its answer never came (5 s): ask again
    }
  }
  counting = false;
}
io.on("people?", count);
function peopleChanged() {
  io.serverSideEmit("people?");
  count();
}

const clean = (text, max) => String(text ?? "").replace(/\s+/g, " ").trim().slice(0, max);

io.on("connection", (socket) => {
  const name = (given) => clean(given, 24) || "Nobody";
  socket.data = { ...me, name: name(socket.handshake.auth.name) };
  socket.emit("hello", me);
  socket.emit("history", history);
  peopleChanged();

  socket.on("message", (m, done) => {
    if (typeof done !== "function") return;
    const id = clean(m?.id, 40); // the page's own, so that a message sent twice is shown once
    const text = clean(m?.text, 500);
    if (id && text) {
      const said = { id, name: socket.data.name, text, at: Date.now(), via: me };
      remember([said]);
      io.serverSideEmit("message", said);
      io.emit("message", said); // the adapter carries it to the tabs of the other workers
    }
    done();
  });
  socket.on("typing", () => socket.broadcast.volatile.emit("typing", socket.data.name));
  socket.on("rename", (given, done) => {
    socket.data.name = name(given);
    peopleChanged();
    if (typeof done === "function") done();
  });
  socket.on("disconnect", peopleChanged);
});
