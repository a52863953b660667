// An HTTP app that takes memory when it is told to: /take?mb= keeps that much, /read?file= reads a file and forgets it,
// /child starts a process that outlives it.
const { spawn } = require("node:child_process");
const { createReadStream } = require("node:fs");
const http = require("node:http");
const cluster = require("node:cluster");
const routes = require("./routes")(cluster.worker ? cluster.worker.id : 0);

const kept = [];
http.createServer((req, res) => {
  const url = new URL(req.url, "http://app");
  switch (url.pathname) {
    case "/take": {
      for (let mb = Number(url.searchParams.get("mb")); mb > 0; mb--) kept.push(Buffer.alloc(1 << 20, 1));
      return res.end(`${process.memoryUsage.rss()}\n`);
    }
    case "/read": {
      let length = 0;
      return createReadStream(url.searchParams.get("file"))
        .on("data", (chunk) => { length += chunk.length; })
        .on("close", () => res.end(`${length}\n`));
    }
    case "/child": {
      const child = spawn("sleep", ["1000"], { detached: true, stdio: "ignore" });
      return child.unref(), res.end(`${child.pid}\n`);
    }
    default: return routes(req, res);
  }
}).listen(process.env.PORT);
