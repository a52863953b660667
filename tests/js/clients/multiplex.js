// Many Engine.IO polling sessions over a few shared keep-alive connections, as a proxy's pool would send them: any
// request of any session on any connection, each head cut in two at every byte in turn, bodies of 0 B to 10 MB, and the
// ids of other sessions wherever a careless router might look. Every answer must belong to its session, every byte arrive.
//
// multiplex.js URL [SESSIONS=200] [CONNECTIONS=8]     ROUNDS (8): events a session; SEED; LARGE (1): 0 leaves bodies >= 1 MB out
const { createHash, randomBytes } = require("node:crypto");
const { Line } = require("./raw");
const { random, run, tally } = require("./lib");

const [base, sessionCount = "200", connectionCount = "8"] = process.argv.slice(2);
const { hostname, port, host: authority } = new URL(base);
const ROUNDS = Number(process.env.ROUNDS || 8);
const LARGE = process.env.LARGE !== "0";
const seed = Number(process.env.SEED || Date.now() % 1e9);
const rand = random(seed);
const pick = (list) => list[Math.floor(rand() * list.length)];
const md5 = (x) => createHash("md5").update(x).digest("hex");

class Misroute extends Error {}
class Corrupt extends Error {}

const sessions = Array.from({ length: Number(sessionCount) }, (_, i) => ({ tag: `session ${i}`, sid: null, packets: [] }));
const lines = Array.from({ length: Number(connectionCount) }, () => new Line(hostname.replace(/^\[|\]$/g, ""), Number(port || 80)));

// A session id of somebody else, or one that nobody has.
function decoy(session) {
  const other = pick(sessions);
  return other !== session && other.sid ? other.sid : randomBytes(15).toString("base64url");
}

// Query strings that all mean the same to Engine.IO; the last ones have no session of their own yet.
const QUERIES = [
  (sid) => `EIO=4&transport=polling&sid=${sid}`,
  (sid) => `sid=${sid}&EIO=4&transport=polling`,
  (sid, x) => `xsid=${x}&EIO=4&transport=polling&sid=${sid}&sidx=${x}`,
  (sid, x) => `foo=sid%3D${x}&EIO=4&transport=polling&sid=${sid}&bar=%26sid%3D${x}`,
  (sid, x) => `SID=${x}&EIO=4&sid=${sid}&transport=polling&Sid=${x}`,
  (sid, x) => `from=/socket.io/?sid=${x}&EIO=4&transport=polling&sid=${sid}&next=?sid=${x}`,
  (sid, x) => `t=${x}&EIO=4&transport=polling&sid=${sid}&t2=sid`,
];
const FIRST_QUERIES = [
  () => "EIO=4&transport=polling",
  (x) => `xsid=${x}&EIO=4&transport=polling&sidx=${x}`,
  (x) => `foo=sid%3D${x}&EIO=4&transport=polling&from=/?sid=${x}`,
];
const HEADERS = [
  () => "",
  (x) => `Cookie: sid=${x}; io=${x}; sid=${x}\r\n`,
  (x) => `Referer: http://${authority}/socket.io/?EIO=4&transport=polling&sid=${x}\r\n`,
  (x) => `sid: ${x}\r\nX-Sid: sid=${x}\r\nX-Original-URL: /socket.io/?sid=${x}\r\n`,
];

// The cut moves on by one byte with every request, so that all of them are tried; the gap between the pieces varies.
let cuts = 0;
let requests = 0;
const cutsTried = new Set();
const GAPS_MS = [1, 0, 3];
async function send(line, session, method, target, bodies = [], extra = "") {
  const x = decoy(session);
  const length = bodies.reduce((n, b) => n + b.length, 0);
  const framing = method === "GET" || extra.includes("chunked") ? "" : `Content-Length: ${length}\r\n`;
  const [before, after] = rand() < 0.5 ? [pick(HEADERS)(x), ""] : ["", pick(HEADERS)(x)];
  const head = `${method} ${target} HTTP/1.1\r\n${before}Host: ${authority}\r\n${extra}${framing}${after}\r\n`;
  const cut = 1 + (cuts++ % 600) % (head.length - 1);
  cutsTried.add(cut);
  requests++;
  return line.request({ head, bodies, cut, gapMs: GAPS_MS[requests % GAPS_MS.length] });
}

// A request of the session's own: the body of its answer, which has to be 200.
async function own(line, session, method, payload) {
  const target = `/socket.io/?${pick(QUERIES)(session.sid, decoy(session))}`;
  const bodies = payload === undefined ? [] : [Buffer.from(payload)];
  const { status, body } = await send(line, session, method, target, bodies, bodies.length ? "Content-Type: text/plain;charset=UTF-8\r\n" : "");
  const text = body.toString();
  if (status !== 200) throw new Misroute(`${status} ${text.slice(0, 80)}`);
  if (method === "POST" && text !== "ok") throw new Misroute(`a POST answered with ${text.slice(0, 40)}`);
  return text;
}

// Bodies: mostly small, some of each size where buffers end, a few of 1 and 10 MB.
const SIZES = [0, 1, 2, 100, 1000, 1023, 1024, 4095, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 100_000, 300_000];
let bodiesMade = 0;
function size() {
  const k = bodiesMade++;
  if (LARGE && k % 400 === 50) return 10_000_000;
  if (LARGE && k % 80 === 20) return 1_000_000;
  return k % 4 === 0 ? SIZES[(k / 4) % SIZES.length] : Math.floor(10 ** (rand() * 3.5));
}
// Text with something of a request in it that is none.
function text(session, length) {
  const x = decoy(session);
  const bait = `?sid=${x}&sid=${x} \r\n\r\nGET /socket.io/?EIO=4&transport=polling&sid=${x} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n`;
  return (bait + randomBytes(Math.ceil(length * 0.75)).toString("base64")).slice(0, length);
}
const largest = { text: 0, binary: 0, raw: 0, chunked: 0 };

// The steps of a session in order; each runs on whatever connection is free next.
function* steps(session) {
  yield async (line) => {
    const { status, body } = await send(line, session, "GET", `/socket.io/?${pick(FIRST_QUERIES)(decoy(session))}`);
    if (status !== 200 || body[0] !== 0x30) throw new Misroute(`handshake: ${status} ${body.toString().slice(0, 60)}`);
    session.sid = JSON.parse(body.toString().slice(1)).sid;
  };
  yield (line) => own(line, session, "POST", `40${JSON.stringify({ tag: session.tag })}`);
  yield* receive(session, (packet) => packet.startsWith("40{"));
  for (let round = 0; round < ROUNDS; round++) {
    const kind = pick(["text", "text", "binary", "binary", "raw", "chunked"]);
    const length = size();
    largest[kind] = Math.max(largest[kind], length);
    if (kind === "text" || kind === "binary") yield* event(session, kind, length, round);
    else yield (line) => upload(line, session, kind, length);
  }
  yield (line) => own(line, session, "POST", "1");
}

// Polls until a packet of the session's `wanted`; answers pings on the way.
function* receive(session, wanted) {
  while (!session.packets.some(wanted)) {
    yield async (line) => { session.packets.push(...(await own(line, session, "GET")).split("\x1e")); };
    if (session.packets.includes("2")) {
      session.packets = session.packets.filter((p) => p !== "2");
      yield (line) => own(line, session, "POST", "3");
    }
    if (session.packets.includes("1")) throw new Misroute("the session was closed");
  }
}

// An event with its acknowledgement: the nonce and the tag say whose it is, the length and the md5 that it is whole.
function* event(session, kind, length, id) {
  const nonce = randomBytes(8).toString("hex");
  const data = kind === "text" ? text(session, length) : randomBytes(length);
  session.packets = [];
  yield (line) => own(line, session, "POST", kind === "text"
    ? `42${id}${JSON.stringify(["echo", data, nonce])}`
    : `451-${id}${JSON.stringify(["echo", { _placeholder: true, num: 0 }, nonce])}\x1eb${data.toString("base64")}`);
  const answer = kind === "text" ? `43${id}[` : `461-${id}[`;
  yield* receive(session, (packet) => packet.startsWith(answer));
  if (kind === "binary") yield* receive(session, (packet) => packet.startsWith("b"));
  const [back, gotLength, digest, gotNonce, tag] = JSON.parse(session.packets.find((p) => p.startsWith(answer)).slice(answer.length - 1));
  if (gotNonce !== nonce || tag !== session.tag) throw new Misroute(`an answer for ${tag}`);
  const returned = kind === "text" ? back : Buffer.from(session.packets.find((p) => p.startsWith("b")).slice(1), "base64");
  const same = kind === "text" ? returned === data : returned.equals(data);
  if (gotLength !== data.length || digest !== md5(data) || !same) throw new Corrupt(`${kind} of ${length}: ${gotLength} ${digest}`);
}

// Bytes to the plain HTTP route beside Socket.IO, which any worker may answer.
async function upload(line, session, kind, length) {
  const data = randomBytes(length);
  const bodies = kind === "raw" ? [data] : chunks(data);
  const extra = kind === "raw" ? "" : "Transfer-Encoding: chunked\r\n";
  const { status, body } = await send(line, session, "POST", `/echo?sid=${decoy(session)}`, bodies, extra);
  if (status !== 200) throw new Misroute(`/echo: ${status}`);
  if (body.toString() !== `${length} ${md5(data)}`) throw new Corrupt(`${kind} of ${length}: ${body.toString().slice(0, 60)}`);
}

function chunks(data) {
  const parts = [];
  for (let at = 0; at < data.length;) {
    const piece = data.subarray(at, at + 1 + Math.floor(rand() * 100_000));
    parts.push(Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n"));
    at += piece.length;
  }
  return [...parts, Buffer.from("0\r\n\r\n")];
}

run(async () => {
  const started = Date.now();
  const failures = [];
  // Sessions that wait for a free connection; a generator's next step is taken when its last one is answered.
  const waiting = sessions.map((session) => ({ session, todo: steps(session) }));
  let under = 0;
  const lane = async (line) => {
    while (waiting.length || under) {
      if (!waiting.length) { await new Promise((r) => setTimeout(r, 5)); continue; }
      const [job] = waiting.splice(Math.floor(rand() * waiting.length), 1);
      under++;
      try {
        const { done, value: step } = job.todo.next();
        if (!done) {
          await step(line);
          waiting.push(job);
        }
      } catch (e) { // the session is lost; the others go on
        failures.push({ tag: job.session.tag, kind: e.constructor.name, what: e.message });
      }
      under--;
    }
    line.drop();
  };
  await Promise.all(lines.map(lane));

  const kinds = tally(failures.map((f) => f.kind));
  const { Misroute: misroutes = 0, Corrupt: corrupted = 0 } = kinds;
  return {
    ok: failures.length === 0, misroutes, corrupted, errors: failures.length - misroutes - corrupted,
    sessions: sessions.length, connections: lines.length, opened: lines.reduce((n, l) => n + l.opened, 0),
    requests, cuts: cutsTried.size, largest, seed, ms: Date.now() - started, failures: failures.slice(0, 10),
  };
});
