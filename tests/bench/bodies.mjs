// Runs bodies.rs, built for wasm, in node's V8, which is the engine that Envoy has:
// node bodies.mjs bodies.wasm
import { readFile } from "node:fs/promises";
import { performance } from "node:perf_hooks";
import { argv, stdout } from "node:process";

const cases = [
  "one long string", "text with escapes", "messages", "short strings", "token numbers", "floats", "base64",
  "multipart file", "multipart dashes",
];
const rounds = 9;
const mebibytes = 8;

// What the library imports of Envoy is not called.
const module = await WebAssembly.compile(await readFile(argv[2]));
const env = Object.fromEntries(WebAssembly.Module.imports(module).map(({ name }) => [name, () => 1]));
const instance = await WebAssembly.instantiate(module, { env });
const call = () => {
  const result = instance.exports.main(0, 0);
  if (result !== 0) throw new Error(`the body cannot be read (${result})`);
};
for (const name of cases) {
  call();
  const times = [];
  for (let round = 0; round < rounds; round += 1) {
    const start = performance.now();
    call();
    times.push(performance.now() - start);
  }
  const speed = (mebibytes / Math.min(...times)) * 1000;
  stdout.write(`${name.padEnd(20)} ${speed.toFixed(0).padStart(8)} MiB/s\n`);
}
