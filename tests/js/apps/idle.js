// A release that never listens.
setInterval(() => {}, 1000);
