// Loaded into a Node worker before the app (NODE_OPTIONS, --require).
//
// Requests come over cohortd's own connections; here their sockets are given the client's addresses, as the app would
// see them under Node's own cluster. cohortd says them with each connection, and where that goes on to another client of
// the same address, in a header. It is the first one, and is taken out where Node's parser hands the headers over: before
// any event. With it comes whether the client speaks TLS.
//
// Clients' connections that this worker has go back to cohortd when they are idle and it asks for them; and where the
// worker listens itself (deliver = "shared"), cohortd can end that without the app's noticing.
//
// Connections that go to a server whole come by a lane of their own, and not as messages.
//
// If something goes wrong in here, the app runs as ever, sees 127.0.0.1, and keeps its connections.
"use strict";

const HEADER = "x-cohortd-peer";
const { env } = process;
const token = env.COHORTD_PEER_TOKEN; // clients can't know it, and so can't say who they are
const lane = Number(env.COHORTD_LANE_FD);

delete require.cache[__filename];

// Threads load this again, with no token.
if (token) {
  try {
    leaveNoTrace();
    const Write = kindOfWrites(nameClients);
    listenToCohortd();
    if (lane && Write) openLane(lane, Write);
  } catch {
    // as above
  }
}

// The app, and what it starts, see the environment that they would see without this.
function leaveNoTrace() {
  delete env.COHORTD_PEER_TOKEN;
  delete env.COHORTD_LANE_FD;
  const own = `--require="${__filename.replace(/["\\]/g, "\\$&")}"`;
  const rest = `${env.NODE_OPTIONS ?? ""} `.replace(`${own} `, "").slice(0, -1);
  if (rest) env.NODE_OPTIONS = rest;
  else delete env.NODE_OPTIONS;
}

function nameClients() {
  const { prototype } = require("node:http").IncomingMessage;
  const { Socket } = require("node:net");
  const { value, writable } = Object.getOwnPropertyDescriptor(prototype, "_addHeaderLines") ?? {};
  if (typeof value !== "function" || !writable) return;

  // A change there costs every request of any connection, so it waits for one of cohortd's.
  let own; // these
  const begin = () => {
    own = new WeakSet();
    readHeader(prototype);
    allowReset(Socket.prototype, own);
  };
  // Before Node makes a socket of it.
  process.prependListener("internalMessage", ({ cmd, peer }, handle) => {
    if (cmd !== "NODE_HANDLE" || typeof peer !== "string" || !handle) return;
    if (!own) begin();
    own.add(handle);
    if (!peer) return; // a Unix socket's
    const [theirs, ours] = endsIn(peer);
    handle.getpeername = (out) => (Object.assign(out, theirs), 0);
    handle.getsockname = (out) => (Object.assign(out, ours), 0);
  });

  // From now on cohortd says who clients are.
  process.send({ cmd: "COHORTD_PEER", data: token }, () => {});
}

// A Unix socket can't be reset, and Node says so by throwing. To cohortd it is the same.
function allowReset(prototype, own) {
  const { resetAndDestroy } = prototype;
  if (!resetAndDestroy) return;
  prototype.resetAndDestroy = function () {
    return own.has(this._handle) ? this.destroy() : resetAndDestroy.call(this);
  };
}

// Both ends, as net.Socket remembers what the kernel says.
function endsIn(words) {
  const [address, port, localAddress, localPort] = words.split(" ");
  const end = (address, port) => ({ address, family: address.includes(":") ? "IPv6" : "IPv4", port: Number(port) });
  return [end(address, port), end(localAddress, localPort)];
}

function readHeader(prototype) {
  const { _addHeaderLines } = prototype;
  prototype._addHeaderLines = function (headers, n) {
    try {
      const name = headers[0];
      // Where a client has sent such a header too, ours is written in its letters.
      if (name?.length === HEADER.length && name.toLowerCase() === HEADER && headers[1].startsWith(token)) {
        const words = headers[1].slice(token.length + 1);
        [this.socket._peername, this.socket._sockname] = endsIn(words);
        // As of a server of node:https, though TLS has ended at cohortd.
        if (words.endsWith(" tls")) this.socket.encrypted = true;
        else if (this.socket.encrypted) delete this.socket.encrypted;
        headers.splice(0, 2);
        n = Math.min(n, headers.length);
      }
    } catch {
      // as above
    }
    return _addHeaderLines.call(this, headers, n);
  };
}

function listenToCohortd() {
  const { Server, Socket } = require("node:net");
  const http = require("node:http");
  const send = process.send.bind(process);
  const left = new Map(); // server that listens no more → what gives it a connection all the same

  const at = (place) => process._getActiveHandles().filter((handle) => {
    if (!(handle instanceof Server)) return false;
    const address = handle.address();
    return String(address?.port ?? address) === place;
  });

  // What each returns is the answer.
  const acts = {
    // cohortd has a hold on each of these sockets: that they are closed here, the client is not told.
    release([, ...descriptors]) {
      const asked = new Set(descriptors.map(Number));
      const released = [];
      try {
        const sockets = process._getActiveHandles().filter((handle) => handle instanceof Socket && asked.has(handle._handle?.fd));
        const idle = new Set([...new Set(sockets.map(({ server }) => server))].flatMap(idleOf));
        for (const socket of sockets) {
          if (!idle.has(socket) || socket._httpMessage || socket.writableLength) continue;
          released.push(socket._handle.fd);
          socket.destroy();
        }
      } catch {
        // those that are closed have to be told
      }
      return released;
    },

    // The server goes on as if Node's primary had what it listened with.
    leave([place]) {
      for (const server of at(place)) {
        const { _handle } = server;
        const { onconnection } = _handle;
        server._handle = { close() {}, ref() {}, unref() {}, hasRef: () => false };
        if (_handle.getsockname) {
          const name = {};
          _handle.getsockname(name);
          server._handle.getsockname = (out) => void Object.assign(out, name);
        }
        _handle.close();
        left.set(server, (connection) => onconnection.call(_handle, 0, connection));
      }
    },

    list([, place]) {
      const ours = new Set([...left.keys(), ...at(place)]);
      const mine = process._getActiveHandles().filter((handle) => handle instanceof Socket && ours.has(handle.server));
      return mine.map(({ server, parser, _handle }) => {
        const spoken = server instanceof http.Server ? (parser ? "h" : "w") : "o";
        return `${spoken}${_handle?.fd ?? _handle?._parent?.fd}`;
      });
    },

    take([place], connection) {
      const [server] = at(place);
      const [give] = left.values();
      if (server) server._handle.onconnection(0, connection);
      else if (give) give(connection);
      else connection.close();
    },
  };

  process.on("internalMessage", ({ cmd, act, data }, handle) => {
    if (cmd !== "NODE_COHORTD") return;
    const words = data.split(" ");
    let answer;
    try {
      answer = acts[act](words, handle);
    } catch {
      // no answer: cohortd does not know then
    }
    if (answer) send({ cmd: "COHORTD_ANSWER", data: [words[0], ...answer].join(" ") }, () => {});
  });
}

// The sockets on which no request has begun, as server.closeIdleConnections() finds them.
function idleOf(server) {
  const connections = server && Object.getOwnPropertySymbols(server).find((key) => key.description === "http.server.connections");
  return connections ? server[connections].idle().map(({ socket }) => socket) : [];
}

// Node's own end of the IPC: what it is made of, and what it takes, are to be had nowhere else without a warning.
function rawChannel() {
  const key = Object.getOwnPropertySymbols(process).find(({ description }) => description === "kChannelHandle");
  return process[key];
}

// What a write is known by, as seen when a message is sent.
function kindOfWrites(send) {
  const channel = rawChannel();
  const names = channel ? ["writeUtf8String", "writeBuffer"].filter((name) => typeof channel[name] === "function") : [];
  let Write;
  for (const name of names) {
    const write = channel[name];
    channel[name] = function (request, ...rest) {
      Write = request.constructor;
      return write.call(this, request, ...rest);
    };
  }
  try {
    send();
  } finally {
    for (const name of names) delete channel[name];
  }
  return Write;
}

// A byte says for which server a connection is that comes with it. It is taken without a word; one for which there is no
// server any more, or that this has no room for, goes back to cohortd, which also takes back what nobody has read.
function openLane(descriptor, Write) {
  const cluster = require("node:cluster");
  const { _getServer } = cluster;
  const Pipe = rawChannel().constructor;
  const pipe = new Pipe(2); // IPC
  if (typeof _getServer !== "function" || typeof pipe.useUserBuffer !== "function" || pipe.open(descriptor)) return;
  pipe.unref();

  // The primary's answer has the number, what it is passed on to has the server.
  const servers = []; // by number: [net.Server, what it listens with]
  let answered;
  process.prependListener("internalMessage", ({ cmd, act, key }) => {
    if (cmd === "NODE_CLUSTER" && act === undefined && typeof key === "string") answered = key;
  });
  cluster._getServer = function (server, options, listen) {
    return _getServer.call(this, server, options, function (error, handle) {
      const [, number] = /^listen:(\d+)$/.exec(answered) ?? [];
      if (number && handle) servers[number] = [server, handle];
      return listen.apply(this, arguments);
    });
  };

  // A connection is read at a time: with room for two bytes, Node does other things before the next one.
  const bytes = Buffer.allocUnsafeSlow(2);
  pipe.useUserBuffer(bytes);
  pipe.pendingHandle = null;
  pipe.onread = () => {
    const connection = pipe.pendingHandle;
    pipe.pendingHandle = null;
    if (!connection) return;
    const [server, handle] = servers[bytes[0]] ?? [];
    const isOpen = handle && server._handle === handle && typeof handle.onconnection === "function";
    const isFull = isOpen && server.maxConnections != null && server._connections >= server.maxConnections;
    if (isOpen && !(isFull && !server.dropMaxConnection)) handle.onconnection(0, connection);
    else giveBack(connection);
  };
  const giveBack = (connection) => {
    const request = new Write();
    request.oncomplete = () => connection.close();
    if (pipe.writeLatin1String(request, "-", connection)) connection.close();
  };
  pipe.readStart();
  process.send({ cmd: "COHORTD_LANE" }, () => {});
}
