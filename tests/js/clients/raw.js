// HTTP/1.1 by hand: a keep-alive connection on which the caller chooses every byte and where the head is cut in two.
const net = require("node:net");
const { within } = require("./lib");

// Reads one response from the front of `buffer`: null while it is incomplete, else { status, headers, body, size, close }.
// `ended`: the peer has closed, which completes a body that nothing else delimits.
function parseResponse(buffer, ended = false) {
  const end = buffer.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [line, ...fields] = buffer.toString("latin1", 0, end).split("\r\n");
  const match = /^HTTP\/1\.([01]) (\d{3})(?: |$)/.exec(line);
  if (!match) throw new Error(`not a status line: ${line.slice(0, 80)}`);
  const status = Number(match[2]);
  const headers = {};
  for (const field of fields) {
    const colon = field.indexOf(":");
    if (colon < 1) throw new Error(`not a header: ${field.slice(0, 80)}`);
    headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim();
  }
  const start = end + 4;
  const connection = (headers.connection || "").toLowerCase();
  const response = { status, headers, close: connection.includes("close") || (match[1] === "0" && !connection.includes("keep-alive")) };
  if (status === 204 || status === 304 || status < 200) return { ...response, body: Buffer.alloc(0), size: start };
  if ((headers["transfer-encoding"] || "").toLowerCase() === "chunked") {
    const chunked = parseChunked(buffer, start);
    return chunked && { ...response, ...chunked };
  }
  if ("content-length" in headers) {
    const size = start + Number(headers["content-length"]);
    return buffer.length < size ? null : { ...response, body: buffer.subarray(start, size), size };
  }
  return ended ? { ...response, body: buffer.subarray(start), size: buffer.length, close: true } : null;
}

function parseChunked(buffer, at) {
  const parts = [];
  for (;;) {
    const line = buffer.indexOf("\r\n", at);
    if (line < 0) return null;
    const hex = buffer.toString("latin1", at, line).split(";")[0].trim();
    if (!/^[0-9a-fA-F]+$/.test(hex)) throw new Error(`not a chunk size: ${hex.slice(0, 20)}`);
    const length = parseInt(hex, 16);
    at = line + 2;
    if (length === 0) break;
    if (buffer.length < at + length + 2) return null;
    parts.push(buffer.subarray(at, at + length));
    at += length;
    if (buffer.toString("latin1", at, at + 2) !== "\r\n") throw new Error("chunk without its end");
    at += 2;
  }
  for (;;) { // trailers, then the empty line
    const line = buffer.indexOf("\r\n", at);
    if (line < 0) return null;
    const empty = line === at;
    at = line + 2;
    if (empty) return { body: Buffer.concat(parts), size: at };
  }
}

// One connection, one request at a time; opened anew when the peer closed it between two requests.
class Line {
  constructor(host, port) {
    Object.assign(this, { host, port, socket: null, opened: 0, requests: 0 });
  }

  open() {
    return within(new Promise((resolve, reject) => {
      const socket = net.connect({ host: this.host, port: this.port, noDelay: true });
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        socket.on("error", () => {});
        socket.on("close", () => { if (this.socket === socket) this.socket = null; });
        socket.on("end", () => { if (this.socket === socket) this.socket = null; });
        this.socket = socket;
        this.opened++;
        resolve();
      });
    }), 10_000, "connect");
  }

  // Writes `head` in two pieces, cut at byte `cut` (0: whole) with `gapMs` between them, then the `bodies` in order.
  async request({ head, bodies = [], cut = 0, gapMs = 0, deadlineMs = 30_000 }) {
    if (!this.socket) await this.open();
    this.requests++;
    const { socket } = this;
    const answer = this.read(socket);
    const write = async () => {
      const bytes = Buffer.from(head, "latin1");
      if (cut > 0 && cut < bytes.length) {
        await new Promise((r) => socket.write(bytes.subarray(0, cut), r));
        await new Promise((r) => (gapMs ? setTimeout(r, gapMs) : setImmediate(r)));
        socket.write(bytes.subarray(cut));
      } else {
        socket.write(bytes);
      }
      for (const body of bodies) socket.write(body);
    };
    try {
      write();
      const response = await within(answer, deadlineMs, head.slice(0, head.indexOf("\r\n")));
      if (response.close) this.drop();
      return response;
    } catch (e) {
      this.drop();
      throw e;
    }
  }

  // The next response on `socket`, which must be the only thing that arrives.
  read(socket) {
    return new Promise((resolve, reject) => {
      let buffer = Buffer.alloc(65_536);
      let length = 0;
      const done = (settle, value) => {
        socket.off("data", onData).off("close", onClose);
        settle(value);
      };
      const attempt = (ended) => {
        try {
          let start = 0;
          let response = parseResponse(buffer.subarray(0, length), ended);
          while (response && response.status < 200) { // interim answers
            start += response.size;
            response = parseResponse(buffer.subarray(start, length), ended);
          }
          if (!response) return;
          if (start + response.size !== length) throw new Error(`${length - start - response.size} bytes after the response`);
          done(resolve, response);
        } catch (e) {
          done(reject, e);
        }
      };
      const onData = (data) => {
        if (length + data.length > buffer.length) {
          const larger = Buffer.alloc(2 * (length + data.length));
          buffer.copy(larger, 0, 0, length);
          buffer = larger;
        }
        length += data.copy(buffer, length);
        attempt(false);
      };
      const onClose = () => {
        if (length) attempt(true);
        done(reject, new Error(length ? "closed within a response" : "closed without a response"));
      };
      socket.on("data", onData).on("close", onClose);
    });
  }

  drop() {
    if (this.socket) this.socket.destroy();
    this.socket = null;
  }
}

module.exports = { Line, parseResponse };
