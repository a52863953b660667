// WebSockets with a header that says where they belong: each has to reach the worker that its requests reach.
//
// belongs.js URL HEADER
const http = require("node:http");
const { WebSocket } = require("ws");
const { run } = require("./lib");

const [url, header] = process.argv.slice(2);

const worker = (headers) => new Promise((done, failed) => {
  http.get(`${url}/whoami`, { agent: false, headers }, (res) => {
    let text = "";
    res.on("data", (d) => { text += d; }).on("end", () => done(JSON.parse(text).pid));
  }).on("error", failed);
});

const socket = (headers) => new Promise((done, failed) => {
  const ws = new WebSocket(`${url.replace("http", "ws")}/pid`, { headers });
  ws.on("open", () => ws.send("pid"));
  ws.on("message", (data) => { ws.close(); done(Number(data)); });
  ws.on("error", failed);
});

run(async () => {
  let astray = 0;
  const workers = new Set();
  for (let n = 0; n < 20; n++) {
    const headers = { [header]: `tenant ${n}` };
    const pid = await worker(headers);
    workers.add(pid);
    if ((await socket(headers)) !== pid) astray++;
  }
  return { ok: astray === 0, astray, workers: workers.size };
});
