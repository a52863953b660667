// Stands for Socket.IO's own example: it is only looked at.
const { setupWorker } = require("@socket.io/sticky");
