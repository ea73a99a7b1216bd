/** The page's end of the worker. */

/** Calls of the worker, and what it tells unasked: `onnews`. At the first one the worker starts and the codec loads. */
export class CodecClient {
  #worker = null;
  #loaded = null;
  #calls = new Map();
  #next = 0;
  onnews = () => {};

  /** Fetch the codec, once. */
  load() {
    this.#loaded ??= this.#load();
    return this.#loaded;
  }

  /** Run a call of the loaded codec, and give its value. */
  async call(type, fields = {}, transfer = []) {
    await this.load();
    return this.#post(type, fields, transfer);
  }

  async #load() {
    this.#worker = new Worker(new URL("codec_worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#take(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#failAll(`the codec cannot be loaded: ${event.message ?? "a file of this page is missing"}`);
    };
    try {
      await this.#post("load");
    } catch (error) {
      this.#worker.terminate();
      this.#loaded = null; // the next call tries again
      throw error;
    }
  }

  #post(type, fields = {}, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, type, ...fields }, transfer);
    });
  }

  #take({ id, value, error, ...news }) {
    if (id === undefined) {
      this.onnews({ ...news, error });
      return;
    }
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    if (error === undefined) call.resolve(value);
    else call.reject(new Error(error));
  }

  #failAll(message) {
    for (const { reject } of this.#calls.values()) reject(new Error(message));
    this.#calls.clear();
  }
}
