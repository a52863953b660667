// A lean client: HTTP/1.1 one request at a time, then perhaps a WebSocket, and Socket.IO on both.
//
// Written by hand because the load's own CPU is taken from the two cores that it measures.
const net = require("node:net");

const PATIENCE_MS = 5_000;
const NO_MASK = Buffer.alloc(4); // a client has to mask; with zeros the payload stays as it is

class Line {
  // `n` chooses the address that the client comes from, so that routing by address has something to go by.
  constructor(port, n) {
    Object.assign(this, { port, from: `127.0.${1 + (n % 250)}.1`, buffer: Buffer.alloc(0), cookie: "" });
  }

  open() {
    const socket = net.connect({ port: this.port, host: "127.0.0.1", localAddress: this.from, noDelay: true });
    this.buffer = Buffer.alloc(0);
    socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error("timeout")));
    socket.on("error", (e) => { socket.fault = e; });
    socket.on("close", () => this.socket === socket && this.fail(socket.fault || new Error("closed early")));
    socket.on("data", (data) => {
      this.buffer = this.buffer.length ? Buffer.concat([this.buffer, data]) : data;
      if (this.onmessage) this.frames();
      else this.response();
    });
    this.socket = socket;
  }

  fail(error) {
    this.socket = null;
    const { waiting } = this;
    this.waiting = null;
    if (waiting) waiting.reject(error);
    else if (this.onmessage) this.onend?.(error);
  }

  request(method, path, body, more = "") {
    if (!this.socket) this.open();
    const length = body === undefined ? "" : `Content-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(body)}\r\n`;
    this.socket.write(`${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${this.cookie}${more}${length}\r\n${body ?? ""}`);
    return new Promise((resolve, reject) => { this.waiting = { resolve, reject }; });
  }

  response() {
    const end = this.buffer.indexOf("\r\n\r\n");
    if (end < 0 || !this.waiting) return;
    const head = this.buffer.latin1Slice(0, end);
    const status = Number(head.slice(9, 12));
    const from = end + 4;
    const to = status === 101 ? from : from + Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? NaN);
    if (this.buffer.length < to) return;
    const { resolve, reject } = this.waiting;
    this.waiting = null;
    if (Number.isNaN(to)) {
      this.close(); // only refusals are chunked here
      return reject(new Error(`status ${status}, without a length`));
    }
    const body = this.buffer.utf8Slice(from, to);
    this.buffer = this.buffer.subarray(to);
    const cookie = /\r\nset-cookie: *([^;\r]+)/i.exec(head);
    if (cookie) this.cookie = `Cookie: ${cookie[1]}\r\n`;
    if (/\r\nconnection: *close/i.test(head)) this.close();
    resolve({ status, body });
  }

  // 200's body, or the error that it was not 200.
  async ok(method, path, body) {
    const answer = await this.request(method, path, body);
    if (answer.status !== 200) throw new Error(`status ${answer.status}`);
    return answer.body;
  }

  async upgrade(path) {
    const key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const { status } = await this.request("GET", path, undefined, `Connection: Upgrade\r\nUpgrade: websocket\r\n${key}`);
    if (status !== 101) throw new Error(`status ${status} to an upgrade`);
    this.messages = [];
    this.onmessage = (message) => this.messages.push(message);
    this.socket.setTimeout(0);
    if (this.buffer.length) this.frames();
  }

  frames() {
    for (;;) {
      const { buffer } = this;
      if (buffer.length < 2) return;
      let length = buffer[1];
      let from = 2;
      if (length === 126) {
        if (buffer.length < 4) return;
        length = buffer.readUInt16BE(2);
        from = 4;
      }
      if (buffer.length < from + length) return;
      this.buffer = buffer.subarray(from + length);
      const message = buffer.utf8Slice(from, from + length);
      if (message === "2") this.send("3"); // Engine.IO's ping
      else if ((buffer[0] & 15) === 1) this.onmessage(message);
    }
  }

  send(text) {
    const payload = Buffer.from(text); // always less than 126 bytes here
    this.socket?.write(Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), NO_MASK, payload]));
  }

  // The next WebSocket message.
  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("timeout")), PATIENCE_MS);
      const take = this.onmessage;
      const done = (settle, value) => { clearTimeout(timer); this.onmessage = take; this.onend = undefined; settle(value); };
      this.onmessage = (message) => done(resolve, message);
      this.onend = (error) => done(reject, error);
    });
  }

  async exchange(text, answer) {
    this.send(text);
    const got = await this.next();
    if (!got.startsWith(answer)) throw new Error(`${got.slice(0, 20)} instead of ${answer}`);
    return got.slice(answer.length);
  }

  close() {
    const { socket } = this;
    this.socket = null;
    socket?.destroy();
  }
}

const polling = (sid) => `/socket.io/?EIO=4&transport=polling${sid ? `&sid=${sid}` : ""}`;

// A Socket.IO session over polling: its line and the path of its requests.
async function poll(port, n) {
  const line = new Line(port, n);
  try {
    const { sid } = JSON.parse((await line.ok("GET", polling())).slice(1));
    await line.ok("POST", polling(sid), "40");
    const connected = await line.ok("GET", polling(sid));
    if (!connected.startsWith("40")) throw new Error(`connected with ${connected.slice(0, 20)}`);
    return { line, sid, path: polling(sid) };
  } catch (e) {
    line.close();
    throw e;
  }
}

// The same, then upgraded to a WebSocket over which one echo has come back.
async function pollThenUpgrade(port, n) {
  const { line, sid } = await poll(port, n);
  const socket = new Line(port, n);
  try {
    socket.cookie = line.cookie;
    await socket.upgrade(`/socket.io/?EIO=4&transport=websocket&sid=${sid}`);
    await socket.exchange("2probe", "3probe");
    socket.send("5");
    await socket.exchange('420["echo","x"]', '430["x"]');
    return socket;
  } catch (e) {
    socket.close();
    throw e;
  } finally {
    line.close();
  }
}

// A Socket.IO session that is a WebSocket from the start.
async function websocket(port, n) {
  const line = new Line(port, n);
  try {
    await line.upgrade("/socket.io/?EIO=4&transport=websocket");
    if (!(await line.next()).startsWith("0")) throw new Error("no open packet");
    await line.exchange("40", "40");
    return line;
  } catch (e) {
    line.close();
    throw e;
  }
}

module.exports = { Line, poll, pollThenUpgrade, websocket };
