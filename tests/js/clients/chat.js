// The chat of examples/chat on several hosts: what is said on one has to be read on each, and everybody seen everywhere.
//
// chat.js URL,URL...
const { io } = require("socket.io-client");
const { until, ask, run } = require("./lib");

const urls = process.argv[2].split(",");

run(async () => {
  const people = urls.map((url, i) => {
    const socket = io(url, { auth: { name: `name${i}` }, forceNew: true });
    const person = { socket, read: [], seen: [] };
    socket.on("message", (m) => person.read.push(m.text));
    socket.on("people", (list) => { person.seen = list.map((p) => p.name).sort(); });
    return person;
  });
  const names = urls.map((_, i) => `name${i}`).join();
  const found = await until(() => people.every((p) => p.seen.join() === names));
  for (const [i, { socket }] of people.entries()) await ask(socket, "message", { id: String(i), text: `text${i}` });
  const texts = urls.map((_, i) => `text${i}`).join();
  const read = await until(() => people.every((p) => [...p.read].sort().join() === texts));
  return { ok: found && read, people: people.map((p) => [p.seen, p.read]) };
});
