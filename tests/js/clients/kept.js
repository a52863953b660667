// Clients on whose connections nothing is under way when cohortd is killed, so many times in a row, each time as soon as
// there is one. Some go on while it is down, some when it is up again: all are answered.
//
// kept.js PORT half|rests KILLS [COMMAND]: each has sent half a head, or has had an answer. COMMAND comes before the kills.
const { execSync } = require("node:child_process");
const net = require("node:net");
const { tally, until, run } = require("./lib");

const [port, kind, kills, command] = process.argv.slice(2);
const CLIENTS = 20;
const [HALF, REST] = ["GET /whoami HTTP/1.1\r\nHo", "st: a\r\nConnection: close\r\n\r\n"];

const connect = () => new Promise((connected, failed) => {
  const socket = net.connect(port, "127.0.0.1", () => connected(socket)).on("error", failed);
});

// The answer's first line, or why there is none.
const ask = (socket, text) => new Promise((done) => {
  let answer = "";
  socket.setEncoding("latin1").on("data", (d) => { answer += d; });
  socket.on("error", (e) => done(e.code)).on("end", () => done(answer.split("\r\n")[0] || "nothing"));
  socket.write(text);
});

// It has had an answer, of one part, or has said the half of what it wants.
const begin = async (socket) => {
  if (kind === "half") return socket.write(HALF);
  const answered = new Promise((done) => { socket.once("data", done); });
  socket.write("GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n");
  await answered;
};

const main = () => Number(execSync("systemctl show --value -p MainPID myapp"));

function lives(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

run(async () => {
  const sockets = await Promise.all(Array.from({ length: CLIENTS }, connect));
  await Promise.all(sockets.map(begin));
  await ask(await connect(), HALF + REST); // whatever was to be accepted before it has been
  if (command) execSync(command);
  let last = 0;
  for (let n = 0; n < Number(kills); n += 1) {
    let pid = 0;
    await until(() => { pid = main(); return pid !== 0 && pid !== last; });
    process.kill(pid, "SIGKILL");
    await until(() => !lives(pid));
    last = pid;
  }
  const finish = (socket) => ask(socket, kind === "half" ? REST : HALF + REST);
  const answers = await Promise.all(sockets.slice(CLIENTS / 2).map(finish));
  answers.push(...await Promise.all(sockets.slice(0, CLIENTS / 2).map(finish)));
  return { ok: answers.every((line) => line === "HTTP/1.1 200 OK"), answers: tally(answers) };
});
