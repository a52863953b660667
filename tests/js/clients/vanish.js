// Socket.IO clients that say nothing once they are connected, and wait to be killed: vanish.js URL [N=6]
//
// "going" is printed when all have been connected.
const { io } = require("socket.io-client");

const [url, n = "6"] = process.argv.slice(2);
const TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]];
const connected = Array.from({ length: Number(n) }, (_, i) => new Promise((done) => {
  io(url, { transports: TRANSPORTS[i % TRANSPORTS.length], forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 300 }).on("connect", done);
}));
Promise.all(connected).then(() => console.log("going"));
