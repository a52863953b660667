// A queue worker: nothing to listen on, only to be kept running.
let done = 0;
setInterval(() => { done += 1; }, 1000);
process.on("SIGTERM", () => { console.log(`${done} done`); process.exit(0); });
console.log("waiting for work");
