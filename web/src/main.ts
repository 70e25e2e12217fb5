// The page: header, routes, login.

import "./style.css";
import { ApiError, beginSession, loadSession, login, logout, type SessionInfo } from "./api";
import { AuditPage } from "./audit";
import { h, setText } from "./dom";
import { EpisodePage, EpisodesPage } from "./episodes";
import { FleetWall } from "./fleet";
import { LearningPage } from "./learning";
import { Live } from "./live";
import { RobotView } from "./robot";
import { Stage } from "./stage";
import { StopControl } from "./stop";

interface Page {
  element: HTMLElement;
  close(): void;
}

const app = document.getElementById("app")!;
const live = new Live();
let session: SessionInfo;
let page: Page | null = null;
let stage: Stage | null = null;
let stop: StopControl | null = null;

const status = h("span", { class: "status", role: "status" });
const nav = h("nav", { "aria-label": "views" });
const holder = h("div", { class: "holder" });

function theme(): void {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

function shell(): void {
  const stored = localStorage.getItem("theme");
  if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
  const views: [string, string][] = [
    ["#/", "Fleet"],
    ["#/learning", "Learning"],
    ["#/episodes", "Episodes"],
  ];
  stop?.close();
  stop = new StopControl(live, session.role !== "viewer");
  if (session.role === "admin") views.push(["#/audit", "Audit"]);
  nav.replaceChildren(...views.map(([href, name]) => h("a", { href }, name)));
  app.replaceChildren(
    h("a", { class: "skip", href: "#main" }, "skip to content"),
    h(
      "header",
      {},
      h("strong", { class: "brand" }, "LWD console"),
      nav,
      status,
      h("span", { class: "user" }, `${session.name} (${session.role})`),
      h("button", { type: "button", onclick: theme, "aria-label": "light or dark" }, "◐"),
      session.login === "password" ? h("button", { type: "button", onclick: leave }, "Log out") : null,
      stop.button,
    ),
    stop.banner,
    holder,
  );
}

function leave(): void {
  // First: the console ends this session's connection, and the page would take it for an expired one.
  live.close();
  void logout().then(start, start);
}

function showStatus(): void {
  const fleet = live.fleet;
  const parts = [live.connected ? "" : "no connection to the console"];
  if (live.connected && fleet && !fleet.bus) parts.push("no message bus");
  if (fleet?.learner) parts.push(`${fleet.learner.stage}, update ${fleet.learner.update}, policy ${fleet.learner.policy_version}${fleet.learner.age_s > 5 ? " (silent)" : ""}`);
  if (fleet?.coordinator) parts.push(`snapshot ${fleet.coordinator.version}${fleet.coordinator.age_s > 5 ? " (silent)" : ""}`);
  for (const host of fleet?.hosts ?? []) if (host.error) parts.push(`${host.host_id}: ${host.error}`);
  setText(status, parts.filter(Boolean).join(" · "));
  status.classList.toggle("bad", !live.connected || (fleet !== null && !fleet.bus));
}

function route(): void {
  const [path = "", argument = "", second = ""] = location.hash.replace(/^#\//, "").split("?")[0]!.split("/");
  page?.close();
  const current = (): Stage | null => stage;
  if (path === "learning") page = new LearningPage();
  else if (path === "episodes") page = new EpisodesPage(session.role !== "viewer");
  else if (path === "episode") page = new EpisodePage(`${argument}/${second}`, current, session.role !== "viewer");
  else if (path === "audit") page = new AuditPage();
  else if (path === "robot") page = new RobotView(live, current, argument, session.role !== "viewer");
  else page = new FleetWall(live, current);
  if (path !== "" && path !== "robot") live.watch([], 1);
  holder.replaceChildren(page.element);
  for (const link of nav.querySelectorAll("a")) {
    const own = link.getAttribute("href")!.slice(2);
    const here = own === path || (own === "" && path === "robot") || (own === "episodes" && path === "episode");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function loginForm(): void {
  page?.close();
  page = null;
  stop?.close();
  stop = null;
  const message = h("p", { class: "message", role: "alert" });
  const name = h("input", { name: "name", autocomplete: "username", required: true });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const submit = (event: Event): void => {
    event.preventDefault();
    login(name.value, password.value).then(begin, (error: Error) => setText(message, error.message));
  };
  app.replaceChildren(
    h(
      "main",
      { class: "login" },
      h("h1", {}, "LWD console"),
      h("form", { onsubmit: submit }, h("label", {}, "Name", name), h("label", {}, "Password", password), message, h("button", { type: "submit" }, "Log in")),
    ),
  );
  name.focus();
}

/** Say why one is not let in. Only the proxy can change that, or whoever runs the console: there is nothing to fill in. */
function refusal(error: Error): void {
  live.close();
  page?.close();
  page = null;
  stop?.close();
  stop = null;
  app.replaceChildren(
    h(
      "main",
      { class: "login" },
      h("h1", {}, "LWD console"),
      h("p", { class: "message", role: "alert" }, error.message),
      h("button", { type: "button", onclick: () => location.reload() }, "Try again"),
    ),
  );
}

async function begin(found: SessionInfo): Promise<void> {
  session = found;
  shell();
  live.open();
  route();
  if (!stage) {
    try {
      stage = await Stage.load();
      // A robot's view asks for the stage with each frame: built anew, it would hold a robot that somebody drives by now.
      if (!(page instanceof RobotView)) route();
    } catch (error) {
      console.warn(error);
    }
  }
}

/** The session: the one that goes on, or one begun by a link or at the proxy; null where one must type a password. */
async function loggedIn(): Promise<SessionInfo | null> {
  const token = location.hash.match(/^#\/link\/([\w-]+)$/)?.[1] ?? "";
  // A link is used up, and no business of the history.
  if (token) history.replaceState(null, "", "#/");
  const found = await loadSession();
  if (found.name) return found;
  return found.login === "password" ? null : beginSession(token);
}

async function start(): Promise<void> {
  live.close();
  try {
    const found = await loggedIn();
    if (found) await begin(found);
    else loginForm();
  } catch (error) {
    refusal(error as Error);
  }
}

/** Whether the session is as it was; otherwise show what has become of it. */
async function goesOn(): Promise<boolean> {
  try {
    const found = await loadSession();
    if (found.name === session.name && found.role === session.role) return true;
    void start();
    return false;
  } catch (error) {
    // The console or the network may be back at the next attempt; who is refused stays so.
    if (!(error instanceof ApiError) || error.status >= 500) return true;
    refusal(error);
    return false;
  }
}

live.listeners.add(showStatus);
live.onExpired = () => void start();
live.mayReconnect = goesOn;
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#/link/")) void start();
  else if (session?.name && location.hash !== "#main") route();
});
void start();
