// The Socket.IO app's adapters, by name, as their READMEs make them. All but the first need a Redis, on the port REDIS.
const peers = require("../peers");

const url = `redis://127.0.0.1:${process.env.REDIS}`;

// A client to publish with and one to subscribe with.
async function redis() {
  const client = peers("redis").createClient({ url });
  const pair = [client, client.duplicate()];
  for (const each of pair) each.on("error", (e) => { throw e; });
  await Promise.all(pair.map((each) => each.connect()));
  return pair;
}
function ioredis() {
  const client = new (peers("ioredis").Redis)(url);
  return [client, client.duplicate()];
}

module.exports = {
  cluster: () => peers("@socket.io/cluster-adapter").createAdapter(),
  redis: async () => peers("@socket.io/redis-adapter").createAdapter(...await redis()),
  ioredis: () => peers("@socket.io/redis-adapter").createAdapter(...ioredis()),
  sharded: async () => peers("@socket.io/redis-adapter").createShardedAdapter(...await redis()),
  streams: async () => peers("@socket.io/redis-streams-adapter").createAdapter((await redis())[0]),
};
