// Socket.IO's get-started chat: one page, one server, whatever is said goes to everybody.
const { createServer } = require("node:http");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { Server } = require("socket.io");

const page = readFileSync(join(__dirname, "index.html"));
const httpServer = createServer((req, res) => {
  if (req.url !== "/") return res.writeHead(404).end();
  res.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
});
const io = new Server(httpServer);

io.on("connection", (socket) => {
  socket.on("chat message", (msg) => io.emit("chat message", msg));
});

httpServer.listen(3000, () => console.log("listening on http://localhost:3000"));
