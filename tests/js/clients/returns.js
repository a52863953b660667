// Socket.IO clients that come back by themselves, until SIGTERM: how their connections ended, how many at most in one
// second, and whether each is back in the end and is answered.
//
// returns.js URL N TRANSPORT
const { io } = require("socket.io-client");
const { run, tally, until, ask } = require("./lib");

const [url, n, transport] = process.argv.slice(2);

run(async () => {
  let stopped = false;
  process.on("SIGTERM", () => { stopped = true; });
  const ends = [];
  const times = [];
  const faults = [];
  const sockets = Array.from({ length: Number(n) }, () => {
    const socket = io(url, { transports: [transport], forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
    socket.on("disconnect", (why) => { ends.push(why); times.push(Date.now()); });
    socket.on("connect_error", (e) => faults.push(e.message));
    return socket;
  });
  await until(() => sockets.every((s) => s.connected));
  console.log("going");
  await until(() => stopped, 60_000);
  if (!(await until(() => sockets.every((s) => s.connected)))) faults.push("not back");
  const answers = await Promise.all(sockets.map((s) => ask(s, "who").catch((e) => faults.push(e.message))));
  sockets.forEach((s) => s.off("disconnect").close());
  const inOneSecond = Math.max(0, ...times.map((t) => times.filter((u) => u >= t && u < t + 1000).length));
  return { ok: faults.length === 0, ends: tally(ends), faults: tally(faults), inOneSecond, answered: answers.length };
});
