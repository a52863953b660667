// Tables of what was measured: medians, spread and ratios, as Markdown, and one plot.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { spawnSync } = require("node:child_process");
const profile = require("./profile");
const page = require("./page");

const sorted = (numbers) => numbers.filter(Number.isFinite).sort((a, b) => a - b);
function median(numbers) {
  const all = sorted(numbers);
  if (!all.length) return null;
  return (all[(all.length - 1) >> 1] + all[all.length >> 1]) / 2;
}
const number = (digits) => (x) => (x === null ? "–" : x.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
const round = (x) => number(Math.abs(x) >= 100 || Number.isInteger(x) ? 0 : 1)(x);
const spread = (numbers, format) => {
  const all = sorted(numbers);
  return all.length ? `${format(median(all))} (${format(all[0])}..${format(all.at(-1))})` : "–";
};
const MB = 1e6;

exports.brief = (sample) => Object.entries(sample)
  .filter(([name]) => name !== "parts")
  .map(([name, x]) => (typeof x === "number" ? `${name} ${round(x)}` : name === "share" ? brieflyShared(x) : x && `${name} ${x}`)).filter(Boolean).join("  ");
const PARTS = ["router", "workers", "load", "other"];
const brieflyShared = (share) => Object.keys(share).map((part) => `${part} ${share[part].toFixed(0)} %`).join(", ");

// A column: its title and what it shows of a contestant's samples. Ratios are of the same round's, then the median.
const of = (title, name, format = round) => ({ title, cell: (samples) => { const m = median(samples.map((s) => s[name])); return m === null ? "–" : format(m); } });
const ratios = (samples, others, name) => samples.map((s) => s[name] / others.find((o) => o.round === s.round)?.[name]);
const against = (title, other, name = "rate") => ({ title, cell: (samples, all) => number(2)(median(ratios(samples, all[other]?.samples ?? [], name))) });
const shares = (title, parts) => ({ title, cell: (samples) => parts.map((part) => number(0)(median(samples.map((s) => s.share[part])))).join(", ") });
const cpu = shares("CPU %: router, workers, load, other", PARTS);
const loaded = (unit, ...more) => [
  { title: `${unit}s/s (min..max)`, cell: (samples) => spread(samples.map((s) => s.rate), round) },
  against("÷ one worker", "direct"), ...more,
  of("p50 µs", "p50"), of("p99 µs", "p99"),
  { title: "failed", cell: (samples) => round(samples.reduce((n, s) => n + s.failures, 0)) },
  of(`router µs/${unit}`, "router"), of(`workers µs/${unit}`, "workers"), cpu,
];
const emitted = (clients, workers) => {
  const relayed = workers - 1;
  const times = (title, factor, name, single) => ({
    title, cell: (samples, all, contestant) => (contestant.workers === 1 && single ? "–" : round(median(samples.map((s) => s[name])) * factor)),
  });
  return [
    ...loaded("emit").slice(0, 2), times("delivered/s", clients, "rate"), times("relayed/s", relayed, "rate", true),
    times("router µs/relayed", 1 / relayed, "router", true), ...loaded("emit").slice(2, 5), ...loaded("emit").slice(6),
  ];
};

// Of several hosts: what is against the first adapter's, and all CPU.
const between = (...more) => [
  { title: "packets/s (min..max)", cell: (samples) => spread(samples.map((s) => s.rate), round) }, ...more,
  { title: "p50 µs (min..max)", cell: (samples) => spread(samples.map((s) => s.p50), round) },
  { title: "p99 µs (min..max)", cell: (samples) => spread(samples.map((s) => s.p99), round) },
  { title: "failed", cell: (samples) => round(samples.reduce((n, s) => n + s.failures, 0)) },
  { title: "CPU µs/packet (min..max)", cell: (samples) => spread(samples.map((s) => s.total), round) }, against("÷ `redis`'s", "redis", "total"),
  of("workers", "workers"), of("cohortd", "router"), of("bus", "bus"),
  shares("CPU %: workers, cohortd, bus, load, other", ["workers", "router", "bus", "load", "other"]),
];
const HOSTS = "Two hosts of two workers each, all on this machine. One packet is one `io.emit()`: it is published once, goes to the three other\nworkers and to one client of each, and is done when the last client has it.";
const adapters = () => `Redis ${says("redis-server", "--version")}, nats-server ${says("nats-server", "--version")}, @socket.io/cluster-adapter ${version("@socket.io/cluster-adapter")} behind cohortd;
without it @socket.io/redis-adapter ${version("@socket.io/redis-adapter")} with the client \`redis\` ${version("redis")} (the sharded one, too) or \`ioredis\` ${version("ioredis")}, and
@socket.io/redis-streams-adapter ${version("@socket.io/redis-streams-adapter")}: four plain processes, with nothing in front. \`json\` is cohortd's \`serialization\`, which carries
no binary data; all others do. CPU is that of all processes but the load's.`;

const tables = (sockets) => [
  ["http", "keep-alive", "HTTP, connections kept alive", "32 connections.", loaded("request", against("÷ shared port", "port"))],
  ["http", "new connections", "HTTP, a new connection each", "32 at a time, `Connection: close`.", loaded("request", against("÷ shared port", "port"))],
  ["socketio", "connect", "Socket.IO: connect by polling, then upgrade", "32 at a time; a client counts when an echo has come back over its WebSocket.", loaded("connect")],
  ["socketio", "polling", "Socket.IO: requests of polling sessions", "32 sessions that send by POST and get the echo by GET, each on a connection of its own.", loaded("request")],
  ["socketio", "echo", "Socket.IO: WebSocket echo", "64 clients, each with one message on its way.", loaded("message")],
  ["emit2", "relay", "`io.emit()`: relay, 2 workers", "One client a worker, 64 emits on their way; an emit is done when the last client has it.", emitted(2, 2)],
  ["emit4", "relay", "`io.emit()`: relay, 4 workers", "The same with four clients.", emitted(4, 4)],
  ["emit8", "relay", "`io.emit()`: relay, 8 workers", "The same with eight clients.", emitted(8, 8)],
  ["emit2", "fanout", "`io.emit()`: 200 clients on 2 workers", "8 emits on their way.", emitted(200, 2)],
  ["emit4", "fanout", "`io.emit()`: 200 clients on 4 workers", "8 emits on their way.", emitted(200, 4)],
  ["hosts", "relay", "Several hosts: as many packets as go", `${HOSTS} 64 are on their\nway. ${adapters()}`, between(against("÷ `redis`'s", "redis"))],
  ["hosts", "paced", "Several hosts: 1,000 packets a second", "The same, but each goes off at its time, however many are on their way.", between()],
  ["idle", "idle", "Idle WebSockets: what a plain request costs the router beside them", "Router µs a request, 32 kept-alive connections. One worker directly: 0, as there is no router.",
    sockets.map((n) => of(`${round(n)} idle`, `router${n}`))],
  ["idle", "idle", "Idle WebSockets: what they cost the router", `From ${sockets[0]} to ${sockets.at(-1).toLocaleString("en-US")} of them. One worker directly: 0.`,
    [...sockets.map((n) => of(`MB with ${round(n)}`, `resident${n}`, (x) => number(1)(x / MB))), of("bytes each", "perSocket"),
      of("descriptors each", "descriptorsPerSocket", number(2)), of("CPU while idle, ms/s", "still", number(1))]],
  ["start", "rest", "Start, and at rest with 4 workers", "From the start of the first process to the first answer; resident memory of the router's processes.",
    [{ title: "first answer, ms (min..max)", cell: (samples) => spread(samples.map((s) => s.cold), round) }, of("resident MB", "resident", (x) => number(1)(x / MB))]],
];

// What was to be reached: a figure of cohortd's, perhaps divided by another's, at most or at least so much. The last word
// names another of cohortd's contestants.
const GOALS = [
  ["keep-alive: requests/s ÷ one worker", "http", "keep-alive", "rate", "direct", "≥", 0.7],
  ["keep-alive: router CPU ÷ nginx's", "http", "keep-alive", "router", "nginx", "≤", 0.9],
  ["keep-alive: p99 ÷ nginx's", "http", "keep-alive", "p99", "nginx", "≤", 1],
  ["new connections: router CPU ÷ nginx's", "http", "new connections", "router", "nginx", "≤", 0.9],
  ["new connections: p99 ÷ nginx's", "http", "new connections", "p99", "nginx", "≤", 1],
  ...["keep-alive", "new connections"].flatMap((load) => [["shared", 0.97], ["handoff", load === "keep-alive" ? 0.97 : 0.75]].map(([of, limit]) =>
    [`\`${of}\`, ${load}: requests/s ÷ the workers alone`, "http", load, "rate", "port", "≥", limit, of])),
  ["`handoff`, new connections: router CPU ÷ Node's primary's", "http", "new connections", "router", "cluster", "≤", 0.5, "handoff"],
  ["connects/s ÷ nginx's", "socketio", "connect", "rate", "nginx", "≥", 1],
  ["failed connects", "socketio", "connect", "failures", null, "≤", 0],
  ["polling: requests/s ÷ @socket.io/pm2's, workers with sticky 2", "socketio", "polling", "rate", "siopm2w2", "≥", 5],
  ["polling: failed requests", "socketio", "polling", "failures", null, "≤", 0],
  ["relay, 2 workers: router µs/packet", "emit2", "relay", "router", null, "≤", 3],
  ["relay, 2 workers: packets/s ÷ @socket.io/pm2's", "emit2", "relay", "rate", "siopm2", "≥", 1.2],
  ["relay, 2 workers: p99 ÷ @socket.io/pm2's", "emit2", "relay", "p99", "siopm2", "≤", 1],
  ["relay, 8 workers: router CPU ÷ @socket.io/pm2's", "emit8", "relay", "router", "siopm2", "≤", 0.25],
  ...Object.entries({ nginx: "nginx", sticky2: "@socket.io/sticky 2", siopm2: "@socket.io/pm2" }).flatMap(([peer, title]) => [2, 4].map((n) =>
    [`200 clients on ${n} workers: emits/s ÷ ${title}'s`, `emit${n}`, "fanout", "rate", peer, "≥", 1])),
  ...[["hostsredis", "Redis", "redis"], ["hostsredis", "Redis", "ioredis"], ["hostsjson", "Redis and `json`", "redis"], ["hostsnats", "NATS", "redis"]].flatMap(([own, bus, peer]) => [
    [`two hosts, ${bus}: packets/s ÷ redis-adapter's, \`${peer}\``, "hosts", "relay", "rate", peer, "≥", 1, own],
    [`two hosts, ${bus}: CPU of all ÷ redis-adapter's, \`${peer}\``, "hosts", "relay", "total", peer, "≤", 1, own],
    [`two hosts, ${bus}: CPU of all at 1,000 packets/s ÷ redis-adapter's, \`${peer}\``, "hosts", "paced", "total", peer, "≤", 1, own],
  ]),
  ["idle WebSocket: bytes", "idle", "idle", "perSocket", null, "≤", 200],
  ["idle WebSocket: descriptors", "idle", "idle", "descriptorsPerSocket", null, "≤", 0.01], // connections that are pooled come and go
  ["idle WebSockets: CPU, ms/s", "idle", "idle", "still", null, "≤", 1],
  ["4 idle workers: resident MB", "start", "rest", "residentMB", null, "≤", 10],
];

// The lines of the works that were measured.
function goals(results) {
  return GOALS.filter(([, work]) => results[work]).flatMap(([what, work, load, name, peer, sign, limit, of = "cohortd"]) => {
    const all = results[work]?.[load];
    const own = all?.[of]?.samples.map((s) => ({ ...s, residentMB: s.resident / MB })) ?? [];
    const got = median(peer ? ratios(own, all?.[peer]?.samples ?? [], name) : own.map((s) => s[name]));
    if (got === null) return [`| ${what} | ${sign} ${limit} | not measured | |`];
    return [`| ${what} | ${sign} ${limit} | ${number(Math.abs(got) < 100 ? 2 : 0)(got)} | ${(sign === "≤" ? got <= limit : got >= limit) ? "yes" : "**no**"} |`];
  });
}

function table([work, load, title, text, columns], results, contestants, when) {
  const all = results[work]?.[load];
  if (!all) return "";
  const order = Object.keys(contestants).filter((name) => all[name]);
  const notes = [];
  const rows = order.map((name) => {
    const { samples, failures } = all[name];
    const head = `| ${contestants[name].title} |`;
    if (!samples.length) return `${head} not run: ${failures[0].replaceAll("|", "/")} |${" |".repeat(columns.length - 1)}`;
    if (failures.length) notes.push(`${contestants[name].title}: ${failures.length} of ${failures.length + samples.length} rounds not run: ${failures[0]}`);
    const why = samples.map((s) => s.why).filter(Boolean);
    if (why.length) notes.push(`${contestants[name].title}, failed: ${why.join("; ")}`);
    return `${head} ${columns.map(({ cell }) => cell(samples, all, contestants[name])).join(" | ")} |`;
  });
  return `### ${title}\n${text}${when && `\n\n${when}`}\n\n| | ${columns.map((c) => c.title).join(" | ")} |\n|---|${"--:|".repeat(columns.length)}\n${rows.join("\n")}\n${notes.map((n) => `\n${n}.\n`).join("")}`;
}

// Router µs a request over the number of idle WebSockets, as SVG.
function plot(results, contestants, sockets) {
  const lines = Object.entries(results.idle?.idle ?? {}).filter(([, { samples }]) => samples.length)
    .map(([name, { samples }]) => ({ name, ys: sockets.map((n) => median(samples.map((s) => s[`router${n}`]))).filter((us) => us !== null) }));
  const [width, height, left, top] = [640, 320, 60, 20];
  const most = 1.1 * Math.max(1, ...lines.flatMap(({ ys }) => ys));
  const x = (i) => left + (i * (width - left - 220)) / Math.max(1, sockets.length - 1);
  const y = (us) => top + (height - 60) * (1 - us / most);
  const text = (at, down, words, more = "") => `<text x="${at}" y="${down}" ${more}>${words}</text>`;
  const colours = ["#c0392b", "#2471a3", "#1e8449", "#b7950b", "#6c3483"];
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${[0, 0.5, 1].map((part) => `<path d="M${left} ${y(most * part)}H${x(sockets.length - 1)}" stroke="#ccc"/>${text(left - 6, y(most * part) + 4, round(most * part), 'text-anchor="end"')}`).join("\n")}
${sockets.map((n, i) => text(x(i), height - 24, round(n), 'text-anchor="middle"')).join("\n")}
${text(left, height - 6, "idle WebSockets; upwards: router µs a request")}
${lines.map(({ name, ys }, i) => `<polyline points="${ys.map((us, j) => `${x(j)},${y(us)}`).join(" ")}" fill="none" stroke="${colours[i % colours.length]}" stroke-width="2"/>
${text(x(sockets.length - 1) + 8, top + 16 + 18 * i, contestants[name].title.replaceAll("*", ""), `fill="${colours[i % colours.length]}"`)}`).join("\n")}
</svg>
`;
}

const version = (name) => JSON.parse(fs.readFileSync(path.join(__dirname, "peers/node_modules", name, "package.json"))).version;
const says = (command, flag) => { const { stdout, stderr } = spawnSync(command, [flag]); return /\d+\.\d+(\.\d+)?/.exec(`${stdout}${stderr}`)?.[0] ?? "missing"; };

const git = (...args) => spawnSync("git", args, { cwd: path.join(__dirname, ".."), encoding: "utf8" }).stdout?.trim();
const commit = () => `commit ${git("rev-parse", "--short", "HEAD")}${git("status", "--porcelain", "src", "benches", "Cargo.toml", "Cargo.lock") ? " with changes" : ""}`;

// What was measured: { head, goals, tables } of the page, and the plot. With `part` the tables say themselves when that was.
exports.parts = (results, contestants, { rounds, seconds, sockets, disturbed }, minutes, part) => {
  const others = Object.values(results).flatMap(Object.values).flatMap(Object.values).flatMap(({ samples }) => samples).map((s) => s.share?.other);
  const other = `${round(median(others))} % (median; at most ${round(sorted(others).at(-1) ?? null)} %)`;
  const today = new Date().toISOString().slice(0, 10);
  const when = !part ? "" : `Measured apart from the others: ${rounds} rounds of ${seconds} s on ${today}, of ${commit()}. Other things took ${other} of the machine; ${disturbed.again} of ${disturbed.loads} loads
were put on again.`;
  const head = `# Benchmarks
Written by \`make bench\`: don't edit. It measured ${rounds} rounds in ${number(0)(minutes)} minutes, on ${today}, of ${commit()}. Tables that
were measured apart say when; what cohortd was to reach there is of the same run.

- **Machine**: ${os.cpus()[0].model}, ${os.cpus().length} cores, Linux ${/^\d+\.\d+/.exec(os.release())[0]}. The load's generator, router and
  workers share the cores; the last column says who had how much of them. "Other" is everything else: the kernel's
  share that belongs to no process, and whatever else the machine does, here ${other}. Where it is
  high, rates say little; router µs and ratios still do.
- **Neighbours** of a virtual machine are in no counter of its own. So a load is put on again, twice at most, if a fixed piece
  of work on all cores just before or after it took over ${disturbed.limit} times as long as at its best. That was so ${disturbed.again} times in
  ${disturbed.loads} loads; ${disturbed.kept} were taken though it was so the third time.
- **Versions**: Node ${process.versions.node}, nginx ${says("nginx", "-v")}, HAProxy ${says("haproxy", "-v")}, PM2 ${version("pm2")}, @socket.io/pm2 ${version("@socket.io/pm2")}, @socket.io/sticky ${version("sticky1")} and
  ${version("sticky2")}, @socket.io/cluster-adapter ${version("@socket.io/cluster-adapter")}, socket.io ${version("socket.io")}.
- **Rounds**: each starts every contestant once, one at a time, in an order that turns. A load runs for ${seconds} s after a
  warm-up of two. Figures are medians of the rounds; a ratio is taken within each round. All processes are of one
  session, so that the kernel shares the processors out by process and not by contestant.
- **Router** is every process in front of the workers or beside them to relay: cohortd; nginx's master and worker, and
  Node's primary that relays for it; Node's primary; PM2's daemon. Its CPU is utime and stime of /proc. nginx has one
  worker process and HAProxy one thread, as cohortd has. Two workers, if nothing else is said.
- **The limit** is one worker hit directly, with nothing to route or to relay, and for HTTP also the same two workers
  sharing the port.
- **Load**: HTTP by wrk; Socket.IO by a lean client in benches/load, from 250 addresses, as nginx routes by address.
- Workers with sticky 2 answer every request with \`Connection: close\`: no router can keep a connection to them.
  sticky 1 routes a connection once, by its first request; its figures hold for clients that share none.

`;
  const measured = tables(sockets).map((t) => table(t, results, contestants, when)).filter(Boolean);
  return { head, goals: goals(results), tables: measured, plot: plot(results, contestants, sockets) };
};

// The page `text` with those parts.
exports.renew = (text, parts, { sockets }) => page.renew(text, parts, { goals: GOALS.map(([what]) => what), tables: tables(sockets).map(([, , title]) => title) });

exports.profile = (results, contestants, { seconds, sockets }) => {
  const sections = tables(sockets).filter(([work, load]) => results[work]?.[load]).map(([work, load, title, text]) =>
    `## ${title}\n${text}\n\n${profile.table(results[work][load], (name) => contestants[name].title)}`);
  return `# Where the router's CPU goes
Written by \`make profile\`: don't edit. Samples of ${seconds} s, on ${new Date().toISOString().slice(0, 10)}; what was measured how is in
[benchmarks.md](benchmarks.md), what follows from it in [performance.md](performance.md). Each part is its share of perf's
samples times the router's µs for a unit of the load, which is a little more under perf than without it.

${[...new Set(sections)].join("\n")}`;
};
