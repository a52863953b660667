// An HTTP server that is no cluster worker: it listens on the socket that it is given as descriptor 3.
const routes = require("./routes")(0);
if (process.env.LISTEN_PID !== String(process.pid)) throw new Error("these descriptors are not for me");
require("node:http").createServer(routes).listen({ fd: 3 });
