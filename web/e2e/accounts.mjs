// Who may do what, in a real browser: node e2e/accounts.mjs BASE_URL PASSWORD SCREENSHOTS. Prints what it saw as JSON.

import { assert, browser, lookAt, open, problems } from "./browser.mjs";

const [base, password, pictures] = process.argv.slice(2);
const seen = {};

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
        const socket = new WebSocket(`ws://${location.host}/api/live`, ["lwd.live", `csrf.${localStorage.getItem("lwd.csrf")}`]);
        socket.onclose = (event) => reject(new Error(`closed with ${event.code}`));
        socket.onmessage = (event) => {
          const message = typeof event.data === "string" ? JSON.parse(event.data) : {};
          if (message.kind === "hello") socket.send(JSON.stringify({ kind: "command", robot_id: "robot-0", verb: wanted, request_id: "own" }));
          if (message.kind === "answer") resolve(message.refused);
        };
      }),
    verb,
  );

try {
  // A wrong password, then the right one: nothing but the keyboard.
  const page = await open(base);
  await loginShown(page);
  await lookAt(page, `${pictures}/login`);
  await logIn(page, "viewer", "the wrong one");
  await page.waitForFunction(() => document.querySelector(".message").textContent);
  seen.wrong_password = await page.textContent(".message");
  await lookAt(page, `${pictures}/login-refused`);
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

  // The operator takes over; this time the button is what is pressed. One logs in to where one was: the robot.
  await logIn(page, "operator", password, ["Tab", "Enter"]);
  await page.waitForSelector('[data-verb="take"]:enabled');
  await page.keyboard.press("t");
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
