// The plain HTTP app of the benchmarks. Listens on PORT; with REUSE_PORT=1 it shares the port with its like.
const http = require("node:http");

const { PORT, REUSE_PORT } = process.env;
const hello = Buffer.from("hello world\n");
http.createServer((req, res) => {
  res.setHeader("content-type", "text/plain");
  res.end(req.url === "/pid" ? String(process.pid) : hello);
}).listen({ port: PORT, host: "127.0.0.1", reusePort: REUSE_PORT === "1" });
