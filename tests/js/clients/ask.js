// Asks every server of apps/multi.js a few times: ask.js BASE_PORT SOCKET_DIR CASE[,CASE…]
//
// Answers without process ids, each once; how many workers they came from where a primary decides that.
const dgram = require("node:dgram");
const fs = require("node:fs");
const http = require("node:http");
const http2 = require("node:http2");
const net = require("node:net");
const path = require("node:path");
const tls = require("node:tls");
const { run, within } = require("./lib");

const [base, dir, names] = process.argv.slice(2);
const port = (offset) => Number(base) + offset;
const TIMES = 4;
const once = (emitter, event) => new Promise((resolve, reject) => {
  emitter.once(event, resolve);
  emitter.once("error", reject);
});
const whole = async (stream) => {
  let text = "";
  for await (const chunk of stream) text += chunk;
  return text;
};
const GET = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

const get = async (where) =>
  whole(await once(http.get({ agent: false, ...where }), "response"));

const h2 = async (where) => {
  const session = http2.connect(`http://127.0.0.1:${where}`);
  session.on("error", () => {});
  try {
    return await whole(session.request({ ":path": "/" }));
  } finally {
    session.close();
  }
};

// Each connection but the first resumes the session of the first.
const secure = (where) => {
  let session;
  return async () => {
    const socket = tls.connect({ port: where, host: "127.0.0.1", rejectUnauthorized: false, session });
    socket.on("session", (s) => { session ??= s; });
    socket.write(GET);
    return (await whole(socket)).split("\r\n\r\n")[1].split("\r\n").find((line) => line.startsWith("tls"));
  };
};

const datagram = (type, address, where) => async (i) => {
  const socket = dgram.createSocket(type);
  try {
    socket.send(String(i), where, address);
    return `${await once(socket, "message")}\n`;
  } finally {
    socket.close();
  }
};

// Without x, which means nothing here and which Node's versions set differently.
const mode = (name) => (fs.statSync(path.join(dir, name)).mode & 0o666).toString(8);
const cases = {
  path: { path: () => get({ socketPath: path.join(dir, "path.sock") }) },
  pathmode: { pathmode: () => get({ socketPath: path.join(dir, "pathmode.sock") }) },
  many: {
    any: () => get({ port: port(3), host: "127.0.0.1" }),
    "any on IPv6": () => get({ port: port(3), host: "::1" }),
    host: () => get({ port: port(4), host: "127.0.0.1" }),
    "name and backlog": () => get({ port: port(5), host: "localhost" }),
  },
  v6: { v6: () => get({ port: port(6), host: "::1" }) },
  v6only: {
    v6only: () => get({ port: port(7), host: "::1" }),
    "v6only on IPv4": () => get({ port: port(7), host: "127.0.0.1" }),
  },
  twice: { twice: () => get({ port: port(8), host: "127.0.0.1" }) },
  relisten: { relisten: () => get({ port: port(9), host: "127.0.0.1" }) },
  udp: { udp4: datagram("udp4", "127.0.0.1", port(10)), udp6: datagram("udp6", "::1", port(10)) },
  exclusive: { exclusive: () => get({ port: port(12), host: "127.0.0.1" }) },
  tls: { tls: secure(port(13)) },
  http2: { http2: () => h2(port(17)) },
  reuseport: { reuseport: () => get({ port: port(18), host: "127.0.0.1" }) },
};
// The kernel decides who gets these.
const KERNEL = ["udp4", "udp6", "reuseport"];

run(async () => {
  const answers = {};
  const workers = {};
  for (const name of names.split(",")) {
    for (const [target, once] of Object.entries(cases[name] || {})) {
      const said = [];
      const pids = new Set();
      for (let i = 0; i < TIMES; i++) {
        const text = await within(once(i), 10_000, target).catch((e) => e.code || e.message);
        const [, before, pid, after] = /^(.*?) (\d+)((?: \S+)*)\n$/.exec(text) || [, text, "", ""];
        if (pid) pids.add(pid);
        if (!said.includes(before + after)) said.push(before + after);
      }
      answers[target] = said;
      if (!KERNEL.includes(target)) workers[target] = pids.size;
    }
  }
  const modes = names.split(",").filter((n) => n.startsWith("path")).map((n) => `${n} ${mode(`${n}.sock`)}`);
  return { ok: true, answers, workers, modes };
});
