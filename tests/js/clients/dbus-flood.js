// A hostile caller of the system bus: everything at once that no honest one would say, and most of it without
// waiting for answers. Says "going" when it has begun, goes on for SECONDS, and then how much it has said and heard.
//
// dbus-flood.js NAME SECONDS       NAME: of whom is called
const net = require("node:net");

const [name, seconds] = process.argv.slice(2);
const APP = "/org/cohortd/app";
const APP1 = "org.cohortd.App1";
const PROPERTIES = "org.freedesktop.DBus.Properties";
const NO_REPLY = 1;

const pad = (bytes, to) => Buffer.concat([bytes, Buffer.alloc((to - (bytes.length % to)) % to)]);
const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32LE(n); return b; };
const string = (s) => Buffer.concat([u32(Buffer.byteLength(s)), Buffer.from(s), Buffer.alloc(1)]);
const signature = (s) => Buffer.concat([Buffer.from([s.length]), Buffer.from(s), Buffer.alloc(1)]);

let serial = 0;
// A method call, by the D-Bus specification's "Message Protocol"; the body need not fit its signature.
function call(path, face, member, { types = "", body = Buffer.alloc(0), flags = NO_REPLY, to = name } = {}) {
  const given = [[1, "o", path], [2, "s", face], [3, "s", member], [6, "s", to], [8, "g", types]];
  let fields = Buffer.alloc(0);
  for (const [code, type, value] of given.filter(([, , value]) => value)) {
    fields = pad(fields, 8);
    fields = Buffer.concat([fields, Buffer.from([code]), signature(type)]);
    fields = Buffer.concat([pad(fields, type === "g" ? 1 : 4), type === "g" ? signature(value) : string(value)]);
  }
  const head = Buffer.concat([Buffer.from([0x6c, 1, flags, 1]), u32(body.length), u32(++serial), u32(fields.length), fields]);
  return Buffer.concat([pad(head, 8), body]);
}

const strings = (...all) => all.reduce((body, s) => Buffer.concat([pad(body, 4), string(s)]), Buffer.alloc(0));
const huge = "x".repeat(8 << 20);
const trigger = (parameter) => Buffer.concat([u32(0), string("where"), Buffer.alloc(2), string(parameter)]);
const kinds = [
  () => call(APP, APP1, "Reload"),
  () => call(APP, APP1, "Reload", { flags: 4 }), // may ask for a password
  () => call(APP, APP1, "Scale", { types: "u", body: u32(1000) }),
  () => call(APP, APP1, "Scale", { types: "s", body: strings("one") }),
  () => call(APP, APP1, "Scale"),
  () => call(APP, APP1, "ScaleBy", { types: "i", body: u32(0xffffffff), flags: 0 }),
  () => call(APP, APP1, "Signal", { types: "ii", body: Buffer.concat([u32(0xffffffff), u32(9)]) }),
  () => call(APP, APP1, "Trigger", { types: "iss", body: trigger("[".repeat(100000)) }),
  () => call(APP, APP1, "Nonesuch", { flags: 0 }),
  () => call(`${APP}/worker/999999`, "org.cohortd.Worker1", "Kill", { flags: 0 }),
  () => call("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", { flags: 0 }),
  () => call(APP, "org.freedesktop.DBus.Introspectable", "Introspect", { flags: 0 }),
  () => call(`${APP}/worker/1`, PROPERTIES, "GetAll", { types: "s", body: strings("org.cohortd.Worker1"), flags: 0 }),
  () => call(`${APP}/worker/1`, PROPERTIES, "Get", { types: "ss", body: strings("org.cohortd.Worker1", "Memory"), flags: 0 }),
  () => call(APP, PROPERTIES, "Set", { types: "ssv", body: Buffer.concat([pad(Buffer.concat([strings(APP1, "State"), signature("s")]), 4), string("broken")]) }),
];
const large = [
  () => call(APP, APP1, "Trigger", { types: "iss", body: trigger(huge) }),
  () => call(APP, PROPERTIES, "Get", { types: "ss", body: strings(APP1, huge) }),
  () => call(APP, APP1, "Scale", { types: "s", body: strings(huge) }),
];

let [said, heard] = [0, 0]; // calls, and bytes of answers
const until = Date.now() + Number(seconds) * 1000;

function connect() {
  const bus = net.connect("/run/dbus/system_bus_socket");
  let begun = false;
  const go = () => {
    while (Date.now() < until) {
      const all = said % 2000 === 1999 ? large : kinds;
      const message = all[Math.floor(Math.random() * all.length)]();
      said += 1;
      if (!bus.write(message)) return;
    }
    bus.destroy();
  };
  bus.on("connect", () => {
    const user = Buffer.from(String(process.getuid())).toString("hex");
    bus.write(`\0AUTH EXTERNAL ${user}\r\n`);
  });
  bus.on("data", (chunk) => {
    heard += chunk.length;
    if (begun) return;
    begun = true;
    bus.write("BEGIN\r\n");
    bus.write(call("/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", { flags: 0, to: "org.freedesktop.DBus" }));
    console.log("going");
    go();
  });
  bus.on("drain", go);
  bus.on("error", () => {});
  // The bus ends who breaks its rules.
  bus.on("close", () => { if (Date.now() < until) setTimeout(connect, 10); });
}

for (let i = 0; i < 4; i++) connect();
setTimeout(() => { console.log(JSON.stringify({ said, heard })); process.exit(0); }, Number(seconds) * 1000 + 200);
