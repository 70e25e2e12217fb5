// A robot of two arms, driven joint by joint in a real browser: node e2e/any-robot.mjs BASE_URL SCREENSHOTS. Prints what it measured as JSON.

import { assert, browser, lookAt, open, problems } from "./browser.mjs";
import { drive, press, robot, take, until } from "./robot.mjs";

const [base, pictures] = process.argv.slice(2);
const ID = "arms-0";
const measured = {};

try {
  const page = await open(`${base}/#/robot/${ID}`);
  /** The commands that the page has sent since the last look. */
  const sent = [];
  page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      const message = JSON.parse(payload);
      if (message.verb === "jog") sent.push(message.action);
    }),
  );
  await page.reload(); // for its socket to be heard, too
  /** Hold something until the robot has made some steps; returns how many it made, and which axes were deflected how far. */
  const during = async (touch, lift, wanted = 8) => {
    await page.waitForTimeout(1300); // steps come with the host's heartbeat
    const before = (await drive(page, ID)).step;
    sent.length = 0;
    await touch();
    const end = Date.now() + (wanted ? 60_000 : 1500);
    // Where the robot held because a command was late, the key is still down.
    while ((await drive(page, ID)).step - before < (wanted || 1) && Date.now() < end) await page.waitForTimeout(100);
    await lift();
    await page.waitForTimeout(1300);
    const axes = [...new Set(sent.flatMap((action) => action.flatMap((value, axis) => (value ? [axis] : []))))];
    return { steps: (await robot(page, ID)).step - before, axes, largest: Math.max(0, ...sent.flat().map(Math.abs)) };
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

  await page.waitForSelector(".row-axis");
  assert((await page.locator(".row-axis").count()) === 14, "not every joint has a row");
  await take(page, ID);
  measured.waist = await during(...key("q"));
  measured.fine = await during(() => page.keyboard.down("Shift").then(() => page.keyboard.down("w")), () => page.keyboard.up("w").then(() => page.keyboard.up("Shift")));
  await page.keyboard.press("g");
  measured.other_arm = await during(...key("o"));
  measured.button = await during(...(await pointer('[data-axis="2"] .side:last-child')));
  measured.dragged = await during(...(await pointer('[data-axis="9"] .pad', 0.75)));
  measured.hands_off = await during(() => {}, () => {}, 0);

  await lookAt(page, `${pictures}/any-robot`);
  await press(page, "failure");
  const { episode_id } = await until(page, ID, (now) => now.label === "failure", "the episode is not labelled");
  measured.episode_id = episode_id;
  await until(page, ID, (now) => now.episode_id !== episode_id, "the episode does not end");
  // What the camera recorded of it, step by step.
  for (const end = Date.now() + 60_000; ; await page.waitForTimeout(200)) {
    if (await page.evaluate(async (id) => (await fetch(`/api/episodes/${id}`)).ok, `${ID}/${episode_id}`)) break;
    assert(Date.now() < end, "the episode is in no snapshot");
  }
  await page.goto(`${base}/#/episode/${ID}/${episode_id}`);
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
