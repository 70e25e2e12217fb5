// Who may do what, in a real browser: node e2e/accounts.mjs BASE_URL PASSWORD SCREENSHOTS. Prints what it saw as JSON.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [base, password, pictures] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const seen = {};
const problems = [];

const assert = (condition, what) => {
  if (!condition) throw new Error(what);
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
});

/** A browser of somebody's own, which shows the login. */
async function visitor() {
  // axe is injected into the page, which the console's own policy forbids.
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, bypassCSP: true });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on("pageerror", (error) => problems.push(error.message));
  await page.goto(base);
  await loginShown(page);
  return page;
}

async function loginShown(page) {
  await page.waitForFunction(() => document.activeElement?.getAttribute("name") === "name");
  assert((await page.locator("header, .tile, .robot").count()) === 0, "the login leaves parts of the console in sight");
}

/** By the keyboard alone; `send` is what one presses after the password. */
async function logIn(page, name, word, send = ["Enter"]) {
  await page.keyboard.type(name);
  await page.keyboard.press("Tab");
  await page.keyboard.type(word);
  for (const key of send) await page.keyboard.press(key);
}

async function logOut(page) {
  await page.getByRole("button", { name: "Log out" }).focus();
  await page.keyboard.press("Enter");
  await loginShown(page);
  assert((await status(page, "/api/fleet")) === 401, "the session goes on after the logout");
}

const status = (page, path) => page.evaluate(async (wanted) => (await fetch(wanted)).status, path);
const state = (page, words) =>
  page.waitForFunction((wanted) => document.querySelector(".big-state")?.textContent.includes(wanted), words);

/** What the console answers to a command that no button of the page would send. */
const command = (page, verb) =>
  page.evaluate(
    (wanted) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(`ws://${location.host}/api/live`);
        socket.onclose = (event) => reject(new Error(`closed with ${event.code}`));
        socket.onmessage = (event) => {
          const message = typeof event.data === "string" ? JSON.parse(event.data) : {};
          if (message.kind === "hello") socket.send(JSON.stringify({ kind: "command", robot_id: "robot-0", verb: wanted, request_id: "own" }));
          if (message.kind === "answer") resolve(message.refused);
        };
      }),
    verb,
  );

async function lookAt(page, name) {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.waitForFunction((wanted) => getComputedStyle(document.documentElement).colorScheme === wanted, scheme);
    await page.screenshot({ path: `${pictures}/${name}-${scheme}.png` });
    await page.evaluate(AXE);
    const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const each of result.violations) {
      if (each.impact === "serious" || each.impact === "critical") {
        problems.push(`${name}, ${scheme}: ${each.id}: ${each.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`);
      }
    }
  }
}

try {
  // A wrong password, then the right one: nothing but the keyboard.
  const page = await visitor();
  await lookAt(page, "login");
  await logIn(page, "viewer", "the wrong one");
  await page.waitForFunction(() => document.querySelector(".message").textContent);
  seen.wrong_password = await page.textContent(".message");
  await lookAt(page, "login-refused");
  await page.keyboard.press("Control+A");
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");

  // The viewer looks.
  await page.waitForFunction(() => document.querySelectorAll(".tile").length === 2);
  seen.viewer = await page.textContent(".user");
  assert((await page.locator('a[href="#/audit"]').count()) === 0, "a viewer is shown the way to the audit log");
  assert((await status(page, "/api/audit")) === 403, "a viewer may read the audit log");
  await page.focus('.tile[data-robot="robot-0"]');
  await page.keyboard.press("Enter");
  await state(page, "asks for help");
  seen.viewers_buttons = await page.locator(".panel button:enabled").count();
  await page.keyboard.press("t");
  seen.viewers_command = await command(page, "take");
  await logOut(page);

  // The operator drives; this time the button is what is pressed. One logs in to where one was: the robot.
  await logIn(page, "operator", password, ["Tab", "Enter"]);
  await page.waitForSelector('[data-verb="take"]:enabled');
  await page.keyboard.press("t");
  await state(page, "holds for you");
  await page.keyboard.press("Enter");
  await state(page, "you drive");
  await page.keyboard.press("p");
  await state(page, "holds for you");
  await page.keyboard.press("Escape");
  await page.waitForSelector('[data-verb="take"]:enabled');
  assert((await status(page, "/api/audit")) === 403, "an operator may read the audit log");
  await logOut(page);

  // The administrator sees all of that.
  await logIn(page, "admin", password);
  await page.click('a[href="#/audit"]');
  await page.waitForSelector("td");
  seen.audit = await page.evaluate(() =>
    [...document.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
  );
  assert(problems.length === 0, problems.join("\n"));
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
