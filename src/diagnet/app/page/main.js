import { Reader } from "./reader.js";

new Reader().start();
