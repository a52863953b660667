// An HTTPS app with a WebSocket echo, whose certificate is made by the test. Listens on PORT; CERT and KEY are files.
const { readFileSync } = require("node:fs");
const https = require("node:https");
const cluster = require("node:cluster");
const { WebSocketServer } = require("ws");
const routes = require("./routes")(cluster.worker ? cluster.worker.id : 0);

const { CERT, KEY, PORT } = process.env;
const server = https.createServer({ cert: readFileSync(CERT), key: readFileSync(KEY) }, routes);
new WebSocketServer({ server }).on("connection", (ws) => {
  ws.on("error", () => {});
  ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
});
server.listen(PORT);
