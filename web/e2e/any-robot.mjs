// A robot of two arms, driven joint by joint in a real browser: node e2e/any-robot.mjs BASE_URL SCREENSHOTS. Prints what it measured as JSON.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [base, pictures] = process.argv.slice(2);
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ID = "arms-0";
const problems = [];
const measured = {};

const assert = (condition, what) => {
  if (!condition) throw new Error(what);
};

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

try {
  // axe is injected into the page, which the console's own policy forbids.
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 }, bypassCSP: true })).newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => problems.push(error.message));
  /** The newest state of the robot, and the commands that the page has sent since the last look. */
  const sent = [];
  page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      const message = JSON.parse(payload);
      if (message.verb === "jog") sent.push(message.action);
    }),
  );
  await page.goto(base);
  await page.waitForSelector(".tile");
  const robot = () =>
    page.evaluate(async (id) => (await (await fetch("/api/fleet")).json()).robots.find((each) => each.robot_id === id), ID);
  const until = async (condition, what) => {
    for (const end = Date.now() + 60_000; ; await page.waitForTimeout(50)) {
      const now = await robot();
      if (condition(now)) return now;
      assert(Date.now() < end, `${what}: ${JSON.stringify(now)}`);
    }
  };
  /** The page takes the key once it has heard of the robot's state itself. */
  const drive = async () => {
    await page.waitForSelector('[data-verb="resume"]:not([disabled])');
    await page.keyboard.press("Enter");
    await until((now) => now.phase === "human", "nobody drives");
  };
  /** Hold something until the robot has made some steps; returns how many it made, and which axes were deflected how far. */
  const during = async (press, lift, wanted = 8) => {
    await page.waitForTimeout(1300); // steps come with the host's heartbeat
    if ((await robot()).phase === "paused") await drive();
    const before = (await robot()).step;
    sent.length = 0;
    await press();
    const end = Date.now() + (wanted ? 60_000 : 1500);
    for (let now = await robot(); now.step - before < (wanted || 1) && Date.now() < end; now = await robot()) {
      // A busy machine may be late with its commands; then the robot holds, and the key is still down.
      if (now.phase === "paused") await drive();
      await page.waitForTimeout(100);
    }
    await lift();
    await page.waitForTimeout(1300);
    const axes = [...new Set(sent.flatMap((action) => action.flatMap((value, axis) => (value ? [axis] : []))))];
    return { steps: (await robot()).step - before, axes, largest: Math.max(0, ...sent.flat().map(Math.abs)) };
  };
  const key = (name) => [() => page.keyboard.down(name), () => page.keyboard.up(name)];
  const pointer = async (selector, part = 0.5) => {
    const box = await page.locator(selector).boundingBox();
    return [
      async () => {
        await page.mouse.move(box.x + box.width * part, box.y + box.height / 2);
        await page.mouse.down();
      },
      () => page.mouse.up(),
    ];
  };

  await page.goto(`${base}/#/robot/${ID}`);
  await page.waitForSelector(".row-axis");
  assert((await page.locator(".row-axis").count()) === 14, "not every joint has a row");
  await page.keyboard.press("t");
  await until((now) => now.phase === "paused" && now.lease > 0, "the robot does not hold");
  await drive();
  measured.waist = await during(...key("q"));
  measured.fine = await during(() => page.keyboard.down("Shift").then(() => page.keyboard.down("w")), () => page.keyboard.up("w").then(() => page.keyboard.up("Shift")));
  await page.keyboard.press("g");
  measured.other_arm = await during(...key("o"));
  measured.button = await during(...(await pointer('[data-axis="2"] .side:last-child')));
  measured.dragged = await during(...(await pointer('[data-axis="9"] .pad', 0.75)));
  measured.hands_off = await during(() => {}, () => {}, 0);

  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.waitForTimeout(500);
    await page.screenshot({ path: `${pictures}/any-robot-${scheme}.png` });
    await page.evaluate(AXE);
    const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const each of result.violations) {
      if (each.impact === "serious" || each.impact === "critical") problems.push(`${scheme}: ${each.id}: ${each.nodes.map((node) => node.target.join(" ")).slice(0, 3)}`);
    }
  }
  await page.keyboard.press("2");
  await until((now) => now.label === "failure", "the episode is not labelled");
  const { episode_id } = await robot();
  measured.episode_id = episode_id;
  await until((now) => now.episode_id !== episode_id, "the episode does not end");
  // What the camera recorded of it, step by step.
  for (const end = Date.now() + 60_000; ; await page.waitForTimeout(200)) {
    if (await page.evaluate(async (id) => (await fetch(`/api/episodes/${id}`)).ok, episode_id)) break;
    assert(Date.now() < end, "the episode is in no snapshot");
  }
  await page.goto(`${base}/#/episode/${episode_id}`);
  await page.waitForSelector(".reel .replay");
  await page.waitForFunction(() => [...document.querySelectorAll(".reel img")].every((image) => image.naturalWidth > 0));
  const first = await page.getAttribute(".reel .replay", "src");
  await page.locator('.player input[type="range"]').fill("5");
  measured.frames = [first, await page.getAttribute(".reel .replay", "src")].map((url) => Number(url.split("/").at(-1)));
  await page.locator(".player button").click();
  await page.waitForFunction(() => Number(document.querySelector(".reel .replay").src.split("/").at(-1)) > 8);
  await page.screenshot({ path: `${pictures}/camera-episode.png` });
  assert(problems.length === 0, problems.join("\n"));
  console.log(JSON.stringify(measured));
} finally {
  await browser.close();
}
