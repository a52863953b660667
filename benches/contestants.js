// Who is measured, and how each is started.
//
// A starter gets { port, app, workers, dir } (app: "http" or "sio"; from `port` on, 10 ports are its own; `dir` is an
// empty folder) and gives the ids of its routers: the processes in front of the workers, or beside them to relay. One with
// several hosts gives { routers, bus, doors }: also the ids of what is between them, and the ports that clients come to.
const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { start, until, children } = require("./processes");

const NODE = process.execPath;
const PEERS = path.join(__dirname, "peers/node_modules");
const PRIMARY = path.join(__dirname, "apps/primary.js");
const COHORTD = path.join(process.env.CARGO_TARGET_DIR || path.join(__dirname, "../target"), "release/cohortd");
const script = (app) => path.join(__dirname, `apps/${app}.js`);
const ports = (port, n) => Array.from({ length: n }, (_, i) => port + 1 + i);
// The environment that makes the Socket.IO app a worker of a sticky router.
const sticky = (app, name) => (app === "sio" ? { ADAPTER: "cluster", STICKY: name } : {});

const direct = (env) => ({ port, app, workers }) => {
  for (let i = 0; i < workers; i++) start(NODE, [script(app)], { env: { PORT: port, ...env } });
  return [];
};

// `more` is TOML for the middle of the configuration; with `name`, the Socket.IO app's workers take that sticky package, else they listen.
const cohortd = (more = "", name = "") => (at) => [serve(at, more, name)];
function serve({ port, app, workers, dir }, more, name) {
  const env = { PORT: String(port), ...sticky(app, name) };
  fs.writeFileSync(path.join(dir, "bench.toml"), `
exec = ${JSON.stringify([NODE, script(app)])}
listen = ["127.0.0.1:${port}"]
workers = ${workers}
${more}
[env]
${Object.entries(env).map(([key, value]) => `${key} = "${value}"`).join("\n")}
`);
  return start(COHORTD, ["run", path.join(dir, "bench.toml")], { env: { XDG_RUNTIME_DIR: dir, COHORTD_LOG: "warn" } }).pid;
}

const primary = (name) => ({ port, app, workers }) =>
  [start(NODE, [PRIMARY, workers, script(app)], { env: { PORT: port, ...sticky(app, name) } }).pid];

// Workers behind a proxy, each on a port of its own; Socket.IO's have a primary that only relays.
function behind({ port, app, workers }) {
  if (app === "sio") return [start(NODE, [PRIMARY, workers, script(app)], { env: { PORT: port, ADAPTER: "cluster", EXCLUSIVE: "1" } }).pid];
  for (const own of ports(port, workers)) start(NODE, [script(app)], { env: { PORT: own } });
  return [];
}

const nginx = async (at) => {
  const { port, app, workers, dir } = at;
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((x) => `${x}_temp_path ${dir}/${x};`).join(" ");
  fs.writeFileSync(path.join(dir, "nginx.conf"), `
daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid ${dir}/pid; error_log stderr crit;
events { worker_connections 32768; }
http {
  access_log off; ${folders} keepalive_requests 100000000;
  map $http_upgrade $connection_header { default upgrade; "" ""; }
  upstream workers {
    ${app === "sio" ? "ip_hash;" : ""}
    ${ports(port, workers).map((own) => `server 127.0.0.1:${own} max_fails=0;`).join(" ")}
    keepalive 64; keepalive_requests 100000000;
  }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://workers; proxy_http_version 1.1; proxy_read_timeout 1h;
      proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_header;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`);
  const relay = behind(at);
  const master = start("nginx", ["-p", dir, "-c", path.join(dir, "nginx.conf")], {}).pid;
  const [worker] = await until(() => children(master).length && children(master), 5_000, "nginx has no worker");
  return [master, worker, ...relay];
};

const haproxy = (at) => {
  const { port, workers, dir } = at;
  fs.writeFileSync(path.join(dir, "haproxy.cfg"), `
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option forwardfor
listen app
  bind 127.0.0.1:${port}
  balance roundrobin
  ${ports(port, workers).map((own) => `server w${own} 127.0.0.1:${own}`).join("\n  ")}
`);
  const relay = behind(at);
  return [start("haproxy", ["-db", "-f", path.join(dir, "haproxy.cfg")]).pid, ...relay];
};

// PM2 in cluster mode, its daemon private to `dir`, and in the foreground: started as everything else is. `name`: the workers' sticky package.
const pm2 = (of, name) => ({ port, app, workers, dir }) => {
  const file = path.join(dir, "bench.config.json");
  const env = { PORT: port, ...sticky(app, name) };
  fs.writeFileSync(file, JSON.stringify({ apps: [{ name: "bench", script: script(app), exec_mode: "cluster", instances: workers, env }] }));
  return [start(NODE, [path.join(PEERS, of, "bin/pm2"), "start", "--no-daemon", file], {
    cwd: dir,
    env: { PM2_HOME: dir, PM2_PORT: port, PM2_DISABLE_VERSION_CHECK: "true", PM2_DISCRETE_MODE: "true" },
  }).pid];
};

const listens = (port) => new Promise((done) => {
  const socket = net.connect({ port, host: "127.0.0.1" }, () => { socket.destroy(); done(true); });
  socket.on("error", () => done(false));
});

// What is between hosts, of nobody else: it writes nothing to a disk.
const BUS = {
  redis: (port, dir) => start("redis-server", ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir]),
  nats: (port) => start("nats-server", ["-a", "127.0.0.1", "-p", port]),
};
async function broker(kind, { port, dir }) {
  const own = port + 9;
  const { pid } = BUS[kind](own, dir);
  await until(() => listens(own), 5_000, `${kind} does not listen`);
  return { url: `${kind}://127.0.0.1:${own}`, own, pid };
}

const HOSTS = 2;

// A cohortd for each host, a bus between them; `first` is TOML for the top of the configuration.
const hosts = (kind, first = "") => async (at) => {
  const { url, pid } = await broker(kind, at);
  const doors = Array.from({ length: HOSTS }, (_, host) => at.port + host);
  const routers = doors.map((port, host) => {
    const dir = path.join(at.dir, `host${host}`);
    fs.mkdirSync(dir);
    const relay = `${first}\n[relay]\nbus = "${url}"\nhost = "host${host}"\nnumber = ${host + 1}\nchannel = "bench"`;
    return serve({ ...at, port, dir, workers: at.workers / HOSTS }, relay, "");
  });
  return { routers, bus: [pid], doors };
};

// The same workers by themselves, with an adapter that goes to Redis: nothing is in front of them.
const adapter = (name) => async (at) => {
  const { own, pid } = await broker("redis", at);
  const doors = Array.from({ length: at.workers }, (_, i) => at.port + i);
  for (const port of doors) start(NODE, [script(at.app)], { env: { PORT: port, ADAPTER: name, REDIS: own } });
  return { routers: [], bus: [pid], doors };
};

module.exports = {
  direct: { title: "one worker, directly", workers: 1, start: direct() },
  port: { title: "the same workers, sharing the port (`SO_REUSEPORT`)", start: direct({ REUSE_PORT: "1" }) },
  cohortd: { title: "**cohortd**", start: cohortd() },
  cohortdw2: { title: "**cohortd**, workers with sticky 2", start: cohortd("", "sticky2") },
  handoff: { title: "**cohortd**, `handoff`", start: cohortd('[route]\ndeliver = "handoff"\npreserve_client_ip = true') },
  shared: { title: "**cohortd**, `shared`", start: cohortd('[route]\ndeliver = "shared"\npreserve_client_ip = true') },
  nginx: { title: "nginx", start: nginx },
  haproxy: { title: "HAProxy", start: haproxy },
  cluster: { title: "Node's cluster, round robin", start: primary() },
  pm2: { title: "PM2", start: pm2("pm2") },
  sticky2: { title: "@socket.io/sticky 2", start: primary("sticky2") },
  siopm2: { title: "@socket.io/pm2, workers with sticky 1", start: pm2("@socket.io/pm2", "sticky1") },
  siopm2w2: { title: "@socket.io/pm2, workers with sticky 2", start: pm2("@socket.io/pm2", "sticky2") },
  hostsredis: { title: "**cohortd**, Redis", start: hosts("redis") },
  hostsjson: { title: "**cohortd**, Redis, `json`", start: hosts("redis", 'serialization = "json"') },
  hostsnats: { title: "**cohortd**, NATS", start: hosts("nats") },
  redis: { title: "@socket.io/redis-adapter, `redis`", start: adapter("redis") },
  ioredis: { title: "@socket.io/redis-adapter, `ioredis`", start: adapter("ioredis") },
  sharded: { title: "@socket.io/redis-adapter, sharded", start: adapter("sharded") },
  streams: { title: "@socket.io/redis-streams-adapter", start: adapter("streams") },
};
