// Custom actions by @pm2/io, and says what messages and signals it gets; each answer is its process.
const http = require("node:http");
const io = require("@pm2/io");

const slot = Number(process.env.NODE_APP_INSTANCE);
io.action("where", (reply) => reply({ slot }));
io.action("echo", (parameter, reply) => reply({ slot, parameter }));
io.action("mute", () => {});
if (slot === 1) io.action("only-one", (reply) => reply("here"));

process.on("message", (message) => {
  if (message?.type === "to-all" || typeof message === "string") console.log(`got ${JSON.stringify(message)}`);
});
process.on("SIGUSR2", () => console.log("got SIGUSR2"));
http.createServer((req, res) => res.end(String(process.pid))).listen(process.env.PORT);
