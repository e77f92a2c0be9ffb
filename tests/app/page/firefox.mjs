// Opens the page in a real browser through WebDriver BiDi, does what a reader does, and prints what it found as JSON.
//   node firefox.mjs PUPPETEER firefox|chrome EXECUTABLE URL [FOLDER FOR PICTURES]
import { pathToFileURL } from "node:url";

const [library, browser, executablePath, url, folder] = process.argv.slice(2);
const { default: puppeteer } = await import(pathToFileURL(library).href);
const WAIT = 60_000;
const started = await puppeteer.launch({
  browser, executablePath, protocol: "webDriverBiDi", headless: true, timeout: WAIT, protocolTimeout: WAIT,
  args: browser === "chrome" ? ["--no-sandbox", "--disable-gpu"] : [],
  extraPrefsFirefox: { "ui.systemUsesDarkTheme": 0 },
  defaultViewport: { width: 1440, height: 900 },
});
const found = { version: await started.version(), faults: [] };
try {
  const page = await started.newPage();
  page.setDefaultTimeout(WAIT);
  page.on("pageerror", (error) => found.faults.push(String(error)));
  page.on("console", (said) => {
    if (said.type() === "error" && !said.text().includes("Failed to load")) found.faults.push(said.text());
  });
  let taken = 0;
  const take = async (name) => {
    await new Promise((resolve) => setTimeout(resolve, 500)); // thumbnails and pictures of cases
    taken += 1;
    if (folder) await page.screenshot({ path: `${folder}/${browser}-${taken}-${name}.png` });
  };
  const text = (selector) => page.$eval(selector, (part) => part.innerText);
  await page.goto(url, { waitUntil: "load" });
  await page.waitForSelector(".view.filled");
  await take("open");

  await page.click("#tool-mark");
  const view = await (await page.$(".view")).boundingBox();
  const [x, y] = [view.x + 0.5 * view.width, view.y + 0.5 * view.height];
  await page.mouse.move(x - 40, y - 40);
  await page.mouse.down();
  await page.mouse.move(x, y);
  await page.mouse.move(x + 40, y + 40);
  await page.mouse.up();
  await page.waitForSelector(".mark.selected");
  found.dragged = await page.$eval(".mark.selected .edge", (edge) =>
    ["width", "height"].map((name) => Number(edge.getAttribute(name))));
  await page.keyboard.press("Enter");
  await page.waitForSelector("#scored");
  found.said = await text("#scored");
  await page.waitForSelector("#map");
  await take("score");

  await page.click("#remove-mark");
  await page.waitForFunction(() => !document.querySelector(".mark"));
  await page.keyboard.press("m");
  await page.mouse.click(view.x + 0.25 * view.width, view.y + 0.4 * view.height);
  await page.waitForSelector(".mark.selected");
  found.clicked = (await page.$$(".mark")).length;
  await page.keyboard.press("Enter");
  await page.waitForSelector("#scored");
  await take("one-click");

  await page.keyboard.press("4");
  await page.waitForSelector("#views[data-layout='4'] .view.filled");
  await take("four-views");
  await page.keyboard.press("4");
  await page.evaluate(() => document.activeElement.blur());
  found.background = await page.$eval("body", (body) => getComputedStyle(body).backgroundColor);
  found.scrollbar = await page.$eval("#panel", (panel) => getComputedStyle(panel).scrollbarColor);
  found.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
} catch (error) {
  found.faults.push(String(error));
} finally {
  await Promise.race([started.close(), new Promise((resolve) => setTimeout(resolve, 10_000))]);
}
console.log(JSON.stringify(found));
process.exit(found.faults.length ? 1 : 0);
