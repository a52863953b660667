// Which address a Socket.IO server takes its clients to have, by the addresses that they come from and how they come.
//
// address.js URL SOURCE…
const http = require("node:http");
const { io } = require("socket.io-client");
const { ask, until, run } = require("./lib");

const [url, ...sources] = process.argv.slice(2);
const KINDS = { polling: ["polling"], upgraded: ["polling", "websocket"], websocket: ["websocket"] };

run(async () => {
  const clients = [];
  for (const source of sources) {
    for (const [kind, transports] of Object.entries(KINDS)) {
      const agent = new http.Agent({ localAddress: source, keepAlive: true });
      const socket = io(url, { transports, agent, forceNew: true, reconnection: false });
      clients.push({ name: `${source} ${kind}`, socket, last: transports.at(-1) });
      await until(() => socket.connected && socket.io.engine.transport.name === transports.at(-1));
    }
  }
  // All are there now, and have taken turns.
  const seen = {};
  for (const { name, socket, last } of clients) {
    const [{ address, remote, transport }] = await ask(socket, "who");
    seen[name] = [address, remote, transport === last];
    socket.close();
  }
  return { ok: true, seen };
});
