// Bytes that come in pieces of any length, read as the lengths that are wanted.

import { concat } from "./bytes.ts";

/** The bytes have ended before what was wanted. */
export class BrokenOff extends Error {}

export class Incoming {
  readonly #source: AsyncIterator<Uint8Array>;
  #buffer: Uint8Array = new Uint8Array();
  #ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async #more(): Promise<void> {
    const next = await this.#source.next();
    if (next.done === true) this.#ended = true;
    else this.#buffer = concat(this.#buffer, next.value);
  }

  async take(length: number): Promise<Uint8Array> {
    while (this.#buffer.length < length) {
      if (this.#ended) throw new BrokenOff("an answer has broken off");
      await this.#more();
    }
    const taken = this.#buffer.slice(0, length);
    this.#buffer = this.#buffer.slice(length);
    return taken;
  }

  /** Everything up to the end. */
  async rest(): Promise<Uint8Array> {
    while (!this.#ended) await this.#more();
    return this.take(this.#buffer.length);
  }

  /** A length as in RFC 9000 §16. */
  async varint(): Promise<number> {
    const [first = 0] = await this.take(1);
    const more = await this.take((1 << (first >> 6)) - 1);
    return more.reduce((value, byte) => value * 256 + byte, first & 0x3f);
  }
}
