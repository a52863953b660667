// The page's side of the chat: one socket, shown with the worker that serves it.
// ?transport=polling or ?transport=websocket forces a transport, ?name=NAME sets the name.
"use strict";
const $ = (id) => document.getElementById(id);
const chat = $("chat");
const query = new URLSearchParams(location.search);

const pick = (list) => list[Math.floor(Math.random() * list.length)];
let name =
  query.get("name") ||
  sessionStorage.getItem("name") || // one name a tab, not one a browser
  pick(["Amber", "Brisk", "Calm", "Dapper", "Early", "Fond", "Gentle", "Hazel", "Keen", "Merry", "Quiet", "Silver"]) +
    " " +
    pick(["Avocet", "Bunting", "Curlew", "Dunlin", "Egret", "Finch", "Heron", "Lapwing", "Martin", "Plover", "Swift", "Wren"]);
sessionStorage.setItem("name", name);
$("name").value = name;

const forced = query.get("transport");
const socket = io({
  ...(["polling", "websocket"].includes(forced) && { transports: [forced] }),
  auth: (give) => give({ name }),
  reconnectionDelay: 200,
  reconnectionDelayMax: 2000,
  ackTimeout: 5000,
  retries: 20, // what was typed while a worker died is sent again, by whichever serves next
});

const describe = ({ slot, worker }) => (slot === null ? "" : `slot ${slot}, `) + `worker ${worker}`;
const hue = ({ slot, worker }) => (255 + Number(slot ?? worker) * 137.5) % 360; // golden angle: neighbours differ

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// What serves this tab

let me = null;

function state(now, words) {
  chat.dataset.state = now;
  $("state").textContent = words;
}

function transport(now, before = "") {
  chat.dataset.transport = now;
  chat.dataset.transports = `${before} ${now}`.trim();
  $("transport").textContent = now;
}

// Not the socket's "connect": on a slow day the upgrade comes first.
socket.io.on("open", () => {
  const { engine } = socket.io;
  transport(engine.transport.name);
  engine.on("upgrade", (to) => transport(to.name, chat.dataset.transports));
});

socket.on("hello", (worker) => {
  me = worker;
  for (const key of ["slot", "worker", "pid"]) {
    chat.dataset[key] = me[key] ?? "";
    $(key).textContent = me[key] ?? "–";
  }
  chat.style.setProperty("--hue", hue(me));
  notice(`Served by ${describe(me)}, pid ${me.pid}`);
  chat.dataset.connects = Number(chat.dataset.connects) + 1;
  state("connected", "Connected");
});

socket.on("disconnect", () => {
  state("reconnecting", "Reconnecting…");
  if (me) notice(`Lost ${describe(me)}; looking for another`);
});

socket.on("connect_error", () => {
  if (socket.active) return; // it tries again by itself
  state("refused", "Refused");
});

// Who is here

socket.on("people", (people) => {
  const workers = new Map();
  for (const person of people) {
    if (!workers.has(person.worker)) workers.set(person.worker, []);
    workers.get(person.worker).push(person);
  }
  chat.dataset.online = people.length;
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  $("online").textContent = `${people.length} online on ${plural(workers.size, "worker")}`;
  $("workers").replaceChildren(
    ...[...workers.values()]
      .sort(([a], [b]) => a.slot - b.slot || a.worker - b.worker)
      .map((there) => {
        const names = there.map((person) => person.name).join(", ");
        const chip = element("li", there[0].worker === me?.worker ? "here-too" : "");
        chip.append(element("b", "", `worker ${there[0].worker}`), ` ${there.length > 3 ? `${there.length} people` : names}`);
        chip.title = names;
        chip.style.setProperty("--hue", hue(there[0]));
        return chip;
      }),
  );
});

// Messages

const shown = new Map(); // id → its <li>
const own = sessionStorage.getItem("own") || crypto.getRandomValues(new Uint32Array(2)).join("-"); // starts the ids of this tab's messages
sessionStorage.setItem("own", own);

const list = $("messages");
const toEnd = () => (list.scrollTop = list.scrollHeight);
let atEnd = true; // unless the reader scrolled up
list.addEventListener("scroll", () => (atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80));
new ResizeObserver(() => atEnd && toEnd()).observe(list); // a phone's keyboard came up

function append(item) {
  list.append(item);
  if (list.children.length > 300) {
    shown.delete(list.firstChild.dataset.id);
    list.firstChild.remove();
  }
  if (atEnd || item.classList.contains("mine")) toEnd();
}

function notice(text) {
  append(element("li", "notice", text));
}

function draw(m) {
  const item = element("li", m.id.startsWith(own) ? "message mine" : "message");
  Object.assign(item.dataset, { id: m.id, name: m.name, sent: "waiting" });
  item.append(element("p", "name", m.name), element("p", "text", m.text), element("p", "via", "on its way…"));
  shown.set(m.id, item);
  append(item);
  return item;
}

function show(m) {
  const item = shown.get(m.id) ?? draw(m);
  if (item.dataset.sent === "yes") return; // seen before: live, in the history or sent twice
  Object.assign(item.dataset, { sent: "yes", worker: m.via.worker, slot: m.via.slot ?? "" });
  item.style.setProperty("--hue", hue(m.via));
  const time = new Date(m.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.querySelector(".via").textContent = `through ${describe(m.via)} at ${time}`;
  if (m.name === typist) nobodyTypes();
}

socket.on("message", show);
socket.on("history", (messages) => messages.forEach(show));

// Saying something

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  const m = { id: `${own}-${Date.now()}`, name, text };
  draw(m);
  socket.emit("message", { id: m.id, text });
  $("text").value = "";
  $("text").focus();
  toldAt = 0;
});

$("name").addEventListener("change", () => {
  name = $("name").value.trim() || name;
  $("name").value = name;
  sessionStorage.setItem("name", name);
  socket.emit("rename", name);
});
$("name").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // it would send the message
  $("text").focus();
});

// Who is typing

let typist = null;
let typingEnds;
let toldAt = 0;

function nobodyTypes() {
  typist = null;
  $("typing").textContent = "";
}

socket.on("typing", (who) => {
  typist = who;
  $("typing").textContent = `${who} is typing…`;
  clearTimeout(typingEnds);
  typingEnds = setTimeout(nobodyTypes, 3000);
});

$("text").addEventListener("input", () => {
  if (!$("text").value || Date.now() - toldAt < 1500) return;
  toldAt = Date.now();
  socket.volatile.emit("typing");
});
