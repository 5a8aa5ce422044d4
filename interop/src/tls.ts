// TLS presentation language (RFC 8446 §3), big-endian, with the vectors `<V>` of MLS (RFC 9420
// §2.1.2). A length that is not in its shortest form, and bytes after the value, are refused.

import { concat } from "./bytes.ts";

/** Bytes that are not an encoding of what they should be. */
export class Malformed extends Error {}

export class Writer {
  #parts: Uint8Array[] = [];

  bytes(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    return this;
  }

  #number(value: bigint, size: number): this {
    const bytes = new Uint8Array(size);
    for (let at = size - 1; at >= 0; at--) {
      bytes[at] = Number(value & 0xffn);
      value >>= 8n;
    }
    return this.bytes(bytes);
  }

  u8(value: number): this {
    return this.#number(BigInt(value), 1);
  }

  u16(value: number): this {
    return this.#number(BigInt(value), 2);
  }

  u32(value: number): this {
    return this.#number(BigInt(value), 4);
  }

  u64(value: bigint): this {
    return this.#number(value, 8);
  }

  /** `opaque x<V>`. */
  opaque(bytes: Uint8Array): this {
    const length = bytes.length;
    if (length < 0x40) this.u8(length);
    else if (length < 0x4000) this.u16(0x4000 | length);
    else this.u32(0x80000000 + length);
    return this.bytes(bytes);
  }

  /** `T x<V>`. */
  vector<T>(items: readonly T[], write: (writer: Writer, item: T) => void): this {
    const inner = new Writer();
    for (const item of items) write(inner, item);
    return this.opaque(inner.end());
  }

  /** `optional<T>`. */
  optional<T>(value: T | undefined, write: (writer: Writer, value: T) => void): this {
    if (value === undefined) return this.u8(0);
    this.u8(1);
    write(this, value);
    return this;
  }

  end(): Uint8Array {
    return concat(...this.#parts);
  }
}

export class Reader {
  #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  bytes(length: number): Uint8Array {
    if (length > this.left()) throw new Malformed("the bytes end too early");
    this.#at += length;
    return this.#bytes.slice(this.#at - length, this.#at);
  }

  left(): number {
    return this.#bytes.length - this.#at;
  }

  /** How many bytes were read. */
  at(): number {
    return this.#at;
  }

  u8(): number {
    return Number(this.#number(1));
  }

  u16(): number {
    return Number(this.#number(2));
  }

  u32(): number {
    return Number(this.#number(4));
  }

  u64(): bigint {
    return this.#number(8);
  }

  #number(size: number): bigint {
    return this.bytes(size).reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);
  }

  opaque(): Uint8Array {
    const first = this.u8();
    const size = 1 << (first >> 6);
    if (size === 8) throw new Malformed("a length of eight bytes");
    let length = first & 0x3f;
    for (let more = 1; more < size; more++) length = length * 256 + this.u8();
    if (size > 1 && length < (size === 2 ? 0x40 : 0x4000)) {
      throw new Malformed("a length in more bytes than it needs");
    }
    return this.bytes(length);
  }

  vector<T>(read: (reader: Reader) => T): T[] {
    const inner = new Reader(this.opaque());
    const items: T[] = [];
    while (inner.left() > 0) items.push(read(inner));
    return items;
  }

  optional<T>(read: (reader: Reader) => T): T | undefined {
    const there = this.u8();
    if (there > 1) throw new Malformed("an optional value is there or not");
    return there === 1 ? read(this) : undefined;
  }

  /** Nothing follows. */
  end(): void {
    if (this.left() > 0) throw new Malformed("bytes follow the value");
  }
}

/** The value that the bytes encode, all of them. */
export function decode<T>(bytes: Uint8Array, read: (reader: Reader) => T): T {
  const reader = new Reader(bytes);
  const value = read(reader);
  reader.end();
  return value;
}
