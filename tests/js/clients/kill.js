// Kills a worker with SIGKILL and measures how long the others' adapters go on waiting for it: from the kill to the first
// fetchSockets answer that lists exactly the survivors' sockets. The survivors' connections must not notice.
//
// kill.js URL[,URL] [PID]     PID: the worker to kill (default: one of those that serve); CLIENTS (12); LIMIT_MS (2000)
const { io } = require("socket.io-client");
const { until, ask, tally, run } = require("./lib");

const [list, wantedPid] = process.argv.slice(2);
const urls = list.split(",");
const CLIENTS = Number(process.env.CLIENTS || 12);
const LIMIT_MS = Number(process.env.LIMIT_MS || 2000);
const sorted = (ids) => [...ids].sort().join();

run(async () => {
  const clients = Array.from({ length: CLIENTS }, (_, i) => {
    const socket = io(urls[i % urls.length], { transports: ["websocket"], forceNew: true, reconnection: false });
    socket.faults = [];
    socket.on("connect_error", (e) => socket.faults.push(e.message));
    socket.on("disconnect", (why) => socket.faults.push(why));
    return socket;
  });
  if (!(await until(() => clients.every((s) => s.connected)))) throw new Error(`not connected: ${clients.flatMap((s) => s.faults)}`);
  await Promise.all(clients.map(async (s) => { [s.who] = await ask(s, "who"); }));
  const sessions = tally(clients.map((s) => s.who.pid));
  const victim = Number(wantedPid || clients[0].who.pid);
  const survivors = clients.filter((s) => s.who.pid !== victim);
  if (!survivors.length) throw new Error(`all clients are on ${victim}`);
  const asker = survivors[0];
  // Which of our own clients the server lists (others may be connected as well), or why it could not tell.
  const own = new Set(clients.map((s) => s.id));
  const fetched = async () => {
    const [error, found] = await ask(asker, "fetch");
    return { error, ids: found && found.map(([id]) => id).filter((id) => own.has(id)) };
  };
  const complete = async () => { const { error, ids } = await fetched(); return !error && sorted(ids) === sorted(own); };
  if (!(await until(complete))) throw new Error("fetchSockets is not right before the kill");

  // A new question every 5 ms, without waiting for the ones before: one that hangs must not hide one that does not.
  const right = sorted(survivors.map((s) => s.id));
  const answers = { right: 0, stale: 0, wrong: 0, timedOut: 0 };
  const open = [];
  let first = null;
  const killed = process.hrtime.bigint();
  const since = () => Number(process.hrtime.bigint() - killed) / 1e6;
  process.kill(victim, "SIGKILL");
  const question = async () => {
    const { error, ids } = await fetched();
    if (error) { answers.timedOut++; return; }
    if (sorted(ids) === right) {
      answers.right++;
      if (first === null) first = since();
    } else if (survivors.every((s) => ids.includes(s.id))) {
      answers.stale++;
    } else {
      answers.wrong++;
    }
  };
  while (first === null && since() < 15_000) {
    open.push(question().catch(() => { answers.timedOut++; }));
    await new Promise((r) => setTimeout(r, 5));
  }
  await Promise.all(open);

  const victims = clients.filter((s) => s.who.pid === victim);
  const victimsTold = await until(() => victims.every((s) => s.disconnected), 5000);
  const stillEcho = await Promise.all(survivors.map((s) => ask(s, "echo", "x", null).then(([x]) => x === "x", () => false)));
  const disturbed = survivors.filter((s, i) => s.faults.length || !s.connected || !stillEcho[i]).length;
  const ok = first !== null && first <= LIMIT_MS && answers.wrong === 0 && disturbed === 0 && victimsTold;
  return { ok, ms: first === null ? null : Math.round(first * 10) / 10, victim, survivors: survivors.length, disturbed, victimsTold, answers, sessions };
});
