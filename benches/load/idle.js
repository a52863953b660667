// Idle Socket.IO WebSockets: idle.js PORT. Each number on standard input is how many there shall be, and is printed when
// they are; at its end, what has failed meanwhile. A connect that fails is tried again, up to MOST_FAILURES in all.
const { websocket } = require("./client");

const port = Number(process.argv[2]);
const CONCURRENCY = 32;
const MOST_FAILURES = 50;
let tries = 0;
let opened = 0;
const errors = {};
const failed = (e) => { errors[e.message] = (errors[e.message] || 0) + 1; };

async function open() {
  try {
    const line = await websocket(port, tries++);
    line.onmessage = () => {};
    line.onend = failed;
  } catch (e) {
    failed(e);
    if (Object.values(errors).reduce((a, b) => a + b) < MOST_FAILURES) return open();
    console.error(`at ${opened} WebSockets: ${e.message}`);
    process.exit(1);
  }
}

process.stdin.on("data", async (data) => {
  await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
    while (opened < Number(data)) {
      opened++;
      await open();
    }
  }));
  console.log(opened);
});
process.stdin.on("end", () => {
  console.log(JSON.stringify(errors));
  process.exit();
});
