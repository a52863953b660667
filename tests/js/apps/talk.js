// A server on PORT, and on OTHER where that is set, whose workers also talk to each other as Socket.IO's adapters do.
//
// /…              the request's target and the process: whoever asked sees that the answer is theirs. The same for WebSockets.
// /relay?size=    one packet to all others; what it was, and what each of them says it got. kind=bytes|text
// /flood?frames=&size=   so many packets, eight at a time by the word of whoever answers first
const { createHash, randomBytes } = require("node:crypto");
const http = require("node:http");
const { WebSocketServer } = require("ws");

const { env } = process;
const uid = `talk-${process.pid}`;
const waiting = new Map();
let last = 0;

// What arrived, whatever the framing has made of it.
const bytes = (body) => (typeof body === "string" ? Buffer.from(body) : Buffer.from(body.data || body));
const seen = (body) => ({ pid: process.pid, size: bytes(body).length, hash: createHash("sha256").update(bytes(body)).digest("hex") });
const packet = (message) => new Promise((sent) => process.send({ source: "_sio_adapter", uid, nsp: "/", ...message }, sent));

process.on("message", (message) => {
  if (message.source !== "_sio_adapter") return;
  if (message.type === 8) return waiting.get(message.data.id)?.(message.data);
  if (message.type === 3) packet({ type: 8, requesterUid: message.uid, data: { id: message.data.id, ...seen(message.data.body) } });
});

function body(kind, size) {
  if (kind === "bytes") return randomBytes(size);
  let text = randomBytes(Math.ceil(size / 2)).toString("hex").slice(0, size);
  if (size > 40) text = `${text.slice(0, size - 20)}"\\\n\u2028ż€😀`; // what a careless escape breaks
  return text;
}

const routes = {
  "/relay": (query) => new Promise((resolve) => {
    const id = `${uid}-${last++}`;
    const data = { id, body: body(query.get("kind"), Number(query.get("size"))) };
    const got = [];
    waiting.set(id, (answer) => {
      if (got.push(answer) < Number(query.get("answers") || 1)) return;
      waiting.delete(id);
      resolve({ sent: seen(data.body), got });
    });
    packet({ type: 3, data });
  }),
  "/flood": async (query) => {
    const [frames, size] = [Number(query.get("frames")), Number(query.get("size"))];
    const data = randomBytes(size);
    let open = 0;
    let wake = () => {};
    for (let i = 0; i < frames; i++) {
      const id = `${uid}-${last++}`;
      open++;
      waiting.set(id, () => { waiting.delete(id); open--; wake(); });
      await packet({ type: 3, data: { id, body: data } });
      while (open >= 8) await new Promise((r) => { wake = r; });
    }
    while (open) await new Promise((r) => { wake = r; });
    return { pid: process.pid, frames };
  },
};

function serve(port) {
  const server = http.createServer(async (req, res) => {
    const url = new URL(req.url, "http://app");
    const route = routes[url.pathname];
    res.end(route ? JSON.stringify(await route(url.searchParams)) : `${req.url} ${process.pid}\n`);
  });
  new WebSocketServer({ server }).on("connection", (ws, req) => {
    ws.on("message", (data) => ws.send(`${req.url} ${process.pid} ${data}`));
  });
  server.listen(Number(port));
}

serve(env.PORT);
if (env.OTHER) serve(env.OTHER);
