// The page's only way to the server. Says when the server is lost and when it is back.

const ROOT = new URL("..", import.meta.url);
const RETRY_MS = 2000;
const WATCH_MS = 10_000;

/** The server answered, and refused: `message` is its one line. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** No answer came. */
export class ServerLost extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

/** A token comes once, in the fragment, which browsers never send; it goes from the address bar at once. */
function tokenOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("diagnet.token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("diagnet.token");
}

export class Server extends EventTarget {
  #token = tokenOfAddress();
  #lost = false;

  constructor() {
    super();
    setInterval(() => this.#lost || this.#ask("healthz").catch(() => {}), WATCH_MS);
  }

  get isLost() {
    return this.#lost;
  }

  async json(path, body, signal) {
    return (await this.#answer(path, body, signal)).json();
  }

  async blob(path, body, signal) {
    return (await this.#answer(path, body, signal)).blob();
  }

  remove(path) {
    return this.#answer(path, undefined, undefined, "DELETE");
  }

  /** Displayed grey values of an image: {width, height, pixels: Uint16Array}, row by row. */
  async pixels(id, maxSide) {
    const answer = await this.#answer(`v1/images/${encodeURIComponent(id)}/pixels${maxSide ? `?max_side=${maxSide}` : ""}`);
    const [width, height] = ["X-Width", "X-Height"].map((name) => Number(answer.headers.get(name)));
    const pixels = new Uint16Array(await this.#body(answer)); // every browser's machine is little-endian
    if (pixels.length !== width * height) throw new Problem(502, "The server sent only a part of the image.");
    return { width, height, pixels };
  }

  async #body(answer) {
    try {
      return await answer.arrayBuffer();
    } catch {
      this.#lose();
      throw new ServerLost();
    }
  }

  async #answer(path, body, signal, method = body === undefined ? "GET" : "POST") {
    let answer = await this.#ask(path, body, method, signal);
    for (let tries = 0; answer.status === 429 && tries < 3; tries++) {
      const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 10);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      answer = await this.#ask(path, body, method, signal);
    }
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    const detail = typeof problem.detail === "string" ? problem.detail : problem.title;
    throw new Problem(answer.status, detail || `The server refused (${answer.status}).`);
  }

  async #ask(path, body, method = "GET", signal = null) {
    const headers = {};
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    if (method !== "GET") headers["X-DiagNet"] = "1";
    if (body !== undefined && !(body instanceof FormData)) {
      headers["Content-Type"] = "application/json";
      body = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch(new URL(path, ROOT), { method, headers, body, cache: "no-store", credentials: "omit", signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      this.#lose();
      throw new ServerLost();
    }
    if (this.#lost) {
      this.#lost = false;
      this.dispatchEvent(new Event("back"));
    }
    return answer;
  }

  #lose() {
    if (this.#lost) return;
    this.#lost = true;
    this.dispatchEvent(new Event("lost"));
    const again = () => this.#lost && this.#ask("healthz").catch(() => setTimeout(again, RETRY_MS));
    setTimeout(again, RETRY_MS);
  }
}
