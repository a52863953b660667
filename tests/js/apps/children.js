// A plain server with a child process of its own, which would outlive it if nobody ended it.
//
// /flood writes 10 MB of lines to standard output before it answers.
const { spawn } = require("node:child_process");
const http = require("node:http");

const child = spawn("sleep", ["1000"], { stdio: "ignore" });
console.log(`child ${child.pid}`);

http.createServer((req, res) => {
  if (req.url === "/flood") for (let i = 0; i < 100_000; i++) console.log("x".repeat(99));
  res.end("hello");
}).listen(process.env.PORT);
