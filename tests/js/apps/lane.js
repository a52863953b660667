// Says how it gets its connections, and refuses them in every way that there is. MAX=n: at most n connections at a time.
const http = require("node:http");

const { close } = require("node:net").Server.prototype;

const { PORT, MAX } = process.env;
let messages = 0; // that brought a connection
process.on("internalMessage", ({ act }) => { if (act === "newconn") messages++; });

const server = http.createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url, "http://a");
  if (pathname === "/block") for (const until = Date.now() + Number(searchParams.get("ms")); Date.now() < until;);
  // It closes its server and opens it again, a few times.
  if (pathname === "/close" && !left) {
    left = Number(searchParams.get("times"));
    again();
  }
  const handles = process._getActiveHandles().filter((handle) => handle.constructor.name !== "Socket").length;
  res.end(JSON.stringify({ pid: process.pid, port: req.socket.remotePort, messages, handles }));
});
if (MAX) server.maxConnections = Number(MAX);
let left = 0;
const again = () => {
  // http's own close() also ends connections that are there and have not been read from.
  if (left-- > 0) close.call(server, () => server.listen(PORT, "127.0.0.1", () => setTimeout(again, 20)));
  else left = 0;
};
server.listen(PORT, "127.0.0.1");
