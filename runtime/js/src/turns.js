/** Turns: calls of one stream, which onnxruntime makes asynchronous, one after another in the order they were made. */

export class Turns {
  #last = Promise.resolve();

  /** Run a function once all before it are over, whether they failed or not; gives what it gives. */
  take(work) {
    const own = this.#last.then(work);
    this.#last = own.catch(() => {});
    return own;
  }
}
