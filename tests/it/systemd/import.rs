//! Under a real systemd: a program of PM2's is read in a unit that can do nothing, and what it says
//! is served.

use serde_json::Value;

use super::{Host, on_each};

/// Tells what it could do by its variables.
const SOURCE: &str = r#"
const fs = require("node:fs");
const os = require("node:os");
const can = (act) => { try { act(); return "yes"; } catch (error) { return error.code; } };
console.log("[ something else ]");
module.exports = {
  apps: [{
    name: "myapp",
    cwd: __dirname,
    script: "app.js",
    interpreter: "/opt/node/bin/node",
    instances: 2,
    env: {
      PORT: 8080,
      UID: process.getuid(),
      NETWORK: Object.keys(os.networkInterfaces()).filter((name) => name !== "lo").join(),
      WRITES: can(() => fs.writeFileSync(__dirname + "/written", "x")),
      READS_HOME: can(() => fs.readdirSync("/home/other")),
      READS_ROOT: can(() => fs.readFileSync("/etc/shadow")),
      INHERITS: process.env.SECRET ?? "no",
    },
  }],
};
"#;

fn import(host: &Host, file: &str) -> Value {
    let line = format!("env SECRET=7 cohortctl import {file} --node /opt/node/bin/node --output");
    host.ok(&format!("{line} /tmp/imported --force"));
    let text = host.ok("cat /tmp/imported/myapp.toml");
    let text: toml::Value = toml::from_str(&text).expect("TOML");
    serde_json::to_value(&text["env"]).expect("strings")
}

#[test]
fn a_program_is_read_in_a_unit_that_can_do_nothing() {
    on_each(|host| {
        host.write("/srv/myapp/ecosystem.config.js", SOURCE);
        host.ok("mkdir -p /home/other");
        host.ok("chmod 755 /srv/myapp");
        let env = import(host, "/srv/myapp/ecosystem.config.js");
        for (name, wanted) in
            [("NETWORK", ""), ("WRITES", "EROFS"), ("READS_ROOT", "EACCES"), ("INHERITS", "no")]
        {
            assert_eq!(env[name], wanted, "{name} in {env}");
        }
        assert_ne!(env["READS_HOME"], "yes", "{env}");
        let uid: u32 = env["UID"].as_str().and_then(|uid| uid.parse().ok()).expect("a number");
        assert!((61184..=65519).contains(&uid), "a dynamic user: {env}");

        // A home that nobody else can enter shows its one folder.
        host.ok("mkdir -p /home/myapp/site");
        host.write("/home/myapp/site/ecosystem.config.js", SOURCE);
        host.ok("chmod 700 /home/myapp");
        let env = import(host, "/home/myapp/site/ecosystem.config.js");
        assert_eq!(
            (&env["WRITES"], &env["READS_HOME"]),
            (&"EROFS".into(), &"ENOENT".into()),
            "{env}"
        );

        // What not everybody can read is read by whose it is.
        let owner = host.ok("id -u myapp");
        for closed in
            ["chmod 700 /srv/myapp", "chmod 600 /srv/myapp/ecosystem.config.js /srv/myapp"]
        {
            host.ok("chown -R myapp /srv/myapp");
            host.ok(closed);
            host.ok("chmod u+x /srv/myapp");
            let env = import(host, "/srv/myapp/ecosystem.config.js");
            assert_eq!((&env["UID"], &env["WRITES"]), (&owner.as_str().into(), &"EROFS".into()));
        }
        host.ok("chown root /srv/myapp/ecosystem.config.js");
        let line = "cohortctl import /srv/myapp/ecosystem.config.js --node /opt/node/bin/node";
        let refused = host.run(line);
        assert!(refused.code == 1 && refused.stderr.contains("only root can read it"), "{refused}");
        assert_eq!(host.run("ls /srv/myapp/written").code, 2);
    });
}

#[test]
fn an_imported_app_is_served() {
    on_each(|host| {
        host.write("/srv/myapp/ecosystem.config.js", SOURCE);
        host.write(
            "/srv/myapp/app.js",
            "require('node:http').createServer((req, res) => res.end(process.env.NODE_APP_INSTANCE))\
             .listen(process.env.PORT)",
        );
        host.ok("cohortctl import /srv/myapp/ecosystem.config.js --node /opt/node/bin/node");
        host.ok("cohortctl add myapp --user myapp");
        host.ok("systemctl enable --now myapp.socket myapp@cluster");
        assert_eq!(host.show("myapp", "StatusText"), "2/2 workers ready");
        assert!(["0", "1"].contains(&host.get("http://127.0.0.1:8080/").as_str()));
    });
}

/// The app of Socket.IO's page on PM2, with its file: what `@socket.io/pm2` would run is served, and all of
/// Socket.IO works over the two workers.
#[test]
fn the_socket_io_app_is_served_from_its_ecosystem_file() {
    on_each(|host| {
        host.write(
            "/srv/myapp/ecosystem.config.js",
            r#"module.exports = {
                apps: [{ name: "myapp", script: "worker.js", instances: 2, exec_mode: "cluster" }],
            };"#,
        );
        host.write(
            "/srv/myapp/worker.js",
            "require('/srv/js/apps/sio.js'); // serves by setupWorker of @socket.io/sticky",
        );
        host.ok("ln -s /opt/node/bin/node /usr/local/bin/node");
        host.ok("cohortctl import /srv/myapp/ecosystem.config.js");
        host.ok("cohortctl add myapp --user myapp");
        host.ok("systemctl start myapp@cluster");
        host.ok("node /srv/js/clients/suite.js http://127.0.0.1:8080 3 2");
    });
}
