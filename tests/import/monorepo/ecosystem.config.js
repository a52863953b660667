const common = {
  max_memory_restart: "512M",
  kill_timeout: 8000,
  env: { NODE_ENV: "development" },
  env_production: { NODE_ENV: "production" },
};

module.exports = {
  apps: [
    {
      ...common,
      name: "api",
      cwd: "./packages/api",
      script: "dist/main.js",
      node_args: ["--max-old-space-size=460"],
      instances: -1,
      exec_mode: "cluster",
      wait_ready: true,
      listen_timeout: 20000,
      env: { ...common.env, PORT: 4000 },
      env_production: { ...common.env_production, PORT: 4000 },
      env_staging: { NODE_ENV: "staging", PORT: 4100 },
    },
    {
      ...common,
      name: "jobs",
      cwd: "./packages/jobs",
      script: "dist/queue.js",
      instances: 2,
      exec_mode: "fork",
      exp_backoff_restart_delay: 200,
      stop_exit_codes: [0],
      cron_restart: "30 3 * * 1-5",
      namespace: "background",
    },
    {
      name: "embeddings",
      cwd: "./packages/ml",
      script: "serve.py",
      interpreter: "./.venv/bin/python",
      args: ["--workers", 1],
      uid: "ml",
      treekill: false,
    },
    {
      name: "nightly",
      script: "./scripts/nightly.sh",
      autorestart: false,
      cron_restart: "0 2 * * *",
      max_memory_restat: "1G",
    },
  ],
};
