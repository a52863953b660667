import { availableParallelism, cpus } from "node:os";

const instances = (availableParallelism ?? (() => cpus().length))() > 0 ? 2 : 1;

export default {
  apps: [
    {
      name: "gateway",
      script: "server.mjs",
      instances,
      env: { PORT: "8080", HOST: "127.0.0.1" },
      sourceMapSupport: true,
      killTimeout: 1600,
      shutdownWithMessage: true,
    },
  ],
};
