// A browser, and what the scripts look for on every page they see.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What no page should have: errors of its scripts, serious findings of axe. */
export const problems = [];

export function assert(condition, what) {
  if (!condition) throw new Error(what);
}

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
});

function link(port) {
  const words = ["-m", "lwd", "console", "link", "--run", process.env.LWD_LINKS_OF, "--port", port];
  return execFileSync(process.env.LWD_PYTHON, words, { encoding: "utf8" }).trim();
}

export async function open(url) {
  // axe is injected into the page, which the console's own policy forbids.
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, bypassCSP: true });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => problems.push(error.message));
  if (process.env.LWD_LINKS_OF) {
    // A console without accounts: each browser comes with a link of its own.
    await page.goto(link(new URL(url).port));
    await page.waitForSelector(".user");
  }
  await page.goto(url);
  return page;
}

/** Keep pictures of the page, light and dark, and note what axe finds. */
export async function lookAt(page, file) {
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.waitForFunction((wanted) => getComputedStyle(document.documentElement).colorScheme === wanted, scheme);
    await page.waitForTimeout(500); // what is drawn follows
    await page.screenshot({ path: `${file}-${scheme}.png` });
    await page.evaluate(AXE);
    const result = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const each of result.violations) {
      if (each.impact === "serious" || each.impact === "critical") {
        problems.push(`${file}, ${scheme}: ${each.id}: ${each.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`);
      }
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
}
