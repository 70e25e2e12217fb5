// What a person does at a robot's page, and what the console itself says of the robot.

import { assert } from "./browser.mjs";

const KEYS = { take: "t", resume: "Enter", pause: "p", release: "Escape", failure: "2", discard: "3", undo: "u" };

export const robot = (page, id) =>
  page.evaluate(async (wanted) => (await (await fetch("/api/fleet")).json()).robots.find((each) => each.robot_id === wanted), id);

/** Wait until the robot is as wanted. */
export async function until(page, id, condition, what) {
  for (const end = Date.now() + 60_000; ; await page.waitForTimeout(50)) {
    const found = await robot(page, id);
    if (condition(found)) return found;
    assert(Date.now() < end, `${what}: ${JSON.stringify(found)}`);
  }
}

/** Press a verb's key once the page offers the verb: it hears of the robot later than the console does, and takes no key before. */
export async function press(page, verb) {
  await page.waitForSelector(`[data-verb="${verb}"]:enabled`);
  await page.keyboard.press(KEYS[verb]);
}

/** Press a verb's key whenever the page offers the verb, until the robot is as wanted. */
async function insist(page, id, verb, condition, what) {
  for (const end = Date.now() + 60_000; ; await page.waitForTimeout(100)) {
    const found = await robot(page, id);
    if (condition(found)) return found;
    assert(Date.now() < end, `${what}: ${JSON.stringify(found)}`);
    if (await page.isEnabled(`[data-verb="${verb}"]`)) await page.keyboard.press(KEYS[verb]);
  }
}

export async function take(page, id) {
  await press(page, "take");
  return until(page, id, (now) => now.phase === "paused" && now.lease > 0, "the robot does not hold");
}

/** Drive. A page that draws in software may be late with its commands; then the robot holds by itself, and one presses again. */
export const drive = (page, id) => insist(page, id, "resume", (now) => now.phase === "human", "nobody drives");

/** Hold, if the robot does not hold by itself already. */
export const hold = (page, id) => insist(page, id, "pause", (now) => now.phase === "paused", "the robot does not hold");

/** Discard the episode, unless it has ended by itself. */
export const discard = (page, id, episode) =>
  insist(page, id, "discard", (now) => now.label === "discard" || now.episode_id !== episode, "the episode cannot be discarded");

/** Let the next episode begin, which waits for whoever holds the robot. */
export const begin = (page, id, before) =>
  insist(page, id, "resume", (now) => now.episode_id && now.episode_id !== before, "no new episode");

/** Whether the robot makes no step. They come with the host's heartbeat, later than what stops it: only from the next one on they count. */
export async function standsStill(page, id) {
  await page.waitForTimeout(1500);
  const before = await robot(page, id);
  await page.waitForTimeout(1500);
  const after = await robot(page, id);
  return after.step === before.step && after.episode_id === before.episode_id;
}
