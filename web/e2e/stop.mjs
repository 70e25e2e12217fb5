// All robots are stopped by the key and released, in a real browser: node e2e/stop.mjs BASE_URL SCREENSHOTS.

import { assert, browser, lookAt, open, problems } from "./browser.mjs";

const [base, pictures] = process.argv.slice(2);
const measured = {};

const page = await open(base);
await page.waitForSelector(".tile");
const id = await page.getAttribute(".tile", "data-robot");
const states = () => page.$$eval(".cell", (cells) => cells.map((cell) => cell.dataset.state));
const until = async (wanted) => {
  const end = performance.now() + 60_000;
  while (!(await wanted())) {
    assert(performance.now() < end, `not within a minute: ${wanted}`);
    await page.waitForTimeout(50);
  }
};
assert(await page.isHidden(".stopped"), "nobody has stopped anything");
assert(await page.isVisible("button.stop"), "the button is on the wall");

// By the key, in the robot's view, with Shift held down as in fine moves.
await page.goto(`${base}/#/robot/${id}`);
await page.waitForSelector(".robot");
const pressed = performance.now();
await page.keyboard.press("Shift+Backspace");
await page.waitForFunction(() => document.querySelector(".stopped strong")?.textContent.startsWith("STOPPED by"));
await page.waitForFunction(() => /(\d+) of \1 hosts hold\./.test(document.querySelector(".stopped p").textContent));
measured.confirmed_ms = Math.round(performance.now() - pressed);
measured.robot = await page.textContent(".big-state");
await lookAt(page, `${pictures}/stop-robot`);

await page.goto(`${base}/#/`);
await page.waitForSelector(".tile");
await until(async () => (await states()).every((state) => state === "stopped"));
assert(await page.isVisible(".stopped"), "it is said on every page");

// In a text field the key deletes; here somebody types why the robots may go on.
await page.click(".stopped > button");
await page.fill(".stopped input", "lookedd");
await page.keyboard.press("Backspace");
assert((await page.inputValue(".stopped input")) === "looked", "the key deletes in a text field");
await lookAt(page, `${pictures}/stop-fleet`);
await page.keyboard.press("Enter");
await page.waitForSelector(".stopped", { state: "hidden" });
await until(async () => (await states()).every((state) => state !== "stopped"));

// By the button, then from somebody else's page.
await page.click("button.stop");
const other = await open(base);
await other.waitForSelector(".stopped:not([hidden])");
measured.other = await other.textContent(".stopped strong");
await other.click(".stopped > button");
await other.fill(".stopped input", "a mistake");
await other.keyboard.press("Enter");
await page.waitForSelector(".stopped", { state: "hidden" });

assert(problems.length === 0, problems.join("\n"));
console.log(JSON.stringify(measured));
await browser.close();
