// The smallest app there is: it answers every request, and says which process did.
const http = require("node:http");

http.createServer((req, res) => res.end(`hello from ${process.pid}\n`)).listen(8000);
