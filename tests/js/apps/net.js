// A TCP server that speaks first: "PID\n", then whatever it gets, back. Listens on PORT.
const net = require("node:net");
net.createServer((socket) => {
  socket.on("error", () => {});
  socket.write(`${process.pid}\n`);
  socket.pipe(socket);
}).listen(process.env.PORT);
