const path = require("node:path");

console.log("reading", path.basename(__filename));

module.exports = {
  apps: [
    {
      name: "strapi cms",
      cwd: __dirname,
      script: "npm",
      args: "start",
      env: {
        NODE_ENV: "production",
        PORT: 1337,
        DATABASE_PASSWORD: "correct horse",
        JWT_SECRET: process.env.JWT_SECRET,
      },
      max_restarts: 10,
      watch: ["src"],
      ignore_watch: ["node_modules"],
    },
  ],
  deploy: { production: { user: "node", host: "cms.example.org" } },
};
