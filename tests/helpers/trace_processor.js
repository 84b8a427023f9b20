// Perfetto's trace processor, as WebAssembly for browsers, in Node: node trace_processor.js FOLDER REQUESTS REPLIES
// FOLDER holds engine_bundle.js of Perfetto's page. REQUESTS and REPLIES are files with a TraceProcessorRpcStream.
const fs = require("fs"), path = require("path");
const [, , folder, requests, replies] = process.argv;
const read = (name) => fs.readFileSync(path.join(folder, path.basename(String(name))));
const exit = process.exit.bind(process), on = process.on.bind(process);
const fail = (error) => { console.error(String((error && error.stack) || error).slice(-2000)); exit(1); };
on("unhandledRejection", fail);
on("uncaughtException", fail);
globalThis.self = globalThis.WorkerGlobalScope = globalThis;
globalThis.importScripts = () => {};
globalThis.location = {href: "file:///"};
globalThis.fetch = async (name) => new Response(read(name), {headers: {"Content-Type": "application/wasm"}});
globalThis.XMLHttpRequest = class {
  open(method, name) { this.name = name; }
  overrideMimeType() {}
  send() {
    const bytes = read(this.name);
    this.status = 200;
    this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  }
};
globalThis.process = undefined;  // the engine refuses to run in Node
(0, eval)(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"));
const out = fs.openSync(replies, "w");
const port = {postMessage: (bytes) => fs.writeSync(out, bytes)};
self.onmessage({data: port});
// The engine tells nobody when it is ready; it compiles eleven megabytes first, and throws until then.
const began = Date.now();
const ask = () => {
  try {
    port.onmessage({data: new Uint8Array(fs.readFileSync(requests))});
    exit(0);
  } catch (error) {
    if (Date.now() - began > 60000) fail(error); else setTimeout(ask, 200);
  }
};
setTimeout(ask, 200);
