// A release that becomes ready, and crashes 3 seconds later.
require("./sio");
setTimeout(() => process.exit(7), 3000);
