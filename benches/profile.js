// Where the routers' CPU goes, by perf (linux-perf): the kernel's by system call, the rest by whose code it is. Sampled by
// the clock where the machine's counters can't be had, so that a part of less than one percent says little.
const path = require("node:path");
const { pause, run } = require("./processes");

const WARM_UP_S = 2;
const HZ = 2000;
// Of a sample outside of the kernel, by its function and the file that has it; the first that fits.
const OWNERS = [
  [/ \(\[vdso\]\)| clock_gettime/, "clock"],
  [/\bmi_|_mi_/, "allocator"],
  [/\bcohortd::/, "cohortd's own code"],
  [/\bhyper(_util)?::|\bhttparse::/, "hyper"],
  [/\bhttp::/, "header maps (http)"],
  [/\btokio(_util)?::/, "tokio"],
  [/\bbytes::/, "buffers (bytes)"],
  [/libc\.so/, "libc"],
  [/cohortd\)$/, "other libraries, and std"],
  [/./, "the program"],
];

function part(stack) {
  const entry = stack.findIndex((frame) => frame.includes("do_syscall_64"));
  if (entry > 0) return `kernel: ${systemCall(stack[entry - 1].trim().split(" ")[1])}`;
  if (/\[(kernel|guest\.kernel)/.test(stack[0])) return "kernel: interrupts";
  return OWNERS.find(([pattern]) => pattern.test(stack[0]))[1];
}

// By the kernel's function that serves it.
function systemCall(name) {
  if (name.startsWith("exit_to_user_mode")) return "task switches";
  return name.replace(/^(__)?(x64_sys_|se_sys_|do_sys_|ksys_|sys_|do_)?/, "").replace("recvfrom", "recv");
}

// The share of each part, while a load runs.
exports.watch = async (pids, dir, seconds) => {
  await pause(WARM_UP_S * 1000);
  const file = path.join(dir, "perf.data");
  await run("perf", ["record", "-q", "-g", "-F", HZ, "-p", pids.join(), "-o", file, "--", "sleep", seconds]);
  const text = await run("perf", ["script", "-i", file, "-F", "comm,ip,sym,dso"]);
  const stacks = text.split("\n\n").map((sample) => sample.trim().split("\n").slice(1)).filter((stack) => stack.length);
  const shares = {};
  for (const stack of stacks) shares[part(stack)] = (shares[part(stack)] ?? 0) + 1 / stacks.length;
  return shares;
};

// One load's table: µs of a unit's router CPU, part by part, the contestants beside each other. Parts that are small for all
// of them are one.
const SMALL = 0.02;
exports.table = (byContestant, title) => {
  const columns = Object.entries(byContestant).filter(([, { samples }]) => samples.length).map(([name, { samples: [{ parts, router }] }]) => ({ name, parts, router }));
  const names = [...new Set(columns.flatMap(({ parts }) => Object.keys(parts)))];
  const large = names.filter((name) => columns.some(({ parts }) => parts[name] >= SMALL));
  const most = (name) => Math.max(...columns.map(({ parts, router }) => (parts[name] ?? 0) * router));
  const group = (name) => (name.startsWith("kernel") ? 0 : 1);
  large.sort((a, b) => group(a) - group(b) || most(b) - most(a));
  const us = (x) => (x < 0.05 ? "" : x.toFixed(1));
  const sum = (parts, of) => of.reduce((all, name) => all + (parts[name] ?? 0), 0);
  const row = (head, share) => `| ${head} | ${columns.map(({ parts, router }) => us(share(parts) * router)).join(" | ")} |\n`;
  return `| µs | ${columns.map(({ name }) => title(name)).join(" | ")} |\n|---|${"--:|".repeat(columns.length)}\n`
    + row("**all**", () => 1) + large.map((name) => row(name, (parts) => parts[name] ?? 0)).join("")
    + row("the rest", (parts) => sum(parts, names) - sum(parts, large));
};
