// Clients that have connected and said nothing when a process is killed. Some speak while it is down, some when it is up
// again: all are answered.
//
// silent.js PORT PID
const net = require("node:net");
const { tally, until, run } = require("./lib");

const [port, pid] = process.argv.slice(2).map(Number);
const CLIENTS = 20;

const connect = () => new Promise((connected, failed) => {
  const socket = net.connect(port, "127.0.0.1", () => connected(socket)).on("error", failed);
});

// The answer's first line, or why there is none.
const ask = (socket) => new Promise((done) => {
  let text = "";
  socket.setEncoding("latin1").on("data", (d) => { text += d; });
  socket.on("error", (e) => done(e.code)).on("end", () => done(text.split("\r\n")[0] || "nothing"));
  socket.write("GET /whoami HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
});

function lives() {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

run(async () => {
  const sockets = await Promise.all(Array.from({ length: CLIENTS }, connect));
  await ask(await connect()); // whatever was to be accepted before it has been
  process.kill(pid, "SIGKILL");
  await until(() => !lives());
  const answers = await Promise.all(sockets.slice(CLIENTS / 2).map(ask));
  answers.push(...await Promise.all(sockets.slice(0, CLIENTS / 2).map(ask)));
  return { ok: answers.every((line) => line === "HTTP/1.1 200 OK"), answers: tally(answers) };
});
