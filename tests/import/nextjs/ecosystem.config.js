module.exports = {
  apps: [
    {
      name: "storefront",
      script: "node_modules/next/dist/bin/next",
      args: "start -p 3000",
      instances: "max",
      exec_mode: "cluster",
      watch: false,
      autorestart: true,
      max_memory_restart: "1G",
      merge_logs: true,
      error_file: "logs/err.log",
      out_file: "logs/out.log",
      log_date_format: "YYYY-MM-DD HH:mm Z",
      env: { NODE_ENV: "production", NEXT_TELEMETRY_DISABLED: 1 },
    },
  ],
};
