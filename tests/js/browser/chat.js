// Drives examples/chat in a real Chromium, to prove what its users see: tabs on different
// workers share one room over every transport, and survive kill -9 of their workers.
// Usage: node chat.js URL [--screenshot DIR]
// Prints one JSON line a step; exit 0: all held, 1: a step failed, 2: usage.
// It kills the pids the page shows, so run it on the host (and pid namespace) of the workers.
"use strict";
const { mkdirSync, mkdtempSync, rmSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { parseArgs } = require("node:util");
const { chromium } = require("playwright-core");

const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const DEADLINE = 30_000; // ms, for each wait
const OPEN_AT_MOST = 6; // tabs, while looking for two workers
const TRANSPORTS = {
  polling: { query: "polling", path: ["polling"] },
  websocket: { query: "websocket", path: ["websocket"] },
  default: { query: "", path: ["polling", "websocket"] },
};

function usage(why) {
  console.error(`chat.js: ${why}\nusage: node chat.js URL [--screenshot DIR]`);
  process.exit(2);
}

function parse() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { screenshot: { type: "string" } },
    });
    if (positionals.length !== 1) usage("exactly one URL is needed");
    return { base: new URL(positionals[0]), shots: values.screenshot };
  } catch (error) {
    usage(error.message);
  }
}

const { base, shots } = parse();
if (shots) mkdirSync(shots, { recursive: true });

class Tab {
  static async open(context, name, transport) {
    const page = await context.newPage();
    const tab = new Tab(page, name);
    page.setDefaultTimeout(DEADLINE);
    page.on("pageerror", (error) => tab.errors.push(error.message));
    // What the browser did on the network, to check the page's own words against.
    page.on("websocket", () => tab.seen.add("websocket"));
    page.on("request", (request) => {
      if (request.url().includes("transport=polling")) tab.seen.add("polling");
    });
    const url = new URL(base);
    url.searchParams.set("name", name);
    if (transport.query) url.searchParams.set("transport", transport.query);
    await page.goto(url.href);
    await tab.until('[data-state="connected"]');
    await page.evaluate(() => (window.sameDocument = true));
    return tab;
  }

  constructor(page, name) {
    Object.assign(this, { page, name, errors: [], seen: new Set() });
  }

  // What the page says of its connection: the data-* attributes of #chat.
  async here() {
    const chat = await this.page.$eval("#chat", (main) => ({ ...main.dataset }));
    return { ...chat, pid: Number(chat.pid), online: Number(chat.online), connects: Number(chat.connects) };
  }

  // Resolves once #chat matches this CSS selector. (waitForFunction needs eval, which the page's CSP forbids.)
  async until(selector) {
    await this.page.locator(`#chat${selector}`).waitFor({ state: "attached", timeout: DEADLINE });
    return this.here();
  }

  async say(text) {
    await this.page.fill("#text", text);
    await this.page.press("#text", "Enter");
  }

  // The one message with this text, once it came back from a worker.
  async message(text) {
    const found = this.page.locator('.message[data-sent="yes"]', { has: this.page.getByText(text, { exact: true }) });
    await found.first().waitFor();
    const all = await found.evaluateAll((items) => items.map((item) => ({ ...item.dataset })));
    check(all.length === 1, `"${text}" is shown ${all.length} times in the tab of ${this.name}`);
    return all[0];
  }
}

function check(holds, otherwise) {
  if (!holds) throw new Error(otherwise);
}

async function step(name, act) {
  const from = performance.now();
  const line = (rest) => console.log(JSON.stringify({ step: name, ms: Math.round(performance.now() - from), ...rest }));
  try {
    const { facts, value } = await act();
    line({ ok: true, ...facts });
    return value;
  } catch (error) {
    const words = error.message.replace(/\x1b\[\d+m/g, "").split("\n").map((part) => part.replace(/^\s*-?\s*/, ""));
    line({ ok: false, error: words.filter((part) => part && part !== "Call log:").slice(0, 2).join(" ") });
    throw error;
  }
}

const where = ({ slot, worker, pid, transport }) => ({ slot, worker, pid, transport });
let texts = 0;
const text = (words) => `${words} (${process.pid}.${++texts})`;

async function twoWorkers(context, transport) {
  const tabs = [await Tab.open(context, "Ada", transport)];
  const first = await tabs[0].here();
  const giveUp = Date.now() + DEADLINE;
  let opened = 1;
  while (Date.now() < giveUp) {
    const tab = await Tab.open(context, "Ben", transport);
    opened++;
    const here = await tab.here();
    if (here.pid !== first.pid) {
      for (const other of tabs.slice(1)) await other.page.close();
      return { facts: { opened, a: where(first), b: where(here) }, value: [tabs[0], tab] };
    }
    tabs.push(tab);
    if (tabs.length === OPEN_AT_MOST) for (const other of tabs.splice(1)) await other.page.close();
    await context.request.get(base.href); // one more request, or round-robin may go round in step with us
  }
  throw new Error(`${opened} tabs were all served by worker ${first.worker}`);
}

async function usesTransport(tabs, { path }) {
  for (const tab of tabs) {
    await tab.until(`[data-transports="${path.join(" ")}"]`);
    check(path.join() === [...tab.seen].sort().join(), `the browser used ${[...tab.seen]}, not ${path}`);
  }
  return { facts: { path } };
}

async function seeEachOther(tabs) {
  const { online } = await tabs[0].until(':not([data-online="0"]):not([data-online="1"])');
  await tabs[1].until(`[data-online="${online}"]`);
  return { facts: { online } };
}

async function bothWays(tabs) {
  const delivered = [];
  for (const [from, to] of [tabs, [...tabs].reverse()]) {
    const words = text(`hello ${to.name}, this is ${from.name}`);
    const { worker } = await from.here();
    const sent = performance.now();
    await from.say(words);
    const got = await to.message(words);
    const ms = Math.round(performance.now() - sent);
    check(got.name === from.name, `the author is shown as ${got.name}, not ${from.name}`);
    check(got.worker === worker, `it is shown as come through worker ${got.worker}, not ${worker}`);
    await from.message(words);
    delivered.push({ from: from.name, through: worker, ms });
  }
  return { facts: { delivered } };
}

// kill -9 of the worker of `tab`; what either says meanwhile must not be lost.
async function survivesKill(tab, other) {
  const before = await tab.here();
  const otherBefore = await other.here();
  const together = before.pid === otherBefore.pid;
  process.kill(before.pid, "SIGKILL");
  const sayings = [[tab, other, text("typed by the cut-off tab")], [other, tab, text("typed by the other tab")]];
  for (const [from, , words] of sayings) await from.say(words);
  const after = await tab.until(`[data-state="connected"]:not([data-pid="${before.pid}"])`);
  for (const [, to, words] of sayings) await to.message(words);
  check(await tab.page.evaluate(() => window.sameDocument), "the page was loaded anew");
  const otherAfter = await other.here();
  if (!together) check(otherAfter.connects === otherBefore.connects, "the other worker's tab was cut off too");
  return { facts: { killed: before.pid, together, from: before.worker, to: where(after) } };
}

async function screenshot(tab, name) {
  if (shots) await tab.page.screenshot({ path: join(shots, `${name}.png`) });
}

async function prove(context) {
  for (const [mode, transport] of Object.entries(TRANSPORTS)) {
    const tabs = await step(`${mode}: two tabs on two workers`, () => twoWorkers(context, transport));
    try {
      const [a, b] = tabs;
      await step(`${mode}: transport`, () => usesTransport(tabs, transport));
      await step(`${mode}: people over all workers`, () => seeEachOther(tabs));
      await step(`${mode}: messages both ways`, () => bothWays(tabs));
      await screenshot(a, `${mode}-messages`);
      await step(`${mode}: tab A survives kill -9 of its worker`, () => survivesKill(a, b));
      await step(`${mode}: messages both ways after the first kill`, () => bothWays(tabs));
      await step(`${mode}: tab B survives kill -9 of its worker`, () => survivesKill(b, a));
      await step(`${mode}: messages both ways after the second kill`, () => bothWays(tabs));
      await screenshot(b, `${mode}-after-kills`);
      const errors = tabs.flatMap((tab) => tab.errors);
      await step(`${mode}: no script error`, async () => {
        check(!errors.length, errors.join("; "));
        return {};
      });
    } catch (error) {
      for (const tab of tabs) await screenshot(tab, `${mode}-failed-${tab.name}`).catch(() => {});
      throw error;
    }
    for (const page of context.pages().slice(1)) await page.close(); // the first keeps the browser open
  }
}

async function main() {
  const profile = mkdtempSync(join(tmpdir(), "chat-browser-"));
  process.on("exit", () => rmSync(profile, { recursive: true, force: true, maxRetries: 10 }));
  let context;
  try {
    context = await step("browser", async () => {
      const value = await chromium.launchPersistentContext(profile, {
        executablePath: CHROMIUM,
        args: FLAGS,
        viewport: { width: 900, height: 700 },
      });
      return { facts: { version: value.browser()?.version() }, value };
    });
    await prove(context);
    return 0;
  } catch {
    return 1; // its step said why
  } finally {
    await context?.close();
  }
}

main().then((code) => process.exit(code));
