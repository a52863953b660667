// A release of sio.js that has a child process of its own, falls ill when it is told to, and may be broken.
//
// RELEASE  its number, said first of all
// FAULT    throws: at its start; idle: never listens; crashes: soon after its start; ill: never well; sickens: soon ill
// READY    message: process.send("ready"); notify: READY=1 by a child process; auto: neither
// What befalls a worker by a request is said before: POST /spin and /exit?code= are answered first, GET /crash is not.
const { spawn, execFile } = require("node:child_process");
const cluster = require("node:cluster");
const { routes } = require("./routes");

const { RELEASE, FAULT, READY } = process.env;
const SOON_MS = 700;
const { id } = cluster.worker;
const say = (event, more) => console.log(JSON.stringify({ event, worker: id, ...more }));

say("boot", { release: Number(RELEASE) });
if (FAULT === "throws") throw new Error("a release that throws at its start");
spawn("sleep", ["1000"], { stdio: "ignore" });

let well = FAULT !== "ill";
if (FAULT === "sickens") setTimeout(() => { well = false; }, SOON_MS);
if (FAULT === "crashes") setTimeout(() => process.exit(7), SOON_MS);

const struck = (how, then) => (req, res, url) => {
  say("struck", { how });
  res.end(`${id}`, () => setImmediate(then, url));
};
routes["/healthz"] = (req, res) => res.writeHead(well ? 200 : 500).end();
routes["/spin"] = struck("spin", () => { for (;;); });
routes["/exit"] = struck("exit", (url) => process.exit(Number(url.searchParams.get("code"))));
const { "/crash": crash } = routes;
routes["/crash"] = (req, res) => { say("struck", { how: "crash" }); crash(req, res); };

// In Perl, which every Debian has.
const notify = `
use Socket;
socket(my $socket, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
send($socket, "READY=1", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die "send: $!";
`;
if (FAULT === "idle") {
  setInterval(() => {}, 1000);
} else {
  require("./sio");
  if (READY === "message") process.send("ready");
  if (READY === "notify") execFile("perl", ["-e", notify], (error) => error && console.error(error));
}
