// The plain HTTP routes that stand beside Socket.IO on the same server, for every app that wants them.
const { createHash } = require("node:crypto");

const text = (res, body) => res.writeHead(200, { "content-type": "text/plain" }).end(body);

const routes = {
  // Which process answers, and what it sees of the client.
  "/whoami": (req, res, url, worker) => {
    const { remoteAddress, remotePort, localPort, encrypted } = req.socket;
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify({
      worker, pid: process.pid, remoteAddress, remotePort, localPort, encrypted,
      method: req.method, url: req.url, httpVersion: req.httpVersion, headers: req.headers, rawHeaders: req.rawHeaders,
    }));
  },
  // "LENGTH MD5" of the body as it arrived; ?body=1 sends the body itself back, as it arrives.
  "/echo": (req, res, url) => {
    if (url.searchParams.get("body") === "1") {
      res.writeHead(200, { "content-type": "application/octet-stream" });
      return req.pipe(res);
    }
    const md5 = createHash("md5");
    let length = 0;
    req.on("data", (chunk) => { length += chunk.length; md5.update(chunk); });
    req.on("end", () => text(res, `${length} ${md5.digest("hex")}`));
  },
  "/slow": (req, res, url, worker) => setTimeout(() => text(res, `${worker}`), Number(url.searchParams.get("ms") || 100)),
  // ?n= chunks, each in a write of its own: lines that count from 0; ?ms= between them.
  "/stream": (req, res, url) => {
    const n = Number(url.searchParams.get("n") || 10);
    const ms = Number(url.searchParams.get("ms") || 0);
    res.writeHead(200, { "content-type": "text/plain" });
    const write = (i) => {
      if (i === n) return res.end();
      res.write(`${i}\n`, () => (ms ? setTimeout(write, ms, i + 1) : setImmediate(write, i + 1)));
    };
    write(0);
  },
  // An uncaught error, before any answer.
  "/crash": () => setImmediate(() => { throw new Error("crash was asked for"); }),
};

module.exports = (worker) => (req, res) => {
  const url = new URL(req.url, "http://app");
  const route = routes[url.pathname];
  if (!route) return res.writeHead(404).end();
  route(req, res, url, worker);
};
module.exports.routes = routes; // to which an app may add its own
