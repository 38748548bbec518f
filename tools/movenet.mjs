// MoveNet in node, for movenet_poses.py: node movenet.mjs MODULES MODEL.json
// Standard input: pictures of SIDE x SIDE RGB bytes; standard output: for each 17 x (y, x, confidence) as float32.
import { readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, path] = process.argv.slice(2);
const load = createRequire(resolve(modules, "here.js"));
const core = load("@tensorflow/tfjs-core");
const { loadGraphModel } = load("@tensorflow/tfjs-converter");
const { setWasmPaths } = load("@tensorflow/tfjs-backend-wasm");

setWasmPaths(resolve(load.resolve("@tensorflow/tfjs-backend-wasm"), "..") + "/");
core.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
await core.setBackend("wasm");

const stored = JSON.parse(readFileSync(path, "utf8"));
const weights = readFileSync(path.replace(/\.json$/, ".bin"));
const model = await loadGraphModel({
  load: async () => ({
    modelTopology: stored.modelTopology,
    weightSpecs: stored.weightsManifest[0].weights,
    weightData: new Uint8Array(weights).buffer,
    signature: stored.signature,
  }),
});
const side = model.inputs[0].shape[1];
const bytes = side * side * 3;

let waiting = Buffer.alloc(0);
for await (const part of process.stdin) {
  waiting = Buffer.concat([waiting, part]);
  while (waiting.length >= bytes) {
    const picture = core.tensor4d(new Int32Array(waiting.subarray(0, bytes)), [1, side, side, 3], "int32");
    waiting = waiting.subarray(bytes);
    const found = model.predict(picture);
    writeSync(1, Buffer.from(new Float32Array(found.dataSync()).buffer));
    core.dispose([picture, found]);
  }
}
