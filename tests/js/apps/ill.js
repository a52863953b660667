// An HTTP app that falls ill when it is told to. Listens on PORT.
//
// HEALTH   a file whose text is the status of /healthz (none: 200); "hang": no answer
// READY    "message": process.send("ready") after READY_MS; "notify": READY=1 by a child process; "never": neither
// /spin    answers, and then never lets go of the event loop; /block?ms= holds it for so long
const { readFileSync } = require("node:fs");
const { execFile } = require("node:child_process");
const http = require("node:http");
const cluster = require("node:cluster");
const routes = require("./routes")(cluster.worker ? cluster.worker.id : 0);

const { HEALTH, READY, READY_MS, PORT } = process.env;
const hold = (ms) => { for (const end = Date.now() + ms; Date.now() < end;); };
const health = () => {
  try { return readFileSync(HEALTH, "utf8").trim(); } catch { return "200"; }
};

http.createServer((req, res) => {
  const url = new URL(req.url, "http://app");
  switch (url.pathname) {
    case "/healthz": {
      const status = health();
      return status === "hang" ? undefined : res.writeHead(Number(status)).end();
    }
    case "/spin": return res.end("spins\n", () => setImmediate(hold, Infinity));
    case "/block": hold(Number(url.searchParams.get("ms"))); return res.end();
    default: return routes(req, res);
  }
}).listen(PORT);

const notify = `
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"READY=1\\nSTATUS=warm", os.environ["NOTIFY_SOCKET"])
`;
setTimeout(() => {
  if (READY === "message") process.send("ready");
  if (READY === "notify") execFile("python3", ["-c", notify], (error) => error && console.error(error));
}, Number(READY_MS || 0));
