// Installs what package-lock.json names, unless it is there already: then no network is needed.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const read = (path) => JSON.parse(readFileSync(join(here, path), "utf8"));
const wanted = Object.entries(read("package-lock.json").packages).filter(([path]) => path !== "");
const missing = wanted.filter(([path, { version }]) =>
  !existsSync(join(here, path, "package.json")) || read(join(path, "package.json")).version !== version);
if (missing.length > 0) {
  execFileSync("npm", ["ci", "--prefer-offline", "--no-audit", "--no-fund"], { cwd: here, stdio: "inherit" });
}
