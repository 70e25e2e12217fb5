// One operator's shift in a real browser: node e2e/console.mjs BASE_URL SCREENSHOTS. Prints what it measured as JSON.

import { readFileSync } from "node:fs";
import { assert, browser, lookAt, open, problems } from "./browser.mjs";
import { begin, discard, drive, hold, press, robot, standsStill, take, until } from "./robot.mjs";

const [base, pictures] = process.argv.slice(2);
const measured = {};

async function tab(path = "") {
  const page = await open(`${base}/${path}`);
  await page.waitForSelector(path ? ".robot" : ".tile");
  return page;
}

/** A second connection of the page, which keeps the newest poses where the script can read them. */
async function follow(page, ids, hz) {
  await page.evaluate(
    async ([wanted, rate]) => {
      const head = await (await fetch("/api/scene")).arrayBuffer();
      const length = new DataView(head).getUint32(0, true);
      window.bodies = JSON.parse(new TextDecoder().decode(new Uint8Array(head, 4, length))).bodies;
      window.frames = {};
      window.counts = {};
      const socket = new WebSocket(`ws://${location.host}/api/live`, ["lwd.live", `csrf.${localStorage.getItem("lwd.csrf")}`]);
      socket.binaryType = "arraybuffer";
      socket.onmessage = (event) => {
        if (typeof event.data === "string") {
          const message = JSON.parse(event.data);
          if (message.kind === "hello") socket.send(JSON.stringify({ kind: "watch", robots: wanted, hz: rate }));
          if (message.kind === "fleet") window.fleetNow = message;
          return;
        }
        const view = new DataView(event.data);
        for (let at = 0; at < event.data.byteLength; ) {
          const size = view.getUint32(at, true);
          const name = view.getUint8(at + 5);
          const id = new TextDecoder().decode(new Uint8Array(event.data, at + 6, name));
          const rest = at + 6 + name;
          window.counts[id] = (window.counts[id] ?? 0) + 1;
          // By the host's clock, which is this machine's: however late the picture of it comes.
          if (window.frames[id]?.step !== view.getUint32(rest, true)) window.moved_s = view.getFloat64(rest + 8, true);
          window.frames[id] = {
            step: view.getUint32(rest, true),
            lamps: view.getUint32(rest + 4, true),
            poses: new Float32Array(event.data.slice(rest + 18, at + 4 + size)),
          };
          at += 4 + size;
        }
        socket.send(JSON.stringify({ kind: "ack" }));
      };
      window.follower = socket;
    },
    [ids, hz],
  );
}

const place = (page, id) =>
  page.evaluate((wanted) => {
    const frame = window.frames[wanted];
    if (!frame) return null;
    const at = (name) => {
      const body = window.bodies.indexOf(name);
      return Array.from(frame.poses.slice(7 * body, 7 * body + 3));
    };
    const [left, right] = [at("ur5e/robotiq/left_pad"), at("ur5e/robotiq/right_pad")];
    const { episode_id, phase } = window.fleetNow.robots.find((each) => each.robot_id === wanted);
    return { episode_id, phase, hand: left.map((value, axis) => (value + right[axis]) / 2), button: at("button_0"), lamps: frame.lamps, step: frame.step };
  }, id);

/** Take the label back in the three seconds in which one can. Returns whether the page was in time to offer it. */
async function undo(page, id, episode) {
  for (;;) {
    const now = await robot(page, id);
    if (now.episode_id !== episode || now.reason === "label taken back") return now.episode_id === episode;
    if (await page.isEnabled('[data-verb="undo"]')) await page.keyboard.press("u");
    await page.waitForTimeout(100);
  }
}

async function keys(page, wanted, held) {
  for (const key of held) if (!wanted.has(key)) await page.keyboard.up(key);
  for (const key of wanted) if (!held.has(key)) await page.keyboard.down(key);
  return wanted;
}

/** Steer to the drawer's button and press it, by the keys that a person would use. Returns whether it succeeded. */
async function pressButton(page, id, episode) {
  let held = new Set();
  const end = Date.now() + 30_000;
  while ((await place(page, id)).episode_id !== episode) await page.waitForTimeout(20);
  while (Date.now() < end) {
    const seen = await place(page, id);
    if (seen.episode_id !== episode) break;
    if (seen.phase === "paused") await page.keyboard.press("Enter");
    const [dx, dy, dz] = seen.button.map((value, axis) => value - seen.hand[axis]);
    const far = Math.hypot(dx, dy);
    const wanted = new Set(["j"]);
    if (far > 0.04 && dz > -0.09) wanted.add("r");
    if (Math.abs(dx) > 0.012) wanted.add(dx < 0 ? "w" : "s");
    if (Math.abs(dy) > 0.012) wanted.add(dy < 0 ? "a" : "d");
    if (far < 0.025) wanted.add("f");
    else if (far < 0.08) wanted.add("Shift");
    held = await keys(page, wanted, held);
    await page.waitForTimeout(40);
  }
  await keys(page, new Set(), held);
  const found = await page.evaluate(async (wanted) => {
    for (let attempt = 0; attempt < 100; attempt++) {
      const response = await fetch(`/api/episodes/${wanted}`);
      if (response.ok) return response.json();
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    return null;
  }, `${id}/${episode}`);
  return found?.outcome === "success" ? found : null;
}

try {
  // Watch.
  const page = await tab();
  const all = await page.evaluate(async () => (await (await fetch("/api/fleet")).json()).robots.map((each) => each.robot_id));
  assert(all.length === 4, `there are ${all.length} robots, not 4`);
  await follow(page, all, 10);
  await page.waitForTimeout(3000);
  await page.evaluate(() => (window.counts = {}));
  await page.waitForTimeout(5000);
  const counts = await page.evaluate(() => window.counts);
  measured.pose_updates_per_s = Object.fromEntries(all.map((id) => [id, (counts[id] ?? 0) / 5]));
  await page.waitForFunction(() => {
    const canvas = document.querySelector(".tile canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(pixels.buffer)).size > 50;
  });
  await lookAt(page, `${pictures}/fleet`);
  await page.evaluate(() => window.follower.close());

  // Take over by keyboard; how long until the last autonomous step?
  const id = all[0];
  await page.goto(`${base}/#/robot/${id}`);
  await page.waitForSelector(".robot");
  await follow(page, [id], 20);
  await page.waitForFunction((wanted) => window.frames?.[wanted], id);
  let state = await take(page, id);

  // A second operator is refused, and told by whom.
  const other = await tab(`#/robot/${id}`);
  await other.waitForFunction(() => document.querySelector(".big-state")?.textContent.includes("controls it"));
  await other.keyboard.press("t");
  await other.waitForFunction(() => document.querySelector(".message")?.textContent.includes("controls this robot"));
  measured.second_operator = await other.textContent(".message");
  await other.context().close();
  await lookAt(page, `${pictures}/robot`);

  // Pads: the hand moves while one drags, and stands still when one lets go.
  const begun = (await drive(page, id)).step;
  const pad = await page.locator('[data-pad="height"]').boundingBox();
  await page.mouse.move(pad.x + pad.width / 2, pad.y + pad.height / 2);
  await page.mouse.down();
  await page.mouse.move(pad.x + pad.width / 2, pad.y + 2);
  for (const end = Date.now() + 60_000; ; await page.waitForTimeout(100)) {
    const now = await robot(page, id);
    if (now.step > begun + 3) break;
    assert(Date.now() < end, `a pad does not move the robot: ${JSON.stringify(now)}`);
    if (now.phase === "paused") await drive(page, id);
  }
  await page.screenshot({ path: `${pictures}/pads.png` });
  await page.mouse.up();
  const let_go_s = Date.now() / 1000;
  assert(await standsStill(page, id), "a robot moves whose pad was let go");
  measured.moved_on_s = (await page.evaluate(() => window.moved_s)) - let_go_s;
  assert(measured.moved_on_s < 0.5, `a robot moved on for ${measured.moved_on_s} s after its pad was let go`);
  state = await hold(page, id);

  // Discard episodes until one is a task that a script can steer, then drive it to success.
  let won = null;
  let undone = false;
  for (let attempt = 0; attempt < 32 && !won; attempt++) {
    if (state.task === "press_button" && state.step === 0) {
      await drive(page, id);
      won = await pressButton(page, id, state.episode_id);
      // Too slow to get there in time, the script leaves the episode where it is.
      if (!won) await discard(page, id, state.episode_id);
    } else {
      await discard(page, id, state.episode_id);
      if (!undone) {
        undone = await undo(page, id, state.episode_id);
        await discard(page, id, state.episode_id);
      }
    }
    const before = state.episode_id;
    state = await begin(page, id, before);
    // The script may have pressed Enter just when the next episode began.
    state = await hold(page, id);
  }
  assert(won, "the script did not drive a robot to success");
  assert(undone, "no label was taken back");
  measured.driven = { robot_id: won.robot_id, episode_id: won.episode_id, human_steps: won.human_steps, steps: won.steps, snapshot: won.snapshot, operator_ids: won.operator_ids };
  await press(page, "release");
  await until(page, id, (now) => now.lease === 0 && now.phase === "autonomous", "the robot is not handed back");

  // A tab that is killed while it drives leaves a robot that holds.
  const second = all[1];
  const doomed = await tab(`#/robot/${second}`);
  await take(doomed, second);
  await drive(doomed, second);
  await doomed.keyboard.down("r");
  await doomed.waitForTimeout(300);
  await doomed.context().close();
  const left = await until(page, second, (now) => now.phase === "paused" && now.lease === 0, "the robot of a killed tab does not hold");
  measured.killed_tab = left.reason;
  assert(await standsStill(page, second), "a robot without an operator moves");

  // The other views.
  await page.goto(`${base}/#/robot/${second}`);
  await page.waitForSelector(".robot");
  await take(page, second);
  await press(page, "release");
  await page.goto(`${base}/#/learning`);
  await page.waitForSelector(".chart svg");
  await lookAt(page, `${pictures}/learning`);
  await page.goto(`${base}/#/episodes`);
  await page.waitForSelector("td a");
  await lookAt(page, `${pictures}/episodes`);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("a[data-export]")]);
  measured.export_bytes = readFileSync(await download.path()).length;
  await page.goto(`${base}/#/episode/${won.robot_id}/${won.episode_id}`);
  await page.waitForSelector(".replay", { timeout: 120_000 });
  await page.fill(".player input", "10").catch(() => {});
  await lookAt(page, `${pictures}/episode`);
  await page.goto(`${base}/#/audit`);
  await page.waitForSelector("td");
  const audit = await page.textContent("main");
  for (const word of ["take", "discard", "undo", "release", "lost", "export"]) assert(audit.includes(word), `no ${word} in the audit log`);
  await lookAt(page, `${pictures}/audit`);
  await page.setViewportSize({ width: 820, height: 1180 });
  await page.goto(`${base}/#/`);
  await page.waitForSelector(".tile");
  await page.waitForTimeout(1500);
  await page.screenshot({ path: `${pictures}/tablet.png` });
  assert(problems.length === 0, problems.join("\n"));
  console.log(JSON.stringify(measured));
} finally {
  await browser.close();
}
