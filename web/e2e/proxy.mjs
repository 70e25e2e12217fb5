// Login by a proxy's header, in a real browser: node e2e/proxy.mjs CONSOLE_URL PROXY_PORT SECRET SCREENSHOTS.

import http from "node:http";
import { assert, browser, lookAt, open, problems } from "./browser.mjs";

const [console_url, port, secret, pictures] = process.argv.slice(2);
const seen = {};

/** Whom the proxy has logged in; nobody: it sends browsers to its own login page. */
let who = "operator";
const open_sockets = new Set();

function onward(request) {
  const headers = { ...request.headers };
  delete headers["remote-user"];
  return http.request(console_url + request.url, { method: request.method, headers: { ...headers, "Remote-User": who, "X-LWD-Proxy-Secret": secret } });
}

const proxy = http.createServer((request, response) => {
  if (!who) return void response.writeHead(302, { location: "https://login.example/" }).end();
  const passed = onward(request);
  passed.on("response", (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  request.pipe(passed);
});
proxy.on("upgrade", (request, socket) => {
  socket.on("error", () => {});
  if (!who) return void socket.end("HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\n\r\n");
  open_sockets.add(socket);
  const passed = onward(request);
  passed.on("upgrade", (answer, other) => {
    const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("")}\r\n`);
    other.on("error", () => {});
    other.on("close", () => socket.destroy());
    socket.on("close", () => other.destroy());
    other.pipe(socket).pipe(other);
  });
  passed.on("response", (answer) => socket.end(`HTTP/1.1 ${answer.statusCode} Refused\r\n\r\n`));
  passed.end();
});
await new Promise((resolve) => proxy.listen(Number(port), "127.0.0.1", resolve));

const user = (page, name) => page.waitForFunction((wanted) => document.querySelector(".user")?.textContent === wanted, name);
const refused = async (page, words) => {
  await page.waitForFunction((wanted) => document.querySelector(".login .message")?.textContent.includes(wanted), words);
  assert((await page.locator("input, header, .tile, .robot").count()) === 0, "a refusal leaves more than its words in sight");
  return page.textContent(".login .message");
};
const again = (page) => page.getByRole("button", { name: "Try again" }).press("Enter");

try {
  // Whom the proxy names is logged in; there is nothing to fill in, and nothing to log out of.
  const page = await open(`http://127.0.0.1:${port}`);
  await user(page, "operator (operator)");
  await page.waitForFunction(() => document.querySelectorAll(".tile").length === 2);
  assert((await page.getByRole("button", { name: "Log out" }).count()) === 0, "one can log out where the proxy logs in again");

  // Logged out at the proxy, whose connections end; the page does not try for ever.
  who = "";
  for (const socket of open_sockets) socket.destroy();
  seen.logged_out = await refused(page, "not logged in at the proxy");

  // Somebody whom the console does not know.
  who = "stranger";
  await again(page);
  seen.stranger = await refused(page, "no account");
  await lookAt(page, `${pictures}/proxy-refused`);

  // The page is open while the proxy's user becomes another one: with its next request it is theirs.
  who = "viewer";
  await again(page);
  await user(page, "viewer (viewer)");
  who = "operator";
  await page.click('a[href="#/learning"]');
  await user(page, "operator (operator)");
  assert(problems.length === 0, problems.join("\n"));
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
  proxy.close();
  proxy.closeAllConnections();
}
